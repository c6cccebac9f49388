"""The progress of each stage, recorded by the driver in one thread and awaited by a view in another.

The view (Prefect) has its own thread and event loop, so that nothing it does or waits for can delay the study.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

from midstudy.launch.forecast import Forecast
from midstudy.launch.time_left import Seen, time_left_s
from midstudy.recipe.manifest import StageEntry

REUSED, FINISHED, FAILED, SKIPPED = "reused", "finished", "failed", "skipped"
INTERRUPTED, DETACHED = "interrupted", "detached"
NOT_DONE = {
    INTERRUPTED: "the run was interrupted; the same command resumes it",
    DETACHED: "the run was detached; its jobs keep running, and the next run follows them",
}


@dataclass(frozen=True)
class End:
    """How a stage ended in a run.

    `how` is REUSED, FINISHED, FAILED, SKIPPED (an ancestor failed), INTERRUPTED together with the run, or DETACHED (its job
    keeps running without the run). `cause` says why. `took_s` is the number of seconds the stage took in this run, if known.
    """

    how: str
    cause: str = ""
    took_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a study at one moment. `running` holds labels; `share_done` is a share of expected seconds."""

    num_stages: int
    finished: int
    reused: int
    failed: int
    skipped: int
    running: tuple[str, ...]
    share_done: float
    elapsed_s: float
    left_s: float

    @property
    def ended(self) -> int:
        return self.finished + self.reused + self.failed + self.skipped


class Watch:
    """Records which stages of a run have begun and ended.

    The driver's thread calls `begin` and `end`, once per stage; any event loop may await `begun` and `ended`.

    Args:
        stages: the stages of the study's manifest.
        max_jobs: number of jobs that run at a time.
        outlook: forecast of this run, from which the time left is estimated. Default: all jobs are always busy.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        stages: Mapping[str, StageEntry],
        *,
        max_jobs: int,
        outlook: Forecast | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stages = stages
        self.ends: dict[str, End] = {}
        self._running: dict[str, float] = {}
        self._begun: dict[str, Future[None]] = {stage_id: Future() for stage_id in stages}
        self._ended: dict[str, Future[End]] = {stage_id: Future() for stage_id in stages}
        self._all_ended: Future[None] = Future()
        self._counts = dict.fromkeys((REUSED, FINISHED, FAILED, SKIPPED, INTERRUPTED, DETACHED), 0)
        self._settled_s = 0.0
        self._total_s = sum(stage.cost_s for stage in stages.values())
        self._seen: dict[str, Seen] = {}
        for stage in stages.values():
            self._seen.setdefault(_work_of(stage), Seen()).remaining_s += stage.cost_s
        self._outlook = outlook or Forecast((0.0, self._total_s / max_jobs), (0.0, self._total_s))
        self._clock, self._began = clock, clock()

    def begin(self, stage_id: str) -> None:
        if stage_id not in self.ends and stage_id not in self._running:
            self._running[stage_id] = self._clock()
            self._begun[stage_id].set_result(None)

    def end(self, stage_id: str, end: End) -> None:
        """Record a stage's end; its duration, if known, refines the estimate of the time left."""
        if stage_id in self.ends:
            return
        self._running.pop(stage_id, None)
        self._counts[end.how] += 1
        if end.how not in NOT_DONE:
            cost_s = self.stages[stage_id].cost_s
            seen = self._seen[_work_of(self.stages[stage_id])]
            self._settled_s += cost_s
            seen.remaining_s -= cost_s
            if end.took_s is not None:
                seen.note(cost_s, end.took_s)
        self.ends[stage_id] = end
        if not self._begun[stage_id].done():
            self._begun[stage_id].set_result(None)
        self._ended[stage_id].set_result(end)
        if self.all_ended:
            self._all_ended.set_result(None)

    def interrupt(self, how: str = INTERRUPTED) -> None:
        """End every stage that has not ended, as INTERRUPTED or DETACHED."""
        for stage_id in self.stages:
            self.end(stage_id, End(how, NOT_DONE[how]))

    async def begun(self, stage_id: str) -> None:
        """Return once the stage is running, or has ended without running."""
        await asyncio.shield(asyncio.wrap_future(self._begun[stage_id]))

    async def ended(self, stage_id: str) -> End:
        return await asyncio.shield(asyncio.wrap_future(self._ended[stage_id]))

    async def all_ended_within(self, timeout_s: float) -> None:
        """Return when every stage has ended, or after `timeout_s` seconds."""
        await asyncio.wait([asyncio.wrap_future(self._all_ended)], timeout=timeout_s)

    @property
    def all_ended(self) -> bool:
        return len(self.ends) == len(self.stages)

    def progress(self) -> Progress:
        now_s = self._clock()
        running = dict(self._running)  # a copy: the driver's thread may change it meanwhile
        seen = {work: replace(rate, running=[]) for work, rate in self._seen.items()}
        for stage_id, began_s in running.items():
            stage = self.stages[stage_id]
            seen[_work_of(stage)].running.append((stage.cost_s, now_s - began_s))
        return Progress(
            num_stages=len(self.stages),
            finished=self._counts[FINISHED],
            reused=self._counts[REUSED],
            failed=self._counts[FAILED],
            skipped=self._counts[SKIPPED],
            running=tuple(self.stages[stage_id].label for stage_id in running),
            share_done=self._settled_s / self._total_s if self._total_s > 0 else len(self.ends) / max(1, len(self.stages)),
            elapsed_s=now_s - self._began,
            left_s=0.0 if self.all_ended else time_left_s(self._outlook, seen),
        )


def _work_of(stage: StageEntry) -> str:
    """Return the kind of work whose speed predicts the stage's duration: "data", "state" or "evaluation"."""
    return stage.kind if stage.kind in ("state", "evaluation") else "data"
