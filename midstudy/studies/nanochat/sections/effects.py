"""The comparisons of nanochat's report as tables: a row for each measure, since most references are a share of zero."""

from __future__ import annotations

from collections.abc import Iterator

from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import label, names_of_arms
from midstudy.report.html import Heading, Html, Row, Text, bold, element, table
from midstudy.report.numbers import decimal, difference, interval, number, p_value
from midstudy.report.report import Report


def effects(report: Report) -> Html:
    """Show a table for each comparison that has a result."""
    shown = Html("")
    for entry in report.manifest.comparisons:
        if rows := list(_rows(report, entry)):
            shown += element("h3", entry.title) + table(
                ["measure", "seeds", "reference", "arm", "better by", "95 % interval", "p, Holm"],
                rows,
                caption="In the unit of the measure, positive where the arm is better: a higher share, lower bits per "
                "byte. Paired t-tests over trunk seeds; Holm's correction is over the arms of a measure. Bold: "
                "below 0.05.",
            )
    return shown


def _rows(report: Report, entry: ComparisonEntry) -> Iterator[Row]:
    names = names_of_arms(report.tables.arms, report.manifest, entry)
    found: dict[str, list[Row]] = {}
    for column in entry.columns:
        for _, row in report.effects(entry, column).table.iterrows():
            found.setdefault(label(row, [*entry.match, *names]), []).append(
                [
                    report.manifest.title_of(column),
                    number(int(row["num_seeds"])),
                    decimal(row["reference"]),
                    decimal(row["value"]),
                    _marked(difference(row["difference"]), row["p_holm"] < 0.05),
                    interval(row["ci_low"], row["ci_high"]),
                    p_value(row["p_holm"]),
                ]
            )
    for name, rows in found.items():
        yield Heading(name)
        yield from rows


def _marked(text: str, is_clear: bool) -> Text:
    return bold(text) if is_clear else text
