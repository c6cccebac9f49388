"""Simulated time and processes. One process runs at a time; only the seed decides which, for how long, and where it dies.

A process is a greenlet: its code runs unchanged, with real calls, and yields wherever it writes, calls Slurm or sleeps,
however deep in the call stack. At each of these points it may be suspended for a while, or killed.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

EPOCH_S = 1_800_000_000.0
"""Start of the simulated clocks, in Unix seconds."""


class CrashedError(SystemExit):
    """Unwinds the call stack of a killed process. Event loops let it pass, like any SystemExit."""


class Host:
    """A machine, with its own clock: `skew_s` seconds ahead of simulated time."""

    def __init__(self, name: str) -> None:
        self.name, self.skew_s = name, 0.0


class Actor:
    """A simulated process."""

    def __init__(self, world: World, name: str, host: Host, pid: int, body: Callable[[], None]) -> None:
        self.world, self.name, self.host, self.pid, self._body = world, name, host, pid, body
        self.environment: dict[str, str] = {}
        self.stop: Any = None
        self.files: list[Any] = []
        self.wake_at = world.now
        self.points_to_live = self.points_to_stall = math.inf
        self.stalls_for_s = 0.0
        self.is_doomed = False
        self.has_ended = False
        self.error: BaseException | None = None
        self.when_ended: list[Callable[[], None]] = []
        self._greenlet = greenlet(self._main)

    def run(self) -> None:
        """Run the process until it yields; called by the world."""
        self.world.current = self
        self._greenlet.switch()
        self.world.current = None

    def _main(self) -> None:
        try:
            self.check()
            self._body()
        except CrashedError:
            pass
        except BaseException as error:
            self.error = error
        self.has_ended = True

    def pause(self, until: float) -> None:
        """Yield; resume at `until` or later."""
        self.wake_at = until
        loop = asyncio._get_running_loop()  # asyncio allows one running loop per thread, but each process may have one
        asyncio._set_running_loop(None)
        self.world.greenlet.switch()
        asyncio._set_running_loop(loop)
        self.check()

    def stall(self, *, after_points: int, duration_s: float) -> None:
        """Suspend the process for `duration_s` after `after_points` more points, between two of its writes."""
        self.points_to_stall, self.stalls_for_s = after_points, duration_s

    def kill(self) -> None:
        """Kill the process: it runs no further code."""
        self.is_doomed = True
        self.wake_at = self.world.now

    def check(self) -> None:
        """Raise `CrashedError` if the process was killed."""
        if self.is_doomed:
            raise CrashedError


class World:
    """The simulated processes, their time and the random decisions.

    Args:
        seed: seed of all random decisions.
        switch_rate: share of points at which another process may continue.
        stall_rate: share of points at which a process is suspended for up to `longest_stall_s` seconds.
    """

    def __init__(self, seed: int, *, switch_rate: float, stall_rate: float, longest_stall_s: float) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.current: Actor | None = None
        self.greenlet = getcurrent()
        self.actors: list[Actor] = []
        self.num_points = 0
        self.is_disk_full = False
        self.history: list[str] = []
        self._switch_rate, self._stall_rate, self._longest_stall_s = switch_rate, stall_rate, longest_stall_s
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._num_timers, self._next_pid = 0, 100

    def say(self, text: str) -> None:
        """Append a line to the history."""
        who = f"{self.current.name}@{self.current.host.name}: " if self.current else ""
        self.history.append(f"{self.now:9.2f}  {who}{text}")

    def start(self, name: str, host: Host, body: Callable[[], None]) -> Actor:
        """Start a process that runs `body`."""
        self._next_pid += 1
        actor = Actor(self, name, host, self._next_pid, body)
        self.actors.append(actor)
        return actor

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Call `act` after `delay_s` simulated seconds."""
        self._num_timers += 1
        heapq.heappush(self._timers, (self.now + delay_s, self._num_timers, act))

    def calm(self) -> None:
        """Cancel all further stalls and planned deaths."""
        self._stall_rate = 0.0
        for actor in self.actors:
            actor.points_to_live = actor.points_to_stall = math.inf

    def point(self) -> None:
        """Mark a point where the current process may be interrupted. Does nothing outside a process."""
        actor = self.current
        if actor is None:
            return
        actor.check()
        self.num_points += 1
        actor.points_to_live -= 1
        if actor.points_to_live < 0:
            self.say("killed")
            actor.kill()
            actor.check()
        actor.points_to_stall -= 1
        if actor.points_to_stall < 0:
            actor.points_to_stall = math.inf
            self.say(f"suspended for {actor.stalls_for_s:.0f} s")
            actor.pause(self.now + actor.stalls_for_s)
        draw = self.random.random()
        if draw < self._stall_rate:
            actor.pause(self.now + self.random.random() ** 3 * self._longest_stall_s)
        elif draw < self._stall_rate + self._switch_rate:
            actor.pause(self.now)

    def sleep(self, duration_s: float) -> None:
        actor = self.current
        assert actor is not None
        actor.check()
        actor.pause(self.now + duration_s)

    def run(self, until: Callable[[], bool], *, limit_s: float) -> None:
        """Advance time until `until` returns True.

        Raises:
            TimeoutError: it did not return True before `limit_s`.
        """
        while not until():
            ready = [actor for actor in self.actors if actor.wake_at <= self.now]
            if ready:
                actor = ready[0] if len(ready) == 1 else self.random.choice(ready)
                actor.run()
                if actor.has_ended:
                    self.actors.remove(actor)
                    for act in actor.when_ended:
                        act()
                continue
            moments = [actor.wake_at for actor in self.actors] + [timer[0] for timer in self._timers[:1]]
            self.now = min(moments, default=math.inf)
            if self.now > limit_s:
                raise TimeoutError(f"not finished after {limit_s:.0f} simulated seconds")
            while self._timers and self._timers[0][0] <= self.now:
                heapq.heappop(self._timers)[2]()

    def end(self) -> None:
        """Kill every process."""
        for actor in list(self.actors):
            actor.when_ended.clear()
            actor.kill()
            for _ in range(1_000):
                actor.run()
                if actor.has_ended:
                    break
            else:
                raise RuntimeError(f"{actor.name} cannot be killed: its code continues after a BaseException")
        self.actors.clear()

    # -- clocks, as the current process sees them -----------------------------------------------------------------------

    def wall_clock(self) -> float:
        return EPOCH_S + self.now + (self.current.host.skew_s if self.current else 0.0)


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop that waits in simulated time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world, self._selector = world, self
        self.set_exception_handler(lambda loop, context: None)  # ignore errors of killed tasks

    def time(self) -> float:
        return self._world.now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or timeout > 0:
            self._world.sleep(math.inf if timeout is None else timeout)
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
