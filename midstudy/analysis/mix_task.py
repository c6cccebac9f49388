"""Pairs of a mix and a task of a comparison: proximity advantage and dose of the mix beside its effect on the task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from midstudy.analysis.corpus_dose import corpus_dose
from midstudy.analysis.effects import Cell, cell_factors, cells, effects
from midstudy.analysis.phrases import name_of, telling_factors
from midstudy.recipe.manifest import ComparisonEntry, MixEntry

if TYPE_CHECKING:
    from midstudy.analysis.tables import Tables

MEASURES = ("combined", "cosine", "jaccard", "js")
REPLICATE = "improvement:"
"""Prefix of the columns with the relative improvement of one replicating seed."""


def mix_task_pairs(tables: Tables, comparison: ComparisonEntry, column: str, *, task: str) -> pd.DataFrame | None:
    """Return the columns of `Effects.table` with one row per planned cell, effects of unfinished cells NaN.

    Adds mix_label and task_label (what tells mixes and tasks apart), pair ('MIX → TASK'), pa_combined, pa_cosine,
    pa_jaccard and pa_js (proximity advantages), dose (mean over the cell's arms of Σ learning rate × share of the corpora of
    the mix other than its reference, over Σ learning rate of the training on corpora; NaN if a corpus has no dose), and
    improvement:SEED, the relative improvement with every replicating seed. None until the tokens of every data set are
    counted.

    Args:
        task: the factor of the arms that names the task.

    Raises:
        ValueError: a mix and task has no proximity advantage, or several; the message names the arm.
    """
    if tables.proximity is None:
        return None
    found = effects(tables, comparison, column)
    names, planned = cell_factors(tables), list(cells(tables, comparison))
    factors = list(dict.fromkeys(name for mix in tables.manifest.mixes for name in mix.factors))
    mixes = {tuple(cell.factors[name] for name in factors): cell.factors for cell in planned}
    telling = telling_factors(list(mixes.values()), factors) or factors
    advantages = _advantages(tables.proximity, [*factors, "task"])
    entries = {tuple(mix.factors[name] for name in factors): mix for mix in tables.manifest.mixes}
    rows = []
    for cell in planned:
        mix = tuple(cell.factors[name] for name in factors)
        known = advantages.get((*mix, cell.factors[task]), [])
        if len(known) != 1 or any(math.isnan(value) for value in known[0].values()):
            label = ", ".join(f"{name} {cell.factors[name]}" for name in (*factors, task))
            raise ValueError(
                f"{label}: expected one mix with a proximity advantage, got {len(known)}; add it to Study(mixes=...)"
            )
        mix_label, task_label = name_of(cell.factors, telling), str(cell.factors[task])
        labels = {"mix_label": mix_label, "task_label": task_label, "pair": f"{mix_label} → {task_label}"}
        rows.append({**cell.factors, **labels, **known[0], "dose": _dose(cell, entries[mix])})
    added = ["mix_label", "task_label", "pair", *(f"pa_{measure}" for measure in MEASURES), "dose"]
    pairs = pd.DataFrame(rows, columns=[*names, *added])
    at = pd.MultiIndex.from_frame(pairs[names])

    def of_cells(table: pd.DataFrame) -> pd.DataFrame:
        return table.set_index(names).reindex(at).reset_index(drop=True)

    pairs = pairs.join(of_cells(found.table))
    for seed in tables.manifest.seeds[:1]:
        for value, one in found.by_seed.groupby(seed):
            pairs[f"{REPLICATE}{value}"] = of_cells(one)["relative_improvement"].astype(float)
    return pairs


def replicates(pairs: pd.DataFrame) -> list[str]:
    """Return the columns with the improvements of single seeds."""
    return [name for name in pairs.columns if name.startswith(REPLICATE)]


def _advantages(proximity: pd.DataFrame, key: Sequence[str]) -> dict[tuple[Any, ...], list[dict[str, float]]]:
    columns = [f"pa_{measure}" for measure in MEASURES]
    known: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    for _, row in proximity.iterrows():
        known.setdefault(tuple(row[name] for name in key), []).append({name: float(row[name]) for name in columns})
    return known


def _dose(cell: Cell, mix: MixEntry) -> float:
    corpora = [name for name in mix.shares if name != mix.reference]
    if not corpora or not {f"dose:{name}" for name in corpora} <= set(cell.arms.columns):
        return math.nan
    return float(corpus_dose(cell.arms, corpora).mean())
