"""Correlation of proximity with improvement over pairs of a mix and a task, with its sensitivity to single pairs.

Pearson's r of proximity advantage with relative improvement over the arms of a comparison (arXiv 2510.14865). A few pairs of
a mix and the task that it was made for can determine r, so the row also has Spearman's rho, the leave-one-out range, r of
the unmatched pairs, r without the best pair, and a bootstrap over pairs. Pairs share mixes, tasks and a reference, so they
are not independent; the intervals assume independence and are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from midstudy.analysis.intervals import CONFIDENCE, MIN_PAIRS_OF_A_CORRELATION, fisher_interval

MEASURES = ("combined", "cosine", "jaccard", "js")
BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_SEED = 20251014

CORRELATION_COLUMNS = [
    "measure",
    "n_pairs",
    "r",
    "ci_low",
    "ci_high",
    "p_value",
    "spearman_rho",
    "spearman_p",
    "leave_one_out_low",
    "leave_one_out_low_without",
    "leave_one_out_high",
    "leave_one_out_high_without",
    "n_unmatched",
    "r_unmatched",
    "best_pair",
    "r_without_best_pair",
    "bootstrap_low",
    "bootstrap_high",
    "reason",
]


def with_proximity(effects: pd.DataFrame, proximity: pd.DataFrame, *, factors: Sequence[str], task: str) -> pd.DataFrame:
    """Return the rows of `Effects.table` with their proximity advantages `pa_*`.

    Args:
        proximity: as `tables.similarity_tables` returns it.
        factors: the factors that tell the mixes apart, columns of both tables.
        task: the factor of the arms that names the task.

    Raises:
        ValueError: a mix and task has no proximity advantage, or several; the message names the arm.
    """
    columns = [f"pa_{measure}" for measure in MEASURES]
    known: dict[tuple[Any, ...], list[pd.Series]] = {}
    for _, row in proximity.iterrows():
        known.setdefault((*(row[name] for name in factors), row["task"]), []).append(row)
    joined = effects.reset_index(drop=True)
    found = []
    for _, row in joined.iterrows():
        rows = known.get((*(row[name] for name in factors), row[task]), [])
        if len(rows) != 1 or rows[0][columns].isna().any():
            label = ", ".join(f"{name} {row[name]}" for name in (*factors, task))
            raise ValueError(
                f"{label}: expected one mix with a proximity advantage, got {len(rows)}; add it to Study(mixes=...)"
            )
        found.append([float(rows[0][column]) for column in columns])
    return joined.assign(**dict(zip(columns, np.array(found, dtype=float).reshape(-1, len(columns)).T, strict=True)))


def correlations(pairs: pd.DataFrame, *, measure: str = "combined", by: str | None = None) -> pd.DataFrame:
    """Correlate proximity advantage with relative improvement: one row per value of column `by`, or one for all pairs.

    `pairs` has the columns pair (its name), matched (True if the mix was made for the task), pa_* and relative_improvement.
    A value that cannot be computed (fewer than four pairs, no variation) is NaN and `reason` says why, so that a study in
    progress has a report.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure: expected one of {', '.join(MEASURES)}, got '{measure}'")
    groups = [({}, pairs)] if by is None else [({by: value}, rows) for value, rows in pairs.groupby(by, sort=False)]
    records = [
        {**group, "measure": measure, **correlate_pairs(rows, x=f"pa_{measure}", y="relative_improvement")}
        for group, rows in groups
    ]
    return pd.DataFrame(records, columns=[*([] if by is None else [by]), *CORRELATION_COLUMNS])


def correlate_pairs(pairs: pd.DataFrame, *, x: str, y: str) -> dict[str, Any]:
    """Correlate two columns; returns the entries of `CORRELATION_COLUMNS` after measure."""
    xs, ys = pairs[x].to_numpy(dtype=float), pairs[y].to_numpy(dtype=float)
    names = pairs["pair"].tolist()
    unmatched = ~pairs["matched"].to_numpy(dtype=bool)
    reasons: dict[str, str] = {}

    r, p_value, reasons["r"] = _pearson(xs, ys)
    rho, rho_p = _spearman(xs, ys)
    low, high = fisher_interval(r, xs.size)
    r_unmatched, _, reasons["unmatched pairs"] = _pearson(xs[unmatched], ys[unmatched])

    left_out: Mapping[str, float] = {
        name: _pearson(np.delete(xs, index), np.delete(ys, index))[0] for index, name in enumerate(names)
    }
    defined = {name: value for name, value in left_out.items() if not math.isnan(value)}
    lowest = min(defined, key=defined.__getitem__, default="")
    highest = max(defined, key=defined.__getitem__, default="")
    if not defined:
        reasons["leave one out"] = "no subset with a correlation"
    best = names[int(np.argmax(ys))] if names else ""
    bootstrap_low, bootstrap_high, reasons["bootstrap"] = _bootstrap_interval(xs, ys)
    return {
        "n_pairs": int(xs.size),
        "r": r,
        "ci_low": low,
        "ci_high": high,
        "p_value": p_value,
        "spearman_rho": rho,
        "spearman_p": rho_p,
        "leave_one_out_low": defined.get(lowest, math.nan),
        "leave_one_out_low_without": lowest,
        "leave_one_out_high": defined.get(highest, math.nan),
        "leave_one_out_high_without": highest,
        "n_unmatched": int(unmatched.sum()),
        "r_unmatched": r_unmatched,
        "best_pair": best,
        "r_without_best_pair": left_out.get(best, math.nan),
        "bootstrap_low": bootstrap_low,
        "bootstrap_high": bootstrap_high,
        "reason": "; ".join(f"{what}: {why}" for what, why in reasons.items() if why),
    }


def _pearson(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> tuple[float, float, str]:
    """Return r, its two-sided p and, if they are NaN, the reason."""
    if xs.size < MIN_PAIRS_OF_A_CORRELATION:
        return math.nan, math.nan, f"expected at least {MIN_PAIRS_OF_A_CORRELATION} pairs, got {xs.size}"
    for name, values in (("proximity advantage", xs), ("relative improvement", ys)):
        if _is_constant(values):
            return math.nan, math.nan, f"{name} does not vary"
    from scipy import stats

    result = stats.pearsonr(xs, ys)
    return float(result.statistic), float(result.pvalue), ""


def _spearman(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> tuple[float, float]:
    if xs.size < MIN_PAIRS_OF_A_CORRELATION or _is_constant(xs) or _is_constant(ys):
        return math.nan, math.nan
    from scipy import stats

    result = stats.spearmanr(xs, ys)
    return float(result.statistic), float(result.pvalue)


def _bootstrap_interval(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> tuple[float, float, str]:
    """Return the 95 % percentile bootstrap interval of r over pairs; resamples without variation are dropped."""
    if math.isnan(_pearson(xs, ys)[0]):
        return math.nan, math.nan, "r is not defined"
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    draws = generator.integers(0, xs.size, size=(BOOTSTRAP_RESAMPLES, xs.size))
    draws = draws[(np.ptp(xs[draws], axis=1) > 0) & (np.ptp(ys[draws], axis=1) > 0)]
    x = xs[draws] - xs[draws].mean(axis=1, keepdims=True)
    y = ys[draws] - ys[draws].mean(axis=1, keepdims=True)
    r = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.clip(r, -1.0, 1.0), [tail, 1 - tail])
    return float(low), float(high), ""


def _is_constant(values: NDArray[np.float64]) -> bool:
    return bool(np.ptp(values) <= 1e-12 * max(float(np.abs(values).max()), 1e-300))
