"""The figure of gain on a task against dose and against specialist tokens, one point per arm and trunk seed."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from midstudy.analysis.intervals import mean_interval
from midstudy.report.cells import readable
from midstudy.report.figures import style
from midstudy.report.figures.names import place_names
from midstudy.report.numbers import percent
from midstudy.studies.bridging.text import PLACEBO

_PANEL_IN, _HEAD_IN = 2.5, 0.9
RUN = ("mix", "weight", "start_step")

Run = tuple[str, float, float]
"""Mix, weight and start step."""


@style.styled
def dose_figure(points: pd.DataFrame, *, joined: Sequence[tuple[str, Run, Run]], seed: str) -> Figure:
    """Plot percent better than the control over dose in percent (left) and over specialist tokens (right), a row per task.

    Large markers are means over seeds with 95 % t-intervals, hollow without one; rings are single seeds. Runs whose
    comparison is `joined` are joined by a line and named.

    Args:
        points: as returned by `dose.gains`, of one size.
        joined: task and both runs of a comparison of two mixes.
        seed: the factor that replicates.
    """
    tasks = list(dict.fromkeys(points["task"]))
    figure = style.new_figure(height_in=_PANEL_IN * len(tasks) + _HEAD_IN)
    grid = figure.subplots(len(tasks), 2, squeeze=False, sharex="col", sharey="row")
    looks = style.looks(sorted(points["mix"], key=lambda mix: mix == PLACEBO))  # mixes look as in other figures
    named = []
    for row, task in zip(grid, tasks, strict=True):
        of_task = points[points["task"] == task]
        means = {key: mean_interval(100 * cell["relative_improvement"]) for key, cell in of_task.groupby(list(RUN))}
        ends = [(mean.low, mean.high) for mean in means.values()]
        for axes, column, scale in zip(row, ("dose", "tokens"), (100, 1), strict=True):
            style.room_for(axes, 100 * of_task["relative_improvement"], intervals=ends, vertical=True)
            low, high = style.room_for(axes, scale * points[column], vertical=False)
            axes.set_xlim(low, high + 0.12 * (high - low))  # room for names
            beside = 0.02 * (high - low)  # offset of single seeds from their mean, which they would hide
            style.zero_line(axes, vertical=False)
            at: dict[Run, tuple[float, float]] = {}
            for key, cell in of_task.groupby(list(RUN), sort=False):
                x, mean, look = scale * float(cell[column].iloc[0]), means[key], looks[str(key[0])]
                at[key] = (x, mean.mean)
                style.draw_interval(axes, at=x, low=mean.low, high=mean.high, colour=look.colour, vertical=True)
                style.draw_mean(axes, x=x, y=mean.mean, look=look, has_interval=pd.notna(mean.low))
                if mean.n > 1:
                    style.draw_points(axes, x=[x + beside] * mean.n, y=100 * cell["relative_improvement"])
            pairs = [(one, other) for name, one, other in joined if name == task and one in at and other in at]
            for one, other in pairs:
                axes.plot(*zip(at[one], at[other], strict=True), color=style.MUTED, linewidth=0.9, zorder=2)
            named.append((axes, at, pairs))
            axes.xaxis.set_major_locator(MaxNLocator(6))
        row[0].set_title(readable(task))
        row[0].set_ylabel("task loss lower by, %")
    grid[-1][0].set_xlabel("dose of the mix before fine-tuning, % of Σ learning rate")
    grid[-1][1].set_xlabel("specialist tokens")
    grid[-1][1].xaxis.set_major_formatter(EngFormatter(sep=""))
    handles = [style.handle(mix, colour=look.colour, marker=look.marker) for mix, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(7, len(handles)), frameon=False, fontsize=8.5)
    figure.draw_without_rendering()  # fixes the layout, which decides where names have room
    for axes, at, pairs in named:
        runs = dict.fromkeys(run for pair in pairs for run in pair)
        texts = [(*at[run], f"{percent(run[1])} from {run[2]:.0f}") for run in runs]
        lines = [_on_line(at[one], at[other], part / 12) for one, other in pairs for part in range(13)]
        taken = [_box(axes, place, 6) for place in at.values()] + [_box(axes, place, 3) for place in lines]
        place_names(axes, texts, taken=taken)
    return figure


def _on_line(one: tuple[float, float], other: tuple[float, float], part: float) -> tuple[float, float]:
    return one[0] + part * (other[0] - one[0]), one[1] + part * (other[1] - one[1])


def _box(axes: Axes, at: tuple[float, float], half: float) -> Bbox:
    """Return the box around a point that reaches `half` pixels to each side."""
    x, y = axes.transData.transform(at)
    return Bbox.from_extents(x - half, y - half, x + half, y + half)
