"""Play one history per seed: draw faults from the seed, run the study to its end, and check the invariants.

    cd tests
    PYTHONHASHSEED=0 PYTHONPATH=.. python -m simulation.run 1234          one seed, with its history
    PYTHONHASHSEED=0 PYTHONPATH=.. python -m simulation.run 1000 2000     a range; prints a replay command for each failure

The hash seed is part of the history, since it determines the iteration order of sets of names.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from midstudy.files.errors import UnwritableError
from midstudy.launch import clock, job
from midstudy.launch import driver as driver_module
from midstudy.launch import restarts as starts
from midstudy.launch.driver import Driver, Outcome
from midstudy.launch.launcher import Exit
from midstudy.launch.process import Process
from midstudy.launch.slurm import job as slurm_job
from midstudy.launch.slurm.launcher import SlurmLauncher
from midstudy.launch.slurm.placement_file import Jobs, PlacementFile
from midstudy.launch.stop import Stop
from midstudy.recipe.stage import Stage
from midstudy.store import attempt as attempt_module
from midstudy.store.environment import describe_environment
from midstudy.store.store import Store
from simulation import study
from simulation.cluster import Cluster, Habits, SimulatedCommands
from simulation.disk import Disk, simulated_disk
from simulation.world import Actor, CrashedError, Host, SimulatedLoop, World

CHAOS_S = 300.0
"""Faults happen during this time; afterwards there are none, and the run must finish."""
ENDS_WITHIN_S = 20_000.0
BOOT = "11111111-2222-3333-4444-555555555555"
FAULTS = (
    "kill job", "preempt", "time out", "out of memory", "lose node", "lie about node", "vanish", "slurm away",
    "sacct away", "lose answer", "lose request", "refuse", "full disk", "jump clock", "kill driver", "driver loses power",
    "stop driver", "detach", "cancel",
)  # fmt: skip
_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


def is_finished(outcome: Outcome) -> bool:
    """Return whether the stage has a record."""
    return outcome.status in ("published", "reused")


class InvariantError(AssertionError):
    """An invariant was violated."""


class Simulation:
    """One history: a study, its drivers and the faults, all drawn from a seed."""

    def __init__(self, seed: int, root: Path) -> None:
        self.seed = seed
        draw = random.Random(seed)
        self.draw = draw
        self.world = World(
            seed,
            switch_rate=draw.choice((0.02, 0.1, 0.3)),
            stall_rate=draw.choice((0.0, 0.001, 0.01)),
            longest_stall_s=draw.choice((5.0, 400.0)),
        )
        self.stages: Mapping[str, Stage] = study.drawn_study(draw)
        self.store = Store.open(root / "store", create=True)
        for stage in self.stages.values():
            self.store.request(stage)
        self.hosts = [Host("login1"), Host("login2")]
        self.faults = [kind for kind in FAULTS if draw.random() < 0.3]
        self.deaths_of_jobs = draw.choice((0.0, 0.0, 0.2)) if "kill job" in self.faults else 0.0
        self.happened: Counter[str] = Counter()
        self.max_jobs = draw.randint(1, 4)
        self.is_calm = False
        self.drivers: dict[Actor, Driver | None] = {}
        self.processes: dict[Process, Actor] = {}
        self.outcomes: dict[str, Outcome] | None = None
        self.wrong: list[str] = []
        study.Making.now = self.making = study.Making(self.world)

    def begin(self, disk: Disk) -> None:
        """Create the cluster, start the first driver and schedule the faults."""
        habits = Habits(
            sacct_lag_s=self.draw.choice((1.0, 3.0, 30.0)),
            forgets_after_s=self.draw.choice((3.0, 300.0)),
            requeues_lost_nodes=self.draw.random() < 0.7,
            comes_back_after_s=self.draw.choice((0.5, 5.0, 15.0)),
        )
        self.disk = disk
        self.cluster = Cluster(self.world, disk, habits, self._run_job, self._on_job_start)
        self.making.lied_about = lambda: self.cluster.lied_about
        self.start_driver(self.hosts[0])
        if self.draw.random() < 0.5:
            self.world.after(self.draw.uniform(0, CHAOS_S / 2), lambda: self.start_driver(self.hosts[1]))
        for _ in range(self.draw.randint(0, 25) if self.faults else 0):
            kind = self.draw.choice(self.faults)
            self.world.after(self.draw.uniform(0, CHAOS_S), functools.partial(self.inject, kind))
        self.world.after(CHAOS_S, self.calm)

    # -- processes ----------------------------------------------------------------------------------------------------

    def _run_job(self, name: str) -> None:
        job.run_job(str(self.store.root), name)

    def _on_job_start(self, actor: Actor) -> None:
        if not self.is_calm and self.draw.random() < self.deaths_of_jobs:
            self.happened["kill job"] += 1
            actor.points_to_live = self.draw.randint(0, 200)

    def start_driver(self, host: Host) -> None:
        """Start a driver, as a user's `midstudy run` does."""
        actor = self.world.start("driver", host, self._drive)
        self.drivers[actor] = None
        self.processes[Process(pid=actor.pid, start_ticks=actor.pid, host=host.name, boot_id=BOOT)] = actor
        actor.when_ended.append(lambda: self._driver_ended(actor))

    def _driver_ended(self, actor: Actor) -> None:
        del self.drivers[actor]
        is_expected = isinstance(actor.error, UnwritableError) and "began" not in actor.environment
        if actor.error is not None and not is_expected:
            self.wrong.append("a driver ended with " + "".join(traceback.format_exception(actor.error)))
        self.world.say(f"driver {actor.pid} on {actor.host.name} has ended")
        if not self.is_calm and self.draw.random() < 0.7:  # the user restarts it, there or on another host
            host = self.draw.choice(self.hosts)
            self.world.after(self.draw.uniform(1, 90), lambda: self.start_driver(host))

    def _drive(self) -> None:
        me = self.world.current
        assert me is not None
        launcher = SlurmLauncher(
            self.store, PlacementFile(jobs=Jobs(poll_s=5.0)), self.stages, commands=SimulatedCommands(self.cluster),
            entry=study.ENTRY,
        )  # fmt: skip
        launcher.calls_block = False
        driver = Driver(
            self.store, self.stages, launcher, study="study", max_jobs=self.max_jobs, poll_s=10.0,
            job_budget_s=self.job_budget_s(), on_notice=self.world.say,
        )  # fmt: skip
        self.drivers[me] = driver

        async def run() -> None:
            await driver.start()
            me.environment["began"] = "yes"
            following = asyncio.gather(*(driver.finished(stage_id) for stage_id in self.stages))
            try:
                while not following.done():
                    await asyncio.wait([following], timeout=5.0)
                    if "detach" in me.environment:
                        following.cancel()
                        await driver.detach()
                        return
                    if "cancel" in me.environment:
                        following.cancel()
                        return
                self.outcomes = dict(zip(self.stages, following.result(), strict=True))
            finally:
                await driver.stop()

        loop = SimulatedLoop(self.world)
        try:
            loop.run_until_complete(run())
        except CrashedError:
            for task in asyncio.all_tasks(loop):  # close them while this process is dead: the garbage collector
                with contextlib.suppress(BaseException):  # would run their `finally` as part of another process
                    task.get_coro().close()
            raise
        loop.close()

    def job_budget_s(self) -> float:
        return self.draw.choice((5.0, 60.0))

    # -- faults -------------------------------------------------------------------------------------------------------

    def inject(self, kind: str) -> None:
        """Inject a fault of this kind now."""
        if self.is_calm:
            return
        self.happened[kind] += 1
        world, cluster, draw = self.world, self.cluster, self.draw
        task = draw.choice(cluster.running) if cluster.running else None
        driver = draw.choice(list(self.drivers)) if self.drivers else None
        if task is not None and kind in ("kill job", "preempt", "time out", "out of memory", "vanish"):
            {
                "kill job": lambda: cluster.kill(task, "FAILED"),
                "out of memory": lambda: cluster.kill(task, "OUT_OF_MEMORY"),
                "preempt": lambda: cluster.preempt(task),
                "time out": lambda: cluster.time_out(task),
                "vanish": lambda: cluster.forget(task),
            }[kind]()
        elif kind in ("lose node", "lie about node"):
            cluster.lose_node(draw.choice(cluster.nodes), really=kind == "lose node")
        elif kind in ("slurm away", "sacct away", "full disk"):
            place: Any = world if kind == "full disk" else cluster
            name = {"slurm away": "is_away", "sacct away": "is_sacct_away", "full disk": "is_disk_full"}[kind]
            world.say(f"fault: {kind}")
            setattr(place, name, True)
            world.after(draw.uniform(5, 300), lambda: setattr(place, name, False))
        elif kind in ("lose answer", "lose request", "refuse"):
            name = {"lose answer": "loses_answers", "lose request": "loses_requests", "refuse": "refusals"}[kind]
            setattr(cluster, name, getattr(cluster, name) + draw.randint(1, 2))
        elif kind == "jump clock":
            draw.choice([*self.hosts, *cluster.nodes]).skew_s = draw.choice((-86_000.0, -100.0, 100.0, 3_600.0))
        elif driver is not None and kind == "kill driver":
            driver.points_to_live = draw.randint(0, 150)
        elif driver is not None and kind == "stop driver":
            driver.stall(after_points=draw.randint(0, 150), duration_s=draw.choice((30.0, 200.0, 400.0)))
        elif driver is not None and kind == "driver loses power":
            world.say(f"fault: {driver.host.name} loses power")
            for actor in list(self.drivers):
                if actor.host is driver.host:
                    actor.kill()
            self.disk.lose_power(driver.host.name)
        elif driver is not None and kind in ("detach", "cancel"):
            driver.environment[kind] = "yes"

    def calm(self) -> None:
        """Stop all faults."""
        self.world.say("no faults from here on")
        self.is_calm = True
        self.world.calm()
        self.world.is_disk_full = self.cluster.is_away = self.cluster.is_sacct_away = False
        self.cluster.loses_answers = self.cluster.loses_requests = self.cluster.refusals = 0

    # -- invariants ---------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Play the history and check the invariants.

        Raises:
            InvariantError: an invariant was violated.
        """
        try:
            self.world.run(lambda: self.is_calm and not self.drivers, limit_s=ENDS_WITHIN_S)
            if self.outcomes is not None:
                self._check_outcomes(self.outcomes, after_chaos=True)
            # The user runs the study once more, and again if effects of the faults were left.
            for is_last in (False, True):
                self.outcomes = None
                self.start_driver(self.hosts[0])
                self.world.run(lambda: not self.drivers, limit_s=self.world.now + ENDS_WITHIN_S)
                self.world.run(self._is_quiet, limit_s=self.world.now + ENDS_WITHIN_S)
                if self.outcomes is None:
                    raise InvariantError(f"the run returned no outcome: {'; '.join(self.wrong)}")
                self._check_outcomes(self.outcomes, after_chaos=not is_last)
                if all(is_finished(outcome) for outcome in self.outcomes.values()):
                    break
        except TimeoutError as error:
            raise InvariantError(f"the run does not finish: {error}") from None
        self._check_store()
        if self.wrong or self.making.wrong:
            raise InvariantError("; ".join([*self.wrong, *self.making.wrong]))

    def _is_quiet(self) -> bool:
        waiting = [task for task in self.cluster.tasks if task.state in ("PENDING", "COMPLETING") and not task.has_vanished]
        return not self.world.actors and not waiting

    def _check_outcomes(self, outcomes: Mapping[str, Outcome], *, after_chaos: bool) -> None:
        bad: set[str] = set()
        for stage_id, stage in self.stages.items():
            outcome, words = outcomes[stage_id], stage.label.split()[2:]
            failed_parents = bad.intersection(stage.parents)
            if is_finished(outcome):
                exists = self.store.has(stage_id)
                self._require(exists, f"{stage.label} is reported as {outcome.status}, but has no record")
            elif outcome.status == "skipped":
                bad.add(stage_id)
                self._require(bool(failed_parents), f"{stage.label} is skipped, but no parent failed: {outcome.cause}")
            else:
                bad.add(stage_id)
                self._require(not failed_parents, f"{stage.label} was run although {failed_parents} failed")
                explained = self._explains(words, outcome.cause, after_chaos=after_chaos)
                self._require(explained, f"{stage.label} failed, but no fault explains it: {outcome.cause}")
            if not after_chaos and not failed_parents and not words:
                self._require(is_finished(outcome), f"{stage.label} is {outcome.status} without any fault: {outcome.cause}")

    def _explains(self, words: list[str], cause: str, *, after_chaos: bool) -> bool:
        """Return whether the stage itself or a fault explains this failure."""
        if "raise" in words and "cannot be made" in cause:
            return True
        if "kill" in words and ("not retried" in cause or "without progress" in cause):
            return True
        faults = {
            "No space left": ("full disk",),
            "ended with exit status": ("full disk",),
            "FAILED, exit status": ("full disk",),
            "OUT_OF_MEMORY": ("out of memory",),
            "TIMEOUT": ("time out",),
            "CANCELLED": ("cancel",),
            "without progress": ("lose node", "lie about node", "preempt", "time out", "kill job"),
            "not retried": ("kill job", "vanish", "lose node", "lie about node", "lose answer", "preempt"),
        }
        return after_chaos and any(
            sign in cause and any(self.happened[kind] for kind in kinds) for sign, kinds in faults.items()
        )

    def _check_store(self) -> None:
        for stage_id, stage in self.stages.items():
            folder = str(self.store.paths.published(stage_id))
            times = self.disk.publications.get(folder, 0)
            self._require(times == self.store.has(stage_id), f"{stage.label} was published {times} times")
            if times:
                self.store.verify(stage)
                for name, facts in self.store.record(stage_id).files.items():
                    digest = hashlib.sha256((self.store.published_folder(stage_id) / name).read_bytes()).hexdigest()
                    self._require(digest == facts["sha256"], f"{stage.label}: {name} does not match its record")
            if "kill" in stage.label.split():
                most = 4 * (3 + 6) * (1 + self.happened.total())
                self._require(self.making.num_starts.get(stage_id, 0) < most, f"{stage.label} was retried too often")

    def _require(self, holds: bool, text: str) -> None:
        if not holds:
            raise InvariantError(text)


# -- replacing the real environment ---------------------------------------------------------------------------------------


class _Environment(Mapping[str, str]):
    """`os.environ` of the current simulated process."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getitem__(self, name: str) -> str:
        assert self._world.current is not None
        return self._world.current.environment[name]

    def __iter__(self) -> Iterator[str]:
        assert self._world.current is not None
        return iter(self._world.current.environment)

    def __len__(self) -> int:
        return len(list(iter(self)))


class _Os:
    """The module `os`, as seen by the current simulated process."""

    def __init__(self, world: World) -> None:
        self.environ = _Environment(world)
        self._world = world

    def getpid(self) -> int:
        return self._world.current.pid if self._world.current else os.getpid()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@contextlib.contextmanager
def _in_place(simulation: Simulation) -> Iterator[None]:
    """Patch clocks, processes, signals and environment with those of a simulation."""
    world = simulation.world
    ids = random.Random(simulation.seed + 1)
    simulated_os = _Os(world)

    class Now(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(world.wall_clock() + len(world.history) * 1e-6, UTC)

    @contextlib.contextmanager
    def stop_signals(asked: Callable[[], bool] = lambda: False) -> Iterator[Stop]:
        assert world.current is not None
        world.current.stop = Stop(asked)
        yield world.current.stop

    def this_process() -> Process:
        return next(process for process, actor in simulation.processes.items() if actor is world.current)

    def is_alive(process: Process) -> bool:
        actor = simulation.processes.get(process)
        return actor is not None and not actor.has_ended and not actor.is_doomed

    def requeue(received: Any) -> bool:
        return slurm_job.requeue(received, SimulatedCommands(simulation.cluster))

    real_note = driver_module.note_interruption

    def note_interruption(store: Store, stage_id: str, job_name: str, ended: Exit) -> int:
        if store.has(stage_id) and not simulation.cluster.lied_about:
            simulation.wrong.append(f"{job_name} is reported as interrupted at {stage_id}, which has a record")
        return real_note(store, stage_id, job_name, ended)

    with contextlib.ExitStack() as stack:
        for place, name, value in (
            (driver_module, "note_interruption", note_interruption),
            (clock, "now", world.wall_clock),
            (clock, "monotonic", lambda: world.now),
            (clock, "sleep", world.sleep),
            (time, "time", world.wall_clock),
            (time, "monotonic", lambda: world.now),
            (uuid, "uuid4", lambda: uuid.UUID(int=ids.getrandbits(128))),
            (attempt_module, "datetime", Now),
            (attempt_module, "os", simulated_os),
            (starts, "os", simulated_os),
            (slurm_job, "os", simulated_os),
            (job, "stop_signals", stop_signals),
            (job, "requeue", requeue),
            (driver_module, "this_process", this_process),
            (Process, "is_alive", is_alive),
            (Process, "is_here", property(lambda process: world.current is None or process.host == world.current.host.name)),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield


def run_seed(seed: int, *, show: Callable[[str], None] = lambda line: None) -> str | None:
    """Play a seed; return the violated invariant or None. `show` gets the history's lines at the end."""
    root = Path(tempfile.mkdtemp(prefix=f"midstudy-seed-{seed}-", dir=_MEMORY))
    simulation = Simulation(seed, root)
    try:
        with _in_place(simulation), simulated_disk(simulation.world) as disk:
            try:
                simulation.begin(disk)
                simulation.play()
            finally:
                simulation.world.end()
    except InvariantError as error:
        return str(error)
    finally:
        for line in simulation.world.history:
            show(line)
        shutil.rmtree(root, ignore_errors=True)
    return None


def replay_command(seed: int) -> str:
    return f"cd tests && PYTHONHASHSEED=0 PYTHONPATH=.. python -m simulation.run {seed}"


def main(arguments: list[str]) -> int:
    describe_environment()  # calls git once, in real time
    if len(arguments) == 1:
        violation = run_seed(int(arguments[0]), show=print)
        print(violation or "all invariants hold")
        return 1 if violation else 0
    failed = 0
    for seed in range(int(arguments[0]), int(arguments[1])):
        if (violation := run_seed(seed)) is not None:
            failed += 1
            print(f"seed {seed}: {violation}\n    {replay_command(seed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
