"""Recipe of an evaluation by generated answers: the last reply of each conversation, generated and scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from midstudy.recipe import versions
from midstudy.recipe.canonical import added_field
from midstudy.recipe.data import SPLITS, Task
from midstudy.recipe.errors import RecipeError, require_choice, require_flag, require_number, require_positive, require_whole
from midstudy.recipe.metric import Metric
from midstudy.recipe.plain import hold_plain_numbers

SCORES = ("exact_number", "exact_text")

EXACT_MATCH = Metric(name="exact_match", unit="share of answers", better="higher")
WELL_FORMED = Metric(name="well_formed", unit="share of answers", better="higher")

TRANSCRIPTS_FILE = "transcripts.jsonl"
"""File beside the record, one line per item and sample: the answer's tokens, its text, the reference, and the scores."""


def pass_metric(k: int) -> Metric:
    """Return the metric of k samples."""
    return Metric(name=f"pass_at_{k}", unit="share of items", better="higher")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The share of the first `max_sequences` conversations of a split whose last reply, generated, is right.

    The prompt is the conversation up to its last reply, and at most `max_new_tokens` follow, within `seq_len` tokens in all.
    Conversations whose prompt leaves no room are left out and counted. `score` says when an answer is right:
    `exact_number`: the number after its first "#### " is that of the reference, commas left out (karpathy/nanochat
    `gsm8k.py`); `exact_text`: its text, without tool calls and surrounding white space, is that of the reference.

    With `tool`, the calculator answers the state's calls. `temperature` 0 is greedy; above 0, `num_samples` answers are
    drawn per item, among the `top_k` most likely tokens if it is given. `batch_size` answers are generated together, grouped
    by the length of their prompts; it is part of the id because the last bit of a product depends on the batch.

    Metrics: `exact_match`, and `well_formed`: the answer closes its tool calls, holds no other mark, and ends its turn.
    A result of a call that the state writes itself, because nothing answered, has such marks.
    With `pass_at`, also `pass_at_k` for each k of it: the probability that one of k samples of an item is right, of which
    `num_samples` give an unbiased estimate (Chen et al., arXiv 2107.03374, equation 1). `TRANSCRIPTS_FILE` holds all
    answers. `midstudy verify` makes them again.
    """

    METRICS: ClassVar[tuple[Metric, ...]] = (EXACT_MATCH, WELL_FORMED)
    other: ClassVar[None] = None
    other_id: ClassVar[None] = None
    target_only: ClassVar[bool] = True
    document_mask: ClassVar[bool] = False

    data: Task
    split: str
    score: str
    seq_len: int
    max_sequences: int
    max_new_tokens: int
    tool: bool
    temperature: float = 0
    top_k: int | None = None
    num_samples: int = 1
    seed: int = 0
    batch_size: int = 32
    version: int = versions.GENERATION
    pass_at: tuple[int, ...] = added_field(omit_at=())

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = f"generation.{self.data.name}"
        if not isinstance(self.data, Task) or not self.data.source.is_conversations:
            raise RecipeError(
                f"{path}.data", expected="a task of conversations", got=f"{self.data.name}, {self.data.origin}"
            )
        require_choice(f"{path}.split", self.split, SPLITS)
        require_choice(f"{path}.score", self.score, SCORES)
        for name, unit in (("seq_len", "tokens"), ("max_sequences", "sequences"), ("max_new_tokens", "tokens")):
            require_positive(f"{path}.{name}", getattr(self, name), unit=unit)
        require_positive(f"{path}.num_samples", self.num_samples, unit="samples")
        require_positive(f"{path}.batch_size", self.batch_size, unit="answers")
        require_flag(f"{path}.tool", self.tool)
        require_number(f"{path}.temperature", self.temperature, 0, 100)
        require_whole(f"{path}.seed", self.seed, what="a seed")
        if self.top_k is not None:
            require_positive(f"{path}.top_k", self.top_k, unit="tokens")
        if self.temperature == 0 and (self.num_samples, self.seed, self.top_k) != (1, 0, None):
            expected = "one sample, seed 0 and top_k None with temperature 0, which has only one answer"
            raise RecipeError(path, expected=expected, got=f"{self.num_samples}, {self.seed} and {self.top_k}")
        possible = range(1, self.num_samples + 1)
        is_known = isinstance(self.pass_at, tuple) and all(type(k) is int and k in possible for k in self.pass_at)
        if not is_known or self.pass_at != tuple(sorted(set(self.pass_at))):
            expected = f"a tuple of rising numbers of samples, from 1 to num_samples, {self.num_samples}"
            raise RecipeError(f"{path}.pass_at", expected=expected, got=repr(self.pass_at))

    @property
    def reported(self) -> tuple[Metric, ...]:
        """The metrics that the record will hold."""
        return (*self.METRICS, *map(pass_metric, self.pass_at))

    @property
    def num_tokens(self) -> int:
        """The largest number of tokens that the model processes; the evaluation's cost follows from it."""
        return self.max_sequences * self.num_samples * self.seq_len
