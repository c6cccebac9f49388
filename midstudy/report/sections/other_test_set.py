"""Effects for another test set: intervals over seeds and items, beside those over seeds."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from midstudy.analysis.other_test_set import other_test_set as effects_of
from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import in_panel, label, names_of_arms, panels_of
from midstudy.report.html import Heading, Html, Row, details, table
from midstudy.report.numbers import decimal, difference, interval, number, unit
from midstudy.report.report import Report


def other_test_set(report: Report, *names: str) -> Html:
    """Show, for each column of these comparisons whose items are kept, the effects with both intervals, collapsed.

    Without names, of all comparisons of the study. Nothing where no items are kept.
    """
    shown = Html("")
    for entry in report.manifest.comparisons:
        if not names or entry.name in names:
            for column in entry.columns:
                effects = effects_of(report.tables, entry, column)
                if len(effects):
                    summary = f"{entry.title}: {report.manifest.title_of(column)}, for another test set"
                    shown += details(summary, _table(report, entry, column, effects))
    return shown


def _table(report: Report, entry: ComparisonEntry, column: str, effects: pd.DataFrame) -> Html:
    measured = report.manifest.columns[column]
    return table(
        ["arm", "seeds", "items", "better by", "over seeds", "over seeds and items", "error, seeds", "error, items"],
        _rows(report, entry, effects),
        caption=f"{report.manifest.title_of(column)}, {unit(measured.metric)}, {measured.split} split. Over seeds: the 95 % "
        "interval of the paired t-test, for these test items. Over seeds and items: the 95 % interval for another test set "
        "of this size, by the pigeonhole bootstrap of seeds and items; where items vary more than a few seeds, it has more "
        "degrees of freedom than the first and can be the narrower one. The data name no source or template of an item, so "
        "every item is a cluster of its own, and where items are alike the interval is too narrow. Errors: standard errors "
        "from seeds and from items alone.",
    )


def _rows(report: Report, entry: ComparisonEntry, effects: pd.DataFrame) -> Iterator[Row]:
    arms = report.tables.arms
    shown = [*names_of_arms(arms, report.manifest, entry), *([entry.along] if entry.along else [])]
    for title, panel in panels_of(arms, entry):
        rows = in_panel(effects, panel)
        if title and len(rows):
            yield Heading(title)
        for _, row in rows.iterrows():
            yield [
                label(row, shown),
                str(row["num_seeds"]),
                number(row["num_items"]),
                difference(row["difference"]),
                interval(row["ci_low"], row["ci_high"]),
                interval(row["items_ci_low"], row["items_ci_high"]),
                decimal(row["seeds_error"]),
                decimal(row["items_error"]),
            ]
