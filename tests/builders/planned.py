"""A plan that makes one data set's tokens, without training."""

from __future__ import annotations

from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.planner import Plan, make_plan
from midstudy.recipe import Study, TokenCounts
from midstudy.recipe.data import TokenizedData


def plan_of(data: TokenizedData, *, published: frozenset[str] = frozenset()) -> Plan:
    """Return the plan of a study that counts the tokens of a data set.

    Args:
        published: ids of the stages that are finished.
    """
    counts = TokenCounts(data=data.data, tokenizer=data.tokenizer, num_documents=100, tokens_per_document=64, seed=1)
    return make_plan(
        Study(name="tokens", question="Which tokens?", counts=[counts]),
        throughput=Throughput(CPU_CORE, {}),
        published=lambda ids: set(published).intersection(ids),
        kept_states=(),
    )
