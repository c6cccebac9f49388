"""Crossed tables of mixes × tasks with planted effects of mixes, of tasks and of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from builders.analysis_tables import tables_of
from midstudy.analysis.crossed import Crossed
from midstudy.analysis.tables import Tables
from midstudy.recipe.manifest import MixEntry
from midstudy.recipe.study import Claim


def crossed_of(x: NDArray[np.float64], y: NDArray[np.float64]) -> Crossed:
    """Return the table of these numbers, mixes × tasks, with names mix0, task0 and so on."""
    mixes, tasks = x.shape
    return Crossed(tuple(f"mix{number}" for number in range(mixes)), tuple(f"task{number}" for number in range(tasks)), x, y)


def crossed_noise(
    generator: np.random.Generator, mixes: int, tasks: int, *, mix_sd: float, task_sd: float, pair_sd: float = 1.0
) -> NDArray[np.float64]:
    """Return normal effects of mixes, of tasks and of pairs, added up: mixes × tasks."""
    return np.asarray(
        mix_sd * generator.normal(size=(mixes, 1))
        + task_sd * generator.normal(size=(1, tasks))
        + pair_sd * generator.normal(size=(mixes, tasks))
    )


def planted(
    generator: np.random.Generator, mixes: int, tasks: int, *, r: float, mix_sd: float = 1.0, task_sd: float = 1.0
) -> Crossed:
    """Return a sample of mixes and tasks from a population in which the correlation over pairs is `r`."""
    x, noise = (crossed_noise(generator, mixes, tasks, mix_sd=mix_sd, task_sd=task_sd) for _ in range(2))
    return crossed_of(x, r * x + math.sqrt(1 - r * r) * noise)


def study_of(
    table: Crossed, *, seeds: Sequence[int] = (0, 1, 2), seed_sd: float = 0.0, claims: Sequence[Claim] = ()
) -> Tables:
    """Return a study whose mixes have the proximity advantages `table.x` and the relative improvements `table.y`.

    Improvements of single seeds differ from `table.y` by normal noise that is the same whatever the number of seeds. A NaN
    in `table.y` is an unfinished arm.
    """
    noise = np.random.default_rng(0).normal(scale=seed_sd, size=(*table.y.shape, 10))
    rows = [
        {
            "size": "nano",
            "mix": mix,
            "task": task,
            "seed": seed,
            "sft_loss": 4.0 * (1 - (table.y[row, column] + noise[row, column, seed] if row >= 0 else 0.0)),
            "dose:general": 0.8,
            **{f"dose:{name}": 0.1 + 0.01 * row if name == mix else 0.0 for name in table.mixes},
        }
        for column, task in enumerate(table.tasks)
        for row, mix in enumerate(("control", *table.mixes), start=-1)
        for seed in seeds
    ]
    entries = [
        MixEntry(name=mix, shares={"general": 0.8, mix: 0.2}, reference="general", factors={"mix": mix})
        for mix in table.mixes
    ]
    advantages = pd.DataFrame(
        {"mix": mix, "task": task, **{f"pa_{one}": table.x[row, column] for one in ("combined", "cosine", "jaccard", "js")}}
        for row, mix in enumerate(table.mixes)
        for column, task in enumerate(table.tasks)
    )
    main = {"name": "main", "arms": {"mix": table.mixes}, "references": {"mix": "control"}, "columns": ("sft_loss",)}
    return tables_of(
        rows,
        [{**main, "match": ("task",)}],
        columns={"sft_loss": "lower"},
        seeds=("seed",),
        claims=claims,
        proximity=advantages,
        mixes=entries,
    )
