"""What a state of nanochat can do: exact answers, letters, format, and losses by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from midstudy.recipe import Evaluation, Measure
from midstudy.recipe.choices import Choices
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import Dataset
from midstudy.recipe.generation import Generation, pass_metric
from midstudy.recipe.measure import BITS_PER_BYTE
from midstudy.studies.nanochat.text import CONVERSATIONS, PROMPTS, Text

ANSWERS = {  # column: task, score, tokens of an answer, title
    "spelling": ("spelling", "exact_text", 48, "words spelt exactly"),
    "counting": ("spelling_bee", "exact_number", 250, "letters counted"),
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
    PROMPTS: "the four prompts, well-formed",
}


PASS_AT = 8
"""Of how many drawn answers one must be right, for a prompt to teach in RL."""

TRAINED_ON, FRESH = "sft_question_bits", "fresh_question_bits"
"""Columns of the losses on questions that SFT reads, and on questions that it does not."""


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """The measures of a state, over the first `num_items` items of each test split."""

    text: Text
    seq_len: int
    num_items: int

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name in CONVERSATIONS if name in self.text.tasks)

    def of(self, state: State, *, tool: bool = True) -> Mapping[str, Measure]:
        """Return the measures by column: exact answers, letters and format.

        Args:
            tool: whether the calculator answers.
        """
        measures = {}
        for column, (task, *_, title) in ANSWERS.items():
            if task not in self.text.tasks:
                continue
            answers = self.answers(column, tool=tool)
            measures[column] = Measure(state=state, evaluation=answers, metric="exact_match", better="higher", title=title)
        measures |= {
            column: Measure(state=state, evaluation=self._letters(task), metric="accuracy", better="higher", title=title)
            for column, (task, title) in LETTERS.items()
        }
        for column, task, max_new_tokens in ((FORMAT, "chat", 64), (PROMPTS, PROMPTS, 250)):
            answers = self._answers(task, "exact_text", max_new_tokens, tool=tool)
            measures[column] = Measure(
                state=state, evaluation=answers, metric="well_formed", better="higher", title=TITLES[column]
            )
        return measures

    def answers(self, column: str, *, tool: bool = True) -> Generation:
        """Return the greedy answers behind a column of `ANSWERS`."""
        task, score, max_new_tokens, _ = ANSWERS[column]
        return self._answers(task, score, max_new_tokens, tool=tool)

    def drawn(self, column: str, state: State) -> Mapping[str, Measure]:
        """Return the share of items of a column with a right answer among `PASS_AT` drawn ones."""
        answers = replace(self.answers(column), temperature=1, num_samples=PASS_AT, pass_at=(PASS_AT,))
        title = f"{ANSWERS[column][-1]}, one of {PASS_AT} drawn answers"
        metric = pass_metric(PASS_AT).name
        return {pass_column(column): Measure(state=state, evaluation=answers, metric=metric, better="higher", title=title)}

    def losses(self, state: State) -> Mapping[str, Measure]:
        """Return bits per byte of general text and of the replies of each task that trains."""
        general = self._bits(self.text.general, "all_tokens")
        measures = {"general_bits": _of_bits(general, "general text", state=state)}
        for name in self._names:
            replies = self._bits(self.text.tasks[name], "target_tokens")
            measures[f"{name}_bits"] = _of_bits(replies, f"replies of {name.replace('_', ' ')}", state=state)
        return measures

    def over(self, states: tuple[State, ...]) -> Mapping[str, Measure]:
        """Return bits per byte of the replies of each task over the states of a run, as curves."""
        return {
            f"{name}_over_mid": _of_bits(
                self._bits(self.text.tasks[name], "target_tokens"), f"replies of {name.replace('_', ' ')}", states=states
            )
            for name in self._names
        }

    def questions(self, state: State) -> Mapping[str, Measure]:
        """Return bits per byte of questions with four choices: those of the train split that SFT reads, and fresh ones.

        All tokens count. The reply is one letter, so this is the loss on what the user says.
        """
        task = self.text.tuning["choices"]
        return {
            column: _of_bits(self._bits(task, "all_tokens", split=split), title, state=state)
            for column, split, title in (
                (TRAINED_ON, "train", "questions of SFT"),
                (FRESH, "test", "fresh questions"),
            )
        }

    def _bits(self, data: Dataset, loss: str, *, split: str = "test") -> Evaluation:
        return Evaluation(
            data=data,
            split=split,
            loss=loss,
            seq_len=self.seq_len,
            max_sequences=self.num_items,
            metrics=(BITS_PER_BYTE.name,),
        )

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


def pass_column(column: str) -> str:
    """Return the column of `Abilities.drawn`."""
    return f"{column}_pass_at_{PASS_AT}"


def _of_bits(evaluation: Evaluation, of: str, *, state: State | None = None, states: tuple[State, ...] = ()) -> Measure:
    return Measure(
        state=state, states=states, evaluation=evaluation, metric=BITS_PER_BYTE.name, title=f"bits per byte, {of}"
    )
