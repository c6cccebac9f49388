"""Shares of right answers: every state that was asked, with its interval and its change from the state before."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from midstudy.report.cells import readable
from midstudy.report.html import Heading, Html, Row, table
from midstudy.report.numbers import interval, number, p_value, percent, signed_percent
from midstudy.report.report import Report


def shares(report: Report) -> Html:
    """Show a table of all measures that are shares, by measure and state; nothing if the study has none."""
    found = report.tables.shares
    if found is None:
        return Html("")
    return table(
        ["state", "items", "share", "95 % interval", "change, points", "95 % interval", "p"],
        _rows(report, found),
        caption="Share of items that are right, or well-formed, at each state. Intervals are over the items, for these "
        "weights: Wilson's score interval. Change: from the last state before it in its run, on the same items, in "
        "percentage points, with the interval of Agresti and Min and the p value of McNemar's exact test, not corrected for "
        "the number of rows. Other seeds of training vary beside the items: comparisons between arms are paired over seeds.",
    )


def _rows(report: Report, found: pd.DataFrame) -> Iterator[Row]:
    for _, group in found.groupby("measure", sort=False):
        first, titles = group.iloc[0], ", ".join(dict.fromkeys(map(report.manifest.title_of, group["column"])))
        known = first.get("commonest", math.nan)  # absent in tables of before
        same = "" if math.isnan(known) else f"; the commonest answer would be right for {percent(known)}"
        yield Heading(f"{readable(first['metric'])} on {readable(first['data'])}, {first['split']} split ({titles}){same}")
        for _, row in group.iterrows():
            yield [
                row["state"],
                number(row["num_items"]),
                percent(row["share"]),
                interval(row["ci_low"], row["ci_high"], percent),
                signed_percent(row["change"]),
                interval(row["change_low"], row["change_high"], signed_percent),
                p_value(row["p_value"]),
            ]
