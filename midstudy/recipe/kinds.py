"""Table of stage kinds: for each recipe type, the kind's name in records and the function that runs it.

Functions are named as `module:function`, so that plans and experiment files import neither the training engine nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe.choice import Choice
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import ReleasedTokenizer, TokenizedData, Tokenizer
from midstudy.recipe.measure import StateEvaluation, TokenCounts
from midstudy.recipe.packing import Packing
from midstudy.recipe.parts import DocumentSizes, ShardLayout, TokensPart
from midstudy.recipe.preparation import Prepared

TokensRecipe = TokenizedData | DocumentSizes | ShardLayout | TokensPart
DataRecipe = Prepared | Tokenizer | ReleasedTokenizer | TokensRecipe | Packing | TokenCounts
StageRecipe = DataRecipe | State | StateEvaluation | Choice


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """How stages of one recipe type are named and run.

    `make` names a function of (recipe, `execute.work.Work`) that returns the metrics for the record. `assist` names the
    function of (recipe, `execute.work.RankWork`) that the other ranks of the job call; it is empty if rank 0 works alone.
    """

    recipe: type
    name: str
    make: str
    assist: str = ""


_KINDS = (
    StageKind(recipe=Prepared, name="preparation", make="midstudy.execute.preparation:preparation_stage"),
    StageKind(recipe=Tokenizer, name="tokenizer", make="midstudy.execute.data:tokenizer_stage"),
    StageKind(recipe=ReleasedTokenizer, name="tokenizer", make="midstudy.execute.data:released_tokenizer_stage"),
    StageKind(recipe=TokenizedData, name="tokens", make="midstudy.execute.data:tokens_stage"),
    StageKind(recipe=DocumentSizes, name="sizes", make="midstudy.execute.parts:sizes_stage"),
    StageKind(recipe=ShardLayout, name="layout", make="midstudy.execute.parts:layout_stage"),
    StageKind(recipe=TokensPart, name="tokens part", make="midstudy.execute.parts:tokens_part_stage"),
    StageKind(recipe=Packing, name="packing", make="midstudy.execute.packing:packing_stage"),
    StageKind(recipe=TokenCounts, name="counts", make="midstudy.execute.data:counts_stage"),
    StageKind(
        recipe=State,
        name="state",
        make="midstudy.execute.state_stage:state_stage",
        assist="midstudy.execute.state_stage:assist_state",
    ),
    StageKind(recipe=StateEvaluation, name="evaluation", make="midstudy.execute.evaluation:evaluation_stage"),
    StageKind(recipe=Choice, name="decision", make="midstudy.execute.decision:decision_stage"),
)

STAGE_KINDS = {kind.recipe: kind for kind in _KINDS}
