"""Benchmark: build and plan a study of about 10,000 stages.

    .venv/bin/python benchmarks/plan.py

The arms are those of `experiments/bridging_micro.py` with `full=True`, on 50 trunk seeds; planning does not fetch or
prepare anything.
"""

from __future__ import annotations

import time

from midstudy.data.data_args import DataChoice
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.planner import make_plan
from midstudy.recipe import Study
from midstudy.studies.bridging.comparisons import comparisons_of
from midstudy.studies.bridging.grid import Grid
from midstudy.studies.bridging.scale import Scale
from midstudy.studies.bridging.text import Text


def main() -> None:
    started = time.perf_counter()
    grid = Grid(scale=Scale(), text=Text.of(DataChoice()))
    cells = [*grid.main(), *grid.every_mix(), *grid.ablations(), *grid.further(), *grid.lengths((240, 960))]
    arms = [arm for seed in range(50) for arm in grid.arms(cells, seed=seed)]
    study = Study(name="plan", question="?", arms=arms, comparisons=comparisons_of(arms, grid))
    built = time.perf_counter()
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    done = time.perf_counter()
    assert plan.total_steps == plan.lower_bound_steps
    print(f"{len(study.arms):,} arms, {len(plan.stages):,} stages")
    print(f"build the study {built - started:.2f} s, plan it {done - built:.2f} s, together {done - started:.2f} s")


if __name__ == "__main__":
    main()
