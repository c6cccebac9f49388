"""Measures at several states of a run, by the step of the state."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from midstudy.report.cells import label, spoken
from midstudy.report.figures import style


@style.styled
def runs_figure(curves: pd.DataFrame, *, column: str, unit: str, names: Sequence[str], seed: str) -> Figure:
    """The mean over seeds of one column for each kind of arm, with a thin line for each seed.

    Args:
        curves: the rows of this column: the factors, step, value.
        names: the factors by which arms are called.
    """
    figure = style.new_figure(height_in=3.6)
    axes = figure.subplots()
    finished = curves.dropna(subset=["value"])
    cells = list(finished.groupby(list(names), sort=False, dropna=False)) if names else [((), finished)]
    known = style.looks([label(rows.iloc[0], names) for _, rows in cells])
    for _, rows in cells:
        name = label(rows.iloc[0], names)
        look = known[name]
        by_seed = rows.groupby([seed, "step"])["value"].mean().reset_index()
        for _, one in by_seed.groupby(seed):
            axes.plot(one["step"], one["value"], color=look.colour, linewidth=0.7, alpha=0.45, zorder=2)
        mean = by_seed.groupby("step")["value"].mean()
        axes.plot(mean.index, mean, color=look.colour, linewidth=1.8, marker=look.marker, markersize=3.5, zorder=3)
        text = f"{name}, n = {by_seed[seed].nunique()}" if names else f"n = {by_seed[seed].nunique()}"
        axes.annotate(text, xy=(mean.index[-1], mean.iloc[-1]), xytext=(6, 0), textcoords="offset points", va="center",
                      color=look.colour, fontsize=8.5)  # fmt: skip
    axes.set_xlabel("step of the curriculum")
    axes.set_ylabel(unit)
    axes.set_title(spoken(column))
    return figure
