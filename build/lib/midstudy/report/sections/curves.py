"""Measures at several states of a run, drawn over its steps."""

from __future__ import annotations

from midstudy.report.cells import cell_factors, differing, spoken
from midstudy.report.figures.runs import runs_figure
from midstudy.report.html import Html, paragraph
from midstudy.report.numbers import unit
from midstudy.report.report import Report


def curves(report: Report) -> Html:
    """A figure for each measured curve; a line where the study has none."""
    manifest, table = report.manifest, report.tables.curves
    names = [name for name, column in manifest.columns.items() if column.is_curve]
    if not names:
        return paragraph("The study measures nothing at several states of a run.", css="note")
    shown = Html("")
    for name in names:
        rows = table[table["column"] == name]
        if rows["value"].notna().sum() == 0:
            shown += paragraph(f"{spoken(name)}: not measured yet.", css="note")
            continue
        arms = differing(rows, cell_factors(manifest))
        about = manifest.columns[name]
        drawn = runs_figure(rows, column=name, unit=unit(about.metric), names=arms, seed=report.seed)
        unfinished = int(rows["value"].isna().sum())
        shown += report.figure(
            drawn,
            f"curve-{name.replace('_', '-')}",
            caption=f"{spoken(name)} on {spoken(about.data)} {about.split}, {unit(about.metric)}, {about.better} is better: "
            + (
                f"means over n values of {spoken(report.seed)}, thin lines: single ones."
                if report.seed
                else "one run a line."
            )
            + (f" {unfinished} of {len(rows)} points are not finished." if unfinished else ""),
        )
    return shown
