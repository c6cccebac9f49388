"""What is measured: losses of a state on a split, and token counts of a data set."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from midstudy.recipe import versions
from midstudy.recipe.canonical import added_field, identify
from midstudy.recipe.data import SPLITS, Corpus, Dataset, ReleasedTokenizer, TokenizedData, Tokenizer
from midstudy.recipe.errors import RecipeError, require_choice, require_flag, require_positive, require_whole
from midstudy.recipe.phase import LOSSES
from midstudy.recipe.plain import hold_plain_numbers


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that an evaluation reports. `better` is `lower` or `higher`; `is_extra` says that it must be asked for."""

    name: str
    unit: str
    better: str
    is_extra: bool = False


LOSS_NATS = Metric(name="loss_nats", unit="nats per target token", better="lower")
BITS_PER_BYTE = Metric(name="bits_per_byte", unit="bits per byte", better="lower", is_extra=True)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Token-weighted mean loss, in nats, over the first `max_sequences` sequences of a split.

    A sequence is an item of a task (truncated at `seq_len`) or a block of `seq_len` tokens of a corpus. `document_mask`
    keeps attention inside each document of a block: how a model that was trained so is measured.

    `metrics` names what is measured besides: `bits_per_byte`. `items` publishes the sums of every sequence in a file beside
    the record.
    """

    METRICS: ClassVar[tuple[Metric, ...]] = (LOSS_NATS, BITS_PER_BYTE)

    data: Dataset
    split: str
    loss: str
    seq_len: int
    max_sequences: int
    version: int = versions.EVALUATION
    document_mask: bool = added_field(omit_at=False)
    metrics: tuple[str, ...] = added_field(omit_at=())
    items: bool = added_field(omit_at=False)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = f"evaluation.{self.data.name}"
        require_choice(f"{path}.split", self.split, SPLITS)
        require_choice(f"{path}.loss", self.loss, LOSSES)
        require_positive(f"{path}.seq_len", self.seq_len, unit="tokens")
        require_positive(f"{path}.max_sequences", self.max_sequences, unit="sequences")
        if isinstance(self.data, Corpus) and self.loss != "all_tokens":
            raise RecipeError(f"{path}.loss", expected="all_tokens for a corpus", got=self.loss)
        require_flag(f"{path}.document_mask", self.document_mask)
        if not isinstance(self.data, Corpus) and self.document_mask:
            raise RecipeError(
                f"{path}.document_mask", expected="false for a task: a sequence is one item, none is packed", got=True
            )
        require_flag(f"{path}.items", self.items)
        extra = tuple(metric.name for metric in self.METRICS if metric.is_extra)
        if not isinstance(self.metrics, tuple) or not all(self.metrics.count(name) == 1 for name in self.metrics):
            allowed = f"a tuple of different names of {', '.join(extra)}"
            raise RecipeError(f"{path}.metrics", expected=allowed, got=repr(self.metrics))
        for name in self.metrics:
            require_choice(f"{path}.metrics", name, extra)
        # One order, one id.
        object.__setattr__(self, "metrics", tuple(name for name in extra if name in self.metrics))

    @property
    def reported(self) -> tuple[Metric, ...]:
        """What the record will hold."""
        return tuple(metric for metric in self.METRICS if not metric.is_extra or metric.name in self.metrics)

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model at most: what the evaluation costs."""
        return self.max_sequences * self.seq_len


EVALUATIONS = (Evaluation,)
"""Recipes of evaluations. The function that runs each is in `midstudy/evaluate/table.py`."""


def require_metric(path: str, evaluation: Evaluation, name: str, better: str) -> None:
    """Raise `RecipeError` unless the evaluation reports a metric of this name, for which `better` is better."""
    reported = {metric.name: metric for metric in evaluation.reported}
    if name not in reported:
        is_known = any(metric.name == name for metric in evaluation.METRICS)
        fix = f"Ask for it: {type(evaluation).__name__}(metrics=({name!r},), ...)." if is_known else ""
        raise RecipeError(f"{path}.metric", expected=", ".join(reported), got=name, fix=fix)
    if better != reported[name].better:
        raise RecipeError(f"{path}.better", expected=f"{reported[name].better} for {name}", got=better)


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """How often each token occurs in a seeded sample of a train split.

    Source: nightingal3/midtraining `util_scripts/dataset_similarity_syntactic.py`, method "token".

    Counted over the first `tokens_per_document` tokens of `num_documents` documents, in two disjoint halves.
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
def _evaluation_id(evaluation: Evaluation) -> str:
    return identify(evaluation)


@dataclass(frozen=True, kw_only=True)
class StateEvaluation:
    """An evaluation of one state."""

    state_id: str
    evaluation: Evaluation

    @property
    def id(self) -> str:
        """H(the state's id; the evaluation's id): a grid makes one evaluation of thousands of states."""
        return identify({"is": "StateEvaluation", "state": self.state_id, "evaluation": _evaluation_id(self.evaluation)})
