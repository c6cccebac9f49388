"""The paper's numbers as transcribed, and this study's beside them: yes, no or inconclusive by the interval."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from analysis_tables import cell, proximity_table, study_table, unfinished

from midstudy.analysis import paper
from midstudy.analysis.claims import beside_paper, direction


def row_of(table: pd.DataFrame, start: str) -> pd.Series:
    found = table[table["claim"].str.startswith(start)]
    assert len(found) == 1, found["claim"].tolist()
    return found.iloc[0]


@pytest.mark.parametrize(
    ("source", "task", "mix", "expected"),
    [
        (paper.V1_TABLE_2, "pycode", "code", 0.0764),
        (paper.V1_TABLE_2, "word_problems", "math", 0.0397),
        (paper.V2_TABLE_2, "pycode", "code", 0.1316),
        (paper.V2_TABLE_2, "word_problems", "math", 0.0966),
        (paper.V2_TABLE_3, "pycode", "code", 0.0778),
        (paper.V2_TABLE_3, "word_problems", "math", 0.0421),
    ],
)
def test_the_transcribed_losses_give_the_known_relative_improvements(
    source: str, task: str, mix: str, expected: float
) -> None:
    control, arm = (paper.paper_loss(source=source, task=task, mix=name) for name in ("control", mix))
    assert paper.relative_improvement(arm, control) == pytest.approx(expected, abs=5e-5)


def test_continued_pretraining_improves_less_in_the_paper() -> None:
    for task, mix, expected in (("pycode", "code", 0.0411), ("word_problems", "math", 0.0034)):
        control = paper.paper_loss(source=paper.V2_TABLE_3, task=task, mix="control")
        continued = paper.paper_loss(source=paper.V2_TABLE_3, task=task, mix=mix, weight=1.0)
        assert paper.relative_improvement(continued, control) == pytest.approx(expected, abs=5e-5)


def test_a_number_the_paper_does_not_have_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"has no loss of qa at weight 0\.2 on pycode"):
        paper.paper_loss(source=paper.V2_TABLE_3, task="pycode", mix="qa")


def test_every_number_says_where_it_was_read() -> None:
    for source in [one.source for one in [*paper.LOSSES]] + [one.source for one in [*paper.CORRELATIONS]]:
        assert "2510.14865" in source
        assert "v1" in source or "second-hand" in source
    assert all("2510.14865" in one.source for one in paper.SIMILARITIES)


def test_every_mix_and_task_of_the_numbers_has_a_name_in_the_paper() -> None:
    assert {known.mix for known in paper.LOSSES} == set(paper.PAPER_MIX)
    assert {known.task for known in paper.LOSSES} == set(paper.PAPER_TASK)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.2, "yes"), (-0.2, -0.1, "no"), (-0.1, 0.2, "inconclusive"), (math.nan, math.nan, "inconclusive")],
)
def test_a_direction_is_decided_by_the_interval_alone(low: float, high: float, expected: str) -> None:
    assert direction(low=low, high=high) == expected


def test_known_effects_give_known_verdicts() -> None:
    found = beside_paper(study_table(), proximity=proximity_table())
    effect = row_of(found, "code midtraining lowers pycode")
    assert effect["same_direction"] == "yes"
    assert effect["ours_value"] == pytest.approx(0.5 / 4.8, abs=1e-3)
    assert effect["paper"].startswith("2.264 → 2.091, 7.6 % lower (v1 Table 2, 410m); 2.314 → 2.134, 7.8 % lower")
    assert "3 trunk seeds" in effect["ours"]
    best = row_of(found, "math is the best of all mixes")
    assert (best["same_direction"], best["paper"]) == ("yes", "next is code, +0.026 nats (v1 Table 2, 410m)")
    assert best["ours"].startswith("next is code, +0.190 nats")
    assert row_of(found, "mismatched mixes change pycode")["same_direction"] == "yes"
    assert row_of(found, "code mixed into general text beats code alone: task")["same_direction"] == "yes"
    assert row_of(found, "code mixed into general text beats code alone: general")["same_direction"] == "yes"
    assert row_of(found, "code midtraining lowers general loss")["same_direction"] == "yes"
    earlier = row_of(found, "an earlier start of code data")
    assert (earlier["same_direction"], earlier["ours"].split(":")[0]) == ("yes", "start 10 against 80")
    assert row_of(found, "proximity advantage correlates")["same_direction"] == "yes"
    closer = row_of(found, "the code mix is closer to pycode")
    assert (closer["same_direction"], closer["ours_value"]) == ("yes", pytest.approx(0.16))
    assert closer["ours"].endswith("(measured once, no interval)")


def test_the_papers_own_disagreement_is_shown() -> None:
    cited = row_of(beside_paper(study_table(), proximity=None), "math midtraining lowers general loss")["paper"]
    assert "5.308 → 5.230 (v2 Table 3" in cited
    assert "4.937 → 5.038 (v1 Table 2, 410m, the opposite)" in cited


def test_an_opposite_effect_is_a_no() -> None:
    table = study_table()
    worse = (table["mix"] == "code") & (table["task"] == "pycode") & (table["groups"] == "main,timing,weight")
    table.loc[worse, "sft_loss"] += 1.2
    found = beside_paper(table, proximity=None)
    assert row_of(found, "code midtraining lowers pycode")["same_direction"] == "no"
    best = row_of(found, "code is the best of all mixes")
    assert best["same_direction"] == "no"
    assert "not beaten beyond doubt: control, math, instruction" in best["ours"]
    assert row_of(found, "code mixed into general text beats code alone: task")["same_direction"] == "no"


def test_a_mismatched_mix_that_helps_beyond_the_band_is_a_no() -> None:
    table = study_table()
    table.loc[(table["mix"] == "instruction") & (table["task"] == "pycode"), "sft_loss"] -= 0.4
    row = row_of(beside_paper(table, proximity=None), "mismatched mixes change pycode loss by less than 2 %")
    assert row["same_direction"] == "no"
    assert row["ours"].startswith("largest of 2: instruction +8.")


def test_one_trunk_seed_decides_nothing() -> None:
    table = study_table()
    found = beside_paper(table[table["trunk_seed"] == 1], proximity=proximity_table())
    paired = found[found["unit"].isin(["relative improvement", "nats"])]
    assert set(paired["same_direction"]) == {"inconclusive"}
    assert "no interval, 1 trunk seed" in row_of(found, "code midtraining lowers pycode")["ours"]


def test_what_the_study_does_not_have_keeps_its_row() -> None:
    rows = cell("control", "pycode", by_trunk_seed={1: 4.8, 2: 4.9}) + cell(
        "code", "pycode", by_trunk_seed={1: 4.3, 2: 4.35}
    )
    found = beside_paper(pd.DataFrame(rows), proximity=None)
    assert row_of(found, "math midtraining lowers word_problems")["ours"] == "not measured"
    assert row_of(found, "an earlier start")["ours"] == "not measured"
    assert row_of(found, "proximity advantage")["ours"] == "not measured"
    full = beside_paper(study_table(), proximity=proximity_table())
    assert found["claim"].tolist() == full["claim"].tolist()


def test_a_study_with_nothing_finished_has_a_table_too() -> None:
    found = beside_paper(unfinished(study_table(), study="bridging"), proximity=proximity_table())
    measured = found[~found["claim"].str.contains("closer")]
    assert set(measured["ours"]) == {"not measured"}
    assert set(measured["same_direction"]) == {"inconclusive"}


def test_each_size_has_its_own_rows() -> None:
    table = pd.concat([study_table(), study_table().assign(size="small")], ignore_index=True)
    found = beside_paper(table, proximity=proximity_table())
    assert found.groupby("size").size().tolist() == [len(found) // 2] * 2
