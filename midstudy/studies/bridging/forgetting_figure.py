"""The figure of forgetting: general loss before and after fine-tuning, for every mix and trunk seed."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstudy.report.cells import readable
from midstudy.report.figures import style
from midstudy.report.numbers import percent
from midstudy.studies.bridging.scale import CONTROL

_ROW_IN, _PANEL_IN = 0.27, 0.75
_SPREAD = 0.5  # of a row, over which its trunk seeds are spread


@style.styled
def forgetting_figure(arms: pd.DataFrame) -> Figure:
    """Plot general loss (nats/token, test) before SFT (ring) and after it (filled) per trunk seed, one panel per task.

    `arms` are the rows to show, all of one size; SFT seeds are averaged within a trunk seed. All panels share the axis,
    which does not start at zero.
    """
    tasks = list(dict.fromkeys(arms["task"]))
    names = {task: _rows(arms[arms["task"] == task]) for task in tasks}
    num_lines = -(-len(tasks) // 2)
    heights = [max(len(names[task]) for task in tasks[2 * i : 2 * i + 2]) for i in range(num_lines)]
    figure = style.new_figure(height_in=sum(_PANEL_IN + _ROW_IN * rows for rows in heights))
    panels = figure.subplots(num_lines, 2, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights}).ravel()
    looks = style.looks(mix for mix in arms["mix"] if mix != CONTROL) | {CONTROL: style.REFERENCE}
    for axes, task in zip(panels, tasks, strict=False):
        _panel(axes, arms[arms["task"] == task], names[task], looks)
        axes.set_title(f"Fine-tuned on {readable(task)}")
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("general loss, nats/token")
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    if tasks:
        values = arms[["general_loss_before", "general_loss"]].to_numpy(dtype=float).ravel()
        _limits(panels[0], values)
    return figure


def _rows(cell: pd.DataFrame) -> list[tuple[str, float]]:
    """Return the (mix, weight) pairs of a task, the control first."""
    keys = dict.fromkeys((str(mix), float(weight)) for mix, weight in zip(cell["mix"], cell["weight"], strict=True))
    return sorted(keys, key=lambda key: key[0] != CONTROL)


def _panel(axes: Axes, cell: pd.DataFrame, rows: list[tuple[str, float]], looks: dict[str, style.Look]) -> None:
    labels = []
    has_legend = False
    for y, (mix, weight) in enumerate(rows):
        arms = cell[(cell["mix"] == mix) & (cell["weight"] == weight)].dropna(subset=["general_loss", "general_loss_before"])
        seeds = arms.groupby("trunk_seed")[["general_loss_before", "general_loss"]].mean()
        axes.axhline(y, color=style.RULE, linewidth=0.4, zorder=0)
        name = readable(mix) if mix == CONTROL else f"{readable(mix)} {percent(weight)}"
        labels.append(f"{name}, n = {len(seeds)}")
        colour = looks[mix].colour
        for i, (before, after) in enumerate(seeds.itertuples(index=False)):
            at = y + _SPREAD * ((i + 0.5) / len(seeds) - 0.5)
            axes.plot([before, after], [at, at], color=colour, linewidth=1.3, zorder=2)
            axes.plot(before, at, "o", markersize=4.6, color=colour, markerfacecolor="white", markeredgewidth=1.1, zorder=3)
            axes.plot(after, at, "o", markersize=4.6, color=colour, zorder=3)
        if len(seeds) and not has_legend:
            has_legend = True
            for x, text in zip(seeds.mean(), ("before", "after"), strict=True):
                axes.annotate(text, xy=(x, y - _SPREAD / 2), xytext=(0, 4), textcoords="offset points", ha="center",
                              fontsize=8, color=style.MUTED)  # fmt: skip
        if not len(seeds):
            axes.annotate("not finished", xy=(0.02, y), xycoords=("axes fraction", "data"), va="center", style="italic",
                          fontsize=8.5, color=style.MUTED)  # fmt: skip
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.95)


def _limits(axes: Axes, values: object) -> None:
    finite = pd.Series(values, dtype=float).dropna()
    if len(finite):
        margin = 0.05 * (finite.max() - finite.min() or 1.0)
        axes.set_xlim(finite.min() - 2.5 * margin, finite.max() + margin)  # room for the word 'before'
