"""The figure of the Pareto front: gain on the task against gain in general loss after fine-tuning, one panel per task."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midstudy.report.cells import readable
from midstudy.report.figures import style
from midstudy.studies.bridging.scale import CONTROL

_PANEL_IN, _LEGEND_IN = 2.9, 0.45
_NEAR = 0.045  # of an axis: two numbers this close overlap


@style.styled
def front_figure(front: pd.DataFrame) -> Figure:
    """Plot the rows of `forgetting_front.pareto_front`, all of one size and length of fine-tuning.

    Filled and joined: the front, numbered by task gain; hollow: dominated. Bars are 95 % intervals over seeds. Every panel
    has its own axes, both in nats per token below the control, which lies at the origin.
    """
    tasks = list(dict.fromkeys(front["task"]))
    num_lines = -(-len(tasks) // 2)
    figure = style.new_figure(height_in=_PANEL_IN * max(1, num_lines) + _LEGEND_IN)
    panels = figure.subplots(max(1, num_lines), 2, squeeze=False).ravel()
    looks = {CONTROL: style.REFERENCE} | style.looks(mix for mix in front["mix"] if mix != CONTROL)
    for axes, task in zip(panels, tasks, strict=False):
        _panel(axes, front[front["task"] == task], looks)
        axes.set_title(f"Fine-tuned on {readable(task)}")
        axes.set_xlabel(f"lower loss on {readable(task)}, nats/token")
        axes.set_ylabel("lower general loss, nats/token")
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    mixes = dict.fromkeys(front["mix"])
    shown = [style.handle(mix, colour=looks[mix].colour, marker=looks[mix].marker) for mix in mixes]
    if shown:
        figure.legend(handles=shown, loc="outside lower center", ncols=6, frameon=False)
    return figure


def numbered_front(front: pd.DataFrame) -> pd.DataFrame:
    """Return the rows on the front of one task by falling task gain, which is their numbering from 1."""
    return front[front["is_on_front"]].sort_values("task_gain_nats", ascending=False, kind="stable")


def _panel(axes: Axes, rows: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    for name, is_vertical in (("task", False), ("general", True)):
        intervals = zip(rows[f"{name}_ci_low"], rows[f"{name}_ci_high"], strict=True)
        low, high = style.room_for(axes, rows[f"{name}_gain_nats"], intervals=intervals, vertical=is_vertical)
        room = 0.06 * (high - low)  # for the markers and their numbers
        (axes.set_ylim if is_vertical else axes.set_xlim)(low - room, high + room)
        style.zero_line(axes, vertical=not is_vertical)
        (axes.yaxis if is_vertical else axes.xaxis).set_major_locator(MaxNLocator(5))
    joined = numbered_front(rows)
    axes.plot(joined["task_gain_nats"], joined["general_gain_nats"], color=style.MUTED, linewidth=1.0, zorder=2)
    for _, row in rows.iterrows():
        x, y, look = row["task_gain_nats"], row["general_gain_nats"], looks[row["mix"]]
        for at, name, is_vertical in ((y, "task", False), (x, "general", True)):
            low, high = row[f"{name}_ci_low"], row[f"{name}_ci_high"]
            style.draw_interval(axes, at=at, low=low, high=high, colour=look.colour, vertical=is_vertical)
        style.draw_mean(axes, x=x, y=y, look=look, has_interval=bool(row["is_on_front"]))
    for at, first, last in _numbers(axes, joined):
        text = f"{first}" if first == last else f"{first}–{last}"
        axes.annotate(text, xy=at, xytext=(5, 5), textcoords="offset points", fontsize=8.5, zorder=6)


def _numbers(axes: Axes, joined: pd.DataFrame) -> list[tuple[tuple[float, float], int, int]]:
    """Return where numbers of the front stand, and the first and last of each: neighbours that would collide share one."""
    width, height = (high - low for low, high in (axes.get_xlim(), axes.get_ylim()))
    placed: list[tuple[tuple[float, float], int, int]] = []
    for number, (_, row) in enumerate(joined.iterrows(), start=1):
        at = (float(row["task_gain_nats"]), float(row["general_gain_nats"]))
        if placed:
            before, first, _ = placed[-1]
            if abs(at[0] - before[0]) < _NEAR * width and abs(at[1] - before[1]) < _NEAR * height:
                placed[-1] = (before, first, number)
                continue
        placed.append((at, number, number))
    return placed
