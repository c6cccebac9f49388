"""Effects against references: paired by seed, never over a missing reference, honest with few seeds, either way better."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from builders.analysis_tables import CONTROL_LOSS, KNOWN_EFFECTS, TRUNK_OFFSET, bridging_tables, tables_of
from scipy import stats

from midstudy.analysis.effects import Effects, cells, effects
from midstudy.analysis.estimators import rivals
from midstudy.analysis.tables import Tables


def effects_of(tables: Tables, comparison: str = "main", column: str = "sft_loss") -> Effects:
    return effects(tables, tables.manifest.comparison(comparison), column)


def effect_of(tables: Tables, mix: str, task: str, comparison: str = "main", column: str = "sft_loss") -> pd.Series:
    table = effects_of(tables, comparison, column).table
    return table[(table["mix"] == mix) & (table["task"] == task)].iloc[0]


def two_arms(
    values: dict[str, dict[tuple[int, int], float]], *, better: str = "lower", seeds: tuple[str, ...] = ("seed", "draw")
) -> Tables:
    """Two arms, `base` and `new`, of a study with other factors than the bridging study's; values by (seed, draw)."""
    rows = [
        {"recipe": recipe, "seed": seed, "draw": draw, "score": value}
        for recipe, found in values.items()
        for (seed, draw), value in found.items()
    ]
    comparison = {"name": "new", "arms": {"recipe": "new"}, "references": {"recipe": "base"}, "columns": ("score",)}
    return tables_of(rows, [comparison], columns={"score": better}, seeds=seeds)


def only(tables: Tables) -> pd.Series:
    (row,) = (row for _, row in effects_of(tables, "new", "score").table.iterrows())
    return row


@pytest.mark.parametrize(("mix", "task"), list(KNOWN_EFFECTS))
def test_known_effects_are_found(mix: str, task: str) -> None:
    found = effect_of(bridging_tables(), mix, task)
    assert found["difference"] == pytest.approx(sum(KNOWN_EFFECTS[mix, task]) / 3)
    assert (found["num_seeds"], found["num_inner_seeds"]) == (3, 2)
    assert found["reference"] - found["value"] == pytest.approx(found["difference"])
    assert found["ci_low"] < found["difference"] < found["ci_high"]


@pytest.mark.parametrize(("better", "sign"), [("lower", -1), ("higher", 1)])
def test_a_positive_difference_is_better_whichever_way_is_better(better: str, sign: int) -> None:
    base = {(1, 0): 0.50, (2, 0): 0.60, (3, 0): 0.55}
    gains = {(1, 0): 0.10, (2, 0): 0.12, (3, 0): 0.11}
    found = only(two_arms({"base": base, "new": {run: base[run] + sign * gains[run] for run in base}}, better=better))
    assert found["difference"] == pytest.approx(0.11)
    assert found["relative_improvement"] == pytest.approx((0.10 / 0.50 + 0.12 / 0.60 + 0.11 / 0.55) / 3)
    assert found["ci_low"] > 0
    worse = only(two_arms({"base": base, "new": {run: base[run] - sign * gains[run] for run in base}}, better=better))
    assert worse["difference"] == pytest.approx(-0.11)
    assert worse["ci_high"] < 0


def test_an_improvement_over_nothing_has_no_ratio() -> None:
    found = only(two_arms({"base": {(1, 0): 0.0, (2, 0): 0.0}, "new": {(1, 0): 0.1, (2, 0): 0.2}}, better="higher"))
    assert found["difference"] == pytest.approx(0.15)
    assert math.isnan(found["relative_improvement"])


def test_an_effect_is_the_paired_t_test_over_seeds_after_averaging_inner_seeds() -> None:
    tables = bridging_tables()
    arms = tables.arms[(tables.arms["task"] == "pycode") & tables.arms["start_step"].isin([0, 50])]
    means = arms[arms["weight"].isin([0.0, 0.2])].groupby(["mix", "trunk_seed"])["sft_loss"].mean()
    expected = stats.ttest_rel(means["control"], means["code"])
    found = effect_of(tables, "code", "pycode")
    interval = expected.confidence_interval(0.95)
    assert found["p_value"] == pytest.approx(expected.pvalue)
    assert (found["ci_low"], found["ci_high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_more_inner_seeds_do_not_replicate_a_run() -> None:
    base, new = {1: 4.8, 2: 4.9}, {1: 4.3, 2: 4.35}

    def drawn(times: int) -> pd.Series:
        copies = [{(seed, draw): value for seed, value in one.items() for draw in range(times)} for one in (base, new)]
        return only(two_arms(dict(zip(("base", "new"), copies, strict=True))))

    columns = ["num_seeds", "difference", "ci_low", "ci_high", "p_value"]
    assert drawn(1)[columns].tolist() == pytest.approx(drawn(3)[columns].tolist())
    assert drawn(3)["num_inner_seeds"] == 3


def test_a_study_without_seeds_has_effects_without_intervals() -> None:
    rows = [{"recipe": recipe, "score": value} for recipe, value in (("base", 2.0), ("new", 1.5))]
    comparison: dict[str, Any] = {"name": "new", "arms": [1], "references": [0], "columns": ("score",)}
    tables = tables_of(rows, [comparison], columns={"score": "lower"}, seeds=())
    assert only(tables)["difference"] == 0.5
    assert math.isnan(only(tables)["ci_low"])


def test_the_holm_family_is_the_comparison() -> None:
    main = effects_of(bridging_tables()).table
    assert main["family_size"].unique().tolist() == [6]
    smallest = main.loc[main["p_value"].idxmin()]
    assert smallest["p_holm"] == pytest.approx(6 * smallest["p_value"])
    assert effects_of(bridging_tables(), "timing").table["family_size"].unique().tolist() == [3]


def test_another_column_is_compared_in_the_same_way() -> None:
    found = effect_of(bridging_tables(), "code", "pycode", column="general_loss")
    assert found["difference"] == pytest.approx(((5.4 - 5.0) + (5.5 - 5.12) + (5.45 - 5.03)) / 3)


def test_a_reference_may_be_any_arm() -> None:
    tables = bridging_tables()
    found = effect_of(tables, "code", "pycode", "continued")
    assert found["difference"] == pytest.approx(((0.50 - 0.40) + (0.54 - 0.46) + (0.46 - 0.37)) / 3)
    assert found["tokens:code"] == round(0.2 * 50 * 2_048)


def test_a_curve_is_sorted_along_its_factor_and_shows_tokens_and_dose() -> None:
    curve = effects_of(bridging_tables(sizes=("micro", "small")), "timing")
    assert curve.table["size"].tolist() == ["micro"] * 3 + ["small"] * 3
    assert curve.table["start_step"].tolist() == [10, 50, 80] * 2
    assert (curve.table["tokens:code"][:3].diff().dropna() < 0).all()
    assert (curve.table["dose:code"][:3].diff().dropna() < 0).all()
    assert curve.by_seed[["start_step", "trunk_seed"]][:9].to_numpy().tolist() == [
        [step, seed] for step in (10, 50, 80) for seed in (0, 1, 2)
    ]


def test_the_values_of_each_seed_are_kept() -> None:
    by_seed = effects_of(bridging_tables()).by_seed
    code = by_seed[(by_seed["mix"] == "code") & (by_seed["task"] == "pycode")]
    assert code["trunk_seed"].tolist() == [0, 1, 2]
    assert code["difference"].tolist() == pytest.approx(list(KNOWN_EFFECTS["code", "pycode"]))
    assert code["reference"].tolist() == pytest.approx([CONTROL_LOSS["pycode"] + one + 0.002 for one in TRUNK_OFFSET])


def test_one_seed_gives_an_effect_without_an_interval() -> None:
    found = effect_of(bridging_tables(trunk_seeds=(0,)), "code", "pycode")
    assert found["difference"] == pytest.approx(0.5)
    assert found["num_seeds"] == 1
    assert all(math.isnan(found[name]) for name in ("ci_low", "ci_high", "relative_ci_low", "p_value", "p_holm"))
    assert found["note"] == "one seed: no interval"


def test_an_arm_on_fewer_seeds_than_its_reference_uses_the_common_ones() -> None:
    found = only(two_arms({"base": {(1, 0): 4.0, (1, 1): 4.004, (2, 0): 9.0}, "new": {(1, 1): 3.004}}))
    assert (found["num_seeds"], found["num_inner_seeds"]) == (1, 1)
    assert found["reference"] == pytest.approx(4.004)
    assert found["difference"] == pytest.approx(1.0)


@pytest.mark.parametrize("run", [(2, 0), (1, 7)])
def test_a_missing_reference_is_an_error_that_names_the_arm(run: tuple[int, int]) -> None:
    tables = two_arms({"base": {(1, 0): 4.0}, "new": {(1, 0): 3.0, run: 3.5}})
    with pytest.raises(ValueError, match=f"recipe new, seed {run[0]}, draw {run[1]}: expected a reference with"):
        effects_of(tables, "new", "score")


def test_unfinished_arms_are_listed_and_the_rest_is_used() -> None:
    found = effects_of(
        bridging_tables(unfinished=[{"mix": "code", "task": "pycode", "trunk_seed": 2, "weight": 0.2, "start_step": 50}])
    )
    code = found.table[(found.table["mix"] == "code") & (found.table["task"] == "pycode")].iloc[0]
    assert code["num_seeds"] == 2
    assert found.missing[["mix", "task", "trunk_seed", "sft_seed", "column", "reason"]].to_numpy().tolist() == [
        ["code", "pycode", 2, sft_seed, "sft_loss", "not finished"] for sft_seed in (10, 11)
    ]


def test_an_unfinished_reference_leaves_its_arms_out_and_says_why() -> None:
    found = effects_of(bridging_tables(unfinished=[{"mix": "control", "task": "word_problems"}]))
    assert set(found.table["task"]) == {"pycode"}
    assert found.missing.groupby("reason").size().to_dict() == {"not finished": 6, "its reference is not finished": 3 * 6}


def test_nothing_finished_gives_empty_tables_not_an_error() -> None:
    nothing, everything = effects_of(bridging_tables(unfinished=[{"size": "micro"}])), effects_of(bridging_tables())
    assert nothing.table.empty
    assert nothing.by_seed.empty
    for name in ("table", "by_seed", "missing"):
        assert list(getattr(nothing, name).columns) == list(getattr(everything, name).columns)


def test_the_tables_keep_plain_column_types_for_parquet(tmp_path: Any) -> None:
    found = effects_of(bridging_tables())
    for table in (found.table, found.by_seed):
        table.to_parquet(tmp_path / "table.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)


def rivals_of(tables: Tables, mix: str, task: str, **factors: Any) -> pd.DataFrame:
    comparison = tables.manifest.comparison("main")
    wanted = {"mix": mix, "task": task, **factors}
    (cell,) = (cell for cell in cells(tables, comparison) if all(cell.factors[name] == one for name, one in wanted.items()))
    return rivals(tables, comparison, cell, "sft_loss").set_index("rival")


def test_a_cell_is_compared_with_every_rival_over_common_seeds() -> None:
    found = rivals_of(bridging_tables(), "code", "pycode")
    assert list(found.index) == ["control", "math", "instruction"]
    assert found.loc["math", "difference"] == pytest.approx(((0.50 - 0.01) + (0.54 + 0.02) + (0.46 - 0.00)) / 3)
    assert (found["ci_low"] > 0).all()


def test_rivals_without_common_seeds_stay_in_the_table() -> None:
    unfinished: list[dict[str, Any]] = [{"mix": "math", "trunk_seed": (1, 2)}, {"mix": "instruction"}]
    found = rivals_of(bridging_tables(unfinished=unfinished), "code", "pycode")
    assert found.loc["math", "num_seeds"] == 1
    assert math.isnan(found.loc["math", "ci_low"])
    assert found.loc["instruction", "num_seeds"] == 0
    assert found.loc["control", "ci_low"] > 0


def test_the_same_mix_averaged_is_not_a_rival_where_averaging_is_matched() -> None:
    rows = [
        {
            "mix": mix,
            "averaging": averaging,
            "task": "t",
            "seed": seed,
            "sft_loss": 5.0 - gain + 0.1 * seed - 0.2 * (averaging == "ema"),
        }
        for mix, gain in (("control", 0.0), ("code", 0.5), ("math", 0.1))
        for averaging in ("none", "ema")
        for seed in (0, 1)
    ]
    comparison: dict[str, Any] = {
        "name": "main",
        "arms": {"mix": ("code", "math")},
        "references": {"mix": "control"},
        "columns": ("sft_loss",),
        "match": ("task", "averaging"),
    }
    tables = tables_of(rows, [comparison], columns={"sft_loss": "lower"}, seeds=("seed",))
    assert list(rivals_of(tables, "code", "t", averaging="none").index) == ["control", "math"]
