"""No marker, name or tick label of any figure of the report is cut by its axes or by the edge of the figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from builders.analysis_tables import bridging_tables
from builders.crossed_tables import planted, study_of
from builders.planned_bridging import planned_tables
from builders.report_study import compared_study, loader_study, study_without_arms, write_study
from builders.training_table import training_of
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox, BboxBase

from midstudy.analysis.tables import Tables
from midstudy.report.figures import style
from midstudy.report.report import Report
from midstudy.report.sections import comparisons, curves, design, representation, similarity, training
from midstudy.studies.bridging.sections import dose, forgetting, proximity

SLACK = 2.0
"""Pixels by which an artist may reach over an edge: half of its outline."""

STUDIES = {
    "bridging": (bridging_tables(), "bridging"),
    "one seed": (bridging_tables(trunk_seeds=(0,)), "bridging"),
    "two seeds": (bridging_tables(trunk_seeds=(0, 1)), "bridging"),
    "two sizes": (bridging_tables(sizes=("micro", "small")), "bridging"),
    "unfinished": (bridging_tables(unfinished=[{"mix": "code"}]), "bridging"),
    "crossed": (study_of(planted(np.random.default_rng(0), 5, 4, r=0.8), seed_sd=0.01), "proximity"),
    "planned": (planned_tables(), "bridging"),
    "loaders": (loader_study(), "general"),
    "loaders without seeds": (loader_study(seeds=()), "general"),
    "representations": (compared_study(), "general"),
    "no arms": (study_without_arms(), "general"),
    "training": (replace(bridging_tables(), training=training_of(bridging_tables())), "general"),
}


def figures_of(root: Path, tables: Tables, kind: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Return every figure that the report of a study draws, by name."""
    drawn: dict[str, Figure] = {}

    def keep(figure: Figure, folder: Path, name: str) -> Path:
        drawn[name] = figure
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(b"")
        return folder / f"{name}.png"

    monkeypatch.setattr(style, "save", keep)
    report = Report.of(write_study(root, tables))
    sections = [comparisons.comparisons, curves.curves, design.design, similarity.similarity, representation.representations]
    sections.append(training.training)
    if kind == "bridging":
        sections += [forgetting.forgetting, forgetting.front, dose.dose]
    if kind != "general" and tables.proximity is not None:
        sections.append(proximity.proximity)
    for section in sections:
        section(report)
    return drawn


def cut(figure: Figure) -> Iterator[str]:
    """Yield a description of every marker and text that an edge cuts."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    page = figure.bbox
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        room = axes.get_window_extent(renderer)
        for line in axes.lines:
            if line.get_marker() in ("None", "", None):
                continue
            half = (line.get_markersize() / 2) * figure.dpi / 72
            for x, y in line.get_transform().transform(np.column_stack(line.get_data())):
                if np.isfinite([x, y]).all() and not within(mark(x, y, half), room if line.get_clip_on() else page):
                    yield f"marker {line.get_marker()} of {axes.get_title(loc='left')!r} at {line.get_data()}"
        for text in texts(axes):
            if text.get_visible() and text.get_text() and not within(Text.get_window_extent(text, renderer), page):
                yield f"text {text.get_text()!r}"
    for text in figure.texts:
        if text.get_text() and not within(text.get_window_extent(renderer), page):
            yield f"text {text.get_text()!r}"


def overlapping_ticks(figure: Figure) -> Iterator[str]:
    """Yield the neighbouring tick labels of an x axis that overlap."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axes in figure.axes:
        low, high = sorted(axes.get_xlim())
        shown = [
            tick.label1
            for tick in axes.xaxis.get_major_ticks()
            if low <= tick.get_loc() <= high and tick.label1.get_visible()
        ]
        shown = [label for label in shown if label.get_text() and not label.get_rotation()]
        for one, other in pairwise(shown):
            if one.get_window_extent(renderer).overlaps(other.get_window_extent(renderer)):
                yield f"{one.get_text()} and {other.get_text()} of {axes.get_title(loc='left')!r}"


def texts(axes: Axes) -> list[Text]:
    labels = [axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title]  # type: ignore[attr-defined]
    for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
        labels += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [*axes.texts, *labels]


def mark(x: float, y: float, half: float) -> Bbox:
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def within(box: BboxBase, room: BboxBase) -> bool:
    return (
        box.x0 >= room.x0 - SLACK and box.x1 <= room.x1 + SLACK and box.y0 >= room.y0 - SLACK and box.y1 <= room.y1 + SLACK
    )


@pytest.mark.parametrize("name", STUDIES)
def test_nothing_is_cut_and_tick_labels_do_not_overlap(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_whole(figures_of(tmp_path, *STUDIES[name], monkeypatch))


@pytest.mark.slow
def test_nothing_is_cut_in_the_full_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_whole(figures_of(tmp_path, planned_tables("full=True"), "bridging", monkeypatch))


def require_whole(drawn: dict[str, Figure]) -> None:
    assert drawn
    found = {title: [*cut(figure), *overlapping_ticks(figure)] for title, figure in drawn.items()}
    assert {title: problems for title, problems in found.items() if problems} == {}


def test_a_marker_that_its_axes_cut_and_a_text_outside_are_found() -> None:
    figure = style.new_figure(height_in=2)
    figure.set_layout_engine("none")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o", markersize=8)
    axes.set_xlim(0, 2)
    axes.set_ylim(-1, 2)
    assert [problem.split()[0] for problem in cut(figure)] == ["marker"]
    axes.set_xlim(-1, 2)
    assert [*cut(figure)] == []
    axes.annotate("a long name", xy=(2, 1), xytext=(30, 0), textcoords="offset points")
    assert [*cut(figure)] == ["text 'a long name'"]
    assert isinstance(axes.texts[0], Annotation)
