"""The matrices of `midstudy compare`: a panel for each view, similarity as shade and number, own halves on the diagonal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from midstudy.report.figures import style

_CELL_IN = 0.36
_LETTER_IN = 0.085
"""Of the names beside and, at an angle, above a matrix."""


@style.styled
def corpora_figure(
    names: Sequence[str], panels: Mapping[str, Mapping[tuple[str, str], float]], *, darker_is_larger: bool = True
) -> Figure:
    """Plot one matrix for each panel.

    Args:
        names: rows and columns, in order.
        panels: by title, the value of each row and column; an absent cell stays empty.
        darker_is_larger: True for similarities, False for distances, so that dark is always close.
    """
    longest_in = _LETTER_IN * max(map(len, names))
    beside_in = longest_in + 0.8 * _LETTER_IN * len(names[-1]) + 0.3  # rows to the left, the last column to the right
    fits_twice = beside_in + _CELL_IN * len(names) <= style.WIDTH_IN / 2
    num_columns = min(len(panels), 2 if fits_twice else 1)
    num_rows = math.ceil(len(panels) / num_columns)
    figure = style.new_figure(height_in=num_rows * (_CELL_IN * len(names) + 0.6 * longest_in + 0.7))
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, values) in zip(grid, panels.items(), strict=False):
        low, high = min(values.values()), max(values.values())
        for (row, column), value in values.items():
            depth = (value - low) / ((high - low) or 1.0)
            depth = depth if darker_is_larger else 1.0 - depth
            style.matrix_cell(axes, names.index(column), names.index(row), depth, f"{value:.2f}", fontsize=8.2,
                              italic=row == column)  # fmt: skip
        axes.set_xlim(0, len(names))
        axes.set_ylim(len(names), 0)
        axes.xaxis.tick_top()
        places = [place + 0.5 for place in range(len(names))]
        axes.set_xticks(places, names, rotation=35, ha="left", rotation_mode="anchor")
        axes.set_yticks(places, names)
        axes.set_title(title)
        style.frameless(axes)
    return figure
