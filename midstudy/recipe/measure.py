"""What is measured: losses of a state on a split, and token counts of a data set."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from midstudy.recipe import versions
from midstudy.recipe.canonical import added_field, identify
from midstudy.recipe.data import SPLITS, Corpus, Dataset, ReleasedTokenizer, TokenizedData, Tokenizer
from midstudy.recipe.errors import RecipeError, require_choice, require_flag, require_positive, require_whole
from midstudy.recipe.phase import LOSSES
from midstudy.recipe.plain import hold_plain_numbers


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Token-weighted mean loss, in nats, over the first `max_sequences` sequences of a split.

    A sequence is an item of a task (truncated at `seq_len`) or a block of `seq_len` tokens of a corpus. `document_mask`
    keeps attention inside each document of a block: how a model that was trained so is measured.
    """

    data: Dataset
    split: str
    loss: str
    seq_len: int
    max_sequences: int
    version: int = versions.EVALUATION
    document_mask: bool = added_field(omit_at=False)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = f"evaluation.{self.data.name}"
        require_choice(f"{path}.split", self.split, SPLITS)
        require_choice(f"{path}.loss", self.loss, LOSSES)
        require_positive(f"{path}.seq_len", self.seq_len, unit="tokens")
        require_positive(f"{path}.max_sequences", self.max_sequences, unit="sequences")
        if isinstance(self.data, Corpus) and self.loss != "all_tokens":
            raise RecipeError(f"{path}.loss", found=self.loss, allowed="all_tokens for a corpus")
        require_flag(f"{path}.document_mask", self.document_mask)
        if not isinstance(self.data, Corpus) and self.document_mask:
            raise RecipeError(
                f"{path}.document_mask", found=True, allowed="false for a task: a sequence is one item, none is packed"
            )


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
