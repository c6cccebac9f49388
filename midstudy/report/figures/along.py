"""A comparison along a factor: the effect at each of its values, one row per curve, one column per measured column."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstudy.analysis.effects import Effects
from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import in_panel, label, panels_of, readable
from midstudy.report.figures import style
from midstudy.report.figures.style import Look

_ROW_IN = 3.25
_TITLE_LETTERS = 84
"""Letters of a title over the whole width."""
_MARGIN = 0.06
_BESIDE = 0.02  # of the axis: offset of single seeds from their mean, which would hide them


@style.styled
def along_figure(
    arms: pd.DataFrame,
    comparison: ComparisonEntry,
    effects: Mapping[str, Effects],
    *,
    names: Sequence[str],
    titles: Mapping[str, str],
    seed: str | None,
) -> Figure:
    """Plot percent better than the reference over the factor `comparison.along`, one panel per curve and column.

    Shows means with 95 % t-intervals over seeds if there are two or more, and one ring and thin line per seed. Values that
    are planned but not finished are marked as such. Numbers are placed at their value, text values at equal distances.

    Args:
        names: the factors, other than the one along the axis, in which curves differ.
        titles: what a reader calls the measured columns.
        seed: the seed that replicates; None if the study has no seeds.
    """
    factor = str(comparison.along)
    planned = arms.iloc[list(comparison.arms)]
    curves = [
        (", ".join(part for part in (title, label(row, names) if names else "") if part), {**panel, **row.to_dict()})
        for title, panel in panels_of(arms, comparison)
        for _, row in in_panel(planned, panel)[list(names)].drop_duplicates().iterrows()
    ] if names else [(title, panel) for title, panel in panels_of(arms, comparison)]  # fmt: skip
    figure = style.new_figure(height_in=_ROW_IN * len(curves))
    grid = figure.subplots(len(curves), len(comparison.columns), squeeze=False)
    looks = list(style.looks([title for title, _ in curves]).values())
    for row, ((title, cell), look) in enumerate(zip(curves, looks, strict=True)):
        for column, name in enumerate(comparison.columns):
            axes = grid[row][column]
            table, points = in_panel(effects[name].table, cell), in_panel(effects[name].by_seed, cell)
            places = _places(in_panel(planned, cell)[factor].unique())
            _curve(axes, table, points, places, factor=factor, seed=seed, look=look)
            _axis(axes, places, table, factor=factor)
            axes.set_ylabel("better than the reference by, %")
            n = sorted(set(table["num_seeds"])) if len(table) else [0]
            seeds = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}"
            written = ", ".join(part for part in (titles[name], title, seeds) if part)
            axes.set_title(textwrap.fill(written, _TITLE_LETTERS // len(comparison.columns)))
    return figure


def _places(values: Iterable[Any]) -> dict[Any, float]:
    """Return the axis position of each value of the factor, in order."""
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    has_text = any(isinstance(value, str) for value in ordered)
    return {value: float(index if has_text else value) for index, value in enumerate(ordered)}


def _span(places: Mapping[Any, float]) -> float:
    """Return the length of the axis; 1 if it has a single position."""
    return max(places.values()) - min(places.values()) or 1.0


def _curve(
    axes: Axes,
    table: pd.DataFrame,
    points: pd.DataFrame,
    places: Mapping[Any, float],
    *,
    factor: str,
    seed: str | None,
    look: Look,
) -> None:
    style.zero_line(axes, vertical=False)
    values = [100 * value for rows in (table, points) if len(rows) for value in rows["relative_improvement"]]
    intervals = [
        (100 * low, 100 * high) for low, high in zip(table["relative_ci_low"], table["relative_ci_high"], strict=True)
    ]
    style.room_for(axes, values, intervals=intervals, vertical=True)
    axes.annotate("reference", xy=(1, 0), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                  va="center", color=style.MUTED, fontsize=8.5)  # fmt: skip
    beside = _BESIDE * _span(places) if len(table) and (table["num_seeds"] > 1).any() else 0.0
    for _, rows in points.groupby(seed) if seed and len(points) else ():
        ordered = rows.assign(at=rows[factor].map(places)).sort_values("at")
        axes.plot(ordered["at"] + beside, 100 * ordered["relative_improvement"], color=style.RULE, linewidth=0.9, zorder=2)
    for _, effect in table.iterrows():
        x, y = places[effect[factor]], 100 * effect["relative_improvement"]
        low, high = 100 * effect["relative_ci_low"], 100 * effect["relative_ci_high"]
        style.draw_interval(axes, at=x, low=low, high=high, colour=look.colour, vertical=True)
        style.draw_mean(axes, x=x, y=y, look=look, has_interval=pd.notna(low))
        if effect["num_seeds"] > 1:
            at_value = points[points[factor] == effect[factor]]
            style.draw_points(axes, x=[x + beside] * len(at_value), y=100 * at_value["relative_improvement"])


def _axis(axes: Axes, places: Mapping[Any, float], table: pd.DataFrame, *, factor: str) -> None:
    """Set ticks at the planned values and mark those that are not finished."""
    for value, at in places.items():
        if not len(table) or not (table[factor] == value).any():
            axes.annotate("not\nfinished", xy=(at, 0), xytext=(0, 3), textcoords="offset points", ha="center",
                          color=style.MUTED, fontsize=8.5, style="italic")  # fmt: skip
    texts = [readable(value) if isinstance(value, str) else f"{value:g}" for value in places]
    axes.set_xticks(list(places.values()), texts, fontsize=8.5)
    margin = _MARGIN * _span(places)  # so that points at the ends are not clipped
    axes.set_xlim(min(places.values()) - margin, max(places.values()) + margin)
    axes.set_xlabel(readable(factor))
