"""Two quantities of every mix and task, as tables with mixes as rows and tasks as columns, and their correlation.

Pairs of a mix and a task are crossed: those in a row share the mix, those in a column the task and its reference. Inference
therefore treats mixes and tasks as the units (`qap`, `pigeonhole`), not pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MIN_PAIRS = 4
MIN_MIXES = 3
MIN_TASKS = 2

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Crossed:
    """Predictor `x` and outcome `y` of mixes × tasks, NaN where unknown; mixes and tasks without an outcome are left out."""

    mixes: tuple[str, ...]
    tasks: tuple[str, ...]
    x: Matrix
    y: Matrix

    @property
    def is_pair(self) -> NDArray[np.bool_]:
        """Where both quantities are known, mixes × tasks."""
        return np.isfinite(self.x) & np.isfinite(self.y)

    @property
    def num_pairs(self) -> int:
        return int(self.is_pair.sum())

    def without(self, mix: int | slice, task: int | slice) -> Crossed:
        """Return the table with the outcomes of a mix, a task or a pair unknown."""
        y = self.y.copy()
        y[mix, task] = math.nan
        return replace(self, y=y)

    def r(self) -> float:
        """Pearson's r over the pairs, NaN for fewer than `MIN_PAIRS` or a constant."""
        known = self.is_pair
        return weighted_r(self.x[known], self.y[known], np.ones(known.sum())).item() if not self.undefined() else math.nan

    def undefined(self) -> str:
        """Return why the pairs have no correlation, '' if they have one."""
        known = self.is_pair
        if known.sum() < MIN_PAIRS:
            return f"expected at least {MIN_PAIRS} pairs, got {known.sum()}"
        for name, values in (("proximity advantage", self.x[known]), ("relative improvement", self.y[known])):
            if np.ptp(values) <= 1e-12 * float(np.abs(values).max()):
                return f"{name} does not vary"
        return ""

    def uncrossed(self) -> str:
        """Return why mixes and tasks are too few for inference over them, '' if they suffice."""
        if len(self.mixes) < MIN_MIXES:
            return f"expected at least {MIN_MIXES} mixes, got {len(self.mixes)}"
        return f"expected at least {MIN_TASKS} tasks, got {len(self.tasks)}" if len(self.tasks) < MIN_TASKS else ""


def crossed(pairs: pd.DataFrame, *, x: str, y: str) -> Crossed:
    """Return two columns of a table with one row per pair, which `mix_label` and `task_label` name, as mixes × tasks.

    Mixes and tasks are in order of appearance; those whose `y` is NaN for every pair are left out.

    Raises:
        ValueError: a mix and task has several rows; the message names them.
    """
    repeated = pairs[pairs.duplicated(["mix_label", "task_label"])]
    if len(repeated):
        first = repeated.iloc[0]
        raise ValueError(
            f"expected one arm, apart from seeds, of the mix {first['mix_label']} and the task {first['task_label']}, got "
            "several; select some of them"
        )
    measured = pairs[pairs[y].notna()]
    mixes, tasks = (list(dict.fromkeys(measured[name])) for name in ("mix_label", "task_label"))
    indexed = pairs.set_index(["mix_label", "task_label"])
    tables = (indexed[name].unstack().reindex(index=mixes, columns=tasks).to_numpy(dtype=float) for name in (x, y))
    return Crossed(tuple(mixes), tuple(tasks), *tables)


def weighted_r(x: Matrix, y: Matrix, weights: Matrix) -> Matrix:
    """Pearson's r along the last axis with non-negative weights; NaN where a weighted variance is zero.

    The shapes are broadcast: one call correlates every relabelling of a table.
    """
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        dx, dy = (values - (weights * values).sum(axis=-1, keepdims=True) / total for values in (x, y))
        xx, yy, xy = ((weights * product).sum(axis=-1) for product in (dx * dx, dy * dy, dx * dy))
        r = xy / np.sqrt(xx * yy)
    negligible = total[..., 0] * 1e-24
    is_constant = (xx <= negligible * np.square(x).max(initial=0.0)) | (yy <= negligible * np.square(y).max(initial=0.0))
    return np.where(is_constant, math.nan, np.clip(r, -1.0, 1.0))
