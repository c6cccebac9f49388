"""Similarity of representations: CKA between the layers of compared states, and its summary by arm over seeds."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.representation import representation_means
from midstudy.analysis.tables import representation_columns
from midstudy.report.cells import cell_factors, differing, distinguishing, label, readable
from midstudy.report.figures.layers import layers_figure
from midstudy.report.html import Heading, Html, Row, paragraph, table
from midstudy.report.numbers import decimal, interval, unit
from midstudy.report.report import Report

MOST_MATRICES = 12
"""Most heat maps per figure; all matrices are in `representation.parquet`."""


def representations(report: Report) -> Html:
    """Show the means of all compared states, and a figure of their layers for each pair; nothing if there are none."""
    matrices = report.tables.representation
    if matrices is None:
        return Html("")
    if matrices.empty:
        return paragraph("No results yet: no comparison of states is finished.", css="note")
    shown = _means(report)
    for column in representation_columns(report.manifest):
        if not (rows := matrices[matrices["column"] == column]).empty:
            shown += _layers(report, column, rows)
    return shown


def pair_name(report: Report, column: str) -> str:
    """Return the column's name without its metric: what tells this pair of states from the other pairs of an arm."""
    metric = report.manifest.columns[column].metric
    return readable(column.removesuffix(metric).rstrip("_") or column)


def _means(report: Report) -> Html:
    means, seeds = representation_means(report.tables), report.manifest.seeds
    rows: list[Row] = []
    for column in representation_columns(report.manifest):
        of_column = means[means["column"] == column]
        if of_column.empty:
            continue
        measured = report.manifest.columns[column]
        data = readable(measured.data) or "the data of its arm"
        title = report.manifest.title_of(column)
        rows.append(Heading(f"{title}: {unit(measured.metric)}, on {data}, {measured.split} split"))
        names = _names(report, of_column)
        for _, row in of_column.iterrows():
            ends = interval(row["ci_low"], row["ci_high"], decimal)
            rows.append([label(row, names), str(row["num_seeds"]), decimal(row["mean"]), ends])
    return table(
        ["arm", "seeds", "mean", "95 % interval"],
        rows,
        caption="How similar the compared states are: linear CKA is 1 for representations that are equal up to a rotation "
        "and a scale; layers are the embedding and every block. "
        + (
            f"Means and t-intervals over {readable(seeds[0])}; a dash where there is a single one."
            if seeds
            else "No arm is repeated with another seed, so there are no intervals."
        ),
    )


def _names(report: Report, rows: pd.DataFrame) -> list[str]:
    """Return the factors that name the arms of these rows."""
    return distinguishing(rows, differing(rows, cell_factors(report.manifest)))


def _layers(report: Report, column: str, rows: pd.DataFrame) -> Html:
    names = _names(report, rows)
    cells = list(rows.groupby(names, sort=False)) if names else [((), rows)]
    matrices = {
        label(cell.iloc[0], names): cell.pivot_table(index="layer_a", columns="layer_b", values="cka", aggfunc="mean")
        for _, cell in cells[:MOST_MATRICES]
    }
    first, pair = rows.iloc[0], pair_name(report, column)
    return report.figure(
        layers_figure(matrices),
        f"layers-{pair.replace(' ', '-')}",
        caption=f"{pair}: linear CKA of every layer (0 is the embedding) of a state with every layer of the state that "
        f"it is compared with, such as {first['state']} with {first['other']}; means over seeds, one scale of shades."
        + (f" The first {MOST_MATRICES} of {len(cells)} arms." if len(cells) > MOST_MATRICES else ""),
    )
