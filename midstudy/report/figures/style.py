"""The style of all figures: size, font, colours and markers, and how a figure is saved.

pyplot is not used: figures are plain objects without global state and need not be closed. The colours are Okabe and Ito's
("Color Universal Design", 2008), which colour-blind readers can distinguish; every colour also has a marker.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.scale import SymmetricalLogTransform
from matplotlib.ticker import NullLocator

from midstudy.analysis.phrases import readable

WIDTH_IN = 8.6
"""Every figure is as wide as the text of the page, so that font sizes are uniform."""
PNG_DPI = 170

INK, MUTED, RULE = "#1a1a1a", "#5f5f5f", "#c8c8c8"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
POINT = 3.6  # marker size in points of a single seed's value
MEAN = 7.0  # marker size in points of a mean

_RC: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign in a name is literal
    "font.family": "DejaVu Sans",  # ships with matplotlib, so figures are the same everywhere
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "figure.facecolor": "white",
    "svg.hashsalt": "midstudy",  # makes files reproducible
}

_P = ParamSpec("_P")


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Decorate a figure function to draw with the report's settings, independent of any matplotlibrc."""

    @functools.wraps(draw)
    def inner(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_RC)
            return draw(*args, **kwargs)

    return inner


def new_figure(*, height_in: float) -> Figure:
    """Return an empty figure of the report's width with constrained layout."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.04)
    return Figure(figsize=(WIDTH_IN, height_in), layout=layout)


@dataclass(frozen=True)
class Look:
    """Colour and marker of an arm."""

    colour: str
    marker: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Assign a colour and marker to every name, in order; names beyond the sixth reuse colours with other markers."""
    unique = list(dict.fromkeys(names))
    shifted = (_MARKERS[(i + i // len(_COLOURS)) % len(_MARKERS)] for i in range(len(unique)))
    return {
        name: Look(_COLOURS[i % len(_COLOURS)], marker) for i, (name, marker) in enumerate(zip(unique, shifted, strict=True))
    }


REFERENCE = Look(INK, "X")
"""Colour and marker of a reference that is plotted as its own point."""


def shade(depth: float) -> tuple[float, float, float]:
    """Map 0 to 1 to white to deep blue; darkness alone encodes the value."""
    light, dark = np.array([0.965, 0.975, 0.985]), np.array([0.03, 0.27, 0.46])
    red, green, blue = light + depth * (dark - light)
    return float(red), float(green), float(blue)


def matrix_cell(axes: Axes, x: float, y: float, depth: float, text: str, *, fontsize: float, italic: bool = False) -> None:
    """Draw a cell of a matrix, of side 1 from (x, y): its depth (0 to 1) as shade, and a text if there is one."""
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=shade(depth), edgecolor="white", linewidth=1.2))
    if text:
        colour = "white" if depth > 0.63 else INK
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=fontsize, color=colour,
                  style="italic" if italic else "normal")  # fmt: skip


def frameless(axes: Axes) -> None:
    """Remove ticks and spines, as around a matrix."""
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def handle(name: str, *, colour: str, marker: str) -> Line2D:
    """Return the entry of a legend for a marker."""
    return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=6, label=readable(name))


def zero_line(axes: Axes, *, vertical: bool) -> None:
    """Draw the zero line, the value of the reference."""
    (axes.axvline if vertical else axes.axhline)(0, color=MUTED, linewidth=1.0, zorder=1)


def room_for(
    axes: Axes, values: Iterable[float], *, intervals: Iterable[tuple[float, float]] = (), vertical: bool
) -> tuple[float, float]:
    """Set the limits of an axis to contain values, zero and intervals with a margin. Return the limits.

    An interval over two seeds can be ten times as wide as everything else. On each side an interval may extend the range of
    the values by at most that range; beyond, it is cut with an arrow (`draw_interval`).
    """
    finite = [float(value) for value in values if pd.notna(value)] + [0.0]
    low, high = min(finite), max(finite)
    span = (high - low) or 0.01
    ends = [float(end) for pair in intervals for end in pair if pd.notna(end)]
    low = max(min([low, *ends]), low - span)
    high = min(max([high, *ends]), high + span)
    margin = 0.06 * (high - low or span)
    low, high = low - margin, high + margin
    (axes.set_ylim if vertical else axes.set_xlim)(low, high)
    return low, high


LINEAR_PERCENT = 1.0
"""Effects up to this size are on the linear part of a symlog axis."""
_SYMLOG_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


def spreads(values: Iterable[float]) -> bool:
    """Return whether effects in percent need a symlog axis: most are below a tenth of the largest, which is above 5 %."""
    sizes = np.abs([float(value) for value in values if pd.notna(value)])
    return bool(len(sizes) and sizes.max() > 5 and np.median(sizes) < sizes.max() / 10)


def use_symlog(axes: Axes) -> None:
    """Make the x axis, whose limits are set, linear within ± `LINEAR_PERCENT` and logarithmic beyond."""
    transform = SymmetricalLogTransform(10, LINEAR_PERCENT, 1)
    low, high = axes.get_xlim()
    margin = 0.06 * (high - low) / 1.12  # of `room_for`
    ends = transform.transform(np.array([low + margin, high - margin]))
    space = 0.06 * (ends[1] - ends[0])
    left, right = transform.inverted().transform(np.array([ends[0] - space, ends[1] + space]))
    axes.set_xscale("symlog", linthresh=LINEAR_PERCENT)
    axes.set_xlim(left, right)
    ticks = sorted({sign * tick for tick in _SYMLOG_TICKS for sign in (1, -1) if left <= sign * tick <= right})
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def draw_interval(axes: Axes, *, at: float, low: float, high: float, colour: str, vertical: bool) -> None:
    """Draw a 95 % interval as a bar at position `at` of the other axis; ends beyond the axis limits become arrows.

    If `vertical`, the values are along y. Nothing is drawn if an end is NaN.
    """
    if pd.isna(low) or pd.isna(high):
        return
    floor, ceiling = axes.get_ylim() if vertical else axes.get_xlim()
    ends = max(low, floor), min(high, ceiling)
    line = ([at, at], ends) if vertical else (ends, [at, at])
    axes.plot(*line, color=colour, linewidth=2.2, solid_capstyle="butt", zorder=3)
    for end, is_cut, marker in (
        (floor, low < floor, "v" if vertical else "<"),
        (ceiling, high > ceiling, "^" if vertical else ">"),
    ):
        if is_cut:
            point = (at, end) if vertical else (end, at)
            axes.plot(*point, marker=marker, color=colour, markersize=6, clip_on=False, zorder=3)


def draw_mean(axes: Axes, *, x: float, y: float, look: Look, has_interval: bool) -> None:
    """Draw a mean in its arm's colour and marker, hollow if it has no interval."""
    face = look.colour if has_interval else "white"
    axes.plot(x, y, look.marker, markersize=MEAN, color=look.colour, markerfacecolor=face, markeredgewidth=1.4, zorder=4)


def draw_points(axes: Axes, *, x: Iterable[float], y: Iterable[float]) -> None:
    """Draw the values of single seeds as small rings on top of everything else."""
    axes.plot(list(x), list(y), "o", markersize=POINT, color=INK, markerfacecolor="white", markeredgewidth=0.9, zorder=5)


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write NAME.png and NAME.svg into the folder, without dates. Return the path of the PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        if figure.get_layout_engine() is not None:
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # do the layout once, not for every file
        figure.savefig(folder / f"{name}.png", dpi=PNG_DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 4})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return folder / f"{name}.png"
