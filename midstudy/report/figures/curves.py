"""The ablations of start and weight: effect on task loss and on general loss along one factor of a mix.

An early start and a heavy weight both mean more specialist tokens, so every point has its tokens beside it.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstudy.analysis.arms import CONTROL, is_member
from midstudy.analysis.effects import Effects
from midstudy.report.figures import style
from midstudy.report.figures.style import Look
from midstudy.report.numbers import tokens as short_tokens

_ROW_IN = 3.25
_GROUP = {"start_step": "timing", "weight": "weight"}


@style.styled
def curve_figure(
    arms: pd.DataFrame, task: Effects, general: Effects, *, factor: Literal["start_step", "weight"], size: str
) -> Figure:
    """A row of two panels per (mix, task): reduction of task loss and of general loss against the control, percent.

    Means with 95 % t-intervals over trunk seeds where there are two or more, one ring and thin line per trunk seed. The
    axis names step or share, and the specialist tokens drawn. Points planned but not finished stay as empty places.
    """
    planned = arms[is_member(arms, _GROUP[factor]) & (arms["size"] == size) & (arms["mix"] != CONTROL)]
    curves = list(planned.groupby(["mix", "task"], sort=False))
    figure = style.new_figure(height_in=_ROW_IN * len(curves))
    panels = figure.subplots(len(curves), 2, squeeze=False)
    known = style.looks(arms)
    for row, ((mix, name), places) in zip(panels, curves, strict=True):
        for axes, effects, what in zip(row, (task, general), (f"{style.spoken(name)} loss", "general loss"), strict=True):
            table, points = (
                rows[(rows["size"] == size) & (rows["mix"] == mix) & (rows["task"] == name)] if len(rows) else rows
                for rows in (effects.table, effects.by_trunk_seed)
            )
            _curve(axes, table, points, factor=factor, look=known[mix])
            _name_places(axes, places, table, factor=factor, mix=str(mix))
            axes.set_ylabel("lower than the control's by, %")
            n = sorted(set(table["n_trunk_seeds"])) if len(table) else [0]
            seeds = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}"
            axes.set_title(f"{what} after SFT, {seeds}")
    return figure


def _curve(axes: Axes, table: pd.DataFrame, points: pd.DataFrame, *, factor: str, look: Look) -> None:
    style.zero_line(axes, vertical=False)
    values = [100 * value for rows in (table, points) if len(rows) for value in rows["relative_improvement"]]
    intervals = [
        (100 * low, 100 * high) for low, high in zip(table["relative_ci_low"], table["relative_ci_high"], strict=True)
    ]
    style.room_for(axes, values, intervals=intervals, vertical=True)
    axes.annotate("control", xy=(1, 0), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                  va="center", color=style.MUTED, fontsize=8.5)  # fmt: skip
    beside = _BESIDE if (table["n_trunk_seeds"] > 1).any() else 0.0
    if len(points):
        for _, seed in points.groupby("trunk_seed"):
            places = [x + beside for x in _place(seed, factor)]
            axes.plot(places, 100 * seed["relative_improvement"], color=style.RULE, linewidth=0.9, zorder=2)
    for x, (_, effect) in zip(_place(table, factor), table.iterrows(), strict=True):
        y = 100 * effect["relative_improvement"]
        low, high = 100 * effect["relative_ci_low"], 100 * effect["relative_ci_high"]
        style.draw_interval(axes, at=x, low=low, high=high, colour=look.colour, vertical=True)
        style.draw_mean(axes, x=x, y=y, look=look, has_interval=pd.notna(low))
        if effect["n_trunk_seeds"] > 1:
            own = points[points[factor] == effect[factor]]
            style.draw_points(axes, x=[x + beside] * len(own), y=100 * own["relative_improvement"])


_MARGIN = 4.0
"""Margin around the points, in percent of the axis."""

_BESIDE = 2.0  # percent of the axis: trunk seeds beside their mean, which would hide them


def _place(rows: pd.DataFrame, factor: str) -> list[float]:
    """Percent of training for a start, percent of the tokens for a weight."""
    return [100 * value for value in rows["start_fraction" if factor == "start_step" else "weight"]]


def _name_places(axes: Axes, places: pd.DataFrame, table: pd.DataFrame, *, factor: str, mix: str) -> None:
    """Ticks at the arms' places: percent, step, specialist tokens; those not finished are marked so."""
    first = places.groupby(factor, sort=True).first().reset_index()
    ticks = _place(first, factor)
    labels = []
    for tick, (_, row) in zip(ticks, first.iterrows(), strict=True):
        lines = [f"{tick:.0f} %", f"{row['start_step']}"] if factor == "start_step" else [f"{tick:.0f} %"]
        labels.append("\n".join([*lines, short_tokens(row["specialist_tokens"])]))
        if not (table[factor] == row[factor]).any():
            axes.annotate("not\nfinished", xy=(tick, 0), xytext=(0, 3), textcoords="offset points", ha="center",
                          color=style.MUTED, fontsize=8.5, style="italic")  # fmt: skip
    axes.set_xticks(ticks, labels, fontsize=8.5)
    axes.set_xlim(min(0.0, min(ticks) - _MARGIN), max(ticks) + _MARGIN)  # a margin, so that points at the ends are whole
    tokens = f"{style.spoken(mix)} tokens drawn"
    if factor == "start_step":
        axes.set_xlabel(f"start: % of training / step / {tokens}")
    else:
        axes.set_xlabel(f"{style.spoken(mix)} share after the start / {tokens}")
