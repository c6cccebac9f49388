"""Names of lines at their ends, right of the axes, moved apart where they would overlap."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

End = tuple[str, str, float, float]
"""A line's name and colour, and where it ends."""


def name_ends(axes: Axes, ends: Sequence[End], *, gap: float) -> None:
    """Write the names of lines beside the axes, at least `gap` of their height apart. The limits of y are fixed."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)  # the names are placed within these limits
    heights = apart([(y - low) / (high - low) for *_, y in ends], gap=gap)
    for (text, colour, x, y), at in zip(ends, heights, strict=True):
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5)}
        axes.annotate(text, xy=(x, y), xytext=(1.03, at), textcoords="axes fraction", va="center", color=colour,
                      fontsize=8.5, arrowprops=leader)  # fmt: skip


def apart(wanted: Sequence[float], *, gap: float) -> list[float]:
    """Return heights in [0, 1] close to the wanted ones, in the same order and at least `gap` apart."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    heights, floor, ceiling = list(wanted), 0.0, 1.0
    for index in order:
        heights[index] = floor = max(heights[index], floor)
        floor += gap
    for index in reversed(order):
        heights[index] = ceiling = min(heights[index], ceiling)
        ceiling -= gap
    return heights
