"""Curves: measures at several states of a run, plotted over its steps."""

from __future__ import annotations

from midstudy.report.cells import cell_factors, differing, readable
from midstudy.report.figures.runs import runs_figure
from midstudy.report.html import Html, paragraph
from midstudy.report.numbers import unit
from midstudy.report.report import Report


def curves(report: Report) -> Html:
    """Show a figure for each measured curve, or a note if the study has none."""
    manifest, table = report.manifest, report.tables.curves
    names = [name for name, column in manifest.columns.items() if column.is_curve]
    if not names:
        return paragraph("The study measures no curves.", css="note")
    shown = Html("")
    for name in names:
        rows = table[table["column"] == name]
        if rows["value"].notna().sum() == 0:
            shown += paragraph(f"{readable(name)}: not measured yet.", css="note")
            continue
        arms = differing(rows, cell_factors(manifest))
        measured = manifest.columns[name]
        drawn = runs_figure(rows, column=name, unit=unit(measured.metric), names=arms, seed=report.seed)
        unfinished = int(rows["value"].isna().sum())
        shown += report.figure(
            drawn,
            f"curve-{name.replace('_', '-')}",
            caption=f"{readable(name)} on {readable(measured.data)} {measured.split}, {unit(measured.metric)}, "
            f"{measured.better} is better: "
            + (
                f"means over n values of {readable(report.seed)}; thin lines: single values."
                if report.seed
                else "one line per run."
            )
            + (f" {unfinished} of {len(rows)} points are not finished." if unfinished else ""),
        )
    return shown
