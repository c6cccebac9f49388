"""Recipe of an evaluation by choices: which of several replies to a conversation a state finds most likely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from midstudy.recipe import versions
from midstudy.recipe.data import SPLITS, Task
from midstudy.recipe.errors import RecipeError, require_choice, require_positive
from midstudy.recipe.metric import Metric
from midstudy.recipe.plain import hold_plain_numbers

WAYS = ("letters", "cloze")

ACCURACY = Metric(name="accuracy", unit="share of questions", better="higher")
CENTRED_ACCURACY = Metric(name="centred_accuracy", unit="0 by chance, 1 if all are right", better="higher")

CHOICES_FILE = "choices.jsonl"
"""File beside the record, one line per question: item, choices, their scores, the chosen and the right one, and subject."""

EXPECTED_CHOICES = 4
"""Choices of a question, where only the data know their number: for the cost of `cloze`."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The share of the first `max_sequences` questions of a split whose right choice a state finds most likely.

    The rows of the task are conversations with `choices`: alternative last replies, the right one among them; they may have
    a `subject`. `by` says how choices are compared; of equal ones, the first is chosen.

    - `letters`: by their logits where the reply begins. Every choice is a single token, such as a letter (karpathy/nanochat
      `chat_eval.py`, categorical).
    - `cloze`: by the log-probability of the whole reply, its text and the end of the turn, divided by the UTF-8 bytes of the
      text (as `acc_norm` of EleutherAI/lm-evaluation-harness, which does not count an end).

    Questions that do not fit within `seq_len` tokens, with their longest choice, are left out and counted.

    Metrics: `accuracy`, and `centred_accuracy`: (accuracy - chance) / (1 - chance), where chance is the mean of
    1 / (number of choices). The record also has the accuracy of every subject; `CHOICES_FILE` holds every question.
    """

    METRICS: ClassVar[tuple[Metric, ...]] = (ACCURACY, CENTRED_ACCURACY)
    other: ClassVar[None] = None
    other_id: ClassVar[None] = None
    target_only: ClassVar[bool] = True
    document_mask: ClassVar[bool] = False

    data: Task
    split: str
    by: str
    seq_len: int
    max_sequences: int
    version: int = versions.CHOICES

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = f"choices.{self.data.name}"
        if not isinstance(self.data, Task) or not self.data.source.is_conversations:
            raise RecipeError(
                f"{path}.data", expected="a task of conversations", got=f"{self.data.name}, {self.data.origin}"
            )
        require_choice(f"{path}.split", self.split, SPLITS)
        require_choice(f"{path}.by", self.by, WAYS)
        require_positive(f"{path}.seq_len", self.seq_len, unit="tokens")
        require_positive(f"{path}.max_sequences", self.max_sequences, unit="sequences")

    @property
    def reported(self) -> tuple[Metric, ...]:
        """The metrics that the record will hold."""
        return self.METRICS

    @property
    def num_tokens(self) -> int:
        """The largest number of tokens that the model processes, if `cloze` compares `EXPECTED_CHOICES` replies a question;
        the evaluation's cost follows from it."""
        return self.max_sequences * self.seq_len * (EXPECTED_CHOICES if self.by == "cloze" else 1)
