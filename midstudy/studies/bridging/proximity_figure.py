"""The figure of proximity advantage against improvement, one point per mix and task."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from midstudy.analysis.phrases import capitalised
from midstudy.report.cells import readable
from midstudy.report.figures import style
from midstudy.report.figures.names import place_names
from midstudy.report.numbers import correlation, number, p_value

MEASURE_NAMES = {
    "combined": "combined similarity",
    "cosine": "cosine",
    "jaccard": "Jaccard",
    "js": "Jensen-Shannon similarity",
}


@style.styled
def proximity_figure(pairs: pd.DataFrame, statistics: pd.Series) -> Figure:
    """Plot all (mix, task) pairs of one size (left), and those that are close together, enlarged (right).

    Every pair is named in the panel that shows it alone. The dashed line is the least-squares line through all pairs. Bars
    are 95 % t-intervals of the improvement over trunk seeds if there are two or more; otherwise the mean is hollow. Pairs
    without an improvement are left out.

    Args:
        pairs: as returned by `proximity_pairs`.
        statistics: a row of `correlations`; selects size and measure, and is shown above the panels.
    """
    measure = str(statistics["measure"])
    here = pairs[(pairs["size"] == statistics["size"]) & pairs["relative_improvement"].notna()]
    crowd = _crowd(here, measure=measure)
    figure = style.new_figure(height_in=5.4)
    whole, close = figure.subplots(1, 2)
    looks = style.looks(here["mix"])
    _scatter(whole, here, looks, measure=measure)
    _scatter(close, here[crowd], looks, measure=measure)
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
    figure.draw_without_rendering()  # fixes the layout, which decides where names have room
    for axes, shown, named in ((whole, here, here[~crowd]), (close, here[crowd], here[crowd])):
        ordered = named.sort_values("relative_improvement", ascending=False)
        gains, names = 100 * ordered["relative_improvement"], map(readable, ordered["pair"])
        points = list(zip(ordered[f"pa_{measure}"], gains, names, strict=True))
        place_names(axes, points, taken=_marks(axes, shown, measure=measure))
    return figure


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
    pairs = f"{number(statistics['num_pairs'])} pairs of {number(statistics['num_mixes'])} mixes and "
    pairs += f"{number(statistics['num_tasks'])} tasks"
    if pd.isna(statistics["ci_low"]):
        return f"Pearson r = {correlation(statistics['r'])} over {pairs}, without an interval."
    ranges = [
        f"without one {kind} {correlation(statistics[f'without_{kind}_low'])} to "
        f"{correlation(statistics[f'without_{kind}_high'])}"
        for kind in ("mix", "task")
        if pd.notna(statistics[f"without_{kind}_low"])
    ]
    return (
        f"Pearson r = {correlation(statistics['r'])} over {pairs} (95 % interval {correlation(statistics['ci_low'])} to "
        f"{correlation(statistics['ci_high'])} over both; QAP p = {p_value(statistics['p_directed'])}).\n"
        + capitalised(", ".join([*ranges, f"mean Spearman within tasks {correlation(statistics['rank_rho'])}"]))
        + "."
    )


def _marks(axes: Axes, rows: pd.DataFrame, *, measure: str) -> list[Bbox]:
    """Return the boxes, in pixels, of the means and bars of these pairs."""
    boxes = []
    for _, row in rows.iterrows():
        at, ends = row[f"pa_{measure}"], [row["relative_improvement"], row["relative_ci_low"], row["relative_ci_high"]]
        places = axes.transData.transform([(at, 100 * end) for end in ends if pd.notna(end)])
        (x, mean), low, high = places[0], places[:, 1].min(), places[:, 1].max()
        boxes += [Bbox.from_extents(x - 6, mean - 6, x + 6, mean + 6), Bbox.from_extents(x - 2, low, x + 2, high)]
    return boxes


def _key(axes: Axes, looks: dict[str, style.Look], mixes: list[str]) -> None:
    handles = [style.handle(mix, colour=looks[mix].colour, marker=looks[mix].marker) for mix in mixes]
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


def _scatter(axes: Axes, rows: pd.DataFrame, looks: dict[str, style.Look], *, measure: str) -> None:
    style.zero_line(axes, vertical=False)
    style.zero_line(axes, vertical=True)
    x, y = rows[f"pa_{measure}"], 100 * rows["relative_improvement"]
    low, high = 100 * rows["relative_ci_low"], 100 * rows["relative_ci_high"]
    style.room_for(axes, y, intervals=zip(low, high, strict=True), vertical=True)
    left, right = style.room_for(axes, x, vertical=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(left, right + 0.1 * (right - left))  # room for labels
    for mix, at, mean, bottom, top in zip(rows["mix"], x, y, low, high, strict=True):
        look = looks[str(mix)]
        style.draw_interval(axes, at=at, low=bottom, high=top, colour=look.colour, vertical=True)
        style.draw_mean(axes, x=at, y=mean, look=look, has_interval=bool(pd.notna(bottom)))


def _trend(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if x.size < 2 or np.ptp(x) < 1e-12:
        return
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, slope * ends + intercept, color=style.MUTED, linewidth=1.0, linestyle="--", zorder=2)
