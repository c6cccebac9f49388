"""Gain on a task against the dose of its mix, and how much of it dose and specialist tokens explain.

Dose before fine-tuning is Σ learning rate × share of the mix's corpora over Σ learning rate of the same steps.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from midstudy.analysis.corpus_dose import corpus_dose
from midstudy.analysis.effects import cell_factors
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.pairs import pair_by_seed
from midstudy.analysis.tables import Tables
from midstudy.studies.bridging.grid import AFTER, CUT
from midstudy.studies.bridging.scale import COLUMNS, CONTROL

MIN_ARMS = 4
"""Arms of one corpus and task, of different doses, from which r² is computed."""


def gains(tables: Tables) -> pd.DataFrame:
    """Return one row per arm with a mix inside pretraining, and trunk seed.

    Columns: the factors except the SFT seed; corpus; dose (before fine-tuning, in [0, 1]); tokens (of the corpus);
    relative_improvement (of the task loss against the control of the same trunk).

    Only arms with the shortest fine-tuning are kept, so that arms differ in pretraining alone. Empty if nothing is finished.
    """
    names, (seed, *_) = cell_factors(tables), tables.manifest.seeds
    arms = tables.arms
    columns = [*names, seed, "corpus", "dose", "tokens", "relative_improvement"]
    if "sft_steps" in arms:
        arms = arms[arms["sft_steps"] == arms["sft_steps"].min()]
    alike = [name for name in names if name not in ("mix", "weight", "start_step")]
    rows = []
    for _, cell in arms.groupby(names, sort=False):
        first = cell.iloc[0]
        mix, _, kind = str(first["mix"]).partition(" ")
        if mix in (CONTROL, CUT) or kind == AFTER or f"dose:{mix}" not in arms:
            continue
        controls = arms[arms["mix"] == CONTROL]
        for name in alike:
            controls = controls[controls[name] == first[name]]
        dose = float(corpus_dose(cell, [mix]).iloc[0])
        paired = pair_by_seed(cell, controls, column=COLUMNS[0], seeds=tables.manifest.seeds, better="lower")
        of_cell = {**{name: first[name] for name in names}, "corpus": mix, "dose": dose, "tokens": first[f"tokens:{mix}"]}
        rows += [
            {**of_cell, seed: one[seed], "relative_improvement": one["relative_improvement"]} for _, one in paired.iterrows()
        ]
    return pd.DataFrame(rows, columns=columns)


def explained(points: pd.DataFrame, *, seed: str) -> pd.DataFrame:
    """Return how much of the gain dose and tokens explain linearly, for each size, task and corpus with `MIN_ARMS` doses.

    One row each: size, task, corpus, num_arms, num_seeds, r2_dose, r2_tokens (means over seeds of the squared Pearson
    correlation over the arms of a seed), and difference with ci_low and ci_high (dose minus tokens, t-interval over seeds).

    Args:
        points: as returned by `gains`.
        seed: the factor that replicates.
    """
    records = []
    for (size, task, corpus), arms in points.groupby(["size", "task", "corpus"], sort=False):
        by_seed = []
        for _, of_seed in arms.groupby(seed):
            if of_seed["dose"].round(6).nunique() >= MIN_ARMS:
                by_seed.append([_r2(of_seed[name], of_seed["relative_improvement"]) for name in ("dose", "tokens")])
        if not by_seed:
            continue
        r2 = np.array(by_seed)
        difference = mean_interval(r2[:, 0] - r2[:, 1])
        num_arms, interval = int(arms.groupby(seed).size().max()), (difference.low, difference.high)
        records.append((size, task, corpus, num_arms, len(r2), *r2.mean(axis=0), difference.mean, *interval))
    names = ["size", "task", "corpus", "num_arms", "num_seeds", "r2_dose", "r2_tokens", "difference", "ci_low", "ci_high"]
    return pd.DataFrame(records, columns=names)


def _r2(x: pd.Series, y: pd.Series) -> float:
    if x.nunique() < 2 or y.nunique() < 2:
        return float("nan")
    return float(stats.pearsonr(x.astype(float), y.astype(float)).statistic) ** 2
