"""Labels beside points without overlap: a greedy choice among places around each point."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

_OFFSETS = [
    (side * reach, rise * lift)
    for reach, lift in ((8, 0), (6, 8), (0, 11), (6, 15), (0, 20), (14, 24), (10, 33), (12, 44))
    for side in (1, -1)
    for rise in (1, -1)
]
_POINT_RADIUS = 4.5


def lay_out(figure: Figure) -> None:
    """Give the figure's parts their final places, so that distances in points mean something."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def label_points(
    axes: Axes,
    *,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    others: Sequence[tuple[float, float]] = (),
    size: float,
) -> None:
    """Write each text beside its point, where it covers neither a point nor an earlier text nor leaves the axes.

    ``others`` are points without a text here. Places farther from the point get a thin line to it. Where nothing is
    free, the place that covers least is taken. Needs final axis limits and a figure laid out by ``lay_out``.
    """
    if not texts:
        return
    figure = axes.figure
    assert isinstance(figure, Figure)
    scale = figure.dpi / 72
    centres = axes.transData.transform(list(zip(x, y, strict=True)))
    radius = _POINT_RADIUS * scale
    free_standing = [tuple(point) for point in others if tuple(point) not in set(zip(x, y, strict=True))]
    taken = [Bbox.from_extents(cx - radius, cy - radius, cx + radius, cy + radius) for cx, cy in centres]
    for cx, cy in axes.transData.transform(free_standing) if free_standing else ():
        taken.append(Bbox.from_extents(cx - radius, cy - radius, cx + radius, cy + radius))
    frame = axes.get_window_extent()
    for index in sorted(range(len(texts)), key=lambda i: -centres[i][1]):
        probe = axes.text(0, 0, texts[index], fontsize=size)
        extent = probe.get_window_extent()
        probe.remove()
        cx, cy = centres[index]
        costs = []
        for dx, dy in _OFFSETS:
            left = cx + dx * scale - (extent.width if dx < 0 else extent.width / 2 if dx == 0 else 0)
            bottom = cy + dy * scale - extent.height / 2
            box = Bbox.from_bounds(left, bottom, extent.width, extent.height)
            covered = sum(_overlap(box, other) for i, other in enumerate(taken) if i != index)
            outside = extent.width * extent.height - _overlap(box, frame)
            costs.append((covered + 3 * outside, (abs(dx) + abs(dy)), dx, dy, box))
        _, distance, dx, dy, box = min(costs, key=lambda cost: (round(cost[0], 1), cost[1]))
        taken.append(box)
        line = (
            {"arrowstyle": "-", "color": "#9a9a9a", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3} if distance > 15 else None
        )
        axes.annotate(
            texts[index],
            xy=(x[index], y[index]),
            xytext=(dx, dy),
            textcoords="offset points",
            ha="right" if dx < 0 else "center" if dx == 0 else "left",
            va="center",
            fontsize=size,
            arrowprops=line,
            annotation_clip=False,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )


def _overlap(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else shared.width * shared.height
