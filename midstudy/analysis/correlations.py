"""How well proximity advantage predicts relative improvement, over all pairs of a mix and a task and within tasks.

Pearson's r over the pairs is the figure of arXiv 2510.14865. Pairs share mixes and tasks, so its interval resamples mixes
and tasks (`pigeonhole`) and its p values relabel them (`qap`). Because a single mix or task can determine r, the row has its
range with each left out. What a user needs, the order of mixes for one task, is `within_task`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from midstudy.analysis.crossed import Crossed, crossed
from midstudy.analysis.mix_task import MEASURES, replicates
from midstudy.analysis.pigeonhole import pigeonhole
from midstudy.analysis.qap import partial_qap, qap
from midstudy.analysis.within_task import rank_within_tasks, regret_at_1, replicate_agreement


def correlations(pairs: pd.DataFrame, *, measure: str = "combined", by: str | None = None) -> pd.DataFrame:
    """Correlate proximity advantage with relative improvement: one row per value of column `by`, or one for all pairs.

    Columns: `by`, measure, those of `correlate_pairs`. A value that cannot be computed is NaN and `reason` says why, so that
    a study in progress has a report.

    Args:
        pairs: as `mix_task.mix_task_pairs` returns it; pairs without an improvement are left out.

    Raises:
        ValueError: the measure is unknown, or a mix and task has several rows.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure: expected one of {', '.join(MEASURES)}, got '{measure}'")
    groups = [({}, pairs)] if by is None else [({by: value}, rows) for value, rows in pairs.groupby(by, sort=False)]
    return pd.DataFrame(
        {**group, "measure": measure, **correlate_pairs(rows, x=f"pa_{measure}", y="relative_improvement")}
        for group, rows in groups
    )


def correlate_pairs(pairs: pd.DataFrame, *, x: str, y: str) -> dict[str, Any]:
    """Correlate two columns.

    Returns num_pairs, num_mixes, num_tasks, r, `ci_low` and `ci_high` (95 % pigeonhole interval), `p_value` and `spearman_p`
    (two-sided QAP); `p_directed`, the p of a verdict on r (`PermutationTest.p_directed`); the range of r without one mix,
    task or pair, and the name of what is left out; `rank_*`, `ceiling_rho` and `regret_points` (in points of percent) as in
    `within_task`; `partial_*`, the correlation given the mix's dose.
    """
    table = crossed(pairs, x=x, y=y)
    pearson, spearman, resamples = qap(table), qap(table, by_rank=True), pigeonhole(table)
    low, high = resamples.interval()
    ranking, regret = rank_within_tasks(table), regret_at_1(table)
    ceiling = replicate_agreement([_on(table, pairs, name) for name in replicates(pairs)])
    partial = partial_qap(table, _doses(table, pairs))
    unmeasured = int(pairs[y].isna().sum())
    reasons = {
        "pairs": f"{unmeasured} of {len(pairs)} are not finished" if unmeasured else "",
        "r": table.undefined(),
        "interval and p": "" if table.undefined() else table.uncrossed(),
        "rank within tasks": ranking.reason,
        "agreement of seeds": ceiling.reason,
        "r given dose": partial.reason if not table.undefined() else "",
    }
    return {
        "num_pairs": table.num_pairs,
        "num_mixes": len(table.mixes),
        "num_tasks": len(table.tasks),
        "r": pearson.statistic,
        "ci_low": low,
        "ci_high": high,
        "num_degenerate": resamples.num_degenerate,
        "p_value": pearson.p_two_sided,
        "p_directed": pearson.p_directed,
        "num_relabellings": pearson.num_relabellings,
        "spearman_rho": spearman.statistic,
        "spearman_p": spearman.p_two_sided,
        **_without_each(table),
        "rank_rho": ranking.mean_rho,
        "rank_p": ranking.p_within_tasks,
        "rank_p_labels": ranking.p_labels,
        "num_ranked_tasks": ranking.num_tasks,
        "ceiling_rho": ceiling.mean_rho,
        "num_ceiling_tasks": ceiling.num_tasks,
        "regret_points": 100 * regret.mean,
        "num_named": regret.num_named,
        "num_regret_tasks": regret.num_tasks,
        "partial_r": partial.statistic,
        "partial_p": partial.p_two_sided,
        "reason": "; ".join(f"{what}: {why}" for what, why in reasons.items() if why),
    }


def _without_each(table: Crossed) -> dict[str, float | str]:
    everything = slice(None)
    left_out = {
        "mix": {name: table.without(index, everything).r() for index, name in enumerate(table.mixes)},
        "task": {name: table.without(everything, index).r() for index, name in enumerate(table.tasks)},
        "pair": {
            f"{table.mixes[mix]} → {table.tasks[task]}": table.without(mix, task).r()
            for mix, task in np.argwhere(table.is_pair)
        },
    }
    ends: tuple[tuple[str, Callable[..., str]], ...] = (("low", min), ("high", max))
    found: dict[str, float | str] = {}
    for kind, values in left_out.items():
        defined = {name: r for name, r in values.items() if not math.isnan(r)}
        for end, extreme in ends:
            name = extreme(defined, key=defined.__getitem__, default="")
            found |= {f"without_{kind}_{end}": defined.get(name, math.nan), f"without_{kind}_{end}_name": name}
    return found


def _on(table: Crossed, pairs: pd.DataFrame, column: str) -> np.ndarray:
    """Return another column of the pairs, mixes × tasks of the table."""
    values = pairs.pivot(index="mix_label", columns="task_label", values=column)
    return values.reindex(index=list(table.mixes), columns=list(table.tasks)).to_numpy(dtype=float)


def _doses(table: Crossed, pairs: pd.DataFrame) -> np.ndarray:
    """Return the dose of every mix, the mean over its pairs; NaN where it is not known."""
    return pairs.groupby("mix_label")["dose"].mean().reindex(list(table.mixes)).to_numpy(dtype=float)
