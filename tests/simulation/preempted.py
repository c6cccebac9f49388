"""How long the real driver takes for a study on the simulated Slurm, whose jobs are preempted and otherwise undisturbed.

    cd tests
    PYTHONHASHSEED=0 PYTHONPATH=.. python -m simulation.preempted 3 900     three seeds, preempted every 900 s on average

Prints JSON: the simulated seconds of every seed, its preemptions, and the stages with their costs in seconds.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from builders.fake_execute import fake_stage

from midstudy.recipe.stage import Stage
from midstudy.store.environment import describe_environment
from simulation.cluster import NUM_NODES, Cluster, Habits
from simulation.disk import Disk, simulated_disk
from simulation.run import Simulation, _in_place, is_finished
from simulation.study import STEP_S
from simulation.world import Actor

JOB_BUDGET_S = 60.0
LIMIT_S = 1e6


def stages_of_a_study() -> dict[str, Stage]:
    """Return a trunk with milestones, branches from each, and stages that follow these; lengths differ."""
    draw = random.Random(0)
    made: list[Stage] = []

    def stage(name: str, *parents: Stage, trunk: bool = False) -> Stage:
        num_steps = draw.randint(40, 250)
        made.append(fake_stage(f"{name} {num_steps}", *parents, cost_s=num_steps * STEP_S, trunk=trunk))
        return made[-1]

    last = stage("data")
    for number in range(4):
        last = stage(f"m{number}", last, trunk=number > 0)
        for branch in range(2):
            stage(f"leaf{number}{branch}", stage(f"branch{number}{branch}", last))
    return {one.id: one for one in made}


class Preempted(Simulation):
    """A driver and a Slurm without faults, whose jobs are preempted an exponential time after each start."""

    def __init__(self, seed: int, root: Path, every_s: float) -> None:
        super().__init__(seed, root)
        self._every_s, self.num_preempted, self.ended_at = every_s, 0, 0.0
        self.world._stall_rate = self.deaths_of_jobs = 0.0
        self.max_jobs, self.faults, self.is_calm = NUM_NODES, [], True
        self.stages = stages_of_a_study()
        for stage in self.stages.values():
            self.store.request(stage)

    def begin(self, disk: Disk) -> None:
        habits = Habits(sacct_lag_s=1.0, forgets_after_s=300.0, requeues_lost_nodes=True, comes_back_after_s=0.5)
        self.disk = disk
        self.cluster = Cluster(self.world, disk, habits, self._run_job, self._on_job_start)
        self.start_driver(self.hosts[0])

    def job_budget_s(self) -> float:
        return JOB_BUDGET_S

    def _on_job_start(self, actor: Actor) -> None:
        def preempt() -> None:
            for task in self.cluster.running:
                if task.actor is actor:
                    self.num_preempted += 1
                    self.cluster.preempt(task)

        self.world.after(self.draw.expovariate(1 / self._every_s), preempt)

    def play(self) -> None:
        self.world.run(lambda: not self.drivers, limit_s=LIMIT_S)
        self.ended_at = self.world.now
        assert self.outcomes is not None
        assert all(is_finished(outcome) for outcome in self.outcomes.values()), self.outcomes
        assert not self.wrong
        assert not self.making.wrong


def main(num_seeds: int, every_s: float) -> None:
    describe_environment()  # calls git once, in real time
    ends, numbers = [], []
    for seed in range(num_seeds):
        root = Path(tempfile.mkdtemp(prefix="midstudy-preempted-"))
        try:
            simulation = Preempted(seed, root, every_s)
            with _in_place(simulation), simulated_disk(simulation.world) as disk:
                try:
                    simulation.begin(disk)
                    simulation.play()
                finally:
                    simulation.world.end()
            ends.append(simulation.ended_at)
            numbers.append(simulation.num_preempted)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    print(json.dumps({"wall_s": ends, "num_preempted": numbers}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
