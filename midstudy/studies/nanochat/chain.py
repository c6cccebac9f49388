"""The states that nanochat's report shows side by side, and what a measure found at each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from midstudy.recipe.factors import Value
from midstudy.report.report import Report
from midstudy.studies.nanochat.arms import MASKED, MIXED, NONE, SEQUENTIAL

STATES: dict[str, dict[str, Value]] = {
    "base": {"after": "base"},
    "base → SFT": {"after": "sft", "mid": NONE},
    "base → mid": {"after": "mid", "mid": MIXED},
    "base → mid → SFT": {"after": "sft", "mid": MIXED, "sft": MASKED},
    "… → RL on word problems": {"after": "rl", "rl": "mathematics"},
    "… → RL on letters": {"after": "rl", "rl": "counting"},
    "base → sequential mid": {"after": "mid", "mid": SEQUENTIAL},
}
"""The states of a study by name, as the factors of their arms."""


@dataclass(frozen=True)
class Share:
    """The share of items at a state of one seed, with its Wilson interval; NaN where the state is not measured yet."""

    seed: int
    share: float
    low: float
    high: float
    num_items: int
    commonest: float
    """The share for which the commonest answer is right."""


def rows_of(report: Report, state: str) -> pd.DataFrame:
    """Return the rows of the table of arms at a state of `STATES`, by seed."""
    rows = report.tables.arms
    for name, value in STATES[state].items():
        rows = rows[rows[name] == value]
    return rows.sort_values(str(report.seed))


def shares_of(report: Report, state: str, column: str) -> Iterator[Share]:
    """Yield the share of every seed at a state."""
    found = report.tables.shares
    for row, arm in rows_of(report, state).iterrows():
        evaluations = report.manifest.arms[int(str(row))].measures.get(column, ())
        if found is None or not evaluations:
            continue
        metric = report.manifest.columns[column].metric
        for _, share in found[(found["evaluation"] == evaluations[0]) & (found["metric"] == metric)].iterrows():
            yield Share(
                seed=int(arm[str(report.seed)]),
                share=float(share["share"]),
                low=float(share["ci_low"]),
                high=float(share["ci_high"]),
                num_items=int(share["num_items"]),
                commonest=float(share.get("commonest", math.nan)),
            )
