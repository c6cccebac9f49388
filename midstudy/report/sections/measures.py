"""Every measured value beside each other, for studies of a few arms: losses, noise scales, pass@k. Shares have their own."""

from __future__ import annotations

import math

from midstudy.analysis.shares import SHARES
from midstudy.report.cells import differing, label
from midstudy.report.html import Html, table
from midstudy.report.numbers import ABSENT, decimal, unit
from midstudy.report.report import Report

MAX_ARMS = 6
"""Of more arms, the table would not fit a page; comparisons and `arms.csv` have their values."""


def measures(report: Report) -> Html:
    """Show one row a measure and one column an arm, except of curves and shares; nothing for studies of many arms."""
    arms, columns = report.tables.arms, report.manifest.columns
    shown = [name for name, one in columns.items() if not one.is_curve and one.metric not in SHARES]
    if not 1 < len(arms) <= MAX_ARMS or not shown:
        return Html("")
    names = differing(arms, [*report.manifest.factor_names])
    rows = [
        [
            report.manifest.title_of(name),
            unit(columns[name].metric),
            *(decimal(value) if math.isfinite(value) else ABSENT for value in arms[name]),
        ]
        for name in shown
    ]
    return table(
        ["measure", "unit", *(label(arm, names) for _, arm in arms.iterrows())],
        rows,
        num_text_columns=2,
        caption="What was measured of each arm, without interval. A dash: not measured of this arm, or not finite.",
    )
