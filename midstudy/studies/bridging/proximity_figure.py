"""The figure of proximity advantage against improvement, one point per mix and task."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from midstudy.report.cells import readable
from midstudy.report.figures import style
from midstudy.report.numbers import correlation, number

MEASURE_NAMES = {
    "combined": "combined similarity",
    "cosine": "cosine",
    "jaccard": "Jaccard",
    "js": "Jensen-Shannon similarity",
}


@style.styled
def proximity_figure(pairs: pd.DataFrame, statistics: pd.Series) -> Figure:
    """Plot all (mix, task) pairs of one size (left), and those that are close together, enlarged (right).

    Every pair has a number; `numbered` gives the key. The dashed line is the least-squares line through all pairs. Bars are
    95 % t-intervals of the improvement over trunk seeds if there are two or more; otherwise the mean is hollow. The right
    panel has no bars, because they would be longer than the panel.

    Args:
        pairs: as returned by `proximity_pairs`.
        statistics: a row of `correlations`; selects size and measure, and is shown above the panels.
    """
    measure = str(statistics["measure"])
    here = pairs[pairs["size"] == statistics["size"]]
    crowd = _crowd(here, measure=measure)
    figure = style.new_figure(height_in=5.1)
    whole, close = figure.subplots(1, 2)
    looks = style.looks(here["mix"])
    _scatter(whole, here, looks, measure=measure, with_intervals=True)
    _scatter(close, here[crowd], looks, measure=measure, with_intervals=False)
    figure.suptitle(_headline(statistics), x=0.01, ha="left", fontsize=9)
    whole.set_title(f"All {len(here)} pairs", pad=23)
    close.set_title(f"The {crowd.sum()} pairs in the frame, enlarged", pad=23)
    whole.set_ylabel("reduction of task loss after SFT relative to the control, %")
    figure.supxlabel(f"proximity advantage ({MEASURE_NAMES[measure]} to the task, mix minus control)", fontsize=9.5)
    _key(close, looks, list(dict.fromkeys(here["mix"])))
    _trend(whole, here[f"pa_{measure}"].to_numpy(dtype=float), 100 * here["relative_improvement"].to_numpy(dtype=float))
    (left, right), (bottom, top) = close.get_xlim(), close.get_ylim()
    frame = Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor=style.INK, linewidth=0.8, zorder=6)
    frame.set_linestyle(":")
    whole.add_patch(frame)
    for axes, rows in ((whole, here[~crowd]), (close, here[crowd])):
        for index, text in _numbers(here).items():
            if index in rows.index:
                x, y = here.loc[index, f"pa_{measure}"], 100 * here.loc[index, "relative_improvement"]
                axes.annotate(text, xy=(x, y), xytext=(5, 4), textcoords="offset points", fontsize=8, color=style.INK)
    return figure


def numbered(pairs: pd.DataFrame) -> str:
    """Return the key to the numbers in the figure: '1 code → pycode (matched), 2 …'."""
    matched = pairs["matched"].map({True: " (matched)", False: ""})
    names = [readable(name) + mark for name, mark in zip(pairs["pair"], matched, strict=True)]
    return ", ".join(f"{text} {name}" for text, name in zip(_numbers(pairs).values(), names, strict=True))


def _numbers(pairs: pd.DataFrame) -> dict[int, str]:
    return {index: str(place + 1) for place, index in enumerate(pairs.index)}


def _crowd(pairs: pd.DataFrame, *, measure: str) -> pd.Series:
    """Return a mask of the pairs that are so close together that they need their own panel.

    These are the pairs inside Tukey's fences on both axes. The fences are recomputed from the remaining pairs until none is
    outside, or until fewer than half of the pairs would remain.
    """
    inside = pd.Series(True, index=pairs.index)
    while True:
        closer = inside.copy()
        for column in (f"pa_{measure}", "relative_improvement"):
            low, high = pairs.loc[inside, column].quantile([0.25, 0.75])
            closer &= pairs[column].between(low - 1.5 * (high - low), high + 1.5 * (high - low))
        if closer.equals(inside) or 2 * closer.sum() < len(pairs):
            return inside
        inside = closer


def _headline(statistics: pd.Series) -> str:
    if pd.isna(statistics["r"]):
        return f"No correlation: {statistics['reason']}"
    return (
        f"Pearson r = {correlation(statistics['r'])} (95 % interval {correlation(statistics['ci_low'])} to "
        f"{correlation(statistics['ci_high'])}, {number(statistics['n_pairs'])} pairs). Unmatched pairs alone "
        f"{correlation(statistics['r_unmatched'])} ({number(statistics['n_unmatched'])} pairs).\n"
        f"Without the best pair {correlation(statistics['r_without_best_pair'])}. Leave one out "
        f"{correlation(statistics['leave_one_out_low'])} to {correlation(statistics['leave_one_out_high'])}. "
        f"Spearman {correlation(statistics['spearman_rho'])}."
    )


def _key(axes: Axes, looks: dict[str, style.Look], mixes: list[str]) -> None:
    handles = [
        Line2D([], [], linestyle="", marker=looks[mix].marker, color=looks[mix].colour, markersize=6, label=readable(mix))
        for mix in mixes
    ]
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=len(mixes),
        frameon=False,
        fontsize=8.5,
        handletextpad=0.0,
        columnspacing=0.7,
        borderpad=0.2,
    )


def _scatter(axes: Axes, rows: pd.DataFrame, looks: dict[str, style.Look], *, measure: str, with_intervals: bool) -> None:
    style.zero_line(axes, vertical=False)
    style.zero_line(axes, vertical=True)
    x, y = rows[f"pa_{measure}"], 100 * rows["relative_improvement"]
    low, high = 100 * rows["relative_ci_low"], 100 * rows["relative_ci_high"]
    style.room_for(axes, y, intervals=zip(low, high, strict=True) if with_intervals else (), vertical=True)
    left, right = style.room_for(axes, x, vertical=False)
    axes.set_xlim(left, right + 0.1 * (right - left))  # room for labels
    for mix, at, mean, bottom, top in zip(rows["mix"], x, y, low, high, strict=True):
        look = looks[str(mix)]
        if with_intervals:
            style.draw_interval(axes, at=at, low=bottom, high=top, colour=look.colour, vertical=True)
        style.draw_mean(axes, x=at, y=mean, look=look, has_interval=bool(pd.notna(bottom)))


def _trend(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if x.size < 2 or np.ptp(x) < 1e-12:
        return
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, slope * ends + intercept, color=style.MUTED, linewidth=1.0, linestyle="--", zorder=2)
