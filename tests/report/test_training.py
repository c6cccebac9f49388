"""Training curves: a line for every run and seed, their mean, and losses on corpora as rings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import bridging_tables
from builders.report_study import write_study
from builders.training_table import training_of
from matplotlib.figure import Figure

from midstudy.analysis.tables import Tables
from midstudy.analysis.training import BATCHES
from midstudy.report.figures.training import tokens_a_step, training_figure
from midstudy.report.report import Report
from midstudy.report.sections.training import training


@pytest.fixture(scope="module")
def tables() -> Tables:
    plain = bridging_tables()
    return replace(plain, training=training_of(plain))


def test_every_run_has_a_line_for_each_seed_their_mean_and_its_rings(tables: Tables) -> None:
    assert tables.training is not None
    axes = training_figure(tables.training, names=["mix"], seed="trunk_seed").axes[0]
    by_mix = [axes.lines[:5], axes.lines[5:]]
    for (mix, rows), lines in zip(tables.training.groupby("mix", sort=False), by_mix, strict=True):
        batches = rows[rows["split"] == BATCHES]
        for line, (_, run) in zip(lines[:3], batches.groupby("trunk_seed"), strict=True):
            np.testing.assert_allclose(np.asarray(line.get_ydata()), run["loss_nats"], err_msg=str(mix))
        np.testing.assert_allclose(np.asarray(lines[3].get_ydata()), batches.groupby("step")["loss_nats"].mean())
        assert lines[3].get_linewidth() > lines[0].get_linewidth()
        assert set(np.asarray(lines[4].get_ydata()).tolist()) == set(rows.loc[rows["split"] != BATCHES, "loss_nats"])
    assert [text.get_text() for text in axes.texts] == ["control, n = 3", "code, n = 3"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "nats per token")


def test_the_upper_axis_counts_tokens_where_all_steps_read_equally_many(tables: Tables) -> None:
    assert tables.training is not None
    assert tokens_a_step(tables.training) == pytest.approx(100)
    uneven = tables.training.assign(tokens=tables.training["tokens"] * (1 + (tables.training["mix"] == "code")))
    assert tokens_a_step(uneven) is None
    figure = training_figure(tables.training, names=["mix"], seed="trunk_seed")
    assert [axis.get_xlabel() for axis in figure.axes[0].child_axes] == ["tokens trained on"]


def test_a_mean_is_drawn_over_the_steps_that_every_seed_logged(tables: Tables) -> None:
    assert tables.training is not None
    ahead = tables.training[(tables.training["trunk_seed"] != 1) | (tables.training["step"] <= 50)]
    control = ahead[ahead["mix"] == "control"]
    mean = training_figure(control, names=[], seed="trunk_seed").axes[0].lines[3]
    assert np.asarray(mean.get_xdata()).tolist() == [10, 20, 30, 40, 50]


def test_the_section_names_what_the_rings_measure_and_leaves_fine_tuning_out(tmp_path: Path, tables: Tables) -> None:
    shown = training(Report.of(write_study(tmp_path / "trunks", tables))).markup
    assert "Rings: loss on general, test split" in shown
    assert training(Report.of(write_study(tmp_path / "none", bridging_tables()))).markup == ""
    tuned = replace(tables, training=training_of(tables, role="sft"))
    assert training(Report.of(write_study(tmp_path / "tuned", tuned))).markup == ""


def test_seeds_at_different_steps_still_have_lines(tables: Tables) -> None:
    """A study in progress: no step is logged by all seeds."""
    assert tables.training is not None
    control = tables.training[(tables.training["mix"] == "control") & (tables.training["split"] == BATCHES)]
    apart = control[(control["trunk_seed"] == 0) == (control["step"] <= 50)]
    axes = training_figure(apart, names=[], seed="trunk_seed").axes[0]
    assert len(axes.texts) == 1


def test_of_many_runs_those_with_the_most_seeds_are_drawn_and_the_others_counted(tmp_path: Path, tables: Tables) -> None:
    assert tables.training is not None
    once = tables.training[(tables.training["mix"] == "code") & (tables.training["trunk_seed"] == 0)]
    more = pd.concat([*(once.assign(mix=f"mix{number}") for number in range(9)), tables.training])
    folder = write_study(tmp_path, replace(tables, training=more))
    shown = training(Report.of(folder)).markup
    assert "Drawn are 8 of 11 runs, those with the most seeds; all are in training.parquet." in shown
    assert "Drawn are" not in training(Report.of(write_study(tmp_path / "few", tables))).markup


def test_the_runs_with_the_most_seeds_are_those_drawn(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tables.training is not None
    once = tables.training[(tables.training["mix"] == "code") & (tables.training["trunk_seed"] == 0)]
    more = pd.concat([*(once.assign(mix=f"mix{number}") for number in range(9)), tables.training])
    drawn: list[pd.DataFrame] = []

    def kept(rows: pd.DataFrame, **more: object) -> Figure:
        drawn.append(rows)
        return Figure()

    monkeypatch.setattr("midstudy.report.sections.training.training_figure", kept)
    training(Report.of(write_study(tmp_path, replace(tables, training=more))))
    assert set(drawn[0]["mix"]) == {"control", "code", *(f"mix{number}" for number in range(6))}
