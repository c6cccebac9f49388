"""Forecast a run's wall-clock time by simulating its schedule with the expected seconds of its stages.

Pure, like the schedule: uses no process, clock or disk.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from midstudy.launch.schedule import Schedule
from midstudy.recipe.stage import Stage

JOB_START_S = 2.5
"""From scheduling a job until its first stage begins: Python start, PyTorch import, the driver's polling interval."""

STAGE_S = 0.15
"""Overhead per stage: its record, and the work of the driver, Prefect and MLflow."""

RUN_START_S = 4.0
"""Before the first job: starting the driver and the Prefect and MLflow servers."""

RUN_END_S = 15.0
"""After the last job: tables, the report's notebook, updating Prefect and MLflow."""

MOST_PLAYED = 2_000
"""Largest number of stages that is simulated. More would take seconds to simulate, and fill their jobs evenly anyway."""


@dataclass(frozen=True)
class Forecast:
    """Expected progress of a run over time.

    `done_s[i]` is the expected seconds of work done `times_s[i]` seconds after the start; both are non-decreasing and start
    at zero. `end_s` is the time after the last stage.
    """

    times_s: tuple[float, ...]
    done_s: tuple[float, ...]
    end_s: float = 0.0

    @property
    def wall_s(self) -> float:
        """Expected wall-clock seconds of the whole run."""
        return self.times_s[-1] + self.end_s

    def stages_left_s(self, done_s: float) -> float:
        """Return the expected seconds until the last stage ends, once `done_s` seconds of work are done."""
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
    """Simulate a run of `stages`.

    Args:
        published: ids of finished stages, which take no time.
        num_jobs: maximum number of concurrent jobs; a job starts immediately, without waiting in a queue.
        job_budget_s, pack_key: as in `Schedule`.
    """
    done_before = frozenset(published)
    left = [stage for stage_id, stage in stages.items() if stage_id not in done_before]
    if len(left) > MOST_PLAYED:
        return _evenly(left, num_jobs=num_jobs, job_budget_s=job_budget_s)
    return played(stages, published=done_before, num_jobs=num_jobs, job_budget_s=job_budget_s, pack_key=pack_key)


def played(
    stages: Mapping[str, Stage],
    *,
    published: frozenset[str],
    num_jobs: int,
    job_budget_s: float,
    pack_key: Callable[[Stage], Hashable],
    wall_s: Callable[[int, float], float] = lambda job, work_s: work_s,
) -> Forecast:
    """Simulate a run of any size; for the other arguments see `forecast`.

    Args:
        wall_s: seconds that so many seconds of work take in a job, given by its number; asked in the order of the work.
    """
    if stages.keys() <= published:
        return Forecast((0.0,), (0.0,))
    schedule = Schedule(stages, published=published, job_budget_s=job_budget_s, pack_key=pack_key)
    now_s, done_s, num_free, number = RUN_START_S, 0.0, num_jobs, 0
    times, done = [0.0, now_s], [0.0, 0.0]
    coming: list[tuple[float, int, list[str]]] = []  # (first stage's end, job, stages)
    while schedule.unsettled:
        for job in schedule.next_jobs(num_free=num_free, num_slots=num_jobs):
            number, num_free = number + 1, num_free - 1
            first_s = wall_s(number, JOB_START_S + _duration_s(stages[job[0]]))
            heapq.heappush(coming, (now_s + first_s, number, job))
        now_s, place, (ended, *further) = heapq.heappop(coming)
        schedule.publish(ended)
        done_s += stages[ended].cost_s
        times.append(now_s)
        done.append(done_s)
        if further:
            heapq.heappush(coming, (now_s + wall_s(place, _duration_s(stages[further[0]])), place, further))
        else:
            num_free += 1
    return Forecast(tuple(times), tuple(done), end_s=RUN_END_S)


def _evenly(stages: Sequence[Stage], *, num_jobs: int, job_budget_s: float) -> Forecast:
    """Forecast without simulation: the work divided evenly among the jobs, or the longest chain if that takes longer.

    Args:
        stages: the unfinished stages, parents first.
    """
    work_s = sum(stage.cost_s for stage in stages)
    busy_s = sum(_duration_s(stage) for stage in stages)
    chain_s: dict[str, float] = {}
    for stage in stages:
        chain_s[stage.id] = _duration_s(stage) + max((chain_s.get(parent, 0.0) for parent in stage.parents), default=0.0)
    busy_s += JOB_START_S * max(num_jobs, busy_s / job_budget_s)
    end_s = RUN_START_S + max(busy_s / num_jobs, JOB_START_S + max(chain_s.values()))
    return Forecast((0.0, RUN_START_S, end_s), (0.0, 0.0, work_s), end_s=RUN_END_S)


def _duration_s(stage: Stage) -> float:
    return stage.cost_s + STAGE_S
