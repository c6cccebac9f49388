"""How close data sets and mixtures lie: the similarity matrix and proximity advantages."""

from __future__ import annotations

from midstudy.report.cells import spoken
from midstudy.report.figures.similarity import similarity_figure
from midstudy.report.html import Heading, Html, Row, paragraph, table
from midstudy.report.numbers import difference
from midstudy.report.report import Report

UNCOUNTED = paragraph("Nothing to show yet: token counts are not finished.", css="note")


def similarity(report: Report) -> Html:
    """The similarity matrix; a line where nothing is counted."""
    if not report.manifest.counts:
        return paragraph("The study compares no token distributions.", css="note")
    if report.tables.similarity is None:
        return UNCOUNTED
    return report.figure(
        similarity_figure(report.tables.similarity),
        "similarity",
        caption="Combined token similarity (0.4 cosine + 0.3 Jaccard + 0.3 / (1 + Jensen-Shannon divergence in "
        "nats)); distributions without a common token have 0.18. Samples are compared between disjoint halves, so "
        "the diagonal is not 1 but what two draws of the same text reach: the ceiling for its row. Mixtures hold "
        "their corpora at their shares, weighted exactly. One sample each, no interval.",
    )


def proximity(report: Report) -> Html:
    """Proximity advantage of every mix to every task, in numbers."""
    found = report.tables.proximity
    if found is None:
        return UNCOUNTED if report.manifest.counts else Html("")
    if found.empty:
        return paragraph("The study compares no mixtures.", css="note")
    rows: list[Row] = []
    for task, of_task in found.groupby("task", sort=False):
        rows.append(Heading(spoken(task)))
        ordered = of_task.sort_values("pa_combined", ascending=False, kind="stable")
        rows += [
            [
                spoken(row["mix_name"]),
                spoken(row["reference"]),
                *(difference(row[f"pa_{one}"]) for one in ("combined", "cosine", "jaccard", "js")),
            ]
            for _, row in ordered.iterrows()
        ]
    return table(
        ["mix", "against", "combined", "cosine", "Jaccard", "1 / (1 + JSD)"],
        rows,
        caption="Proximity advantage: how much closer the mix lies to the task than its reference does, by measure of "
        "similarity; the closest mix first. One sample each, no interval.",
        num_text_columns=2,
    )
