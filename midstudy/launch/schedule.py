"""Decide what to run next and which stages share a job. Pure: uses no process, clock or disk.

Ready stages are ordered by the longest chain of stages that depends on them (critical path first). A trunk's milestones
share one job that contains nothing else, so that branches can start as soon as it passes them and nothing delays its end.
Other jobs are filled up, because starting a job costs more than a small stage: first with stages that the job's own results
make ready (evaluations of a state it has just trained, fine-tuning from it), then with other ready stages. The limit is a
time budget and a fair share of the ready work, so that no slot idles. Stages with different pack keys never share a job.

A stage waits for all its parents, and is skipped if one of them fails. A decision waits until all its candidates have
ended, and is skipped only if none is left: it judges the others, since a candidate that diverges is an outcome, too.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Mapping, Set

from midstudy.recipe.stage import Stage

SMALLEST_JOB_S = 5.0
"""Jobs shorter than this are filled up even if slots stay idle: starting a job takes one to two seconds."""


class Schedule:
    """The unfinished stages of a study. Each one is waiting for its parents, ready, taken (in a job), or settled.

    Args:
        stages: the study's stages by id.
        published: ids of finished stages; must include every parent that is not in `stages`.
        job_budget_s: expected seconds after which no more stages are added to a job.
        pack_key: only stages with equal keys may share a job.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        *,
        published: Iterable[str],
        job_budget_s: float,
        pack_key: Callable[[Stage], Hashable] = lambda stage: None,
    ) -> None:
        self._job_budget_s = job_budget_s
        done = set(published)
        self._stages = {stage_id: stage for stage_id, stage in stages.items() if stage_id not in done}
        self._key = {stage_id: pack_key(stage) for stage_id, stage in self._stages.items()}
        self._missing = {
            stage_id: {parent for parent in stage.parents if parent not in done} for stage_id, stage in self._stages.items()
        }
        self._children: dict[str, list[str]] = {stage_id: [] for stage_id in self._stages}
        for stage_id, parents in self._missing.items():
            for parent in parents:
                self._children[parent].append(stage_id)
        order = self._parents_first()
        self._position = {stage_id: position for position, stage_id in enumerate(order)}
        self._chain_s: dict[str, float] = {}
        for stage_id in reversed(order):
            after_s = max((self._chain_s[child] for child in self._children[stage_id]), default=0.0)
            self._chain_s[stage_id] = self._stages[stage_id].cost_s + after_s
        self._lost: dict[str, set[str]] = {}
        """The parents of each decision that have failed or were skipped."""
        self._taken: set[str] = set()
        self._ready: set[str] = set()
        self._queues: dict[Hashable, list[tuple[float, int, str]]] = {key: [] for key in self._key.values()}
        for stage_id in order:
            self._offer(stage_id)

    def _parents_first(self) -> list[str]:
        """Return the unfinished stages in topological order."""
        num_missing = {stage_id: len(parents) for stage_id, parents in self._missing.items()}
        order = [stage_id for stage_id, count in num_missing.items() if count == 0]
        for stage_id in order:
            for child in self._children[stage_id]:
                num_missing[child] -= 1
                if num_missing[child] == 0:
                    order.append(child)
        assert len(order) == len(self._stages), "the stages' parents form a cycle"
        return order

    def _offer(self, stage_id: str) -> None:
        """Make a stage ready if it is unsettled, in no job, and has no unfinished parents."""
        if stage_id in self._stages and stage_id not in self._taken and not self._missing[stage_id]:
            self._ready.add(stage_id)
            heapq.heappush(self._queues[self._key[stage_id]], self._rank(stage_id))

    def _rank(self, stage_id: str) -> tuple[float, int, str]:
        """Return a sort key: longest chain of descendants first, then topological order."""
        return (-self._chain_s[stage_id], self._position[stage_id], stage_id)

    # -- updates ------------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> Set[str]:
        """Ids of the stages that are neither finished, failed nor skipped."""
        return self._stages.keys()

    def take(self, stage_ids: Iterable[str]) -> None:
        """Mark these stages as being in a job."""
        taken = set(stage_ids) & self._stages.keys()
        self._taken |= taken
        self._ready -= taken

    def give_back(self, stage_ids: Iterable[str]) -> None:
        """Mark these stages as no longer in a job; they still have to run."""
        for stage_id in stage_ids:
            self._taken.discard(stage_id)
            self._offer(stage_id)

    def feasible(self, stage_ids: Iterable[str]) -> list[str]:
        """Return those of a job's stages, in order, that no other job has and whose parents are finished or precede them."""
        kept: list[str] = []
        for stage_id in stage_ids:
            if self._is_free(stage_id) and self._missing[stage_id] <= set(kept):
                kept.append(stage_id)
        return kept

    def publish(self, stage_id: str) -> None:
        """Mark a stage as finished; stages that waited only for it become ready."""
        self._settle(stage_id)
        for child in self._children[stage_id]:
            if child in self._stages:
                self._missing[child].discard(stage_id)
                self._offer(child)

    def fail(self, stage_id: str) -> list[str]:
        """Mark a stage as failed; settle it and its unsettled descendants that cannot run, and return those descendants."""
        self._settle(stage_id)
        skipped = []
        pending = [stage_id]
        for ancestor in pending:
            for child in self._children[ancestor]:
                if child in self._stages and not self._decides_without(child, ancestor):
                    self._settle(child)
                    skipped.append(child)
                    pending.append(child)
        return skipped

    def _decides_without(self, stage_id: str, parent: str) -> bool:
        """Return whether a stage is a decision that other candidates are left for; it no longer waits for `parent`."""
        stage = self._stages[stage_id]
        if stage.role != "decision":
            return False
        lost = self._lost.setdefault(stage_id, set())
        lost.add(parent)
        self._missing[stage_id].discard(parent)
        if lost >= {*stage.parents}:
            return False
        self._offer(stage_id)
        return True

    def _settle(self, stage_id: str) -> None:
        del self._stages[stage_id]
        self._taken.discard(stage_id)
        self._ready.discard(stage_id)

    # -- scheduling ---------------------------------------------------------------------------------------------------

    def next_jobs(self, *, num_free: int, num_slots: int) -> list[list[str]]:
        """Take stages for at most `num_free` jobs; return them by job, in the order in which the job runs them.

        Args:
            num_free: number of slots without a job.
            num_slots: number of all slots; each should get its share of the ready work.
        """
        if not self._ready or num_free <= 0:
            return []
        ready_s = sum(self._stages[stage_id].cost_s for stage_id in self._ready)
        limit_s = min(self._job_budget_s, max(ready_s / num_slots, SMALLEST_JOB_S))
        jobs: list[list[str]] = []
        while len(jobs) < num_free and (first := self._pop(*self._queues)) is not None:
            jobs.append(self._trunk(first) or self._fill(first, limit_s))
        return jobs

    def _pop(self, *keys: Hashable) -> str | None:
        """Take the first ready stage with one of these keys; return None if there is none."""
        queues = [queue for key in keys if (queue := self._queues[key]) and self._drop_stale(queue)]
        if not queues:
            return None
        stage_id = heapq.heappop(min(queues, key=lambda queue: queue[0]))[2]
        self._ready.discard(stage_id)
        self._taken.add(stage_id)
        return stage_id

    def _drop_stale(self, queue: list[tuple[float, int, str]]) -> bool:
        """Drop leading entries that have since been taken or settled; return whether any entry is left."""
        while queue and queue[0][2] not in self._ready:
            heapq.heappop(queue)
        return bool(queue)

    def _trunk(self, first: str) -> list[str]:
        """Take the milestones from `first` along its trunk; return an empty list if the trunk does not continue."""
        trunk = [first]
        while milestone := self._next_milestone(trunk):
            trunk.append(milestone)
        if len(trunk) == 1:
            return []
        self._taken.update(trunk)
        return trunk

    def _next_milestone(self, trunk: list[str]) -> str | None:
        last = trunk[-1]
        milestones = [
            child
            for child in self._children[last]
            if self._is_free(child)
            and self._stages[child].continues_trunk
            and self._stages[child].start_from == last
            and self._missing[child] <= set(trunk)
            and self._key[child] == self._key[last]
        ]
        return min(milestones, key=self._rank, default=None)

    def _is_free(self, stage_id: str) -> bool:
        return stage_id in self._stages and stage_id not in self._taken

    def _begins_trunk(self, stage_id: str) -> bool:
        children = (self._stages.get(child) for child in self._children[stage_id])
        return any(child is not None and child.continues_trunk and child.start_from == stage_id for child in children)

    def _fill(self, first: str, limit_s: float) -> list[str]:
        """Take stages for a job that begins with `first`, until their expected seconds reach `limit_s`."""
        job: list[str] = []
        unlocked: list[tuple[float, int, str]] = []
        expected_s = 0.0
        following: str | None = first
        while following is not None:
            expected_s += self._add(following, job, unlocked)
            following = None
            if expected_s < limit_s:
                following = heapq.heappop(unlocked)[2] if unlocked else self._pop_for(limit_s - expected_s, self._key[first])
        return job

    def _add(self, stage_id: str, job: list[str], unlocked: list[tuple[float, int, str]]) -> float:
        """Append a stage to a job, followed by the stages it makes ready that have no descendants, such as evaluations.

        Stages it makes ready that other stages wait for are added to `unlocked`. Return the expected seconds appended.
        """
        self._taken.add(stage_id)
        job.append(stage_id)
        expected_s = self._stages[stage_id].cost_s
        members = set(job)
        for child in sorted(self._children[stage_id], key=self._rank):
            if not self._is_free(child) or self._key[child] != self._key[stage_id]:
                continue
            if self._missing[child] <= members and not self._begins_trunk(child):
                if any(grandchild in self._stages for grandchild in self._children[child]):
                    heapq.heappush(unlocked, self._rank(child))
                else:
                    self._taken.add(child)
                    job.append(child)
                    members.add(child)
                    expected_s += self._stages[child].cost_s
        return expected_s

    def _pop_for(self, room_s: float, key: Hashable) -> str | None:
        """Take the next ready stage of at most `room_s` seconds. Trunks and longer stages wait for their own job."""
        passed_over = []
        fitting = None
        while fitting is None and (stage_id := self._pop(key)) is not None:
            if self._stages[stage_id].cost_s <= room_s and not self._begins_trunk(stage_id):
                fitting = stage_id
            else:
                passed_over.append(stage_id)
        self.give_back(passed_over)
        return fitting
