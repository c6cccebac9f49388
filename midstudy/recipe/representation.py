"""Recipe of a comparison of a state's hidden states with those of another state: linear CKA and layer distortion."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from midstudy.recipe import versions
from midstudy.recipe.canonical import ID_LENGTH, identify, state_field
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import SPLITS, Dataset
from midstudy.recipe.errors import RecipeError, require_choice, require_kind, require_positive
from midstudy.recipe.metric import Metric
from midstudy.recipe.plain import hold_plain_numbers

EXAMPLES = ("tokens", "sequences")

CKA_FILE = "cka.parquet"
"""File beside the record, one row per pair of layers: layer_a of the evaluated state, layer_b of the other one, cka."""

MEAN_DIAGONAL_CKA = Metric(name="mean_diagonal_cka", unit="linear CKA, 0 to 1", better="higher")
LAST_LAYER_CKA = Metric(name="last_layer_cka", unit="linear CKA, 0 to 1", better="higher")
LAYER_DISTORTION = Metric(name="layer_distortion", unit="Euclidean norm of the change of a weight matrix", better="lower")


@dataclass(frozen=True, kw_only=True, eq=False)
class RepresentationSimilarity:
    """Linear CKA between all layers of a state and of `other`, over the first `max_sequences` sequences of a split.

    A sequence is an item of a task (truncated at `seq_len` tokens) or a block of `seq_len` tokens of a corpus. The layers
    are the embedding's output (layer 0) and the output of every block, the last one after the final LayerNorm. The
    `examples` over which CKA is taken are all `tokens`, or all `sequences`, each the mean of its tokens; padding is left
    out. CKA is biased upwards, and far if there are few examples for the model's width: two untrained models of width 64
    have 0.6 over 33 sequences, and 0.08 over their 1,110 tokens.

    Metrics: `mean_diagonal_cka` is the mean of CKA(l, l) over the layers, `last_layer_cka` that of the last layer.
    `layer_distortion` is the Euclidean norm of the difference between the states' output weights of the last block's MLP.
    The whole matrix is published in the file `CKA_FILE` next to the record.

    `other` is a state with the same model and tokenizer; the recipe in a store holds only its id. Two recipes are equal if
    their ids are.

    Source: arXiv 2510.14865 and its repository, nightingal3/midtraining: CKA over `sequences`, the layers as above
    (`output_hidden_states` of transformers), and the distortion of the last block's MLP.
    """

    METRICS: ClassVar[tuple[Metric, ...]] = (MEAN_DIAGONAL_CKA, LAST_LAYER_CKA, LAYER_DISTORTION)
    target_only: ClassVar[bool] = False
    document_mask: ClassVar[bool] = False

    data: Dataset
    split: str
    seq_len: int
    max_sequences: int
    examples: str
    other: State | str = state_field()
    version: int = versions.REPRESENTATION

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = f"representation_similarity.{self.data.name}"
        require_choice(f"{path}.split", self.split, SPLITS)
        require_positive(f"{path}.seq_len", self.seq_len, unit="tokens")
        require_positive(f"{path}.max_sequences", self.max_sequences, unit="sequences")
        require_choice(f"{path}.examples", self.examples, EXAMPLES)
        expected = "a State, or in a store its id"
        require_kind(f"{path}.other", self.other, State | str, expected=expected)
        if isinstance(self.other, str) and not re.fullmatch(f"[0-9a-f]{{{ID_LENGTH}}}", self.other):
            raise RecipeError(f"{path}.other", expected=expected, got=repr(self.other))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RepresentationSimilarity) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @cached_property
    def id(self) -> str:
        return identify(self)

    @property
    def other_id(self) -> str:
        return self.other if isinstance(self.other, str) else self.other.id

    @property
    def reported(self) -> tuple[Metric, ...]:
        """The metrics that the record will hold."""
        return self.METRICS

    @property
    def num_tokens(self) -> int:
        """The largest number of tokens that the two models process together; the evaluation's cost follows from it."""
        return 2 * self.max_sequences * self.seq_len

    def require_comparable(self, path: str, state: State) -> None:
        """Raise `RecipeError` unless `other` is a different state with the model and tokenizer of `state`."""
        path = f"{path}.other"
        if isinstance(self.other, str):
            raise RecipeError(path, expected="a State, such as curriculum.state()", got=self.other)
        if self.other.id == state.id:
            raise RecipeError(path, expected="a state other than the measured one", got=f"state {state.id} for both")
        for field in ("model", "tokenizer"):
            own, theirs = getattr(state.curriculum.start, field), getattr(self.other.curriculum.start, field)
            if identify(own) != identify(theirs):
                raise RecipeError(f"{path}.{field}", expected=f"the {field} of the measured state", got="a different one")
