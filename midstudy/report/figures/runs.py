"""Curves: a measure at several states of a run, by the step of the state."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midstudy.analysis.intervals import mean_interval
from midstudy.report.cells import label
from midstudy.report.figures import style
from midstudy.report.figures.ends import End, name_ends

_LABEL_IN, _AROUND_IN, _LEAST_IN = 0.17, 0.9, 3.6


@style.styled
def runs_figure(curves: pd.DataFrame, *, title: str, unit: str, names: Sequence[str], seed: str | None) -> Figure:
    """Plot the mean over seeds of one column for each arm, with 95 % t-intervals as bands and a thin line for each seed.

    Args:
        curves: the rows of one column: the factors, step, value.
        title: what a reader calls the column.
        names: the factors that name the arms.
        seed: the seed that replicates; None if the study has no seeds.
    """
    finished = curves.dropna(subset=["value"])
    cells = list(finished.groupby(list(names), sort=False, dropna=False)) if names else [((), finished)]
    height = max(_LEAST_IN, _LABEL_IN * len(cells) + _AROUND_IN)
    figure = style.new_figure(height_in=height)
    axes = figure.subplots()
    looks = style.looks([label(rows.iloc[0], names) for _, rows in cells])
    ends: list[End] = []
    for _, rows in cells:
        name = label(rows.iloc[0], names)
        look = looks[name]
        by_seed = rows.groupby([*([seed] if seed else []), "step"])["value"].mean().reset_index()
        for _, run in by_seed.groupby(seed) if seed else ():
            axes.plot(run["step"], run["value"], color=look.colour, linewidth=0.7, alpha=0.45, zorder=2)
        mean = by_seed.groupby("step")["value"].mean()
        if len(by_seed) > len(mean):
            intervals = [mean_interval(values) for _, values in by_seed.groupby("step")["value"]]
            lows, highs = [one.low for one in intervals], [one.high for one in intervals]
            axes.fill_between(mean.index, lows, highs, color=look.colour, alpha=0.12, linewidth=0)
        axes.plot(mean.index, mean, color=look.colour, linewidth=1.8, marker=look.marker, markersize=3.5, zorder=3)
        n = f"n = {by_seed[seed].nunique() if seed else 1}"
        ends.append((f"{name}, {n}" if names else n, look.colour, float(mean.index[-1]), float(mean.iloc[-1])))
    name_ends(axes, ends, gap=_LABEL_IN / (height - _AROUND_IN))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step of the curriculum")
    axes.set_ylabel(unit)
    axes.set_title(title)
    return figure
