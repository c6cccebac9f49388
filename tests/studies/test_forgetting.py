"""Forgetting beside the control's, and the Pareto front of the task's loss and general loss, with planted differences."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import bridging_tables, tables_of
from builders.places import TESTS
from builders.report_study import write_study
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from midstudy.analysis.tables import Tables
from midstudy.report.report import Report
from midstudy.studies.bridging.forgetting import forgetting
from midstudy.studies.bridging.forgetting_front import name_of_run, pareto_front
from midstudy.studies.bridging.forgetting_front_figure import front_figure
from midstudy.studies.bridging.sections.forgetting import forgetting as forgetting_section
from midstudy.studies.bridging.sections.forgetting import front as front_section

COLUMNS = dict.fromkeys(("sft_loss", "general_loss", "sft_loss_before", "general_loss_before"), "lower")


def arm(mix: str, seed: int, *, task: float, general: float, before: float = 5.0, weight: float = 0.2) -> dict[str, object]:
    return {
        "size": "nano",
        "mix": mix,
        "weight": 0.0 if mix == "control" else weight,
        "start_step": 0 if mix == "control" else 16,
        "task": "pycode",
        "trunk_seed": seed,
        "sft_loss": task,
        "general_loss": general,
        "sft_loss_before": 6.0,
        "general_loss_before": before,
    }


def study(rows: list[dict[str, object]]) -> Tables:
    return tables_of(rows, [], columns=COLUMNS, seeds=("trunk_seed",))


def test_forgetting_beyond_the_control_is_the_paired_t_test_of_both_increases() -> None:
    levels, own, control = (0.0, 0.3, -0.2), np.array([0.50, 0.58, 0.47]), np.array([0.62, 0.66, 0.61])
    rows = [arm("control", n, task=4.0, before=5 + x, general=5 + x + control[n]) for n, x in enumerate(levels)]
    rows += [arm("code", n, task=3.0, before=4.8 + x, general=4.8 + x + own[n]) for n, x in enumerate(levels)]
    rows.append(arm("code", 7, task=3.0, before=4.8, general=9.0))  # without a control on its seed
    found = forgetting(study(rows)).set_index("mix")
    test = stats.ttest_rel(own, control)
    interval = test.confidence_interval(0.95)
    code = found.loc["code"]
    assert code["beyond_control_nats"] == pytest.approx((own - control).mean())
    assert (code["beyond_ci_low"], code["beyond_ci_high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert code["beyond_p_value"] == pytest.approx(test.pvalue)
    assert (code["num_seeds"], code["num_pairs"]) == (4, 3)
    assert np.isnan(found.loc["control", "beyond_control_nats"])


def test_forgetting_beyond_the_control_averages_the_sft_seeds_of_a_trunk() -> None:
    """The first trunk of the recorded study has two SFT seeds; the golden values are worked out by hand from its losses."""
    old = pd.read_csv(TESTS / "recorded" / "bridging_micro_arms.csv")
    kept = old[(old["task"] == "pycode") & ((old["mix"] == "control") | (old["mix"] == "code") & (old["start_step"] == 24))]
    tables = tables_of(
        [{name: row[name] for name in (*FACTORS, *COLUMNS)} for row in kept.to_dict("records")], [], columns=COLUMNS
    )
    (row,) = [row for _, row in forgetting(tables).iterrows() if row["mix"] == "code"]
    mean, error = (-0.31990 - 0.26081 - 0.28346) / 3, 0.017216  # of the increases 0.2260, 0.3127, 0.2980 and their controls'
    half = 4.30265 * error  # t with two degrees of freedom
    assert row["num_pairs"] == 3
    assert row["beyond_control_nats"] == pytest.approx(mean, abs=2e-5)
    assert row["beyond_ci_low"] == pytest.approx(mean - half, abs=1e-4)
    assert row["beyond_ci_high"] == pytest.approx(mean + half, abs=1e-4)


FACTORS = ("size", "trunk_seed", "mix", "weight", "start_step", "task", "sft_seed")


def front_of(points: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """The front of mixes with these gains in task and general loss."""
    rows = [arm("control", 0, task=4.0, general=5.0)]
    rows += [arm(mix, 0, task=4.0 - task, general=5.0 - general) for mix, (task, general) in points.items()]
    return pareto_front(study(rows)).set_index("mix")


def test_the_front_holds_the_mixes_that_none_surpasses_in_both() -> None:
    found = front_of({"code": (1.0, -0.5), "math": (0.5, 0.2), "qa": (0.4, 0.1), "alone": (0.9, -0.6), "web": (-0.1, 0.0)})
    assert set(found.index[found["is_on_front"]]) == {"code", "math"}
    assert found["dominated_by"].to_dict() == {
        "control": "math 20 % from step 16",
        "code": "",
        "math": "",
        "qa": "math 20 % from step 16",
        "alone": "code 20 % from step 16",
        "web": "math 20 % from step 16",
    }
    assert found.loc["code", ["task_gain_nats", "general_gain_nats", "general_loss_after"]].tolist() == pytest.approx(
        [1.0, -0.5, 5.5]
    )


def test_the_control_is_on_the_front_where_every_gain_costs_general_ability() -> None:
    found = front_of({"code": (1.0, -0.5), "math": (0.5, -0.2)})
    assert found["is_on_front"].all()


@given(st.lists(st.tuples(*[st.integers(-4, 4).map(float)] * 2), min_size=1, max_size=6))
def test_whatever_is_off_the_front_is_surpassed_by_a_mix_on_it(gains: list[tuple[float, float]]) -> None:
    points = {f"mix{number}": pair for number, pair in enumerate(gains)}
    found = front_of(points)
    every = {"control": (0.0, 0.0), **points}
    for mix, (task, general) in every.items():
        surpassed = any(
            (one >= task and two >= general) and (one > task or two > general)
            for name, (one, two) in every.items()
            if name != mix
        )
        assert found.loc[mix, "is_on_front"] == (not surpassed)
        assert bool(found.loc[mix, "dominated_by"]) == surpassed


def test_gains_are_paired_so_that_the_level_of_a_seed_moves_no_front() -> None:
    """The code mix runs on a seed whose losses are higher than those of the others."""
    rows = [arm("control", n, task=4.0 + 3 * n, general=5.0 + 3 * n) for n in (0, 1)]
    rows += [arm("math", 0, task=3.9, general=5.0), arm("code", 1, task=6.0, general=7.9)]
    found = pareto_front(study(rows)).set_index("mix")
    assert found.loc["code", ["task_gain_nats", "general_gain_nats"]].tolist() == pytest.approx([1.0, 0.1])
    assert found.index[found["is_on_front"]].tolist() == ["code"]


def test_sizes_and_tasks_have_fronts_of_their_own() -> None:
    tables = bridging_tables(sizes=("nano", "micro"))
    found = pareto_front(tables)
    for _, group in found.groupby(["size", "task"]):
        assert group["is_on_front"].any()
        assert group.loc[group["task_gain_nats"].idxmax(), "is_on_front"]


def test_an_unfinished_arm_has_no_row() -> None:
    found = pareto_front(bridging_tables(unfinished=[{"mix": "math"}]))
    assert "math" not in set(found["mix"])
    assert (pareto_front(bridging_tables(unfinished=[{}]))["mix"] == "control").all()


def test_the_section_shows_the_front_numbered_as_in_the_figure(tmp_path: Path) -> None:
    tables = bridging_tables()
    report = Report.of(write_study(tmp_path, tables))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", front_section(report).markup))
    found = pareto_front(tables)
    best = found.loc[found[found["task"] == "pycode"]["task_gain_nats"].idxmax()]
    assert re.search(rf"fine-tuned on pycode {re.escape(name_of_run(best))} 1 ", text)
    assert (report.figures_folder / "pareto-front.png").exists()
    shown = re.sub(r"<[^>]+>", " ", forgetting_section(report).markup)
    assert "beyond the control" in shown


def test_the_figure_has_a_panel_per_task_and_numbers_the_front() -> None:
    front = pareto_front(bridging_tables())
    figure = front_figure(front)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["Fine-tuned on pycode", "Fine-tuned on word problems"]
    for axes, task in zip(shown, ("pycode", "word_problems"), strict=True):
        on_front = front[(front["task"] == task) & front["is_on_front"]]
        assert [text.get_text() for text in axes.texts] == [str(n + 1) for n in range(len(on_front))]
        low, high = axes.get_xlim()
        assert low < on_front["task_gain_nats"].min() <= on_front["task_gain_nats"].max() < high


def test_arms_of_the_front_at_one_place_share_a_number() -> None:
    points = {"code": (1.0, -1.0), "math": (0.5, -0.5), "qa": (0.499, -0.499), "web": (0.498, -0.498)}
    rows = [arm("control", 0, task=4.0, general=5.0)]
    rows += [arm(mix, 0, task=4.0 - task, general=5.0 - general) for mix, (task, general) in points.items()]
    (axes, _) = front_figure(pareto_front(study(rows))).axes
    assert [text.get_text() for text in axes.texts] == ["1", "2–4", "5"]
