"""Decision D: a ranking that names one mix becomes a claim, others a note; the claim holds where that mix is the best."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders.planned_bridging import planned_tables

from midstudy.analysis.decisions import ALPHA
from midstudy.recipe import Corpus, SourceMix
from midstudy.recipe.data import Source
from midstudy.recipe.errors import RecipeError
from midstudy.similarity.ranking import Ranked
from midstudy.studies.bridging.recommended import (
    Ranking,
    as_named,
    claims_of_rankings,
    names_the_best,
    notes_of_rankings,
    ranking_of,
)


def ranked(name: str, gain: float, *, group: int, over_placebo_low: float = 0.01) -> Ranked:
    return Ranked(
        name=name,
        gain=gain,
        low=gain - 0.01,
        high=gain + 0.01,
        over_placebo=gain,
        over_placebo_low=over_placebo_low,
        over_placebo_high=gain + 0.01,
        probability_best=0.5,
        group=group,
    )


def test_one_mix_in_the_first_group_is_named_and_claimed_with_its_ranking() -> None:
    found = ranking_of("pycode", [ranked("code", 0.10, group=1), ranked("qa", 0.02, group=2)])
    assert found == Ranking(task="pycode", gains={"code": 0.10, "qa": 0.02}, first=("code",))
    (claim,) = claims_of_rankings([found])
    assert (claim.arms, claim.options) == ({"mix": "code", "task": "pycode"}, {"gain:code": 0.10, "gain:qa": 0.02})
    assert notes_of_rankings([found]) == []


def test_a_ranking_that_names_no_mix_is_noted_and_nothing_is_claimed() -> None:
    tied = ranking_of("pycode", [ranked("code", 0.10, group=1), ranked("qa", 0.09, group=1)])
    idle = ranking_of("word_problems", [ranked("qa", 0.01, group=1, over_placebo_low=-0.01), ranked("code", 0.0, group=2)])
    assert claims_of_rankings([tied, idle]) == []
    assert notes_of_rankings([tied, idle]) == [
        "recommend names no mix for pycode: code, qa cannot be told apart",
        "recommend names no mix for word_problems: none gains more than general text",
    ]


@pytest.mark.parametrize(("mix", "holds"), [("code", True), ("math", False)])
def test_the_claim_holds_if_the_named_mix_is_the_best_and_fails_if_another_is(mix: str, holds: bool) -> None:
    """Planted: code lowers pycode loss by 6 nats for a dose of 1, every other mix by 0.2."""
    tables = planned_tables("full=True", "sizes=('nano',)", "sft_peak_lrs=()")
    (claim,) = claims_of_rankings([Ranking(task="pycode", gains={mix: 0.1, "qa": 0.0}, first=(mix,))])
    found = names_the_best(tables, replace(claim, arms={**claim.arms, "sft_steps": 72}))
    assert (found.p_holds < ALPHA / 2) is holds
    assert (found.p_fails < ALPHA / 2) is not holds
    assert found.text.endswith(f"registered ranking, bits per byte: {mix} +0.100, qa +0.000")


def test_a_claim_whose_mix_does_not_lead_its_ranking_is_refused() -> None:
    tables = planned_tables("full=True", "sizes=('nano',)", "sft_peak_lrs=()")
    (claim,) = claims_of_rankings([Ranking(task="pycode", gains={"code": 0.1, "qa": 0.2}, first=("code",))])
    with pytest.raises(ValueError, match="a ranking whose first is the claim's mix"):
        names_the_best(tables, claim)


def test_a_corpus_of_several_sources_cannot_be_ranked() -> None:
    one, other = (Source(kind="hub", part=f"owner/{name}", revision="1" * 40) for name in ("a", "b"))
    corpus = Corpus(name="code", source=SourceMix.of({one: "1/2", other: "1/2"}))
    with pytest.raises(RecipeError, match=r"data\.code: expected one source"):
        as_named(corpus)
    assert as_named(replace(corpus, source=one)).revision == "1" * 40
