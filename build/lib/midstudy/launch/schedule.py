"""What to run next, and which stages share a job. Pure: knows of no process, no clock and no disk.

Ready stages are taken by the length of the longest chain that waits behind them. A trunk's milestones share one job, which
carries nothing else, so that branches can start as it passes them and nothing keeps it from ending. Other jobs are filled
up, because starting one costs more than a small stage: first with stages that the job's own results make ready (evaluations
of a state it has just made, fine-tuning from it), then with other ready ones, up to a budget and to a fair share of what is
ready, so that no slot is left without work. Stages that the backend gives different places never share one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Mapping, Set

from midstudy.recipe.stage import Stage

SMALLEST_JOB_S = 5.0
"""Jobs shorter than this are filled up even where slots would stay idle: starting one costs one to two seconds."""


class Schedule:
    """The stages that are still to be made. Each is waiting for its parents, ready, taken (in a job), or settled.

    Args:
        stages: the study's stages by id.
        published: those that are finished; every parent that is not in `stages` must be among them.
        job_budget_s: expected seconds after which nothing more is put into a job.
        pack_key: stages of different keys never share a job.
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
        self._stages = {identity: stage for identity, stage in stages.items() if identity not in done}
        self._key = {identity: pack_key(stage) for identity, stage in self._stages.items()}
        self._missing = {
            identity: {parent for parent in stage.parents if parent not in done} for identity, stage in self._stages.items()
        }
        self._children: dict[str, list[str]] = {identity: [] for identity in self._stages}
        for identity, parents in self._missing.items():
            for parent in parents:
                self._children[parent].append(identity)
        order = self._parents_first()
        self._place = {identity: place for place, identity in enumerate(order)}
        self._chain_s: dict[str, float] = {}
        for identity in reversed(order):
            behind = max((self._chain_s[child] for child in self._children[identity]), default=0.0)
            self._chain_s[identity] = self._stages[identity].cost_s + behind
        self._taken: set[str] = set()
        self._ready: set[str] = set()
        self._queues: dict[Hashable, list[tuple[float, int, str]]] = {key: [] for key in self._key.values()}
        for identity in order:
            self._offer(identity)

    def _parents_first(self) -> list[str]:
        left = {identity: len(parents) for identity, parents in self._missing.items()}
        order = [identity for identity, count in left.items() if count == 0]
        for identity in order:
            for child in self._children[identity]:
                left[child] -= 1
                if left[child] == 0:
                    order.append(child)
        assert len(order) == len(self._stages), "the stages' parents form a cycle"
        return order

    def _offer(self, identity: str) -> None:
        """Make a stage ready if nothing is in its way."""
        if identity in self._stages and identity not in self._taken and not self._missing[identity]:
            self._ready.add(identity)
            heapq.heappush(self._queues[self._key[identity]], self._rank(identity))

    def _rank(self, identity: str) -> tuple[float, int, str]:
        return (-self._chain_s[identity], self._place[identity], identity)

    # -- what happened ------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> Set[str]:
        """Stages that are still to be made."""
        return self._stages.keys()

    def take(self, identities: Iterable[str]) -> None:
        """These stages are in a job now."""
        taken = set(identities) & self._stages.keys()
        self._taken |= taken
        self._ready -= taken

    def give_back(self, identities: Iterable[str]) -> None:
        """These stages are in no job any more and are still to be made."""
        for identity in identities:
            self._taken.discard(identity)
            self._offer(identity)

    def feasible(self, identities: Iterable[str]) -> list[str]:
        """Of a job's stages, in its order, those that no other job has and whose parents are finished or before them."""
        kept: list[str] = []
        for identity in identities:
            if self._is_free(identity) and self._missing[identity] <= set(kept):
                kept.append(identity)
        return kept

    def publish(self, identity: str) -> None:
        """A stage is finished; what waited for it alone becomes ready."""
        self._settle(identity)
        for child in self._children[identity]:
            if child in self._stages:
                self._missing[child].discard(identity)
                self._offer(child)

    def fail(self, identity: str) -> list[str]:
        """A stage has failed: settle it and all its unsettled descendants, which are returned."""
        self._settle(identity)
        skipped = []
        pending = [identity]
        for ancestor in pending:
            for child in self._children[ancestor]:
                if child in self._stages:
                    self._settle(child)
                    skipped.append(child)
                    pending.append(child)
        return skipped

    def _settle(self, identity: str) -> None:
        del self._stages[identity]
        self._taken.discard(identity)
        self._ready.discard(identity)

    # -- what to run next ---------------------------------------------------------------------------------------------

    def next_jobs(self, *, num_free: int, num_slots: int) -> list[list[str]]:
        """Stages for at most `num_free` jobs, each in the order in which the job is to make them; they are taken.

        Args:
            num_free: slots without a job.
            num_slots: all slots; each is to get its share of what is ready.
        """
        if not self._ready or num_free <= 0:
            return []
        ready_s = sum(self._stages[identity].cost_s for identity in self._ready)
        limit_s = min(self._job_budget_s, max(ready_s / num_slots, SMALLEST_JOB_S))
        jobs: list[list[str]] = []
        while len(jobs) < num_free and (first := self._pop(*self._queues)) is not None:
            jobs.append(self._trunk(first) or self._fill(first, limit_s))
        return jobs

    def _pop(self, *keys: Hashable) -> str | None:
        """Take the first ready stage that has one of these keys."""
        queues = [queue for key in keys if (queue := self._queues[key]) and self._drop_stale(queue)]
        if not queues:
            return None
        identity = heapq.heappop(min(queues, key=lambda queue: queue[0]))[2]
        self._ready.discard(identity)
        self._taken.add(identity)
        return identity

    def _drop_stale(self, queue: list[tuple[float, int, str]]) -> bool:
        """Drop those in front that were taken or settled meanwhile; whether any is left."""
        while queue and queue[0][2] not in self._ready:
            heapq.heappop(queue)
        return bool(queue)

    def _trunk(self, first: str) -> list[str]:
        """The milestones from `first` on along its line; none where the line does not go on."""
        line = [first]
        while further := self._next_milestone(line):
            line.append(further)
        if len(line) == 1:
            return []
        self._taken.update(line)
        return line

    def _next_milestone(self, line: list[str]) -> str | None:
        last = line[-1]
        further = [
            child
            for child in self._children[last]
            if self._is_free(child)
            and self._stages[child].continues_trunk
            and self._stages[child].start_from == last
            and self._missing[child] <= set(line)
            and self._key[child] == self._key[last]
        ]
        return min(further, key=self._rank, default=None)

    def _is_free(self, identity: str) -> bool:
        return identity in self._stages and identity not in self._taken

    def _begins_trunk(self, identity: str) -> bool:
        children = (self._stages.get(child) for child in self._children[identity])
        return any(child is not None and child.continues_trunk and child.start_from == identity for child in children)

    def _fill(self, first: str, limit_s: float) -> list[str]:
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

    def _add(self, identity: str, job: list[str], unlocked: list[tuple[float, int, str]]) -> float:
        """Put a stage into a job, and what only looks at its result right behind it; returns their expected seconds.

        Stages that this makes ready and that others wait for are added to `unlocked`.
        """
        self._taken.add(identity)
        job.append(identity)
        expected_s = self._stages[identity].cost_s
        members = set(job)
        for child in sorted(self._children[identity], key=self._rank):
            if not self._is_free(child) or self._key[child] != self._key[identity]:
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
        """The next ready stage that fits into the room left; trunks and longer stages wait for a job of their own."""
        passed = []
        found = None
        while found is None and (identity := self._pop(key)) is not None:
            if self._stages[identity].cost_s <= room_s and not self._begins_trunk(identity):
                found = identity
            else:
                passed.append(identity)
        self.give_back(passed)
        return found
