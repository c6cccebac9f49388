"""Estimators that decide claims: each returns an estimate with its interval and tests from a study's tables and a claim.

An estimator reads `claim.column` of `claim.comparison` in the cells (arms that differ in seeds alone) with the factors
`claim.arms`. Unfinished arms give an estimate of NaN; a claim that selects the wrong arms raises ValueError, also where
nothing is finished.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from midstudy.analysis.crossed import Crossed, crossed
from midstudy.analysis.decisions import ALPHA, Decision, for_all, t_decision
from midstudy.analysis.effects import Cell, cell_factors, cells, paired
from midstudy.analysis.intervals import MeanInterval, mean_interval
from midstudy.analysis.mix_task import MEASURES, mix_task_pairs
from midstudy.analysis.pairs import summarise
from midstudy.analysis.phrases import (
    RELATIVE,
    difference_with_interval,
    name_of,
    percent_with_interval,
    seeds,
    telling_factors,
    unit_of,
    with_interval,
)
from midstudy.analysis.pigeonhole import Pigeonhole, pigeonhole
from midstudy.analysis.qap import PermutationTest, qap
from midstudy.analysis.reach import scope
from midstudy.analysis.tables import Tables
from midstudy.recipe.factors import selects
from midstudy.recipe.manifest import ComparisonEntry
from midstudy.recipe.study import Claim

NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval, positive if the arms are better than their references, and the same in words.

    `p_holds`, `p_fails` and `num_fails` are those of `decisions.Decision` for the claim. An estimator without them may give
    `p_value`, two-sided, of the hypothesis that the value is 0, which decides directional claims at the margin 0. `error` is
    the standard error of the value with `df` degrees of freedom, `num_seeds` the smallest number of seeds behind a test,
    `None` if the claim is not decided over seeds. Unknown numbers are NaN. `is_exact` marks a value without sampling error;
    its claim is judged by the value alone. `scope` says what a verdict is about, where that is less than the claim's words.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    p_holds: float = math.nan
    p_fails: float = math.nan
    num_fails: int = 1
    unit: str
    text: str = NOT_MEASURED
    is_exact: bool = False
    error: float = math.nan
    df: int = 0
    num_seeds: int | None = None
    scope: str = ""


Estimator = Callable[[Tables, Claim], Estimate]


def paired_effect(tables: Tables, claim: Claim) -> Estimate:
    """The effect of one cell against its reference. Option scale: "relative" (default) or "difference"."""
    comparison = tables.manifest.comparison(claim.comparison)
    cell = _one(selected_cells(tables, comparison, claim.arms), claim.arms)
    row = pd.Series(summarise(paired(tables, cell.arms, cell.references, claim.column)))
    scale, unit = _scale(claim), unit_of_effect(tables, claim)
    if not row["num_seeds"]:
        return Estimate(unit=unit, num_seeds=0)
    return _numbers(row, _tested(row, claim, scale), scale=scale, unit=unit, text=_words(row, scale, unit))


def best_of(tables: Tables, claim: Claim) -> Estimate:
    """One cell against every other cell with the same match factors, and against the reference; the claim is `above`.

    The claim holds if the cell is better than each rival by more than the margin (`decisions.for_all`). The estimate is that
    of the deciding rival: the nearest one that is better than the cell, else the nearest one that the cell is not
    significantly better than, else the nearest one. Option scale: "difference" (default) or "relative".
    """
    _require_holds(claim, "above")
    comparison = tables.manifest.comparison(claim.comparison)
    cell = _one(selected_cells(tables, comparison, claim.arms), claim.arms)
    scale, unit = _scale(claim, default="difference"), unit_of_effect(tables, claim, default="difference")
    rows = rivals(tables, comparison, cell, claim.column)
    tests = [_tested(row, claim, scale) for _, row in rows.iterrows()]
    beaten = _below(ALPHA / 2, [test.p_holds for test in tests])
    lost = _below(ALPHA / 2, [test.p_fails for test in tests])
    decides = _decider(rows, size=-rows[_SCALES[scale][0]], fails=lost, holds=beaten)
    if decides is None:
        return Estimate(unit=unit, num_seeds=0)
    text = f"next is {decides['rival']}, {_words(decides, scale, unit)}"
    if not beaten.all():
        text += f"; not significantly better than: {', '.join(rows.loc[~beaten, 'rival'])}"
    num_seeds = int(rows["num_seeds"].min())
    return _numbers(decides, for_all(tests), scale=scale, unit=unit, text=text, num_seeds=num_seeds)


def rivals(tables: Tables, comparison: ComparisonEntry, cell: Cell, column: str) -> pd.DataFrame:
    """A cell compared with the other cells of the same match factors and with its reference, over common seeds.

    Returns a row per rival: rival (the factors in which it differs), and the columns of `pairs.summarise`, where a positive
    difference means that ``cell`` is better; without a common finished seed, num_seeds is 0.
    """
    others = [
        other
        for other in cells(tables, comparison)
        if other.factors != cell.factors and selects({name: cell.factors[name] for name in comparison.match}, other.factors)
    ]
    reference = cell.references.iloc[0]
    names = telling_factors([cell.factors, reference, *(one.factors for one in others)], cell_factors(tables))
    records = [{"rival": name_of(reference, names)} | summarise(paired(tables, cell.arms, cell.references, column))]
    for other in others:
        summary = summarise(paired(tables, cell.arms, other.arms, column))
        records.append({"rival": name_of(other.factors, names)} | summary)
    return pd.DataFrame(records)


def all_within(tables: Tables, claim: Claim) -> Estimate:
    """All selected cells' relative effects within ± `claim.margin`, each by two one-sided tests (`decisions.for_all`).

    The estimate is that of the deciding cell: the largest effect outside, else the largest that is not shown to lie inside,
    else the largest.
    """
    _require_holds(claim, "within")
    comparison = tables.manifest.comparison(claim.comparison)
    selected = selected_cells(tables, comparison, claim.arms)
    rows = pd.DataFrame([summarise(paired(tables, cell.arms, cell.references, claim.column)) for cell in selected])
    names = telling_factors([cell.factors for cell in selected], cell_factors(tables))
    rows["cell"] = [name_of(cell.factors, names) for cell in selected]
    tests = [_tested(row, claim, "relative") for _, row in rows.iterrows()]
    decides = _decider(
        rows,
        size=rows["relative_improvement"].abs(),
        fails=_below(ALPHA, [test.p_fails for test in tests]),
        holds=_below(ALPHA, [test.p_holds for test in tests]),
    )
    if decides is None:
        return Estimate(unit=RELATIVE, num_seeds=0)
    label = f"{decides['cell']}, which decides among {len(selected)}: " if len(selected) > 1 else ""
    text = label + percent_with_interval(decides)
    num_seeds = int(rows["num_seeds"].min())
    return _numbers(decides, for_all(tests), scale="relative", unit=RELATIVE, text=text, num_seeds=num_seeds)


def correlation(tables: Tables, claim: Claim) -> Estimate:
    """Pearson's r of proximity advantage with relative improvement over the selected cells, pairs of a mix and a task.

    The 95 % interval is that of the pigeonhole bootstrap over mixes and tasks. `p_value` is two-sided by QAP; so are the
    one-sided p values for a margin of 0. Those for another margin are shares of the bootstrap's resamples. Without three
    mixes, two tasks and a pair with two seeds there is a value and no interval.

    Options: measure (default "combined"), task, the factor that names an arm's task (default "task").
    """
    comparison = tables.manifest.comparison(claim.comparison)
    pairs = mix_task_pairs(tables, comparison, claim.column, task=str(claim.options.get("task", "task")))
    if pairs is not None:
        pairs = pairs[[selects(claim.arms, dict(row)) for _, row in pairs.iterrows()]]
    if pairs is None or pairs["relative_improvement"].isna().all():
        return Estimate(unit="r")
    measure = str(claim.options.get("measure", "combined"))
    if measure not in MEASURES:
        raise ValueError(f"measure: expected one of {', '.join(MEASURES)}, got {measure!r}")
    table = crossed(pairs, x=f"pa_{measure}", y="relative_improvement")
    is_replicated = bool((pairs["num_seeds"] > 1).any())
    return of_correlation(
        table, claim, untested="" if is_replicated else "expected a pair with at least two seeds, got one seed"
    )


def of_correlation(table: Crossed, claim: Claim, *, untested: str = "") -> Estimate:
    """Return the estimate of a correlation, without tests and interval if `untested` says why there are none."""
    if undefined := table.undefined():
        return Estimate(unit="r", text=f"no correlation: {undefined}")
    sizes = f"{table.num_pairs} pairs, {len(table.mixes)} mixes, {len(table.tasks)} tasks"
    if untested := table.uncrossed() or untested:
        return Estimate(value=table.r(), unit="r", text=f"r = {table.r():.2f} (no interval: {untested}; {sizes})")
    test, resamples = qap(table), pigeonhole(table)
    low, high = resamples.interval()
    p_holds, p_fails = _decision_of_correlation(test, resamples, claim)
    return Estimate(
        value=table.r(),
        low=low,
        high=high,
        p_value=test.p_two_sided,
        p_holds=p_holds,
        p_fails=p_fails,
        num_fails=2 if claim.holds == "within" else 1,
        unit="r",
        text=f"r = {table.r():.2f} (95 % interval {low:.2f} to {high:.2f} over mixes and tasks, {sizes}; "
        f"QAP p = {test.p_directed:.2g})",
        # The tests of another margin, and of equivalence, are shares of the resamples: they are about other mixes and tasks.
        scope=scope(low, high) if claim.margin == 0 and claim.holds != "within" else "",
    )


def _decision_of_correlation(test: PermutationTest, resamples: Pigeonhole, claim: Claim) -> tuple[float, float]:
    """Return the one-sided p values of the claim and of its contrary."""
    margin = claim.margin
    if claim.holds == "within":  # equivalence needs both sides; the contrary is either of them, by Bonferroni
        holds = max(resamples.p_above(-margin), resamples.p_below(margin))
        return holds, min(1.0, 2 * min(resamples.p_above(margin), resamples.p_below(-margin)))
    above = test.p_greater if margin == 0 else resamples.p_above(margin)
    below = test.p_less if margin == 0 else resamples.p_below(margin)
    return (above, below) if claim.holds == "above" else (below, above)


def trend(tables: Tables, claim: Claim) -> Estimate:
    """The slope of the effect along the comparison's `along` factor, fitted to each seed's values.

    The selected cells differ in that factor alone. A seed counts once all of them are finished. Option scale: "relative"
    (default) or "difference".
    """
    comparison = tables.manifest.comparison(claim.comparison)
    along = comparison.along
    if along is None:
        raise ValueError(f"trend: expected a comparison with `along`, got {claim.comparison!r}")
    selected = selected_cells(tables, comparison, claim.arms)
    others = {tuple(value for name, value in cell.factors.items() if name != along) for cell in selected}
    if len(others) > 1 or len(selected) < 2:
        raise ValueError(f"trend: expected cells that differ in {along} alone, at least two, got {_listed(selected)}")
    unit = f"{unit_of_effect(tables, claim)} per {along}"
    steps = [float(cell.factors[along]) for cell in selected]
    values = common_seeds(tables, selected, claim)
    slopes = mean_interval(float(np.polyfit(steps, row, deg=1)[0]) for row in values)
    return of_mean(slopes, claim, unit, digits=".3g")


def interaction(tables: Tables, claim: Claim) -> Estimate:
    """How much larger the effect is at one level of a factor than at another, over common seeds.

    Options: factor, level, other; scale: "relative" (default) or "difference". At each level, `claim.arms` selects one cell.
    """
    comparison = tables.manifest.comparison(claim.comparison)
    absent = [name for name in ("factor", "level", "other") if name not in claim.options]
    if absent:
        raise ValueError(f"interaction: expected the options factor, level and other, got no {', '.join(absent)}")
    factor = str(claim.options["factor"])
    pair = []
    for level in (claim.options["level"], claim.options["other"]):
        wanted = {**claim.arms, factor: level}
        pair.append(_one(selected_cells(tables, comparison, wanted), wanted))
    values = common_seeds(tables, pair, claim)
    return of_mean(mean_interval(first - second for first, second in values), claim, unit_of_effect(tables, claim))


ESTIMATORS: dict[str, Estimator] = {
    "paired_effect": paired_effect,
    "best_of": best_of,
    "all_within": all_within,
    "correlation": correlation,
    "trend": trend,
    "interaction": interaction,
}


def find_estimator(name: str) -> Estimator:
    """Return the estimator of this name, or the function that `package.module:function` names.

    Raises:
        ValueError: there is none.
    """
    if name in ESTIMATORS:
        return ESTIMATORS[name]
    problem = f"estimator: expected one of {', '.join(ESTIMATORS)} or package.module:function, got {name!r}"
    if ":" not in name:
        raise ValueError(problem)
    try:
        found: Estimator = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{problem} ({error})") from error
    if not callable(found):
        raise ValueError(problem)
    return found


_SCALES = {
    "relative": ("relative_improvement", "relative_ci_low", "relative_ci_high", "relative_standard_error"),
    "difference": ("difference", "ci_low", "ci_high", "standard_error"),
}
"""Columns of `summarise` with the value, the ends of its interval, and its standard error."""


def _require_holds(claim: Claim, holds: str) -> None:
    if claim.holds != holds:
        raise ValueError(f"holds: expected {holds!r} of a claim with the estimator {claim.estimator}, got {claim.holds!r}")


def _tested(row: pd.Series, claim: Claim, scale: str) -> Decision:
    """Return the test of the claim on a row of `summarise`."""
    value, _, _, error = _SCALES[scale]
    df = int(row["num_seeds"]) - 1
    return t_decision(float(row[value]), float(row[error]), df, holds=claim.holds, margin=claim.margin)


def _below(level: float, p_values: Sequence[float]) -> pd.Series:
    return pd.Series(p_values, dtype=float) < level


def _scale(claim: Claim, default: str = "relative") -> str:
    scale = str(claim.options.get("scale", default))
    if scale not in _SCALES:
        raise ValueError(f"scale: expected one of {', '.join(_SCALES)}, got {scale!r}")
    return scale


def unit_of_effect(tables: Tables, claim: Claim, default: str = "relative") -> str:
    """Return the unit of the claim's effects on its scale."""
    return RELATIVE if _scale(claim, default) == "relative" else unit_of(tables.manifest.columns[claim.column])


def selected_cells(tables: Tables, comparison: ComparisonEntry, wanted: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of a comparison with these factors.

    Raises:
        ValueError: there is none.
    """
    found = [cell for cell in cells(tables, comparison) if selects(wanted, cell.factors)]
    if not found:
        raise ValueError(
            f"arms: expected cells of {comparison.name} with {dict(wanted)}, got none; its cells are "
            f"{_listed(list(cells(tables, comparison)))}"
        )
    return found


def _one(found: Sequence[Cell], wanted: Mapping[str, Any]) -> Cell:
    if len(found) > 1:
        raise ValueError(f"arms: expected one cell with {dict(wanted)}, got {len(found)}: {_listed(found)}")
    return found[0]


def _listed(found: Sequence[Cell]) -> str:
    return "; ".join(str(cell) for cell in found)


def _decider(rows: pd.DataFrame, *, size: pd.Series, fails: pd.Series, holds: pd.Series) -> pd.Series | None:
    """The measured row of largest `size` that decides whether a claim on all rows holds; None if nothing is measured.

    If only unmeasured rows leave the claim open, the row has no interval.
    """
    is_measured = rows["num_seeds"] > 0
    if not is_measured.any():
        return None
    if fails.any():
        candidates = fails
    elif (is_measured & ~holds).any():
        candidates = is_measured & ~holds
    else:
        candidates = is_measured
    row = rows.loc[size[candidates].idxmax()].copy()
    if holds[candidates].all() and not is_measured.all():
        row[[name for name in rows.columns if "ci_" in name or name.endswith("standard_error")]] = math.nan
    return row


def common_seeds(tables: Tables, selected: Sequence[Cell], claim: Claim) -> list[tuple[float, ...]]:
    """Return the effects of all cells for every seed that is finished in each of them."""
    value = _SCALES[_scale(claim)][0]
    by_cell = []
    for cell in selected:
        found = paired(tables, cell.arms, cell.references, claim.column)
        keys = found[tables.manifest.seeds[0]] if tables.manifest.seeds else found.index
        by_cell.append(dict(zip(keys, found[value], strict=True)))
    common = [seed for seed in by_cell[0] if all(seed in values for values in by_cell)]
    return [tuple(values[seed] for values in by_cell) for seed in common]


def _words(row: pd.Series, scale: str, unit: str) -> str:
    return percent_with_interval(row) if scale == "relative" else difference_with_interval(row, unit)


def _numbers(row: pd.Series, test: Decision, *, scale: str, unit: str, text: str, num_seeds: int | None = None) -> Estimate:
    """Return the estimate of a row of `summarise`; by default all tests are over the row's seeds."""
    value, low, high, error = (float(row[name]) for name in _SCALES[scale])
    found = int(row["num_seeds"])
    return Estimate(
        value=value,
        low=low,
        high=high,
        unit=unit,
        text=text,
        **asdict(test),
        error=error,
        df=found - 1,
        num_seeds=found if num_seeds is None else num_seeds,
    )


def of_mean(mean: MeanInterval, claim: Claim, unit: str, *, digits: str = "") -> Estimate:
    """Return the estimate of a mean over seeds, with the t test of the claim; `digits` formats a value of no usual size."""
    if not mean.n:
        return Estimate(unit=unit, num_seeds=0)
    test = t_decision(mean.mean, mean.error, mean.n - 1, holds=claim.holds, margin=claim.margin)
    if digits:
        known = math.isfinite(mean.low)
        interval = f"95 % interval {mean.low:{digits}} to {mean.high:{digits}}" if known else "no interval"
        text = f"{mean.mean:+{digits}} {unit} ({interval}, {seeds(mean.n)})"
    else:
        text = with_interval(mean.mean, mean.low, mean.high, unit, num_seeds=mean.n)
    return Estimate(
        value=mean.mean,
        low=mean.low,
        high=mean.high,
        unit=unit,
        text=text,
        **asdict(test),
        error=mean.error,
        df=mean.n - 1,
        num_seeds=mean.n,
    )
