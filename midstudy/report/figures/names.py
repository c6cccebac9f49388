"""Names beside points: each at that of several places where it covers least of other names, marks and the edge."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox, BboxBase

from midstudy.report.figures import style


def place_names(axes: Axes, named: Iterable[tuple[float, float, str]], *, taken: list[Bbox]) -> None:
    """Write names beside their points, given as x, y and text; the layout must be fixed.

    Args:
        taken: boxes in pixels of what names must not cover; those of the names are added.
    """
    inside = axes.get_window_extent()
    pixels = axes.figure.dpi / 72  # of a typographic point
    for at_x, at_y, name in named:
        text = axes.annotate(name, xy=(at_x, at_y), xytext=(0, 0), textcoords="offset points", fontsize=7, color=style.INK)
        size, (x, y) = text.get_window_extent(), axes.transData.transform((at_x, at_y))
        least, place, room = math.inf, (0, 0), size
        for right, up in _PLACES:
            left_end = x + right * pixels - (size.width if right < 0 else 0)
            box = Bbox.from_bounds(left_end, y + up * pixels - size.height / 2, size.width, size.height)
            covered = sum(_overlap(box, other) for other in taken)
            covered += 3 * (size.width * size.height - _overlap(box, inside))  # cut by the edge is worse than covered
            if covered < least - 1e-6:
                least, place, room = covered, (right, up), box
        text.set(position=place, horizontalalignment="right" if place[0] < 0 else "left", verticalalignment="center")
        taken.append(room)
        if abs(place[1]) > 7:
            axes.annotate("", xy=(at_x, at_y), xytext=place, textcoords="offset points", arrowprops=_LINE)


_PLACES = [
    (side * right, up)
    for right, up in ((6, 0), (4, 7), (4, -7), (8, 14), (8, -14), (10, 21), (10, -21), (12, 30), (12, -30))
    for side in (1, -1)
]
"""Where a name may start, right and up from its point in typographic points, or end, if left of it; the preferred first."""
_LINE = {"arrowstyle": "-", "color": style.MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}


def _overlap(one: BboxBase, other: BboxBase) -> float:
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else both.width * both.height
