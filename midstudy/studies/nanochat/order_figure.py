"""The figure of the order of tasks: the loss on each task over midtraining, a panel each."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from midstudy.report.cells import readable
from midstudy.report.figures import style

_ACROSS, _PANEL_IN = 4, 2.1


@style.styled
def order_figure(curves: pd.DataFrame, tasks: Sequence[str], *, seed: str) -> Figure:
    """Plot bits per byte of replies over steps for each order of tasks: means over seeds, and each seed thinly.

    Args:
        curves: a study's curves: mid, the seed, column, step, value.
        tasks: in the order of the panels.
        seed: the seed that replicates.
    """
    down = -(-len(tasks) // _ACROSS)
    figure = style.new_figure(height_in=0.5 + _PANEL_IN * down)
    panels = figure.subplots(down, _ACROSS, squeeze=False, sharex=True).ravel()
    looks = style.looks(str(mid) for mid in curves["mid"])
    for axes, task in zip(panels, tasks, strict=False):
        of_task = curves[curves["column"] == f"{task}_over_mid"].dropna(subset=["value"])
        for mid, rows in of_task.groupby("mid", sort=False):
            look = looks[str(mid)]
            for _, run in rows.groupby(seed):
                axes.plot(run["step"], run["value"], color=look.colour, linewidth=0.6, alpha=0.4)
            mean = rows.groupby("step")["value"].mean()
            axes.plot(mean.index, mean, color=look.colour, linewidth=1.6, marker=look.marker, markersize=3.5)
        axes.set_title(readable(task))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=_ticks(of_task["value"])))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    for place, axes in enumerate(panels):
        axes.set_visible(place < len(tasks))
        axes.tick_params(labelbottom=place + _ACROSS >= len(tasks))  # nothing is below it
    handles = [style.handle(mid, colour=look.colour, marker=look.marker) for mid, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    figure.supxlabel("step of the run")
    figure.supylabel("bits per byte of replies")
    return figure


def _ticks(values: pd.Series) -> tuple[float, ...]:
    """Return the multiples of powers of ten that are labelled: few where the values span decades."""
    return (1.0,) if values.max() > 30 * values.min() else (1.0, 2.0, 3.0, 5.0, 7.0)
