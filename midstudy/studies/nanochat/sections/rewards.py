"""What RL adds to SFT: right answers before and after, beside how many prompts have a right answer among drawn ones."""

from __future__ import annotations

import math

import pandas as pd

from midstudy.analysis.intervals import mean_interval
from midstudy.report.html import Html, Row, bold, lines, small, table
from midstudy.report.numbers import interval, whole_percent
from midstudy.report.report import Report
from midstudy.studies.nanochat.abilities import ANSWERS, PASS_AT, pass_column
from midstudy.studies.nanochat.arms import REWARDED
from midstudy.studies.nanochat.chain import rows_of, shares_of


def rewards(report: Report) -> Html:
    """Show a row for each task that RL rewards; nothing where no arm has RL."""
    if not (report.tables.arms["after"] == "rl").any():
        return Html("")
    return table(
        [
            "RL on",
            "right before",
            "right after",
            "change, points",
            f"one of {PASS_AT} before",
            f"one of {PASS_AT} after",
            "commonest answer",
        ],
        [_row(report, column) for column in REWARDED],
        caption=f"Share of test items: right greedy answers, and at least one right among {PASS_AT} drawn at temperature 1 "
        "(pass@8, unbiased). Means over seeds, below them each seed; the interval of the change is a t interval over seeds. "
        "RL learns from prompts that have right and wrong answers: where hardly an item has one among eight, rewards say "
        "nothing, and where nearly all have, little is left to learn. The last column is the share "
        "for which the commonest answer is right: RL that ends there gives the same answer to everything.",
    )


def _row(report: Report, column: str) -> Row:
    before, arms = rows_of(report, "base → mid → SFT"), report.tables.arms
    after = arms[(arms["after"] == "rl") & (arms["rl"] == column)]
    seed = str(report.seed)
    change = 100 * (after.set_index(seed)[column] - before.set_index(seed)[column]).dropna()
    gap = mean_interval(change)
    return [
        ANSWERS[column][-1],
        _shares(before[column]),
        _shares(after[column]),
        lines([bold(f"{gap.mean:+.0f}"), small(interval(gap.low, gap.high, lambda points: f"{points:+.0f}"))]),
        _shares(before[pass_column(column)]),
        _shares(after[pass_column(column)]),
        whole_percent(max((one.commonest for one in shares_of(report, "base → mid → SFT", column)), default=math.nan)),
    ]


def _shares(shares: pd.Series) -> Html:
    return lines([bold(whole_percent(shares.mean())), small(" ".join(f"{100 * share:.0f}" for share in shares.dropna()))])
