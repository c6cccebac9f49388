"""Claims that were fixed before the run, each with what the study measured."""

from __future__ import annotations

from midstudy.analysis.claims import judge
from midstudy.report.html import Html, Row, element, lines, paragraph, table
from midstudy.report.numbers import p_value
from midstudy.report.report import Report

VERDICTS = {"yes": "yes", "no": "NO", "inconclusive": "undecided"}


def claims(report: Report) -> Html:
    """Show every claim with the source's numbers, this study's numbers, and the verdict."""
    if not report.manifest.claims:
        return paragraph("The study makes no claims.", css="note")
    judged = judge(report.tables)
    rows: list[Row] = [
        [
            row.text,
            lines(str(row.cited or row.source).split("; ")),
            row.ours,
            p_value(float(row.p_holm)),
            element("span", VERDICTS[str(row.verdict)], css=f"verdict-{row.verdict}"),
        ]
        for row in judged.itertuples()
    ]
    counts = {verdict: int((judged["verdict"] == verdict).sum()) for verdict in VERDICTS}
    sources = ", ".join(dict.fromkeys(str(source) for source in judged["source"]))
    caption = (
        f"{len(judged)} claims of {sources}: {counts['yes']} hold here, {counts['no']} do not, {counts['inconclusive']} are "
        "undecided: their 95 % interval over seeds contains the margin, or there is no interval. A quantity measured once "
        "is judged by its value. p values are Holm-corrected within each family of claims. Directions are compared, not "
        "levels: models, data and tokenizer differ from the source's."
    )
    return table(["claim", "the source", "this study", "p, Holm", "holds"], rows, caption=caption, num_text_columns=3)
