"""How often the pigeonhole interval contains the correlation of the population that mixes and tasks are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from builders.crossed_tables import planted

from midstudy.analysis.pigeonhole import pigeonhole

NUM_TABLES = 1_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixes", "tasks", "least"),
    [(5, 4, 0.85), (12, 10, 0.90)],
    ids=["the micro study's 5 × 4", "12 × 10"],
)
@pytest.mark.parametrize(("mix_sd", "task_sd"), [(1.0, 1.0), (0.3, 0.3), (2.0, 0.5)], ids=["crossed", "pairs", "mixes"])
@pytest.mark.parametrize("r", [0.0, 0.6])
def test_coverage_of_the_95_percent_interval(
    mixes: int, tasks: int, least: float, mix_sd: float, task_sd: float, r: float
) -> None:
    generator = np.random.default_rng(31)
    tables = (planted(generator, mixes, tasks, r=r, mix_sd=mix_sd, task_sd=task_sd) for _ in range(NUM_TABLES))
    intervals = np.array([pigeonhole(table).interval() for table in tables])
    covered = float(np.mean((intervals[:, 0] <= r) & (r <= intervals[:, 1])))
    width = float(np.median(intervals[:, 1] - intervals[:, 0]))
    print(f"{mixes} × {tasks}, sd {mix_sd}/{task_sd}/1, r {r}: covers {covered:.3f}, median width {width:.2f}")
    assert covered >= least
