"""The estimator of the claim that a mix helps more where general text is further from the task."""

from __future__ import annotations

from dataclasses import replace

from midstudy.analysis.crossed import crossed
from midstudy.analysis.estimators import Estimate, of_correlation
from midstudy.analysis.mix_task import mix_task_pairs
from midstudy.analysis.tables import Tables
from midstudy.recipe.factors import selects
from midstudy.recipe.study import Claim

MIN_TASKS = 5
"""The distance is one number per task, so the test relabels tasks: two-sided p values below 0.05 need five of them."""


def distance_and_gain(tables: Tables, claim: Claim) -> Estimate:
    """Return Pearson's r of the control's distance to the task with the relative improvement, over all mixes and tasks.

    The distance is 1 − the combined similarity of the control's corpus to the task. Its 95 % interval is that of the
    pigeonhole bootstrap, its p values those of QAP, which relabels tasks; with fewer than `MIN_TASKS` tasks the estimate has
    no p value, because none of their few relabellings is rare enough, and the claim stays undecided. NaN until tokens are
    counted.

    Raises:
        ValueError: the corpora of two references differ, so that a task has no single distance.
    """
    pairs = mix_task_pairs(tables, tables.manifest.comparison(claim.comparison), claim.column, task="task")
    if pairs is None or tables.proximity is None:
        return Estimate(unit="r")
    pairs = pairs[[selects(claim.arms, dict(row)) for _, row in pairs.iterrows()]]
    if pairs["relative_improvement"].isna().all():
        return Estimate(unit="r")
    references = tables.proximity["reference"].unique()
    if len(references) > 1:
        raise ValueError(f"mixes: expected one reference corpus, got {', '.join(references)}")
    similarity = tables.proximity.groupby("task")["control_combined"].first()
    table = crossed(pairs.assign(distance=1 - pairs["task"].map(similarity)), x="distance", y="relative_improvement")
    found = of_correlation(table, claim)
    found = replace(found, text=found.text.replace("proximity advantage", "the control's distance to the task"))
    if len(table.tasks) >= MIN_TASKS:
        return found
    text = f"{found.text}; {MIN_TASKS} tasks are needed for a test: a distance is one number per task"
    return Estimate(value=found.value, low=found.low, high=found.high, unit="r", text=text)
