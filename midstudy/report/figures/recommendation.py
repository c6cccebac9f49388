"""The ranking of `midstudy recommend`: gain and interval of each candidate, a band for each group, further general text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from midstudy.report.figures import style


@dataclass(frozen=True)
class GainRow:
    """A candidate: gain with its interval, in bits per byte, and its group; `None` if it is not ranked."""

    name: str
    gain: float
    low: float
    high: float
    group: int | None


@style.styled
def recommendation_figure(rows: Sequence[GainRow], *, placebo_gain: float, target: str, share: float) -> Figure:
    """Plot the rows from the top, in order; hollow markers are candidates that are not ranked."""
    figure = style.new_figure(height_in=0.32 * len(rows) + 1.3)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        if row.group is not None and row.group % 2:
            axes.axhspan(place - 0.5, place + 0.5, color=style.shade(0.05), zorder=0)
        colour = style.MUTED if row.group is None else style.shade(0.9)
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2, zorder=2)
        axes.plot(row.gain, place, marker="o", markersize=style.MEAN, color=colour, zorder=3,
                  markerfacecolor="white" if row.group is None else colour)  # fmt: skip
    style.zero_line(axes, vertical=True)
    axes.axvline(placebo_gain, color=style.MUTED, linewidth=1.0, linestyle=":", zorder=1)
    is_right = placebo_gain > sum(axes.get_xlim()) / 2  # the name stands on the side with more room
    axes.annotate("more general text", (placebo_gain, -0.5), textcoords="offset points", xytext=(-3 if is_right else 3, 3),
                  ha="right" if is_right else "left", fontsize=8, color=style.MUTED, annotation_clip=False)  # fmt: skip
    labels = [row.name + (" (not ranked)" if row.group is None else f"  {row.group}") for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("bits per byte saved on the target's dev split, 95 % interval; shading and numbers: groups")
    axes.set_title(f"{target}, {100 * share:g} % of each candidate: expected before training", pad=16)
    return figure
