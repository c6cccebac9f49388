"""Shares of right answers by subject, for questions whose rows name one, at every state that was asked."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from midstudy.analysis.share_intervals import wilson_interval
from midstudy.analysis.shares import SHARES
from midstudy.report.cells import readable
from midstudy.report.html import Heading, Html, Row, details, table
from midstudy.report.numbers import interval, number, percent
from midstudy.report.report import Report

MIN_ITEMS = 10
"""Subjects with fewer items are left out: their intervals say nothing."""


def subjects(report: Report) -> Html:
    """Show a table of shares by measure, subject and state; nothing if the items have no subject."""
    found, items = report.tables.shares, report.tables.items
    if found is None or items is None or "subject" not in items.columns:
        return Html("")
    rows = [row for _, group in found.groupby("measure", sort=False) for row in _rows(report, group, items)]
    if not rows:
        return Html("")
    shown = table(
        ["subject", "state", "items", "share", "95 % interval"],
        rows,
        num_text_columns=2,
        caption=f"Share of right answers by subject, of subjects with at least {MIN_ITEMS} items. Intervals are over the "
        "items (Wilson's) and not corrected for the number of subjects: of twenty subjects at chance, one is expected "
        "beyond its interval.",
    )
    return details("By subject", shown)


def _rows(report: Report, group: pd.DataFrame, items: pd.DataFrame) -> Iterator[Row]:
    states = [(row, _of_state(report, row, items)) for _, row in group.sort_values("step", kind="stable").iterrows()]
    sizes = states[0][1]["subject"].value_counts()
    names, first = sorted(sizes[sizes >= MIN_ITEMS].index), group.iloc[0]
    if names:
        yield Heading(f"{readable(first['metric'])} on {readable(first['data'])}, {first['split']} split")
    for name in names:
        for row, part in states:
            values = part.loc[part["subject"] == name, SHARES[row["metric"]]]
            share = float(values.mean(skipna=False))
            ends = interval(*wilson_interval(share, len(values)), percent)
            yield [readable(name), row["state"], number(len(values)), percent(share), ends]


def _of_state(report: Report, row: pd.Series, items: pd.DataFrame) -> pd.DataFrame:
    """Return the items of a row of the table of shares, of the first arm that shows them."""
    arms = report.manifest.arms
    arm = next(number for number, one in enumerate(arms) if row["evaluation"] in one.measures.get(row["column"], ()))
    return items[(items["arm"] == arm) & (items["column"] == row["column"]) & (items["step"] == row["step"])]
