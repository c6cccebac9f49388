"""Figures are readable on their own: they show units, seeds, intervals and unfinished arms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import bridging_tables, similarity_table, tables_of
from builders.crossed_tables import planted, study_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from midstudy.analysis.correlations import correlations
from midstudy.analysis.effects import effects
from midstudy.analysis.tables import Tables
from midstudy.report.cells import names_of_arms
from midstudy.report.figures import style
from midstudy.report.figures.along import along_figure
from midstudy.report.figures.forest import forest_figure
from midstudy.report.figures.runs import runs_figure
from midstudy.report.figures.similarity import similarity_figure
from midstudy.studies.bridging.forgetting_figure import forgetting_figure
from midstudy.studies.bridging.proximity import proximity_pairs
from midstudy.studies.bridging.proximity_figure import proximity_figure


def draw(tables: Tables, name: str) -> Figure:
    entry = tables.manifest.comparison(name)
    by_column = {column: effects(tables, entry, column) for column in entry.columns}
    names = names_of_arms(tables.arms, tables.manifest, entry)
    titles = {column: tables.manifest.title_of(column) for column in entry.columns}
    if entry.along is None:
        return forest_figure(tables.arms, entry, by_column, names=names, titles=titles)
    seed = next(iter(tables.manifest.seeds), None)
    return along_figure(tables.arms, entry, by_column, names=names, titles=titles, seed=seed)


def texts(figure: Figure) -> list[str]:
    """Return every text of a figure except tick labels."""
    labels = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.xaxis.label, axes.yaxis.label)]
    return [*labels, *(axes.get_title(loc="left") for axes in figure.axes)]


def row_names(figure: Figure) -> list[str]:
    return [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]


def test_a_forest_names_every_arm_with_its_seeds_and_prints_its_mean() -> None:
    tables = bridging_tables()
    figure = draw(tables, "main")
    names = row_names(figure)
    for mix in ("code", "math", "instruction"):
        assert f"{mix}, n = 3" in names
    best = effects(tables, tables.manifest.comparison("main"), "sft_loss").table.iloc[0]
    assert f"{100 * best['relative_improvement']:+.1f}" in texts(figure)
    assert any("%" in text for text in texts(figure))


def test_arms_are_named_only_by_the_factors_that_distinguish_them() -> None:
    """In the main comparison weight and start step follow from the mix; the factor along the axis names no arm."""
    tables = bridging_tables()
    assert names_of_arms(tables.arms, tables.manifest, tables.manifest.comparison("main")) == ["mix"]
    assert names_of_arms(tables.arms, tables.manifest, tables.manifest.comparison("timing")) == []


def test_an_unfinished_arm_keeps_its_row() -> None:
    figure = draw(bridging_tables(unfinished=[{"mix": "math"}]), "main")
    assert "math, n = 0" in row_names(figure)
    assert "not finished" in texts(figure)


def test_one_seed_has_no_interval_and_a_hollow_mean() -> None:
    figure = draw(bridging_tables(trunk_seeds=(0,)), "main")
    assert "code, n = 1" in row_names(figure)
    means = [line for axes in figure.axes for line in axes.lines if line.get_markersize() == style.MEAN]
    assert means
    assert all(line.get_markerfacecolor() == "white" for line in means)


def test_a_curve_shows_units_seeds_and_every_planned_value() -> None:
    figure = draw(bridging_tables(unfinished=[{"start_step": 80}]), "timing")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["10", "50", "80"]
    assert "not\nfinished" in texts(figure)
    assert "start step" in texts(figure)
    assert any("n = 3" in text for text in texts(figure))


def orders(*, match: tuple[str, ...], seeds: tuple[str, ...] = ("seed",)) -> Tables:
    """Return a comparison along a factor with text values, with a reference at each value."""
    rows = [
        {"order": order, "loader": loader, "seed": seed, "loss": 4.0 - (0.1 + 0.01 * seed) * (loader == "best fit")}
        for order in ("by length", "at random", "as read")
        for loader in ("plain", "best fit")
        for seed in ((1, 2, 3) if seeds else (1,))
    ]
    along = {
        "name": "order",
        "arms": {"loader": "best fit"},
        "references": {"loader": "plain"},
        "columns": ("loss",),
        "match": match,
        "along": "order",
    }
    return tables_of(rows, [along], columns={"loss": "lower"}, seeds=seeds)


def test_text_values_are_placed_at_equal_distances_along_the_axis() -> None:
    axes = draw(orders(match=("order",)), "order").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["as read", "at random", "by length"]
    assert list(axes.get_xticks()) == [0, 1, 2]
    means = {float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_markersize() == style.MEAN}
    assert means == {0, 1, 2}


def test_a_factor_that_is_matched_and_along_the_axis_makes_one_curve() -> None:
    assert len(draw(orders(match=("order",)), "order").axes) == 1


def test_a_study_without_seeds_has_only_hollow_means() -> None:
    axes = draw(orders(match=("order",), seeds=()), "order").axes[0]
    means = [line for line in axes.lines if line.get_markersize() == style.MEAN]
    assert len(means) == 3
    assert all(line.get_markerfacecolor() == "white" for line in means)


@pytest.mark.parametrize("num_arms", [2, 8, 30])
def test_the_names_of_runs_with_similar_ends_do_not_overlap(num_arms: int) -> None:
    curves = pd.DataFrame(
        {"loader": f"loader {arm}", "seed": 1, "step": step, "value": 4.0 - step / 100 + arm / 10_000}
        for arm in range(num_arms)
        for step in (10, 20)
    )
    figure = runs_figure(curves, title="path", unit="nats per token", names=["loader"], seed="seed")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [Text.get_window_extent(text, renderer) for text in figure.axes[0].texts]  # without their leader lines
    assert len(boxes) == num_arms
    assert not any(box.overlaps(other) for index, box in enumerate(boxes) for other in boxes[:index])
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)


@pytest.mark.parametrize("end", [0, -1])
def test_no_point_of_a_curve_is_clipped_by_its_axis(end: int) -> None:
    axes = draw(bridging_tables(), "timing").axes[0]
    left, right = axes.get_xlim()
    ticks = list(axes.get_xticks())
    assert abs(ticks[end] - (left, right)[end]) >= 0.05 * (ticks[-1] - ticks[0])


def test_an_interval_wider_than_everything_else_is_cut_with_an_arrow() -> None:
    gains = {1: 0.01, 2: 0.9}
    rows = [
        {"mix": mix, "seed": seed, "loss": 4.0 - gains[seed] * (mix == "code")}
        for mix in ("general", "code")
        for seed in gains
    ]
    main = {"name": "main", "arms": {"mix": "code"}, "references": {"mix": "general"}, "columns": ("loss",)}
    figure = draw(tables_of(rows, [main], columns={"loss": "lower"}, seeds=("seed",)), "main")
    assert {line.get_marker() for line in figure.axes[0].lines} >= {"<", ">"}


def test_the_similarity_matrix_prints_the_number_in_every_cell() -> None:
    figure = similarity_figure(similarity_table())
    axes = figure.axes[0]
    shaded = len(axes.patches)
    printed = [text for text in axes.texts if text.get_text() in ("0.90", "0.50")]
    assert shaded == len(printed) == 8 * 5  # mixtures are rows, not columns


def test_the_proximity_figure_names_every_pair_beside_the_robustness_of_r() -> None:
    pairs = proximity_pairs(study_of(planted(np.random.default_rng(0), 5, 4, r=0.8), seed_sd=0.01))
    assert pairs is not None
    figure = proximity_figure(pairs, correlations(pairs, measure="combined", by="size").iloc[0])
    heading = figure.get_suptitle()
    assert "Pearson r = " in heading
    assert "20 pairs of 5 mixes and 4 tasks" in heading
    assert "Without one mix " in heading
    assert {text for text in texts(figure) if "→" in text} == set(pairs["pair"])


def test_the_proximity_figure_states_the_p_of_the_verdict() -> None:
    pairs = proximity_pairs(study_of(planted(np.random.default_rng(0), 5, 4, r=0.8), seed_sd=0.01))
    assert pairs is not None
    statistics = correlations(pairs, measure="combined", by="size").iloc[0]
    figure = proximity_figure(pairs, statistics.where(statistics.index != "p_directed", 0.0123))
    assert "QAP p = 0.012)" in figure.get_suptitle()


def test_both_panels_of_the_proximity_figure_have_intervals_where_there_are_replicates() -> None:
    table = planted(np.random.default_rng(0), 5, 4, r=0.8)
    table.x[0, 0] = table.y[0, 0] = 100.0  # one pair far out, so that the others need their own panel

    def bars(seeds: tuple[int, ...]) -> list[int]:
        pairs = proximity_pairs(study_of(table, seeds=seeds, seed_sd=0.01))
        assert pairs is not None
        figure = proximity_figure(pairs, correlations(pairs, by="size").iloc[0])
        return [sum(line.get_linewidth() == 2.2 for line in axes.lines) for axes in figure.axes]

    whole, enlarged = bars((0, 1, 2))
    assert whole == 20
    assert 10 <= enlarged < 20
    assert bars((0,)) == [0, 0]


def test_the_proximity_figure_of_a_study_in_progress_shows_finished_pairs() -> None:
    table = planted(np.random.default_rng(0), 5, 4, r=0.8)
    table.y[2, 1] = np.nan
    pairs = proximity_pairs(study_of(table))
    assert pairs is not None
    figure = proximity_figure(pairs, correlations(pairs, by="size").iloc[0])
    assert "All 19 pairs" in texts(figure)
    assert "mix2 → task1" not in texts(figure)


def test_forgetting_has_a_line_for_every_trunk_seed() -> None:
    tables = bridging_tables()
    arms = tables.arms.iloc[list(tables.manifest.comparison("main").arms)]
    figure = forgetting_figure(arms)
    lines = [line for line in figure.axes[0].lines if np.size(line.get_xdata()) == 2 and line.get_linewidth() == 1.3]
    assert len(lines) == 3 * 3
    assert "general loss, nats/token" in texts(figure)


def test_every_name_has_its_own_colour_and_marker() -> None:
    looks = style.looks(f"mix {number}" for number in range(12))
    assert len(set(looks.values())) == 12


def test_saving_a_figure_twice_gives_identical_files(tmp_path: Path) -> None:
    saved = [style.save(draw(bridging_tables(), "main"), tmp_path / name, "main").read_bytes() for name in ("a", "b")]
    assert saved[0] == saved[1]
