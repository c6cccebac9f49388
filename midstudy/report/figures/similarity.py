"""The similarity matrix of corpora, mixtures and tasks."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from midstudy.report.cells import readable
from midstudy.report.figures import style

_CELL_IN, _GAP = 0.33, 0.35


@style.styled
def similarity_figure(similarity: pd.DataFrame) -> Figure:
    """Plot combined similarity as shade and number: corpora, mixtures and tasks (rows) by corpora and tasks (columns).

    The matrix is symmetric, so mixtures are omitted from the columns.
    """
    names = {kind: _names(similarity, kind) for kind in ("corpus", "mixture", "task")}
    table = similarity.set_index(["left", "right"])["combined"]
    columns = [(kind, names[kind]) for kind in ("corpus", "task") if names[kind]]
    rows = [(kind, kind_names) for kind, kind_names in names.items() if kind_names]
    num_rows = sum(len(group) for _, group in rows) + _GAP * (len(rows) - 1)
    figure = style.new_figure(height_in=_CELL_IN * num_rows + 1.5)
    axes = figure.subplots()
    low, high = float(table.min()), float(table.max())
    y, y_ticks = 0.0, []
    for row_kind, row_names in rows:
        start = y
        for row_name in row_names:
            x, x_ticks = 0.0, []
            for _, column_names in columns:
                for column_name in column_names:
                    value = float(table.loc[(row_name, column_name)])
                    depth = (value - low) / ((high - low) or 1.0)
                    style.matrix_cell(axes, x, y, depth, f"{value:.2f}", fontsize=8.8)
                    x_ticks.append(x + 0.5)
                    x += 1
                x += _GAP
            y_ticks.append(y + 0.5)
            y += 1
        axes.text(x + 0.05, (start + y) / 2, row_kind, va="center", color=style.MUTED, fontsize=9)
        y += _GAP
    axes.set_xlim(0, x - _GAP)
    axes.set_ylim(y - _GAP, 0)
    axes.xaxis.tick_top()
    axes.set_xticks(
        x_ticks, [readable(name) for _, group in columns for name in group], rotation=35, ha="left", rotation_mode="anchor"
    )
    axes.set_yticks(y_ticks, [readable(name) for _, group in rows for name in group])
    style.frameless(axes)
    return figure


def _names(similarity: pd.DataFrame, kind: str) -> list[str]:
    return list(dict.fromkeys(similarity.loc[similarity["left_kind"] == kind, "left"]))
