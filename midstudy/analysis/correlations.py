"""Does proximity predict improvement? Correlation over (mix, task) pairs, with everything that shows what it leans on.

Pearson's r of proximity advantage with relative improvement, per model size over the main group's pairs, the control
excluded (arXiv 2510.14865; the control's advantage is zero by construction). A few matched pairs can carry all of r, so
the row also has Spearman's rho, the leave-one-out range, r of the unmatched pairs alone, r without the best pair, and a
bootstrap over pairs. Pairs share mixes, tasks and one control: they are not independent, and the intervals, which treat
them as if they were, are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from midstudy.analysis.arms import is_member
from midstudy.analysis.intervals import CONFIDENCE, MIN_PAIRS_OF_A_CORRELATION, fisher_interval

#: Mix → the task it is matched with; the authors' "perfect" matches, StarCoder → PyCode and Math → GSM8K.
MATCHED_TASK: dict[str, str] = {"code": "pycode", "math": "word_problems"}
MEASURES = ("combined", "cosine", "jaccard", "js")
BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_SEED = 20251014

CORRELATION_COLUMNS = [
    "size",
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


def proximity_pairs(effects: pd.DataFrame, proximity: pd.DataFrame) -> pd.DataFrame:
    """Join the main group's effects with their proximity advantages, one row per (size, mix, task).

    ``effects`` is ``Effects.table``; ``proximity`` has columns mix, weight, task and pa_combined, pa_cosine,
    pa_jaccard, pa_js. Adds ``pair`` ('code → pycode') and ``matched`` to the effects' columns.

    Raises ValueError naming the pair where a proximity advantage is missing.
    """
    main = effects[is_member(effects, "main")].copy()
    columns = [f"pa_{measure}" for measure in MEASURES]
    known = {(row["mix"], round(float(row["weight"]), 9), row["task"]): row for _, row in proximity.iterrows()}
    for column in columns:
        main[column] = math.nan
    for index, row in main.iterrows():
        found = known.get((row["mix"], round(float(row["weight"]), 9), row["task"]))
        if found is None or any(pd.isna(found[column]) for column in columns):
            raise ValueError(
                f"no proximity advantage of mix '{row['mix']}' at weight {row['weight']:g} to task '{row['task']}'; "
                "finish the study's similarity stage for it"
            )
        main.loc[index, columns] = [float(found[column]) for column in columns]
    main["pair"] = main["mix"].astype(str) + " → " + main["task"].astype(str)
    main["matched"] = is_matched(main)
    return main.reset_index(drop=True)


def is_matched(table: pd.DataFrame) -> pd.Series:
    """Whether each row's mix is made for its task."""
    matched = [MATCHED_TASK.get(mix) == task for mix, task in zip(table["mix"], table["task"], strict=True)]
    return pd.Series(matched, index=table.index, dtype=bool)


def correlations(pairs: pd.DataFrame, *, measure: str = "combined") -> pd.DataFrame:
    """Correlate proximity advantage with relative improvement, one row per size (``CORRELATION_COLUMNS``).

    ``pairs`` comes from ``proximity_pairs``. A value that cannot be computed (fewer than four pairs, no variation) is
    NaN and ``reason`` says so; nothing raises for it, so that a report of a half-done study can be made.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure '{measure}' is unknown; allowed are {', '.join(MEASURES)}")
    records = [
        {"size": size, "measure": measure} | correlate_pairs(rows, x=f"pa_{measure}", y="relative_improvement")
        for size, rows in pairs.groupby("size", sort=False)
    ]
    return pd.DataFrame(records, columns=CORRELATION_COLUMNS)


def correlate_pairs(pairs: pd.DataFrame, *, x: str, y: str) -> dict[str, Any]:
    """One size's correlation of two columns; see ``CORRELATION_COLUMNS`` past size and measure."""
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
    """r, two-sided p, and why they are NaN where they are."""
    if xs.size < MIN_PAIRS_OF_A_CORRELATION:
        return math.nan, math.nan, f"{xs.size} pairs, at least {MIN_PAIRS_OF_A_CORRELATION} are needed"
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
    """95 % percentile interval of r over pairs drawn with replacement; draws without variation are left out."""
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
