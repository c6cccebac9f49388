"""Mid versus continued pretraining, timing, weight and forgetting on a table with known effects."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from analysis_tables import study_table, unfinished
from scipy import stats

from midstudy.analysis.ablations import forgetting, mid_versus_continued, timing_curve, weight_curve


def test_mid_and_continued_are_compared_in_pairs_on_both_losses() -> None:
    found = mid_versus_continued(study_table()).set_index("loss_column")
    assert found.index.tolist() == ["sft_loss", "general_loss"]
    task, general = found.loc["sft_loss"], found.loc["general_loss"]
    assert (task["mix"], task["task"], task["n_trunk_seeds"]) == ("code", "pycode", 3)
    assert task["difference_nats"] == pytest.approx(((0.50 - 0.40) + (0.54 - 0.46) + (0.46 - 0.37)) / 3)
    assert task["ci_low"] > 0
    assert general["difference_nats"] == pytest.approx((0.90 + 0.93 + 0.92) / 3)
    assert task["continued_loss"] - task["mid_loss"] == pytest.approx(task["difference_nats"])
    assert task["control_loss"] - task["mid_loss"] == pytest.approx(0.5)


def test_mid_and_continued_show_the_tokens_they_saw() -> None:
    row = mid_versus_continued(study_table()).iloc[0]
    assert (row["mid_weight"], row["mid_start_step"], row["continued_start_step"]) == (0.2, 50, 50)
    assert row["continued_specialist_tokens"] == pytest.approx(5 * row["mid_specialist_tokens"], rel=1e-3)


def test_the_control_beside_them_is_of_the_same_seeds() -> None:
    table = unfinished(study_table(), mix="code", weight=1.0, trunk_seed=2)
    row = mid_versus_continued(table).iloc[0]
    assert row["n_trunk_seeds"] == 2
    assert row["control_loss"] == pytest.approx(4.8 + (0.0 - 0.02) / 2 + 0.002)


def test_a_half_done_comparison_keeps_its_row() -> None:
    row = mid_versus_continued(unfinished(study_table(), mix="code", weight=1.0)).iloc[0]
    assert row["n_trunk_seeds"] == 0
    assert math.isnan(row["difference_nats"])


def test_a_continued_arm_without_its_main_arm_is_an_error() -> None:
    table = study_table()
    with pytest.raises(ValueError, match=r"continued pretraining on 'code' \(micro → pycode\) has no arm"):
        mid_versus_continued(table[~((table["mix"] == "code") & table["groups"].str.startswith("main"))])


def test_a_study_without_continued_arms_gives_an_empty_table() -> None:
    table = study_table()
    assert mid_versus_continued(table[table["groups"] != "continued"]).empty


def test_the_timing_curve_is_ordered_and_shows_specialist_tokens() -> None:
    curve = timing_curve(study_table())
    assert curve.table["start_step"].tolist() == [10, 50, 80]
    assert curve.table["difference_nats"].tolist() == pytest.approx([0.6933, 0.5, 0.2], abs=1e-4)
    tokens = curve.table["specialist_tokens"]
    assert (tokens.diff().dropna() < 0).all()
    assert curve.by_trunk_seed[["start_step", "trunk_seed"]].to_numpy().tolist() == [
        [step, seed] for step in (10, 50, 80) for seed in (1, 2, 3)
    ]
    assert curve.table["family_size"].unique().tolist() == [3]


def test_the_weight_curve_is_ordered_by_weight() -> None:
    curve = weight_curve(study_table())
    assert curve.table["weight"].tolist() == [0.1, 0.2]
    assert (curve.table["ci_low"] > 0).all()


def test_the_curves_can_be_drawn_for_general_loss_and_when_nothing_is_finished() -> None:
    assert timing_curve(study_table(), loss_column="general_loss").table["difference_nats"].iloc[1] == pytest.approx(0.4)
    assert timing_curve(unfinished(study_table(), task="pycode")).table.empty


def test_forgetting_is_the_rise_of_general_loss_through_sft() -> None:
    table = study_table()
    code = (table["mix"] == "code") & (table["task"] == "pycode") & (table["weight"] == 0.2) & (table["start_step"] == 50)
    table.loc[code, "general_loss_before"] = table.loc[code, "general_loss"] - table.loc[code, "trunk_seed"] / 10
    found = forgetting(table)
    row = found[(found["mix"] == "code") & (found["task"] == "pycode") & (found["groups"] == "main,timing,weight")].iloc[0]
    assert row["forgetting_nats"] == pytest.approx(0.2)
    half_width = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(0.2 - half_width), pytest.approx(0.2 + half_width))
    assert row["general_loss_after"] - row["general_loss_before"] == pytest.approx(0.2)
    control = found[(found["mix"] == "control") & (found["task"] == "pycode")]
    assert len(control) == 1
    assert "no variation" in control.iloc[0]["note"]


def test_forgetting_of_unfinished_arms_has_no_row() -> None:
    found = forgetting(unfinished(study_table(), mix="math"))
    assert "math" not in set(found["mix"])
    assert forgetting(unfinished(study_table(), study="bridging")).empty


def test_the_tables_keep_plain_column_types_for_parquet(tmp_path) -> None:
    for table in (mid_versus_continued(study_table()), timing_curve(study_table()).table, forgetting(study_table())):
        table.to_parquet(tmp_path / "table.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)
