"""Two studies side by side: which arms correspond, whether effects and claims agree, and what their recipes differ in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from builders.analysis_tables import bridging_tables, tables_of
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from midstudy.analysis.effects import effects
from midstudy.analysis.tables import Tables
from midstudy.analysis.two_studies import AGREE, DIFFER, EQUAL, UNKNOWN, TwoStudies, compare, difference_of_effects
from midstudy.recipe.study import Claim

HELPS = Claim(
    text="code lowers the loss",
    source="a paper",
    estimator="paired_effect",
    comparison="main",
    column="sft_loss",
    arms={"mix": "code", "task": "pycode"},
    margin=0.02,
)


def no_recipe(stage_id: str) -> Mapping[str, Any]:
    return {}


def side_by_side(a: Tables, b: Tables) -> TwoStudies:
    return compare(a, b, canonical_a=no_recipe, canonical_b=no_recipe)


def loaders(gains: Mapping[int, float], **labels: str) -> Tables:
    """Return a study of one comparison whose effect is `gains[seed]` nats, with further factors `labels`."""
    rows = [
        {"loader": loader, "seed": seed, **labels, "loss": 4.0 + seed / 10 - gain * (loader == "packed")}
        for loader in ("plain", "packed")
        for seed, gain in gains.items()
    ]
    packed = {"name": "packing", "arms": {"loader": "packed"}, "references": {"loader": "plain"}, "columns": ("loss",)}
    return tables_of(rows, [packed], columns={"loss": "lower"}, seeds=("seed",))


def test_a_study_agrees_with_itself_in_everything() -> None:
    study = bridging_tables(claims=[HELPS])
    two = side_by_side(study, study)
    assert two.factors == study.manifest.factor_names
    assert (two.own_arms, two.own_claims, two.own_factors) == ((0, 0), (0, 0), ((), ()))
    assert len(two.arms) == len(study.arms) * 4
    assert (two.arms["difference"] == 0).all()
    assert set(two.effects["agreement"]) == {EQUAL}
    assert list(two.claims[["a", "b", "agree", "same_test"]].iloc[0]) == ["yes", "yes", True, True]
    assert two.recipes.empty


def test_values_of_arms_are_those_of_the_tables_and_differences_the_second_minus_the_first() -> None:
    a, b = bridging_tables(), bridging_tables(sft_loss={("code", "pycode"): 0.25})
    arms = side_by_side(a, b).arms
    moved = (arms["mix"] == "code") & (arms["task"] == "pycode") & arms["column"].isin(["sft_loss", "sft_loss_before"])
    moved &= (arms["weight"] == 0.2) & (arms["start_step"] == 50)
    assert moved.sum() == 6 * 2
    np.testing.assert_allclose(arms.loc[moved, "difference"], 0.25)
    assert (arms.loc[~moved, "difference"] == 0).all()


def test_effects_of_both_are_those_of_the_analysis_and_a_planted_difference_is_found() -> None:
    a, b = loaders({0: 0.5, 1: 0.54, 2: 0.46}), loaders({0: 0.71, 1: 0.75, 2: 0.65})
    (row,) = side_by_side(a, b).effects.to_dict("records")
    for side, tables in (("a", a), ("b", b)):
        (expected,) = effects(tables, tables.manifest.comparison("packing"), "loss").table.to_dict("records")
        own = [row[f"{side}{part}"] for part in ("", "_low", "_high")]
        assert own == [expected[name] for name in ("difference", "ci_low", "ci_high")]
    low, high = stats.ttest_1samp([0.21, 0.21, 0.19], 0).confidence_interval()
    np.testing.assert_allclose([row["difference"], row["low"], row["high"]], [0.61 / 3, low, high], rtol=1e-9)
    assert (row["basis"], row["agreement"]) == ("3 common seeds", DIFFER)


def test_other_seeds_are_independent_and_a_factor_of_one_study_alone_does_not_separate_them() -> None:
    """Welch's interval, as SciPy computes it."""
    a, b = loaders({0: 0.5, 1: 0.54, 2: 0.46}), loaders({7: 0.50, 8: 0.58}, text="new")
    two = side_by_side(a, b)
    assert (two.own_factors, two.own_arms, len(two.arms)) == (((), ("text",)), (6, 4), 0)
    (row,) = two.effects.to_dict("records")
    low, high = stats.ttest_ind([0.50, 0.58], [0.5, 0.54, 0.46], equal_var=False).confidence_interval()
    np.testing.assert_allclose([row["difference"], row["low"], row["high"]], [0.04, low, high], rtol=1e-9)
    assert (row["basis"], row["agreement"]) == ("independent, 3 and 2 seeds", AGREE)


VALUES = st.dictionaries(st.integers(0, 9), st.floats(-2, 2), min_size=1, max_size=6)


@given(VALUES, VALUES, st.booleans())
def test_exchanging_the_studies_turns_the_difference_around(
    a: dict[int, float], b: dict[int, float], same_seed: bool
) -> None:
    one, other = difference_of_effects(a, b, same_seed=same_seed), difference_of_effects(b, a, same_seed=same_seed)
    assert one["agreement"] == other["agreement"]
    got = [one[name] for name in ("difference", "low", "high")]
    np.testing.assert_allclose(got, [-other[name] for name in ("difference", "high", "low")], rtol=1e-9, atol=1e-12)
    if one["agreement"] in (AGREE, DIFFER):
        assert one["low"] <= one["difference"] <= one["high"]


@pytest.mark.parametrize(("a", "b"), [({0: 1.0}, {0: 1.5}), ({0: 1.0}, {1: 1.5, 2: 1.2}), ({0: 1.0, 1: 2.0}, {0: 1.5})])
def test_one_seed_decides_nothing(a: dict[int, float], b: dict[int, float]) -> None:
    found = difference_of_effects(a, b, same_seed=True)
    assert math.isnan(found["low"])
    assert found["agreement"] == UNKNOWN


def test_claims_of_the_same_text_are_compared_and_another_test_is_marked() -> None:
    other = dataclasses.replace(HELPS, text="math lowers the loss", arms={"mix": "math", "task": "word_problems"})
    strict = dataclasses.replace(HELPS, margin=0.5)
    two = side_by_side(bridging_tables(claims=[HELPS]), bridging_tables(claims=[other, strict]))
    (row,) = two.claims.to_dict("records")
    assert (row["a"], row["b"], row["agree"], row["same_test"]) == ("yes", "no", False, False)
    assert two.own_claims == (0, 1)
    elsewhere = dataclasses.replace(HELPS, source="another paper", cited="0.1 nats")
    cited = side_by_side(bridging_tables(claims=[HELPS]), bridging_tables(claims=[elsewhere]))
    assert cited.claims["same_test"].all(), "what a source reports is not part of the test"


def test_unfinished_arms_have_no_difference_and_no_effect() -> None:
    two = side_by_side(bridging_tables(), bridging_tables(unfinished=[{"mix": "code"}]))
    assert two.arms.loc[two.arms["mix"] == "code", "difference"].isna().all()
    assert "code" not in set(two.effects["mix"])
    assert set(two.effects["mix"]) == {"math", "instruction"}


def test_a_column_that_is_measured_otherwise_is_not_compared() -> None:
    a = bridging_tables()
    accuracy = dataclasses.replace(a.manifest.columns["sft_loss"], metric="accuracy", better="higher")
    columns = {**a.manifest.columns, "sft_loss": accuracy}
    b = dataclasses.replace(a, manifest=dataclasses.replace(a.manifest, columns=columns))
    two = side_by_side(a, b)
    assert two.own_columns == (("sft_loss",), ("sft_loss",))
    assert set(two.effects["column"]) == {"general_loss"}


def test_recipe_fields_are_counted_over_the_arms_that_differ_in_them() -> None:
    """The second study trains the packed arms twice as long, and evaluates all arms on 64 sequences instead of 192."""
    a, b = loaders({0: 0.5, 1: 0.6}), loaders({0: 0.5, 1: 0.6})
    arms = tuple(
        dataclasses.replace(arm, state=f"other{row}", measures={"loss": (f"other-loss{row}",)})
        for row, arm in enumerate(b.manifest.arms)
    )
    stages = {**b.manifest.stages}
    for old, new in zip(b.manifest.arms, arms, strict=True):
        stages[new.state] = b.manifest.stages[old.state]
    b = dataclasses.replace(b, manifest=dataclasses.replace(b.manifest, arms=arms, stages=stages))

    def canonical_a(stage_id: str) -> dict[str, Any]:
        is_evaluation = stage_id.startswith("loss")
        return {"state_id": stage_id, "max_sequences": 192} if is_evaluation else {"steps": 10, "lr": 0.1}

    def canonical_b(stage_id: str) -> dict[str, Any]:
        if stage_id.startswith("other-loss"):
            return {"state_id": stage_id, "max_sequences": 64}
        is_packed = arms[int(stage_id.removeprefix("other"))].factors["loader"] == "packed"
        return {"steps": 20 if is_packed else 10, "lr": 0.1}

    recipes = compare(a, b, canonical_a=canonical_a, canonical_b=canonical_b).recipes
    assert recipes.to_dict("records") == [
        {"part": "loss", "path": "max_sequences", "a": 192, "b": 64, "num_arms": 4},
        {"part": "training", "path": "steps", "a": 10, "b": 20, "num_arms": 2},
    ]


def test_studies_without_a_common_factor_are_rejected_with_the_factors_of_both() -> None:
    rows = [{"rank": rank, "loss": 4.0} for rank in (1, 2)]
    other = tables_of(rows, [], columns={"loss": "lower"}, seeds=())
    with pytest.raises(ValueError, match=r"loader, seed \(synthetic\) and rank \(synthetic\)"):
        side_by_side(loaders({0: 0.5}), other)
