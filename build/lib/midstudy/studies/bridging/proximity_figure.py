"""Proximity advantage against improvement: does closeness of a mix to a task go with what the mix gains on it?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from midstudy.report.cells import spoken
from midstudy.report.figures import style
from midstudy.report.numbers import correlation, number

MEASURE_NAMES = {
    "combined": "combined similarity",
    "cosine": "cosine",
    "jaccard": "Jaccard",
    "js": "Jensen-Shannon similarity",
}


@style.styled
def proximity_figure(pairs: pd.DataFrame, found: pd.Series) -> Figure:
    """All (mix, task) pairs of one size (left), and those that lie close together on a scale of their own (right).

    ``pairs`` as ``proximity_pairs`` gives them, ``found`` a row of ``correlations``: its size and measure are shown, and its
    values stand above the panels. Every pair has a number, which `numbered` names. The dashed line is the least-squares line
    through all pairs. Bars are 95 % t-intervals of the improvement over trunk seeds where there are two or more; without
    them a mean is hollow. On the right there are no bars: they would be longer than the panel.
    """
    measure = str(found["measure"])
    here = pairs[pairs["size"] == found["size"]]
    crowd = _crowd(here, measure=measure)
    figure = style.new_figure(height_in=5.1)
    whole, close = figure.subplots(1, 2)
    known = style.looks(here["mix"])
    _scatter(whole, here, known, measure=measure, with_intervals=True)
    _scatter(close, here[crowd], known, measure=measure, with_intervals=False)
    figure.suptitle(_headline(found), x=0.01, ha="left", fontsize=9)
    whole.set_title(f"All {len(here)} pairs", pad=23)
    close.set_title(f"The {crowd.sum()} pairs in the frame, enlarged", pad=23)
    whole.set_ylabel("task loss after SFT: lower than the control's by, %")
    figure.supxlabel(f"proximity advantage ({MEASURE_NAMES[measure]} to the task, mix minus control)", fontsize=9.5)
    _key(close, known, list(dict.fromkeys(here["mix"])))
    _trend(whole, here[f"pa_{measure}"].to_numpy(dtype=float), 100 * here["relative_improvement"].to_numpy(dtype=float))
    (left, right), (bottom, top) = close.get_xlim(), close.get_ylim()
    frame = Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor=style.INK, linewidth=0.8, zorder=6)
    frame.set_linestyle(":")
    whole.add_patch(frame)
    for axes, rows in ((whole, here[~crowd]), (close, here[crowd])):
        for number_of, row in _numbers(here).items():
            if number_of in rows.index:
                x, y = here.loc[number_of, f"pa_{measure}"], 100 * here.loc[number_of, "relative_improvement"]
                axes.annotate(row, xy=(x, y), xytext=(5, 4), textcoords="offset points", fontsize=8, color=style.INK)
    return figure


def numbered(pairs: pd.DataFrame) -> str:
    """The key to the numbers in the figure: '1 code → pycode (matched), 2 …'."""
    matched = pairs["matched"].map({True: " (matched)", False: ""})
    names = [spoken(name) + mark for name, mark in zip(pairs["pair"], matched, strict=True)]
    return ", ".join(f"{text} {name}" for text, name in zip(_numbers(pairs).values(), names, strict=True))


def _numbers(pairs: pd.DataFrame) -> dict[int, str]:
    return {index: str(place + 1) for place, index in enumerate(pairs.index)}


def _crowd(pairs: pd.DataFrame, *, measure: str) -> pd.Series:
    """Which pairs lie so close together that they need a panel of their own.

    Those inside Tukey's fences on both axes; fences are drawn again round what is left until nothing falls outside, or
    half of the pairs would.
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


def _headline(found: pd.Series) -> str:
    if pd.isna(found["r"]):
        return f"No correlation: {found['reason']}"
    return (
        f"Pearson r = {correlation(found['r'])} (95 % interval {correlation(found['ci_low'])} to "
        f"{correlation(found['ci_high'])}, {number(found['n_pairs'])} pairs). Unmatched pairs alone "
        f"{correlation(found['r_unmatched'])} ({number(found['n_unmatched'])} pairs).\n"
        f"Without the best pair {correlation(found['r_without_best_pair'])}. Leave one out "
        f"{correlation(found['leave_one_out_low'])} to {correlation(found['leave_one_out_high'])}. "
        f"Spearman {correlation(found['spearman_rho'])}."
    )


def _key(axes: Axes, known: dict[str, style.Look], mixes: list[str]) -> None:
    handles = [
        Line2D([], [], linestyle="", marker=known[mix].marker, color=known[mix].colour, markersize=6, label=spoken(mix))
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


def _scatter(axes: Axes, rows: pd.DataFrame, known: dict[str, style.Look], *, measure: str, with_intervals: bool) -> None:
    style.zero_line(axes, vertical=False)
    style.zero_line(axes, vertical=True)
    x, y = rows[f"pa_{measure}"], 100 * rows["relative_improvement"]
    low, high = 100 * rows["relative_ci_low"], 100 * rows["relative_ci_high"]
    style.room_for(axes, y, intervals=zip(low, high, strict=True) if with_intervals else (), vertical=True)
    left, right = style.room_for(axes, x, vertical=False)
    axes.set_xlim(left, right + 0.1 * (right - left))  # room for labels
    for mix, at, mean, bottom, top in zip(rows["mix"], x, y, low, high, strict=True):
        look = known[str(mix)]
        if with_intervals:
            style.draw_interval(axes, at=at, low=bottom, high=top, colour=look.colour, vertical=True)
        style.draw_mean(axes, x=at, y=mean, look=look, has_interval=bool(pd.notna(bottom)))


def _trend(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if x.size < 2 or np.ptp(x) < 1e-12:
        return
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, slope * ends + intercept, color=style.MUTED, linewidth=1.0, linestyle="--", zorder=2)
