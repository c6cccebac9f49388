"""Measures at several states of a run, by the step of the state."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midstudy.report.cells import label, spoken
from midstudy.report.figures import style

_LABEL_IN, _AROUND_IN, _LEAST_IN = 0.17, 0.9, 3.6


@style.styled
def runs_figure(curves: pd.DataFrame, *, column: str, unit: str, names: Sequence[str], seed: str | None) -> Figure:
    """The mean over seeds of one column for each kind of arm, with a thin line for each seed.

    Args:
        curves: the rows of this column: the factors, step, value.
        names: the factors by which arms are called.
        seed: the factor that replicates; None where nothing is repeated.
    """
    finished = curves.dropna(subset=["value"])
    cells = list(finished.groupby(list(names), sort=False, dropna=False)) if names else [((), finished)]
    height = max(_LEAST_IN, _LABEL_IN * len(cells) + _AROUND_IN)
    figure = style.new_figure(height_in=height)
    axes = figure.subplots()
    known = style.looks([label(rows.iloc[0], names) for _, rows in cells])
    ends: list[tuple[str, str, float, float]] = []
    for _, rows in cells:
        name = label(rows.iloc[0], names)
        look = known[name]
        by_seed = rows.groupby([*([seed] if seed else []), "step"])["value"].mean().reset_index()
        for _, one in by_seed.groupby(seed) if seed else ():
            axes.plot(one["step"], one["value"], color=look.colour, linewidth=0.7, alpha=0.45, zorder=2)
        mean = by_seed.groupby("step")["value"].mean()
        axes.plot(mean.index, mean, color=look.colour, linewidth=1.8, marker=look.marker, markersize=3.5, zorder=3)
        n = f"n = {by_seed[seed].nunique() if seed else 1}"
        ends.append((f"{name}, {n}" if names else n, look.colour, float(mean.index[-1]), float(mean.iloc[-1])))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)  # the labels are placed within these
    heights = _apart([(y - low) / (high - low) for *_, y in ends], gap=_LABEL_IN / (height - _AROUND_IN))
    for (text, colour, x, y), at in zip(ends, heights, strict=True):
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5)}
        axes.annotate(text, xy=(x, y), xytext=(1.03, at), textcoords="axes fraction", va="center", color=colour,
                      fontsize=8.5, arrowprops=leader)  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step of the curriculum")
    axes.set_ylabel(unit)
    axes.set_title(spoken(column))
    return figure


def _apart(wanted: Sequence[float], *, gap: float) -> list[float]:
    """Heights between 0 and 1 as near to the wanted ones as their order allows, at least `gap` apart."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    found, floor, ceiling = list(wanted), 0.0, 1.0
    for index in order:
        found[index] = floor = max(found[index], floor)
        floor += gap
    for index in reversed(order):
        found[index] = ceiling = min(found[index], ceiling)
        ceiling -= gap
    return found
