"""Benchmark: build and plan a study of about 10,000 stages.

    .venv/bin/python benchmarks/plan.py

The grid is `experiments/bridging_micro.py` with every mix on every task, 25 trunk seeds and 8 SFT seeds, on the default
data; planning does not fetch or prepare anything.
"""

from __future__ import annotations

import time
from pathlib import Path

from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import make_plan

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "bridging_micro.py"


def main() -> None:
    started = time.perf_counter()
    seeds = [f"trunk_seeds={tuple(range(25))}", f"sft_seeds={tuple(range(8))}", "full=True"]
    study = load_study(EXPERIMENT, settings=seeds)
    built = time.perf_counter()
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    done = time.perf_counter()
    assert plan.total_steps == plan.lower_bound_steps
    print(f"{len(study.arms):,} arms, {len(plan.stages):,} stages")
    print(f"build the study {built - started:.2f} s, plan it {done - built:.2f} s, together {done - started:.2f} s")


if __name__ == "__main__":
    main()
