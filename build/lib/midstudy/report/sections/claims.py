"""Claims that were fixed before the run, each beside what the study found."""

from __future__ import annotations

from midstudy.analysis.claims import judge
from midstudy.report.html import Html, Row, element, lines, paragraph, table
from midstudy.report.numbers import p_value
from midstudy.report.report import Report

VERDICTS = {"yes": "yes", "no": "NO", "inconclusive": "not decided"}


def claims(report: Report) -> Html:
    """Every claim with its source's numbers, this study's, and whether they agree."""
    if not report.manifest.claims:
        return paragraph("The study makes no claims.", css="note")
    found = judge(report.tables)
    rows: list[Row] = [
        [
            row.text,
            lines(str(row.cited or row.source).split("; ")),
            row.ours,
            p_value(float(row.p_holm)),
            element("span", VERDICTS[str(row.verdict)], css=f"verdict-{row.verdict}"),
        ]
        for row in found.itertuples()
    ]
    counts = {verdict: int((found["verdict"] == verdict).sum()) for verdict in VERDICTS}
    sources = ", ".join(dict.fromkeys(str(one) for one in found["source"]))
    caption = (
        f"{len(found)} claims of {sources}: {counts['yes']} hold here, {counts['no']} do not, {counts['inconclusive']} are "
        "not decided, that is their 95 % interval over seeds holds the margin or there is none; what is measured once goes "
        "by its value. Holm's correction is within a family of claims. Directions are compared, not levels: models, data "
        "and tokenizer are not the source's."
    )
    return table(["claim", "the source", "this study", "p, Holm", "holds"], rows, caption=caption, num_text_columns=3)
