"""Simulate how long a plan takes on GPUs that are taken away now and then: the driver's schedule, in simulated time.

Jobs are those that the driver would submit (`schedule.py`), on a cluster whose GPUs are all this study's. A job is preempted
after an exponentially distributed time and reaches its time limit after a fixed one, both counted from its last start; it
saves its step, is requeued and goes on where it was, on a GPU that stays its own. `tests/launch/test_makespan.py` compares
this with the driver itself on a simulated Slurm.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from midstudy.launch.forecast import played
from midstudy.plan.planner import Plan, on_gpu
from midstudy.recipe.stage import Stage

RESTART_S = 120.0
"""Assumed seconds from an interruption until a job computes again: Slurm's delay, Python, reading the checkpoint."""

JOB_BUDGET_S = 600.0
"""Expected seconds after which no more stages are packed into a job."""

_KEYS = ("gpus", "gpus_per_job", "preempted_every", "time_limit")
_UNIT_S = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """GPUs, those of one job, and how often a running job is interrupted: on average, and at the latest."""

    gpus: int
    gpus_per_job: int = 1
    preempted_every_s: float = math.inf
    time_limit_s: float = math.inf
    restart_s: float = RESTART_S

    @classmethod
    def parse(cls, text: str) -> Cluster:
        """Return the cluster of `gpus=64,gpus_per_job=8,preempted_every=6h,time_limit=24h`; only `gpus` is required.

        Raises:
            ValueError: a key is unknown, missing or given twice, or a value is not a number of its unit.
        """
        values: dict[str, float] = {}
        for part in text.split(","):
            key, _, value = (word.strip() for word in part.partition("="))
            if key not in _KEYS or key in values:
                raise ValueError(
                    f"--makespan {text}: expected {', '.join(f'{one}=' for one in _KEYS)} each once, got {part}."
                )
            found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])" if key in _KEYS[2:] else r"(\d+)()", value)
            if found is None or float(found[1]) <= 0:
                form = "a time such as 30m, 6h or 2d" if key in _KEYS[2:] else "a whole number of at least 1"
                raise ValueError(f"--makespan {key}: expected {form}, got {value or 'nothing'}.")
            values[key] = float(found[1]) * _UNIT_S.get(found[2], 1.0)
        gpus, gpus_per_job = int(values.get("gpus", 0)), int(values.get("gpus_per_job", 1))
        if gpus < gpus_per_job:
            raise ValueError(f"--makespan gpus: expected at least gpus_per_job, {gpus_per_job}, got {gpus or 'nothing'}.")
        return cls(
            gpus=gpus,
            gpus_per_job=gpus_per_job,
            preempted_every_s=values.get("preempted_every", math.inf),
            time_limit_s=values.get("time_limit", math.inf),
        )

    @property
    def num_jobs(self) -> int:
        """Jobs at a time."""
        return self.gpus // self.gpus_per_job


@dataclass(frozen=True, kw_only=True)
class Makespan:
    """A simulated run in seconds, and two bounds from below: work divided among the jobs, and the longest chain."""

    cluster: Cluster
    wall_s: float
    work_bound_s: float
    chain_bound_s: float
    num_preempted: int
    num_timed_out: int

    def as_json(self) -> dict[str, Any]:
        """Return the numbers; what never happens is `None`."""
        facts = asdict(self)
        facts["cluster"] = {name: None if value == math.inf else value for name, value in facts["cluster"].items()}
        return facts

    def as_text(self, device: str) -> str:
        one = self.cluster
        how = f"{one.num_jobs} jobs at a time" + (f" of {one.gpus_per_job} GPUs" if one.gpus_per_job > 1 else "")
        events = [
            f"{number:,} {what}"
            for number, what, every in (
                (self.num_preempted, "preemptions", one.preempted_every_s),
                (self.num_timed_out, "time limits", one.time_limit_s),
            )
            if every < math.inf
        ]
        cost = f"; {' and '.join(events)}, {one.restart_s:.0f} s each (assumed)" if events else ""
        scaling = "; a job's GPUs share its work without loss (assumed)" if one.gpus_per_job > 1 else ""
        return (
            f"{self.wall_s / 3600:,.1f} h ({self.wall_s / 86400:.1f} days) on {one.gpus} {device}, {how}, simulated; at "
            f"least {self.work_bound_s / 3600:,.1f} h by work and {self.chain_bound_s / 3600:,.1f} h by the longest chain"
            f"{cost}{scaling}"
        )


class _Interruptions:
    """The interruptions of every job, in the order of its work."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster, self._random = cluster, random.Random(seed)
        self._left_s: dict[int, tuple[float, bool]] = {}
        self.num_preempted = self.num_timed_out = 0

    def _draw(self) -> tuple[float, bool]:
        """Return the seconds until the next interruption, and whether it is a preemption."""
        every_s, limit_s = self._cluster.preempted_every_s, self._cluster.time_limit_s
        preempted_s = self._random.expovariate(1 / every_s) if every_s < math.inf else math.inf
        return min(preempted_s, limit_s), preempted_s < limit_s

    def wall_s(self, job: int, work_s: float) -> float:
        """Return the seconds that so many seconds of work take in a job."""
        left_s, is_preemption = self._left_s.get(job) or self._draw()
        wall_s = work_s
        while work_s > left_s:
            work_s -= left_s
            wall_s += self._cluster.restart_s
            self.num_preempted += is_preemption
            self.num_timed_out += not is_preemption
            left_s, is_preemption = self._draw()
        self._left_s[job] = left_s - work_s, is_preemption
        return wall_s


def makespan(
    stages: Mapping[str, Stage],
    *,
    published: frozenset[str],
    cluster: Cluster,
    seed: int = 0,
    job_budget_s: float = JOB_BUDGET_S,
) -> Makespan:
    """Simulate a run of the stages that are not published.

    Args:
        stages: parents first. Stages that train or evaluate take their cost divided by the GPUs of a job; the others run on
            CPUs, in jobs of their own, which count among the jobs at a time.
        seed: of the preemptions.
    """
    taken = {
        stage_id: replace(stage, cost_s=stage.cost_s / cluster.gpus_per_job) if on_gpu(stage) else stage
        for stage_id, stage in stages.items()
    }
    interruptions = _Interruptions(cluster, seed)
    seen = played(
        taken,
        published=published,
        num_jobs=cluster.num_jobs,
        job_budget_s=job_budget_s,
        pack_key=on_gpu,
        wall_s=interruptions.wall_s,
    )
    chain_s: dict[str, float] = {}
    for stage_id, stage in taken.items():
        if stage_id not in published:
            chain_s[stage_id] = stage.cost_s + max((chain_s.get(parent, 0.0) for parent in stage.parents), default=0.0)
    return Makespan(
        cluster=cluster,
        wall_s=seen.times_s[-1],
        work_bound_s=sum(taken[stage_id].cost_s for stage_id in chain_s) / cluster.num_jobs,
        chain_bound_s=max(chain_s.values(), default=0.0),
        num_preempted=interruptions.num_preempted,
        num_timed_out=interruptions.num_timed_out,
    )


def makespan_of(plan: Plan, cluster: Cluster) -> Makespan:
    """Return the makespan of what a plan has left to run."""
    return makespan(plan.stages, published=plan.published, cluster=cluster)
