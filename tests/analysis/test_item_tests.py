"""Claims about shares of items of one arm: values, intervals and tests agree with scipy, statsmodels and with each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import tables_of
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from midstudy.analysis.claims import judge
from midstudy.analysis.decisions import ALPHA
from midstudy.analysis.estimators import Estimate
from midstudy.analysis.item_tests import share, share_change
from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim

SIZE = 80


def quiz(right: Mapping[tuple[str, str], Sequence[bool]], *, claims: Sequence[Claim] = ()) -> Tables:
    """Return the tables of a base and a mid state with what each got right, by state and column."""
    columns = ("asked", "silent")
    rows = [
        {"trunk_seed": 0, "after": after, **{name: float(np.mean(right.get((after, name), [False]))) for name in columns}}
        for after in ("base", "mid")
    ]
    compared = {"name": "mid", "arms": {"after": "mid"}, "references": {"after": "base"}, "columns": columns, "match": ()}
    tables = tables_of(rows, [compared], columns=dict.fromkeys(columns, "higher"), seeds=("trunk_seed",), claims=claims)
    items = [
        {"arm": ("base", "mid").index(after), "column": column, "item": item, "right": float(value)}
        for (after, column), values in right.items()
        for item, value in enumerate(values)
    ]
    return replace(tables, items=pd.DataFrame(items) if items else None)


def claim(estimator: str, **fields: Any) -> Claim:
    known = {"text": "it knows", "source": "us", "comparison": "mid", "column": "asked", "family": "all"} | fields
    return Claim(estimator=f"midstudy.analysis.item_tests:{estimator}", **known)


def first(number: int) -> list[bool]:
    """The first `number` of the items are right."""
    return [item < number for item in range(SIZE)]


def last(number: int) -> list[bool]:
    return first(number)[::-1]


@pytest.mark.parametrize("number", [0, 14, 20, 31, SIZE])
@pytest.mark.parametrize("holds", ["above", "below"])
def test_a_share_is_tested_exactly_against_chance(number: int, holds: str) -> None:
    found = share(quiz({("mid", "asked"): first(number)}), claim("share", margin=0.25, holds=holds))
    sides = {one: binomtest(number, SIZE, 0.25, alternative=one).pvalue for one in ("greater", "less")}
    up, down = (sides["greater"], sides["less"]) if holds == "above" else (sides["less"], sides["greater"])
    assert (found.p_holds, found.p_fails) == pytest.approx((up, down))
    assert (found.low, found.high) == pytest.approx(proportion_confint(number, SIZE, method="wilson"), abs=1e-12)
    assert found.value == number / SIZE


def test_a_change_is_that_of_the_same_items() -> None:
    """Of 80 items, 25 are right at the mid state alone and 5 at the base alone: 20 points, whatever both share."""
    tables = quiz({("base", "asked"): first(25), ("mid", "asked"): [5 <= item < 50 for item in range(SIZE)]})
    found = share_change(tables, claim("share_change"))
    assert found.value == pytest.approx(20 / SIZE)
    error = math.sqrt(30 + 1 - 20**2 / (SIZE + 2)) / (SIZE + 2)  # Agresti and Min, 2005
    assert (found.low, found.high) == pytest.approx((20 / 82 - 1.959964 * error, 20 / 82 + 1.959964 * error), abs=1e-6)
    assert "25 better and 5 worse" in found.text
    apart = share_change(quiz({("base", "asked"): first(25), ("mid", "asked"): last(45)}), claim("share_change"))
    assert apart.value == found.value
    assert apart.high - apart.low > found.high - found.low


@pytest.mark.parametrize("gain", [-12, 0, 6, 20, 44])
def test_the_test_at_a_margin_agrees_with_the_interval(gain: int) -> None:
    """The one-sided p is below 0.025 exactly where the 95 % interval lies beyond the margin."""
    tables, tiny = quiz({("base", "asked"): first(20), ("mid", "asked"): first(20 + gain)}), 1e-6

    def at(margin: float) -> Estimate:
        return share_change(tables, claim("share_change", margin=margin))

    low, high = at(0).low, at(0).high
    assert at(low - tiny).p_holds < ALPHA / 2 < at(low + tiny).p_holds
    assert at(high + tiny).p_fails < ALPHA / 2 < at(high - tiny).p_fails


def test_another_column_is_the_same_state_asked_in_another_way() -> None:
    right = {("mid", "asked"): first(40), ("mid", "silent"): first(4), ("base", "asked"): first(40)}
    found = share_change(quiz(right), claim("share_change", options={"other": "silent"}))
    assert found.value == pytest.approx(36 / SIZE)
    assert share_change(quiz(right), claim("share_change")).value == 0


def test_planted_claims_are_judged_over_items_and_say_so() -> None:
    """With one seed of training: a gain of 40 points holds at 10, a gain of none does not, chance is left open."""
    right = {("base", "asked"): first(4), ("mid", "asked"): first(36), ("mid", "silent"): first(20)}
    claims = [
        claim("share_change", text="it learns", margin=0.1),
        claim("share_change", text="it needs no tool", options={"other": "silent"}, margin=0.05, holds="below"),
        claim("share", text="above chance", column="silent", margin=0.25),
    ]
    judged = judge(quiz(right, claims=claims)).set_index("text")
    assert judged["verdict"].to_dict() == {"it learns": "yes", "it needs no tool": "no", "above chance": "inconclusive"}
    assert judged["scope"].str.contains("not over seeds").all()


@pytest.mark.parametrize("estimator", ["share", "share_change"])
def test_a_state_without_finite_scores_and_an_unfinished_one_decide_nothing(estimator: str) -> None:
    of_nan = quiz({("base", "asked"): first(4), ("mid", "asked"): first(40)})
    assert of_nan.items is not None
    of_nan.items.loc[of_nan.items["arm"] == 1, "right"] = math.nan
    for tables in (of_nan, quiz({("base", "asked"): first(4)}), quiz({})):
        wanted = claim(estimator, margin=0.1)
        found = judge(replace(tables, manifest=replace(tables.manifest, claims=(wanted,)))).iloc[0]
        assert found["verdict"] == "inconclusive"
        assert math.isnan(found["value"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"holds": "within", "margin": 0.1}, "holds: expected above or below"),
        ({"column": "trunk_seed"}, "column: expected a share of items"),
        ({"arms": {"after": "sft"}}, "arms: expected one arm of mid"),
    ],
)
def test_a_claim_that_these_estimators_cannot_judge_is_an_error(fields: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        share(quiz({("mid", "asked"): first(4)}), claim("share", **fields))
