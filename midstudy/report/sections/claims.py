"""Claims that were fixed before the run, each with what the study measured and the test that decides it."""

from __future__ import annotations

import pandas as pd

from midstudy.report.cells import readable
from midstudy.report.html import Html, Row, element, lines, table
from midstudy.report.numbers import p_value
from midstudy.report.report import Report

VERDICTS = {"yes": "yes", "no": "NO", "inconclusive": "undecided"}


def claims(report: Report) -> Html:
    """Show every claim with the source's numbers, this study's numbers, and the verdict; nothing if there are none."""
    if not report.manifest.claims:
        return Html("")
    judged = report.judged
    rows: list[Row] = [
        [
            readable(row.text),
            lines(str(row.cited or row.source).split("; ")),
            readable(row.ours),
            p_value(float(row.p_holm)),
            element("span", VERDICTS[str(row.verdict)], css=f"verdict-{row.verdict}"),
        ]
        for row in judged.itertuples()
    ]
    counts = {verdict: int((judged["verdict"] == verdict).sum()) for verdict in VERDICTS}
    sources = ", ".join(dict.fromkeys(str(source) for source in judged["source"]))
    caption = (
        f"{len(judged)} claims of {sources}: {counts['yes']} hold here, {counts['no']} do not, {counts['inconclusive']} are "
        "undecided. A verdict is a test: a claim is decided, in either direction, if its p value is below 0.05 after "
        f"Holm's correction within its family of claims (tested claims: {_families(judged)}). Claims with a direction: "
        "two-sided t test over seeds at the margin. Claims of no change: two one-sided tests (TOST) that the effect lies "
        "within the margins, each at 5 %. A claim on several arms holds only if it holds for each (the largest p); to "
        "reject it, the smallest p is multiplied by their number. The intervals shown are uncorrected 95 % intervals. A "
        "single seed decides nothing. A quantity without sampling error is judged by its value and has no p. Directions "
        "are compared, not levels: models, data and tokenizer differ from the source's."
    )
    return table(["claim", "the source", "this study", "p, Holm", "holds"], rows, caption=caption, num_text_columns=3)


def _families(judged: pd.DataFrame) -> str:
    """Name the families with the number of tested claims in each: 'task loss: 7; proximity: 1'."""
    tested = judged[judged["p_value"].notna()]
    counts = tested.groupby("family", sort=False).size()
    return "; ".join(f"{family or 'no family'}: {number}" for family, number in counts.items()) or "none is tested"
