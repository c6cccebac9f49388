"""A comparison along a factor: the effect at each of its values, a row for each curve and a column for each measured one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstudy.analysis.effects import Effects
from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import in_panel, label, panels_of, spoken
from midstudy.report.figures import style
from midstudy.report.figures.style import Look

_ROW_IN = 3.25
_MARGIN = 0.06
_BESIDE = 0.02  # of the axis: single seeds beside their mean, which would hide them


@style.styled
def along_figure(
    arms: pd.DataFrame, comparison: ComparisonEntry, effects: Mapping[str, Effects], *, names: Sequence[str], seed: str
) -> Figure:
    """Percent better than the reference against the factor `comparison.along`, a panel for each curve and column.

    Means with 95 % t-intervals over seeds where there are two or more, one ring and thin line per seed. Values that are
    planned but not finished stay as empty places.

    Args:
        names: the factors, other than the one along the axis, in which curves differ.
        seed: the factor that replicates.
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
    known = list(style.looks([title for title, _ in curves]).values())
    for row, ((title, cell), look) in enumerate(zip(curves, known, strict=True)):
        for column, name in enumerate(comparison.columns):
            axes = grid[row][column]
            table, points = in_panel(effects[name].table, cell), in_panel(effects[name].by_seed, cell)
            values = sorted(in_panel(planned, cell)[factor].unique())
            _curve(axes, table, points, factor=factor, seed=seed, look=look, span=float(values[-1] - values[0]) or 1.0)
            _places(axes, values, table, factor=factor)
            axes.set_ylabel("better than the reference by, %")
            n = sorted(set(table["num_seeds"])) if len(table) else [0]
            seeds = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}"
            axes.set_title(", ".join(part for part in (spoken(name), title, seeds) if part))
    return figure


def _curve(
    axes: Axes, table: pd.DataFrame, points: pd.DataFrame, *, factor: str, seed: str, look: Look, span: float
) -> None:
    style.zero_line(axes, vertical=False)
    values = [100 * value for rows in (table, points) if len(rows) for value in rows["relative_improvement"]]
    intervals = [
        (100 * low, 100 * high) for low, high in zip(table["relative_ci_low"], table["relative_ci_high"], strict=True)
    ]
    style.room_for(axes, values, intervals=intervals, vertical=True)
    axes.annotate("reference", xy=(1, 0), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                  va="center", color=style.MUTED, fontsize=8.5)  # fmt: skip
    beside = _BESIDE * span if len(table) and (table["num_seeds"] > 1).any() else 0.0
    for _, rows in points.groupby(seed) if len(points) else ():
        ordered = rows.sort_values(factor)
        axes.plot(ordered[factor] + beside, 100 * ordered["relative_improvement"], color=style.RULE, linewidth=0.9, zorder=2)
    for _, effect in table.iterrows():
        x, y = float(effect[factor]), 100 * effect["relative_improvement"]
        low, high = 100 * effect["relative_ci_low"], 100 * effect["relative_ci_high"]
        style.draw_interval(axes, at=x, low=low, high=high, colour=look.colour, vertical=True)
        style.draw_mean(axes, x=x, y=y, look=look, has_interval=pd.notna(low))
        if effect["num_seeds"] > 1:
            own = points[points[factor] == effect[factor]]
            style.draw_points(axes, x=[x + beside] * len(own), y=100 * own["relative_improvement"])


def _places(axes: Axes, values: Sequence[Any], table: pd.DataFrame, *, factor: str) -> None:
    """Ticks at the planned values; those not finished are marked so."""
    for value in values:
        if not len(table) or not (table[factor] == value).any():
            axes.annotate("not\nfinished", xy=(float(value), 0), xytext=(0, 3), textcoords="offset points", ha="center",
                          color=style.MUTED, fontsize=8.5, style="italic")  # fmt: skip
    axes.set_xticks([float(value) for value in values], [f"{value:g}" for value in values], fontsize=8.5)
    span = float(values[-1] - values[0]) or 1.0
    axes.set_xlim(float(values[0]) - _MARGIN * span, float(values[-1]) + _MARGIN * span)  # points at the ends are whole
    axes.set_xlabel(spoken(factor))
