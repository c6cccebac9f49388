"""What has become of each stage, told by the driver in one thread and awaited by a view in another.

The view (Prefect) has a thread and an event loop of its own, so that nothing it does or waits for can hold up the study.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

REUSED, FINISHED, FAILED, SKIPPED = "reused", "finished", "failed", "skipped"
INTERRUPTED, DETACHED = "interrupted", "detached"
NOT_DONE = {
    INTERRUPTED: "the run was interrupted; the same command goes on from here",
    DETACHED: "the run was told to leave; the job goes on, and the next run follows it",
}


@dataclass(frozen=True)
class End:
    """How a stage ended: REUSED, FINISHED, FAILED, SKIPPED (an ancestor failed), INTERRUPTED with its run, or DETACHED,
    which goes on without it; `cause` says why."""

    how: str
    cause: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A study at one moment. `share_done` counts expected seconds, not stages."""

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
    """`begin` and `end` are called by the driver's thread, once a stage each; `begun` and `ended` awaited by any loop.

    Args:
        stages: of each stage its place in the study's manifest: label, parents, cost_s.
        max_jobs: how many jobs run side by side, from which the time left is guessed until there is speed to go by.
    """

    def __init__(self, stages: Mapping[str, Mapping[str, Any]], *, max_jobs: int) -> None:
        self.stages = stages
        self.ends: dict[str, End] = {}
        self._max_jobs = max_jobs
        self._running: dict[str, None] = {}
        self._begun: dict[str, Future[None]] = {stage_id: Future() for stage_id in stages}
        self._ended: dict[str, Future[End]] = {stage_id: Future() for stage_id in stages}
        self._all_ended: Future[None] = Future()
        self._counts = dict.fromkeys((REUSED, FINISHED, FAILED, SKIPPED, INTERRUPTED, DETACHED), 0)
        self._settled_s = self._worked_s = 0.0
        self._total_s = sum(stage["cost_s"] for stage in stages.values())
        self._began = time.monotonic()

    def begin(self, stage_id: str) -> None:
        if stage_id not in self.ends and stage_id not in self._running:
            self._running[stage_id] = None
            self._begun[stage_id].set_result(None)

    def end(self, stage_id: str, end: End) -> None:
        if stage_id in self.ends:
            return
        self._running.pop(stage_id, None)
        self._counts[end.how] += 1
        if end.how not in NOT_DONE:
            self._settled_s += self.stages[stage_id]["cost_s"]
        if end.how == FINISHED:
            self._worked_s += self.stages[stage_id]["cost_s"]
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
        """Return when the stage is being made, or has ended without that."""
        await asyncio.shield(asyncio.wrap_future(self._begun[stage_id]))

    async def ended(self, stage_id: str) -> End:
        return await asyncio.shield(asyncio.wrap_future(self._ended[stage_id]))

    async def all_ended_within(self, timeout_s: float) -> None:
        """Return when every stage has ended, or after `timeout_s`."""
        await asyncio.wait([asyncio.wrap_future(self._all_ended)], timeout=timeout_s)

    @property
    def all_ended(self) -> bool:
        return len(self.ends) == len(self.stages)

    def progress(self) -> Progress:
        elapsed_s = time.monotonic() - self._began
        remaining_s = self._total_s - self._settled_s
        if self._worked_s > 0.05 * (self._worked_s + remaining_s) and elapsed_s > 0:
            left_s = remaining_s * elapsed_s / self._worked_s
        else:
            left_s = remaining_s / self._max_jobs
        return Progress(
            num_stages=len(self.stages),
            finished=self._counts[FINISHED],
            reused=self._counts[REUSED],
            failed=self._counts[FAILED],
            skipped=self._counts[SKIPPED],
            running=tuple(self.stages[stage_id]["label"] for stage_id in tuple(self._running)),
            share_done=self._settled_s / self._total_s if self._total_s > 0 else len(self.ends) / max(1, len(self.stages)),
            elapsed_s=elapsed_s,
            left_s=left_s,
        )
