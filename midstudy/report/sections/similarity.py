"""Similarity of data sets and mixtures: the similarity matrix and proximity advantages."""

from __future__ import annotations

from midstudy.report.cells import readable
from midstudy.report.figures.similarity import similarity_figure
from midstudy.report.html import Heading, Html, Row, paragraph, table
from midstudy.report.numbers import difference
from midstudy.report.report import Report

UNCOUNTED = paragraph("No results yet: token counts are not finished.", css="note")


def similarity(report: Report) -> Html:
    """Show the similarity matrix, or a note if the tokens are not counted; nothing if the study counts none."""
    if not report.manifest.counts:
        return Html("")
    if report.tables.similarity is None:
        return UNCOUNTED
    return report.figure(
        similarity_figure(report.tables.similarity),
        "similarity",
        caption="Combined token similarity (0.4 cosine + 0.3 Jaccard + 0.3 / (1 + Jensen-Shannon divergence in "
        "nats)); distributions without a common token have 0.18. Disjoint halves of the samples are compared, so the "
        "diagonal is not 1 but the similarity of two draws of the same text, the ceiling of its row. Mixtures weight "
        "the counts of their corpora exactly by their shares. One sample each, no interval.",
    )


def proximity(report: Report) -> Html:
    """Show a table of the proximity advantage of every mix to every task; nothing if the study compares no mixtures."""
    advantages = report.tables.proximity
    if advantages is None:
        return UNCOUNTED if report.manifest.counts else Html("")
    if advantages.empty:
        return Html("")
    rows: list[Row] = []
    for task, of_task in advantages.groupby("task", sort=False):
        rows.append(Heading(readable(task)))
        ordered = of_task.sort_values("pa_combined", ascending=False, kind="stable")
        rows += [
            [
                readable(row["mix_name"]),
                readable(row["reference"]),
                *(difference(row[f"pa_{measure}"]) for measure in ("combined", "cosine", "jaccard", "js")),
            ]
            for _, row in ordered.iterrows()
        ]
    return table(
        ["mix", "reference", "combined", "cosine", "Jaccard", "1 / (1 + JSD)"],
        rows,
        caption="Proximity advantage: how much closer the mix is to the task than its reference is, by similarity measure; "
        "the closest mix first. One sample each, no interval.",
        num_text_columns=2,
    )
