"""Effects against the control: paired by trunk seed, never over a missing control, honest with few seeds."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from analysis_tables import CONTROL_LOSS, KNOWN_EFFECTS, TRUNK_OFFSET, cell, run, study_table, unfinished
from scipy import stats

from midstudy.analysis.arms import ARM_COLUMNS, in_group, require_arms
from midstudy.analysis.effects import best_of, paired_effects


def effect_of(table: pd.DataFrame, mix: str, task: str, group: str = "main", loss_column: str = "sft_loss") -> pd.Series:
    found = paired_effects(in_group(table, group), loss_column=loss_column).table
    return found[(found["mix"] == mix) & (found["task"] == task)].iloc[0]


@pytest.mark.parametrize(("mix", "task"), list(KNOWN_EFFECTS))
def test_known_effects_are_found(mix: str, task: str) -> None:
    found = effect_of(study_table(), mix, task)
    gains = KNOWN_EFFECTS[mix, task]
    assert found["difference_nats"] == pytest.approx(sum(gains) / 3)
    assert (found["n_trunk_seeds"], found["n_sft_seeds"]) == (3, 2)
    assert found["control_loss"] - found["loss"] == pytest.approx(found["difference_nats"])
    assert found["ci_low"] < found["difference_nats"] < found["ci_high"]


def test_an_effect_is_the_paired_t_test_over_trunk_seeds_after_averaging_sft_seeds() -> None:
    table = study_table()
    cell_rows = table[(table["task"] == "pycode") & table["groups"].str.contains("main")]
    means = cell_rows.groupby(["mix", "trunk_seed"])["sft_loss"].mean()
    expected = stats.ttest_rel(means["control"], means["code"])
    found = effect_of(table, "code", "pycode")
    interval = expected.confidence_interval(0.95)
    assert found["p_value"] == pytest.approx(expected.pvalue)
    assert (found["ci_low"], found["ci_high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_more_sft_seeds_do_not_replicate_a_trunk() -> None:
    few = pd.DataFrame(
        cell("control", "pycode", by_trunk_seed={1: 4.8, 2: 4.9}, sft_seeds=(10,))
        + cell("code", "pycode", by_trunk_seed={1: 4.3, 2: 4.35}, sft_seeds=(10,))
    )
    copies = pd.concat([few, few.assign(sft_seed=11), few.assign(sft_seed=12)], ignore_index=True)
    columns = ["n_trunk_seeds", "difference_nats", "ci_low", "ci_high", "p_value"]
    assert effect_of(few, "code", "pycode")[columns].tolist() == pytest.approx(
        effect_of(copies, "code", "pycode")[columns].tolist()
    )


def test_relative_improvement_by_hand() -> None:
    # Trunk seed 1: (4.0 − 3.0)/4.0 = 0.25; trunk seed 2: (5.0 − 4.5)/5.0 = 0.10.
    table = pd.DataFrame(
        cell("control", "pycode", by_trunk_seed={1: 4.0, 2: 5.0}, sft_seeds=(10,))
        + cell("code", "pycode", by_trunk_seed={1: 3.0, 2: 4.5}, sft_seeds=(10,))
    )
    found = effect_of(table, "code", "pycode")
    assert found["relative_improvement"] == pytest.approx(0.175)
    half_width = stats.t.ppf(0.975, 1) * 0.075
    assert found["relative_ci_low"] == pytest.approx(0.175 - half_width)
    assert found["difference_nats"] == pytest.approx(0.75)


def test_the_holm_family_is_the_table_passed_in() -> None:
    main = paired_effects(in_group(study_table(), "main")).table
    assert len(main) == len(KNOWN_EFFECTS)
    assert main["family_size"].unique().tolist() == [6]
    smallest = main.loc[main["p_value"].idxmin()]
    assert smallest["p_holm"] == pytest.approx(6 * smallest["p_value"])
    assert paired_effects(study_table()).table["family_size"].unique().tolist() == [10]


def test_general_loss_is_compared_in_the_same_way() -> None:
    found = effect_of(study_table(), "code", "pycode", loss_column="general_loss")
    assert found["difference_nats"] == pytest.approx(((5.4 - 5.0) + (5.5 - 5.12) + (5.45 - 5.03)) / 3)


def test_the_values_of_each_trunk_seed_are_kept() -> None:
    by_seed = paired_effects(in_group(study_table(), "main")).by_trunk_seed
    code = by_seed[(by_seed["mix"] == "code") & (by_seed["task"] == "pycode")]
    assert code["trunk_seed"].tolist() == [1, 2, 3]
    assert code["difference_nats"].tolist() == pytest.approx(list(KNOWN_EFFECTS["code", "pycode"]))
    assert code["control_loss"].tolist() == pytest.approx(
        [CONTROL_LOSS["pycode"] + offset + 0.002 for offset in TRUNK_OFFSET.values()]
    )


def test_one_trunk_seed_gives_an_effect_without_an_interval() -> None:
    table = study_table()
    found = effect_of(table[table["trunk_seed"] == 1], "code", "pycode")
    assert found["difference_nats"] == pytest.approx(0.5)
    assert found["n_trunk_seeds"] == 1
    assert all(math.isnan(found[name]) for name in ("ci_low", "ci_high", "relative_ci_low", "p_value", "p_holm"))
    assert found["note"] == "one trunk seed: no interval"


def test_an_arm_on_fewer_seeds_than_the_control_uses_the_common_ones() -> None:
    table = pd.DataFrame(
        cell("control", "pycode", by_trunk_seed={1: 4.0, 2: 9.0})
        + cell("code", "pycode", by_trunk_seed={1: 3.0}, sft_seeds=(11,))
    )
    found = effect_of(table, "code", "pycode")
    assert (found["n_trunk_seeds"], found["n_sft_seeds"]) == (1, 1)
    assert found["control_loss"] == pytest.approx(4.004)
    assert found["difference_nats"] == pytest.approx(1.0)


@pytest.mark.parametrize("column", ["trunk_seed", "sft_seed"])
def test_a_missing_control_seed_is_an_error_that_names_the_arm(column: str) -> None:
    table = study_table()
    last = table[column].max()
    table = table[~((table["mix"] == "control") & (table["task"] == "pycode") & (table[column] == last))]
    with pytest.raises(ValueError, match=r"micro \w+ \d+ % from step \d+ → pycode \(trunk seed \d, SFT seed \d+\)") as error:
        paired_effects(table)
    assert "no control run" in str(error.value)
    assert f"{'trunk' if column == 'trunk_seed' else 'SFT'} seed {last}" in str(error.value)


def test_a_control_of_another_size_or_task_never_stands_in() -> None:
    rows = cell("control", "pycode", by_trunk_seed={1: 4.8}) + cell("code", "pycode", by_trunk_seed={1: 4.0}, size="small")
    with pytest.raises(ValueError, match="small code 20 % from step 50 → pycode"):
        paired_effects(pd.DataFrame(rows))


def test_unfinished_runs_are_listed_and_the_rest_is_used() -> None:
    table = unfinished(study_table(), mix="code", task="pycode", trunk_seed=3, groups="main,timing,weight")
    effects = paired_effects(in_group(table, "main"))
    found = effects.table[(effects.table["mix"] == "code") & (effects.table["task"] == "pycode")].iloc[0]
    assert found["n_trunk_seeds"] == 2
    assert effects.missing[["mix", "task", "trunk_seed", "sft_seed", "reason"]].to_numpy().tolist() == [
        ["code", "pycode", 3, 10, "not finished"],
        ["code", "pycode", 3, 11, "not finished"],
    ]


def test_an_unfinished_control_leaves_its_arms_out_and_says_why() -> None:
    table = unfinished(study_table(), mix="control", task="word_problems")
    effects = paired_effects(in_group(table, "main"))
    assert set(effects.table["task"]) == {"pycode"}
    reasons = effects.missing.groupby("reason").size().to_dict()
    assert reasons == {"not finished": 6, "its control is not finished": 3 * 6}


def test_nothing_finished_gives_empty_tables_not_an_error() -> None:
    effects = paired_effects(unfinished(study_table(), study="bridging"))
    assert effects.table.empty
    assert effects.by_trunk_seed.empty
    finished = paired_effects(study_table())
    assert list(effects.table.columns) == list(finished.table.columns)
    assert list(effects.by_trunk_seed.columns) == list(finished.by_trunk_seed.columns)
    assert list(effects.missing.columns) == list(finished.missing.columns)
    assert len(effects.missing) == len(study_table())


def test_an_unfinished_arm_without_a_control_is_no_error_yet() -> None:
    row = run("code", "pycode", sft_loss=math.nan)
    assert paired_effects(pd.DataFrame([row])).missing["reason"].tolist() == ["not finished"]


def test_best_of_compares_with_every_rival_over_common_seeds() -> None:
    found = best_of(study_table(), size="micro", task="pycode", mix="code").set_index("other")
    assert set(found.index) == {"control", "math", "instruction"}
    expected = [0.50 - 0.01, 0.54 + 0.02, 0.46 - 0.00]
    assert found.loc["math", "difference_nats"] == pytest.approx(sum(expected) / 3)
    assert (found["ci_low"] > 0).all()
    assert found["family_size"].tolist() == [3, 3, 3]


def test_best_of_has_no_interval_where_a_rival_shares_one_trunk_seed_and_none_where_nothing_is_shared() -> None:
    table = study_table()
    table = table[~((table["mix"] == "math") & (table["trunk_seed"] > 1))]
    table = unfinished(table, mix="instruction")
    found = best_of(table, size="micro", task="pycode", mix="code").set_index("other")
    assert found.loc["math", "n_trunk_seeds"] == 1
    assert math.isnan(found.loc["math", "ci_low"])
    assert (found.loc["instruction", "n_trunk_seeds"], found.loc["instruction", "note"]) == (
        0,
        "no finished seed in common",
    )
    assert found.loc["control", "ci_low"] > 0


def test_best_of_an_absent_mix_names_what_there_is() -> None:
    with pytest.raises(ValueError, match="'qa': not in group main for micro → pycode; the mixes there are control, code"):
        best_of(study_table(), size="micro", task="pycode", mix="qa")


def test_a_table_without_a_column_is_refused() -> None:
    with pytest.raises(ValueError, match="missing columns sft_loss_before, general_loss_before"):
        require_arms(study_table().drop(columns=["sft_loss_before", "general_loss_before"]))


def test_duplicates_are_refused_and_the_control_is_one_arm_whatever_its_start_step() -> None:
    rows = [run("control", "pycode", sft_loss=4.8), run("control", "pycode", sft_loss=4.7, start_step=36)]
    with pytest.raises(ValueError, match=r"micro control → pycode \(trunk seed 1, SFT seed 10\) has more than one row"):
        require_arms(pd.DataFrame(rows))
    with pytest.raises(ValueError, match="no best of duplicates"):
        require_arms(pd.DataFrame([run("code", "pycode", sft_loss=4.8)] * 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 1.2}, r"weight of micro code 120 % .* is 1\.2"),
        ({"weight": 0.0}, "more than 0 up to 1 for a mix"),
        ({"sft_loss": math.inf}, "sft_loss of .* is inf"),
        ({"sft_loss": -1.0}, "sft_loss of .* is -1"),
        ({"groups": "main,extra"}, "groups 'main,extra'; allowed are"),
    ],
)
def test_a_broken_row_is_named(change: dict, message: str) -> None:
    row = run("code", "pycode", sft_loss=4.0) | change
    with pytest.raises(ValueError, match=message):
        require_arms(pd.DataFrame([row]))


def test_two_studies_in_a_table_are_refused() -> None:
    table = study_table()
    with pytest.raises(ValueError, match="rows of 2 studies"):
        require_arms(pd.concat([table, table.assign(study="other")]))


def test_a_mix_has_one_arm_in_the_main_group() -> None:
    rows = [run("code", "pycode", sft_loss=4.0, weight=weight) for weight in (0.2, 0.3)]
    with pytest.raises(ValueError, match=r"more than one arm of a mix .*code 20 %.*code 30 %"):
        require_arms(pd.DataFrame(rows))


def test_every_column_of_the_table_is_described() -> None:
    assert all(ARM_COLUMNS.values())
    assert list(study_table().columns) == list(ARM_COLUMNS)
