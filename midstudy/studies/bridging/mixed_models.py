"""The mixed models of the paper's authors: improvement on bridge lengths and matches, with a random intercept per task.

Formulas: nightingal3/midtraining `visualization_scripts/bridge_mixed_effects.py` (arXiv 2510.14865), fitted as there by
statsmodels' `mixedlm` with its defaults (REML). The authors ignore the model's size and take pairs of a mix and a task as
independent; there are few tasks, so the variance of the intercept is often at its boundary, and AIC is not defined under
REML. The fit's own warnings are therefore part of the result, and a permutation p value stands beside every coefficient.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from midstudy.analysis.crossed import MIN_MIXES, MIN_TASKS
from midstudy.analysis.qap import of_relabellings, relabelled

MODELS = {
    "bridge length": ("bridge_max",),
    "both distances": ("to_mix", "to_task"),
    "bridge length and match": ("bridge_max", "perfect_match"),
    "distance and matches": ("to_mix", "perfect_match", "partial_match"),
}
"""The authors' four models, in their order: what each regresses relative_improvement on."""

OUTCOME, GROUP = "relative_improvement", "task_label"
INTERCEPT = "Intercept"
_AT_BOUNDARY = 1e-4
"""Share of the residual variance below which the variance of the intercept counts as 0."""

_ESTIMATES = ("coefficient", "standard_error", "ci_low", "ci_high", "wald_p")
_NUMBERS = (*_ESTIMATES, "permutation_p", "task_variance", "residual_variance")


@dataclass(frozen=True)
class _Fit:
    """What is kept of a fit; `table` has coefficient, standard error, interval and p by term."""

    table: pd.DataFrame
    task_variance: float
    residual_variance: float
    has_converged: bool
    notes: tuple[str, ...]

    @property
    def is_singular(self) -> bool:
        return self.task_variance <= _AT_BOUNDARY * self.residual_variance


def mixed_models(bridges: pd.DataFrame) -> pd.DataFrame:
    """Fit the four models to the finished pairs; returns one row per model and term.

    Columns: model, term, num_pairs, num_tasks, `_NUMBERS`, num_relabellings, is_singular, has_converged, notes. `wald_p` and
    the 95 % interval are those of statsmodels, by the normal distribution. `permutation_p` is two-sided: the residuals of a
    predictor on the model's others are relabelled over mixes and tasks as wholes (double semi-partialling: Dekker,
    Krackhardt and Snijders, Psychometrika 72, 2007), and the statistic is the coefficient's t by generalized least squares
    with the variances of the fit held. It is NaN for the intercept and with too few mixes or tasks. `notes` holds the fit's
    warnings, or why there is no fit, in which case numbers are NaN; `is_singular` says that the variance of the intercept is
    at its boundary, 0.

    Args:
        bridges: as `bridge_length.bridge_lengths` returns it. Several sizes are pooled, as the authors did.
    """
    pairs = bridges[bridges[OUTCOME].notna()].reset_index(drop=True)
    rows = [row for name, terms in MODELS.items() for row in _model(name, terms, pairs)]
    return pd.DataFrame(rows)


def _model(name: str, terms: tuple[str, ...], pairs: pd.DataFrame) -> Iterable[dict[str, Any]]:
    facts: dict[str, Any] = {"model": name, "num_pairs": len(pairs), "num_tasks": pairs[GROUP].nunique()}
    reason, fit = _unfit(terms, pairs), None
    if not reason:
        fit, reason = _fit(terms, pairs)
    for term in (INTERCEPT, *terms):
        row: dict[str, Any] = facts | dict.fromkeys(_NUMBERS, math.nan)
        row |= {"term": term, "num_relabellings": 0, "is_singular": False, "has_converged": False, "notes": reason}
        if fit is not None:
            p_value, number = _permutation(term, terms, pairs, fit) if term != INTERCEPT else (math.nan, 0)
            row |= {
                **fit.table.loc[term].to_dict(),
                "permutation_p": p_value,
                "num_relabellings": number,
                "task_variance": fit.task_variance,
                "residual_variance": fit.residual_variance,
                "is_singular": fit.is_singular,
                "has_converged": fit.has_converged,
                "notes": "; ".join(fit.notes),
            }
        yield row


def _unfit(terms: tuple[str, ...], pairs: pd.DataFrame) -> str:
    """Return why the model cannot be fitted to the pairs, '' if it can be tried."""
    num_tasks, needed = pairs[GROUP].nunique(), len(terms) + 3  # a degree of freedom beside coefficients and variances
    if len(pairs) < needed or num_tasks < MIN_TASKS:
        return f"expected at least {needed} pairs and {MIN_TASKS} tasks, got {len(pairs)} and {num_tasks}"
    constant = [term for term in terms if pairs[term].nunique() < 2]
    return f"{', '.join(constant)} does not vary" if constant else ""


def _fit(terms: tuple[str, ...], pairs: pd.DataFrame) -> tuple[_Fit | None, str]:
    from statsmodels.formula.api import mixedlm  # takes a second to import

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = mixedlm(f"{OUTCOME} ~ {' + '.join(terms)}", pairs, groups=pairs[GROUP]).fit()
            task_variance = float(found.cov_re.iloc[0, 0])
            intervals = found.conf_int()
        except (np.linalg.LinAlgError, ValueError) as error:
            return None, f"no fit: {error}"
    columns = (found.params, found.bse, intervals[0], intervals[1], found.pvalues)
    table = pd.DataFrame(dict(zip(_ESTIMATES, columns, strict=True))).loc[[INTERCEPT, *terms]]
    notes = tuple(dict.fromkeys(str(one.message).strip().rstrip(".") for one in caught))
    return _Fit(table, task_variance, float(found.scale), bool(found.converged), notes), ""


def _permutation(term: str, terms: tuple[str, ...], pairs: pd.DataFrame, fit: _Fit) -> tuple[float, int]:
    """Return the two-sided permutation p value of a coefficient, and the number of relabellings; NaN and 0 if untested."""
    mixes, tasks = (list(dict.fromkeys(pairs[name])) for name in ("mix_label", GROUP))
    if len(mixes) < MIN_MIXES or len(tasks) < MIN_TASKS:
        return math.nan, 0
    others = np.column_stack([np.ones(len(pairs)), *(pairs[other].to_numpy(float) for other in terms if other != term)])
    own = pairs[term].to_numpy(float)
    own = own - others @ np.linalg.lstsq(others, own, rcond=None)[0]
    at = pd.MultiIndex.from_frame(pairs[["mix_label", GROUP]])
    residuals = pd.Series(own, index=at).groupby(level=[0, 1]).mean().unstack().reindex(index=mixes, columns=tasks)
    if residuals.isna().to_numpy().any():
        return math.nan, 0  # a relabelling would move unknown pairs into known ones
    rows, columns = (pd.Index(one).get_indexer(at.get_level_values(level)) for level, one in enumerate((mixes, tasks)))
    drawn = relabelled(residuals.to_numpy())[:, rows, columns]
    test = of_relabellings(_t(drawn, others, pairs[OUTCOME].to_numpy(float), columns, fit))
    return test.p_two_sided, test.num_relabellings


def _t(
    drawn: NDArray[np.float64],
    others: NDArray[np.float64],
    outcome: NDArray[np.float64],
    task_of: NDArray[np.int64],
    fit: _Fit,
) -> NDArray[np.float64]:
    """Return the t of a predictor beside `others` [pairs, terms] for every row of `drawn` [relabellings, pairs].

    Pairs of a task share the variance of the intercept. Both sides are whitened by the Cholesky factor of the covariance,
    and freed of the other predictors.
    """
    same_task = task_of[:, None] == task_of[None, :]
    covariance = fit.task_variance * same_task + fit.residual_variance * np.eye(len(outcome))
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    basis, _ = np.linalg.qr(whiten @ others)
    free = whiten - basis @ (basis.T @ whiten)
    x, y = drawn @ free.T, free @ outcome
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (x @ y) / np.sqrt((x * x).sum(axis=1) * (y @ y))
    df = len(outcome) - others.shape[1] - 1
    r = np.clip(r, -1 + 1e-12, 1 - 1e-12)
    return np.asarray(r * np.sqrt(df / (1 - r * r)))
