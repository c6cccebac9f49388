"""Similarity of all layers of two states: a heat map per pair of states."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstudy.report.figures import style

_PER_LINE = 3
_TITLE_LETTERS = 36
"""Letters of a title that fit above a heat map."""
_MOST_NUMBERED = 9
"""Most layers whose cells are wide enough for their numbers."""


@style.styled
def layers_figure(matrices: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot each matrix as shade, and as numbers if it has few layers. Shades span the range of all matrices.

    Args:
        matrices: by title; rows are the layers of one state, columns those of the other, from the embedding, 0.
    """
    num_lines = -(-len(matrices) // _PER_LINE)
    figure = style.new_figure(height_in=3.1 * num_lines)
    panels = figure.subplots(num_lines, _PER_LINE, squeeze=False).ravel()
    low = min(float(matrix.min().min()) for matrix in matrices.values())
    for axes, (title, matrix) in zip(panels, matrices.items(), strict=False):
        _panel(axes, matrix, low)
        axes.set_title(textwrap.fill(title, _TITLE_LETTERS), fontsize=9)
    for axes in panels[len(matrices) :]:
        axes.set_visible(False)
    return figure


def _panel(axes: Axes, matrix: pd.DataFrame, low: float) -> None:
    num_rows, num_columns = matrix.shape
    is_numbered = max(num_rows, num_columns) <= _MOST_NUMBERED
    for y in range(num_rows):
        for x in range(num_columns):
            value = float(matrix.iloc[y, x])
            depth = min(1.0, (value - low) / ((1 - low) or 1.0))
            style.matrix_cell(axes, x, y, depth, f"{value:.2f}" if is_numbered else "", fontsize=8)
    axes.set_xlim(0, num_columns)
    axes.set_ylim(0, num_rows)  # the embedding at the bottom
    axes.set_aspect("equal")
    for ticks, names in ((axes.set_xticks, matrix.columns), (axes.set_yticks, matrix.index)):
        step = 1 if is_numbered else 4
        ticks([place + 0.5 for place in range(0, len(names), step)], [str(name) for name in names[::step]])
    axes.set_xlabel("layer of the other state")
    axes.set_ylabel("layer of the state")
    style.frameless(axes)
