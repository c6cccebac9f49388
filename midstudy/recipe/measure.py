"""Recipes of measurements: the types of evaluation, losses of a state on a split, and token counts of a data set."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

from midstudy.recipe import versions
from midstudy.recipe.canonical import added_field, identify
from midstudy.recipe.choices import Choices
from midstudy.recipe.data import SPLITS, Corpus, Dataset, ReleasedTokenizer, TokenizedData, Tokenizer
from midstudy.recipe.errors import RecipeError, require_choice, require_flag, require_positive, require_whole
from midstudy.recipe.generation import Generation
from midstudy.recipe.metric import Metric
from midstudy.recipe.noise_scale import NoiseScale
from midstudy.recipe.phase import LOSSES
from midstudy.recipe.plain import hold_plain_numbers
from midstudy.recipe.representation import RepresentationSimilarity

LOSS_NATS = Metric(name="loss_nats", unit="nats per target token", better="lower")
BITS_PER_BYTE = Metric(name="bits_per_byte", unit="bits per byte", better="lower", is_extra=True)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Token-weighted mean loss, in nats, over the first `max_sequences` sequences of a split.

    A sequence is an item of a task (truncated at `seq_len` tokens) or a block of `seq_len` tokens of a corpus.
    `document_mask` keeps attention inside each document of a block; use it for models trained with it.

    `metrics` names extra metrics to report, such as `bits_per_byte`. `items` publishes the sums of every sequence in a
    file next to the record. `by_position` reports the mean loss in so many equal parts of the positions, too: of 4 parts of
    512 tokens, `loss_nats_1_of_4` is the loss of the tokens that follow the first 128 of their sequence. A part in which no
    sequence has a target has no loss.
    """

    METRICS: ClassVar[tuple[Metric, ...]] = (LOSS_NATS, BITS_PER_BYTE)
    other: ClassVar[None] = None
    other_id: ClassVar[None] = None

    data: Dataset
    split: str
    loss: str
    seq_len: int
    max_sequences: int
    version: int = versions.EVALUATION
    document_mask: bool = added_field(omit_at=False)
    metrics: tuple[str, ...] = added_field(omit_at=())
    items: bool = added_field(omit_at=False)
    by_position: int = added_field(omit_at=0)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = f"evaluation.{self.data.name}"
        require_choice(f"{path}.split", self.split, SPLITS)
        require_choice(f"{path}.loss", self.loss, LOSSES)
        require_positive(f"{path}.seq_len", self.seq_len, unit="tokens")
        require_positive(f"{path}.max_sequences", self.max_sequences, unit="sequences")
        if isinstance(self.data, Corpus) and self.loss != "all_tokens" and not self.data.source.is_conversations:
            raise RecipeError(f"{path}.loss", expected="all_tokens, the only loss for a corpus of documents", got=self.loss)
        require_flag(f"{path}.document_mask", self.document_mask)
        if not isinstance(self.data, Corpus) and self.document_mask:
            raise RecipeError(
                f"{path}.document_mask", expected="False for a task, since each sequence is a single item", got=True
            )
        require_flag(f"{path}.items", self.items)
        require_whole(f"{path}.by_position", self.by_position, what="a number of parts")
        if self.by_position == 1 or (self.by_position and self.seq_len % self.by_position):
            expected = f"0, or a number of equal parts of seq_len, {self.seq_len}, from 2"
            raise RecipeError(f"{path}.by_position", expected=expected, got=self.by_position)
        extra = tuple(metric.name for metric in self.METRICS if metric.is_extra)
        if not isinstance(self.metrics, tuple) or not all(self.metrics.count(name) == 1 for name in self.metrics):
            expected = f"a tuple of distinct names out of {', '.join(extra)}"
            raise RecipeError(f"{path}.metrics", expected=expected, got=repr(self.metrics))
        for name in self.metrics:
            require_choice(f"{path}.metrics", name, extra)
        # A fixed order, so that the id does not depend on the order given.
        object.__setattr__(self, "metrics", tuple(name for name in extra if name in self.metrics))

    @property
    def reported(self) -> tuple[Metric, ...]:
        """The metrics that the record will hold."""
        named = (metric for metric in self.METRICS if not metric.is_extra or metric.name in self.metrics)
        return (*named, *self.positions)

    @property
    def positions(self) -> tuple[Metric, ...]:
        """The loss of each part of the positions, first to last."""
        number = self.by_position
        return tuple(replace(LOSS_NATS, name=f"{LOSS_NATS.name}_{part}_of_{number}") for part in range(1, number + 1))

    @property
    def target_only(self) -> bool:
        """Whether only tokens of targets count, so that items without one are left out."""
        return self.loss == "target_tokens"

    @property
    def num_tokens(self) -> int:
        """The largest number of tokens that the model processes; the evaluation's cost follows from it."""
        return self.max_sequences * self.seq_len


AnyEvaluation = Evaluation | Choices | Generation | NoiseScale | RepresentationSimilarity

EVALUATIONS = (Evaluation, Choices, Generation, NoiseScale, RepresentationSimilarity)
"""Types of evaluation recipes. `midstudy/evaluate/table.py` names the function that runs each. An evaluation that reads a
second state holds it as `other`, which is `None` for all others."""


def require_metric(path: str, evaluation: AnyEvaluation, name: str, better: str) -> None:
    """Raise `RecipeError` unless the evaluation reports the metric `name` and `better` is its better direction."""
    reported = {metric.name: metric for metric in evaluation.reported}
    if name not in reported:
        is_known = any(metric.name == name for metric in evaluation.METRICS)
        fix = f"Request it: {type(evaluation).__name__}(metrics=({name!r},), ...)." if is_known else ""
        raise RecipeError(f"{path}.metric", expected=f"one of {', '.join(reported)}", got=name, fix=fix)
    if better != reported[name].better:
        raise RecipeError(f"{path}.better", expected=f"{reported[name].better} for {name}", got=better)


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """Counts of each token in a seeded sample of a train split.

    The first `tokens_per_document` tokens of `num_documents` documents are counted, in two disjoint halves.

    Source: nightingal3/midtraining `util_scripts/dataset_similarity_syntactic.py`, method "token".
    """

    data: Dataset
    tokenizer: Tokenizer | ReleasedTokenizer
    num_documents: int
    tokens_per_document: int
    seed: int
    version: int = versions.COUNTS

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_positive("token_counts.num_documents", self.num_documents, unit="documents")
        require_positive("token_counts.tokens_per_document", self.tokens_per_document, unit="tokens")
        require_whole("token_counts.seed", self.seed, what="a seed")

    @property
    def tokenized(self) -> TokenizedData:
        return TokenizedData(data=self.data, tokenizer=self.tokenizer)


@functools.lru_cache(maxsize=4_096)
def _evaluation_id(evaluation: AnyEvaluation) -> str:
    return identify(evaluation)


@dataclass(frozen=True, kw_only=True)
class StateEvaluation:
    """An evaluation of one state, which may read a second one, `evaluation.other`."""

    state_id: str
    evaluation: AnyEvaluation

    @property
    def state_ids(self) -> tuple[str, ...]:
        """The states that it reads, the evaluated one first."""
        return (self.state_id, *((self.evaluation.other_id,) if self.evaluation.other_id is not None else ()))

    @property
    def id(self) -> str:
        """H(state id; evaluation id). The evaluation's id is cached, since a grid evaluates thousands of states alike."""
        return identify({"is": "StateEvaluation", "state": self.state_id, "evaluation": _evaluation_id(self.evaluation)})
