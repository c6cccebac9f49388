"""How long a run will take on the wall: its schedule played through with the expected seconds of its stages.

Pure, like the schedule: knows of no process, no clock and no disk.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from midstudy.launch.schedule import Schedule
from midstudy.recipe.stage import Stage

JOB_START_S = 2.5
"""From the moment a job is wanted until its first stage begins: Python, PyTorch, the driver's own look."""

STAGE_S = 0.15
"""What a stage takes besides its own work: its record, and what driver, Prefect and MLflow do about it meanwhile."""

RUN_START_S = 4.0
"""Before the first job: the driver, with the servers of Prefect and MLflow."""

RUN_END_S = 15.0
"""After the last job: tables, the report's notebook, the views brought up to date."""


MOST_PLAYED = 2_000
"""Stages up to which the schedule is played through. More fill their jobs evenly, and playing would take seconds."""


@dataclass(frozen=True)
class Forecast:
    """Expected seconds of a run, `wall_s` in all, `end_s` of them after its last stage.

    `done_s` are expected seconds of work that are done after each of `times_s`, both rising; at first nothing is.
    """

    times_s: tuple[float, ...]
    done_s: tuple[float, ...]
    end_s: float = 0.0

    @property
    def wall_s(self) -> float:
        return self.times_s[-1] + self.end_s

    def stages_left_s(self, done_s: float) -> float:
        """Expected seconds until the last stage ends, once so much work is done."""
        place = bisect_right(self.done_s, done_s)
        if place == 0:
            return self.times_s[-1]
        if place == len(self.done_s):
            return 0.0
        before, after = self.done_s[place - 1], self.done_s[place]
        share = (done_s - before) / (after - before)
        now_s = self.times_s[place - 1] + share * (self.times_s[place] - self.times_s[place - 1])
        return self.times_s[-1] - now_s


def forecast(
    stages: Mapping[str, Stage],
    *,
    published: Iterable[str],
    num_jobs: int,
    job_budget_s: float = 60.0,
    pack_key: Callable[[Stage], Hashable] = lambda stage: None,
) -> Forecast:
    """Play a run of `stages` through: what is published already takes no time.

    Args:
        num_jobs: jobs at a time, each started at once: nothing waits in a queue.
        job_budget_s, pack_key: as the schedule takes them.
    """
    done_before = frozenset(published)
    left = [stage for identity, stage in stages.items() if identity not in done_before]
    if not left:
        return Forecast((0.0,), (0.0,))
    if len(left) > MOST_PLAYED:
        return _evenly(left, num_jobs=num_jobs, job_budget_s=job_budget_s)
    schedule = Schedule(stages, published=done_before, job_budget_s=job_budget_s, pack_key=pack_key)
    now_s, done_s, num_free, number = RUN_START_S, 0.0, num_jobs, 0
    times, done = [0.0, now_s], [0.0, 0.0]
    coming: list[tuple[float, int, list[str]]] = []  # when the first of a job's stages ends
    while schedule.unsettled:
        for job in schedule.next_jobs(num_free=num_free, num_slots=num_jobs):
            number, num_free = number + 1, num_free - 1
            heapq.heappush(coming, (now_s + JOB_START_S + _took_s(stages[job[0]]), number, job))
        now_s, place, (ended, *further) = heapq.heappop(coming)
        schedule.publish(ended)
        done_s += stages[ended].cost_s
        times.append(now_s)
        done.append(done_s)
        if further:
            heapq.heappush(coming, (now_s + _took_s(stages[further[0]]), place, further))
        else:
            num_free += 1
    return Forecast(tuple(times), tuple(done), end_s=RUN_END_S)


def _evenly(stages: Sequence[Stage], *, num_jobs: int, job_budget_s: float) -> Forecast:
    """The work shared among the jobs without a gap, or the longest chain of stages, if that is longer.

    Args:
        stages: those that are to be made, parents first.
    """
    work_s = sum(stage.cost_s for stage in stages)
    busy_s = sum(_took_s(stage) for stage in stages)
    chain_s: dict[str, float] = {}
    for stage in stages:
        chain_s[stage.id] = _took_s(stage) + max((chain_s.get(parent, 0.0) for parent in stage.parents), default=0.0)
    busy_s += JOB_START_S * max(num_jobs, busy_s / job_budget_s)
    end_s = RUN_START_S + max(busy_s / num_jobs, JOB_START_S + max(chain_s.values()))
    return Forecast((0.0, RUN_START_S, end_s), (0.0, 0.0, work_s), end_s=RUN_END_S)


def _took_s(stage: Stage) -> float:
    return stage.cost_s + STAGE_S
