"""Paired comparison of two arms over the seeds they share.

Arms share their randomness, so differences are taken within a pair of runs with the same seeds. The unit of replication is
the first of the study's seeds: the others are averaged within it, because runs that share it are not independent trainings.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from statistics import fmean

import pandas as pd

from midstudy.analysis.intervals import holm, mean_interval

#: Columns that ``summarise`` gives. A positive difference means that the arm is better than its reference.
SUMMARY_COLUMNS = (
    "num_seeds",
    "num_inner_seeds",
    "reference",
    "value",
    "difference",
    "ci_low",
    "ci_high",
    "relative_improvement",
    "relative_ci_low",
    "relative_ci_high",
    "p_value",
    "note",
)

#: Columns that ``pair_by_seed`` gives behind the replicating seed.
SEED_COLUMNS = ("num_inner_seeds", "reference", "value", "difference", "relative_improvement")


def pair_by_seed(
    rows: pd.DataFrame, reference: pd.DataFrame, *, column: str, seeds: Sequence[str], better: str
) -> pd.DataFrame:
    """Values of two arms for the seeds finished in both, averaged over all seeds but the first.

    Returns one row per value of ``seeds[0]``: that seed, num_inner_seeds, reference, value, difference (positive where the
    arm is better, with ``better`` lower or higher) and relative_improvement (difference over the reference's size, NaN where
    that is 0). Empty where nothing is shared; one row without a seed where ``seeds`` is empty.
    """
    # Plain dictionaries: a merge and a grouped aggregation of a handful of rows cost pandas 15 ms, a hundred times as much.
    other = dict(zip(seed_values(reference, seeds), reference[column].astype(float), strict=True))
    found: dict[tuple[Hashable, ...], list[tuple[Hashable, float, float]]] = {}
    for run, value in zip(seed_values(rows, seeds), rows[column].astype(float), strict=True):
        reference_value = other.get(run, math.nan)
        if not (math.isnan(value) or math.isnan(reference_value)):
            found.setdefault(run[:1], []).append((run[1:], reference_value, value))
    records = []
    for seed in sorted(found):
        inner, references, values = zip(*found[seed], strict=True)
        before, after = fmean(references), fmean(values)
        difference = before - after if better == "lower" else after - before
        relative = difference / abs(before) if before else math.nan
        records.append((*seed, len(set(inner)), before, after, difference, relative))
    return pd.DataFrame(records, columns=[*seeds[:1], *SEED_COLUMNS])


def seed_values(rows: pd.DataFrame, seeds: Sequence[str]) -> Iterator[tuple[Hashable, ...]]:
    """The seeds of each row."""
    return zip(*(rows[seed] for seed in seeds), strict=True) if seeds else iter([()] * len(rows))


def summarise(by_seed: pd.DataFrame) -> dict[str, object]:
    """Means over seeds with 95 % t-intervals, for the output of ``pair_by_seed``.

    ``ci_low`` and ``ci_high`` belong to ``difference``; ``p_value`` is the two-sided paired t-test's.
    ``relative_improvement`` is the mean of the seeds' own ratios, so that it has an interval of its own.
    ``num_inner_seeds`` is the smallest number of inner seeds behind a seed's value.
    """
    difference = mean_interval(by_seed["difference"])
    relative = mean_interval(by_seed["relative_improvement"])
    return {
        "num_seeds": difference.n,
        "num_inner_seeds": int(by_seed["num_inner_seeds"].min()) if difference.n else 0,
        "reference": float(by_seed["reference"].mean()),
        "value": float(by_seed["value"].mean()),
        "difference": difference.mean,
        "ci_low": difference.low,
        "ci_high": difference.high,
        "relative_improvement": relative.mean,
        "relative_ci_low": relative.low,
        "relative_ci_high": relative.high,
        "p_value": difference.p_value,
        "note": difference.note,
    }


def comparison_table(records: Iterable[dict[str, object]], *, columns: Sequence[str]) -> pd.DataFrame:
    """A table of comparisons with Holm-corrected p values, the family being all tested rows of this table.

    Adds ``p_holm`` and ``family_size`` (rows tested) to ``columns``; keeps the columns of an empty table.
    """
    table = pd.DataFrame(list(records), columns=list(columns))
    p_values = table["p_value"].astype(float)
    table["p_holm"] = holm(p_values.to_numpy())
    table["family_size"] = int(p_values.notna().sum())
    return table
