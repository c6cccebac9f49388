"""Curves: measures at several states of a run, plotted over its steps."""

from __future__ import annotations

from midstudy.report.cells import cell_factors, differing, readable
from midstudy.report.figures.runs import runs_figure
from midstudy.report.html import Html, paragraph
from midstudy.report.numbers import unit
from midstudy.report.report import Report


def curves(report: Report) -> Html:
    """Show a figure for each measured curve; nothing if the study has none."""
    manifest, table = report.manifest, report.tables.curves
    names = [name for name, column in manifest.columns.items() if column.is_curve]
    shown = Html("")
    for name in names:
        rows = table[table["column"] == name]
        if rows["value"].notna().sum() == 0:
            shown += paragraph(f"{manifest.title_of(name)}: not measured yet.", css="note")
            continue
        arms = differing(rows, cell_factors(manifest))
        measured = manifest.columns[name]
        drawn = runs_figure(rows, title=manifest.title_of(name), unit=unit(measured.metric), names=arms, seed=report.seed)
        unfinished = int(rows["value"].isna().sum())
        shown += report.figure(
            drawn,
            f"curve-{name.replace('_', '-')}",
            caption=f"{manifest.title_of(name)} on {readable(measured.data) or 'the data of its arm'}, "
            f"{measured.split} split, {unit(measured.metric)}, "
            f"{measured.better} is better: "
            + (
                f"means over n values of {readable(report.seed)}; thin lines: single values; bands: 95 % t-intervals."
                if report.seed
                else "one line per run."
            )
            + (f" {unfinished} of {len(rows)} points are not finished." if unfinished else ""),
        )
    return shown
