"""What a state of nanochat can do: exact answers, letters, format, and losses by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from midstudy.recipe import Evaluation, Measure
from midstudy.recipe.choices import Choices
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import Dataset
from midstudy.recipe.generation import Generation
from midstudy.recipe.measure import BITS_PER_BYTE
from midstudy.studies.nanochat.text import Text

ANSWERS = {  # column: task, score, tokens of an answer, title
    "spelling": ("spelling", "exact_text", 48, "words spelt exactly"),
    "counting": ("spelling_bee", "exact_number", 200, "letters counted"),
    "sums": ("sums", "exact_number", 48, "sums"),
    "mathematics": ("calculation", "exact_number", 160, "word problems"),
}
"""Abilities whose answers are generated, with the calculator."""

LETTERS = {"knowledge": ("choices", "questions of four choices"), "mmlu": ("mmlu", "MMLU (control)")}
"""Abilities asked by letters."""

FORMAT = "chat_format"
"""The column of answers to `chat` that end their turn and hold no stray mark."""

TITLES = {
    **{column: title for column, (*_, title) in ANSWERS.items()},
    **{column: title for column, (_, title) in LETTERS.items()},
    FORMAT: "chat format",
}


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """The measures of a state, over the first `num_items` items of each test split."""

    text: Text
    seq_len: int
    num_items: int

    def of(self, state: State, *, tool: bool = True) -> Mapping[str, Measure]:
        """Return the measures by column: exact answers, letters and format.

        Args:
            tool: whether the calculator answers.
        """
        measures = {}
        for column, (task, score, max_new_tokens, title) in ANSWERS.items():
            answers = self._answers(task, score, max_new_tokens, tool=tool)
            measures[column] = Measure(state=state, evaluation=answers, metric="exact_match", better="higher", title=title)
        measures |= {
            column: Measure(state=state, evaluation=self._letters(task), metric="accuracy", better="higher", title=title)
            for column, (task, title) in LETTERS.items()
        }
        chat = self._answers("chat", "exact_text", 64, tool=tool)
        return measures | {
            FORMAT: Measure(state=state, evaluation=chat, metric="well_formed", better="higher", title=TITLES[FORMAT])
        }

    def losses(self, state: State) -> Mapping[str, Measure]:
        """Return bits per byte of general text and of the replies of each task."""
        measures = {"general_bits": self._bits(state, self.text.general, "all_tokens", "general text")}
        for name, task in self.text.tasks.items():
            measures[f"{name}_bits"] = self._bits(state, task, "target_tokens", f"replies of {name}")
        return measures

    def _bits(self, state: State, data: Dataset, loss: str, title: str) -> Measure:
        evaluation = Evaluation(
            data=data,
            split="test",
            loss=loss,
            seq_len=self.seq_len,
            max_sequences=self.num_items,
            metrics=(BITS_PER_BYTE.name,),
        )
        return Measure(state=state, evaluation=evaluation, metric=BITS_PER_BYTE.name, title=f"bits per byte, {title}")

    def _answers(self, task: str, score: str, max_new_tokens: int, *, tool: bool) -> Generation:
        return Generation(
            data=self.text.tasks[task],
            split="test",
            score=score,
            seq_len=self.seq_len,
            max_sequences=self.num_items,
            max_new_tokens=max_new_tokens,
            tool=tool,
        )

    def _letters(self, task: str) -> Choices:
        data, most = self.text.tasks[task], 4 * self.num_items
        return Choices(data=data, split="test", by="letters", seq_len=self.seq_len, max_sequences=most)
