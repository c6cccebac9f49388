"""A study on a real Slurm while every process that takes part in it is killed repeatedly: the results stay the same.

The faults and the pauses between them are drawn from a seed, which is printed; CHAOS_SEED=... repeats them. Which job a
fault hits depends on timing. A driver that ends is restarted as a user would: with `run`, or with `retry` if a stage failed
because its job was cancelled externally, which the driver does not retry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from builders.chaos_command import pause_file
from builders.mlflow_database import mlflow_rows
from builders.places import PYTHONPATH, TESTS
from builders.small_study import write_text
from slurm.cluster import NODES, Cluster

from midstudy.store.attempt import CHECKPOINTS_FOLDER, steps_of
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.train.rolling import newest_step

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(1800)]

STUDY = "small"

FAULTS = {
    "a job is killed": 5,
    "a job is cancelled externally": 3,
    "a job is requeued externally": 3,
    "a job is preempted": 4,
    "the driver is killed": 4,
    "the driver is asked to detach": 3,
    "a slurmd is killed": 3,
    "slurmctld is killed": 3,
    "slurmdbd is killed": 2,
    "the Prefect server is killed": 2,
    "the Prefect server is emptied": 1,
    "MLflow's store is deleted": 2,
}
"""How often each fault occurs."""

WANTED_FAULTS, WANTED_KINDS = 30, 8
PAUSES_S = (0.3, 2.5)
"""Range of the pause between two faults."""
BEHIND, BEHIND_S = 2, 20.0
"""How many records the study may lag behind the schedule of faults before a fault waits for it, and for how long at most."""
NOTHING_TO_HIT_S = 30.0
"""How long a fault waits for a target before it is skipped."""
DEADLINE_S = 1500.0
HANGS_AFTER_S = 300.0
"""Longest time without a new record or fault."""

EXPERIMENT = """\
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
from builders.small_study import small_study

def study(*, data=None):
    return small_study(Path({text!r}), total_steps=60, starts=(20, 40), tasks=("code_task", "word_task"), sft_steps=20)
"""

PLACEMENT = """\
[default]
partition = "preempt"
memory_gb = 1
time_limit_min = 10

[kind.sft]
time_limit_min = 11

[kind.evaluation]
time_limit_min = 12

[jobs]
at_a_time = 4
budget_s = 0.1
poll_s = 0.5
"""
"""Different time limits per kind keep stages of different kinds in separate jobs."""


@dataclass(frozen=True)
class RunningJob:
    """A process of the study that trains, evaluates or tokenises under Slurm."""

    name: str
    pid: int
    slurm_id: str
    node: str


class PrefectServer:
    """A real Prefect server on its own port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server without waiting until it is up."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "--no-prompt", "server", "start", "--port", str(self.port)],
                env={**os.environ, "PREFECT_HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def is_healthy(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(OSError), opener.open(f"{self.url}/health", timeout=2):
            return True
        return False


class Chaos:
    """The run of the study, the faults, and the restarts of processes that have ended."""

    def __init__(self, cluster: Cluster, store: Store, prefect: PrefectServer, command: list[str], seed: int) -> None:
        self.cluster, self.store, self.prefect, self.command = cluster, store, prefect, command
        self.rng = random.Random(seed)
        self.hits: Counter[str] = Counter()
        self.is_done = False
        self.began = self.changed = time.monotonic()
        self.log = store.root.parent / "driver.log"
        self.num_drivers = 0
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._away: set[str] = set()
        self._struck: set[int] = set()
        self._known: list[str] = []
        self._published = 0
        self._wanted_share = 0.0
        self._visitors = store.root.parent / "visitors"
        self._visitors.mkdir()
        self._others: list[subprocess.Popen[bytes]] = []
        self._start_driver("run")

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Inject every fault of the schedule, then wait undisturbed until the study is done."""
        kinds = [kind for kind, number in FAULTS.items() for _ in range(number)]
        self.rng.shuffle(kinds)
        first = kinds.index("a job is killed")  # early, while there is training to interrupt
        kinds.insert(self.rng.randrange(len(kinds) // 3), kinds.pop(first))
        schedule = [(round(self.rng.uniform(*PAUSES_S), 1), kind) for kind in kinds]
        print("schedule:", *(f"  after {pause_s} s {kind}" for pause_s, kind in schedule), sep="\n", flush=True)
        for number, (pause_s, kind) in enumerate(schedule):
            self._wanted_share = number / len(schedule)
            self._wait_for_stages()
            self._wait(pause_s)
            deadline = time.monotonic() + NOTHING_TO_HIT_S
            what = None
            while what is None and time.monotonic() < deadline and not self.is_done:
                what = self._fault(kind)
                self._wait(0.0 if what is not None else 0.3)
            self._say(f"{kind}: {what or 'nothing to hit'}")
            self.hits[kind] += what is not None
        self._wanted_share = 1.0
        while self._later or not self.is_done:
            self._wait(0.2)
        for other in self._others:
            other.wait(60)

    def _pace_stages(self) -> None:
        """Slow the stages down if they are ahead of the schedule of faults."""
        ahead = self._published - self._wanted()
        new = pause_file(self.store).with_suffix(".new")
        pause_s = 0.05 if ahead <= 0 else 0.5 if ahead <= BEHIND else 2.0 if ahead <= 2 * BEHIND else 6.0
        new.write_text(f"{pause_s}", "utf-8")
        new.replace(pause_file(self.store))

    def _wanted(self) -> int:
        return int(self._wanted_share * len(self._stages()))

    def _wait_for_stages(self) -> None:
        """Delay the next fault, for a limited time, if the stages lag behind the schedule."""
        deadline = time.monotonic() + BEHIND_S
        while self._published < self._wanted() - BEHIND and time.monotonic() < deadline:
            self._wait(0.2)

    def _wait(self, seconds: float) -> None:
        """Wait; meanwhile, restart killed services and an ended driver when they are due."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for due in [entry for entry in self._later if entry[0] <= now]:
                self._later.remove(due)
                due[1]()
            self._restart_driver_if_ended()
            self._pace_stages()
            if (published := len(self.store.published(self._stages()))) != self._published:
                self._published, self.changed = published, now
            assert now < self.began + DEADLINE_S, f"not done within {DEADLINE_S:g} s\n{self._what_hangs()}"
            assert now < self.changed + HANGS_AFTER_S, f"nothing new for {HANGS_AFTER_S:g} s\n{self._what_hangs()}"
            if now >= until:
                return
            time.sleep(min(0.1, until - now))

    def _stages(self) -> list[str]:
        """Return the study's stage ids; empty until the study is frozen."""
        if not self._known and self.store.paths.manifest(STUDY).exists():
            self._known = list(load(self.store, STUDY).stages)
        return self._known

    def _say(self, text: str) -> None:
        self.changed = time.monotonic()
        print(f"{self.changed - self.began:6.1f} s  [{self._published} records] {text}", flush=True)

    # -- the driver and its user --------------------------------------------------------------------------------------

    def _start_driver(self, verb: str) -> None:
        arguments = self.command if verb == "run" else ["retry", STUDY, *self.command[2:]]
        with self.log.open("ab") as log:
            log.write(f"--- {verb}\n".encode())
            log.flush()
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "builders.chaos_command", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.num_drivers += 1

    def _restart_driver_if_ended(self) -> None:
        status = self.driver.poll()
        if status is None or self.is_done or "driver" in self._away:
            return
        if status == 0:
            self.is_done = True
            return
        failed = self._failures()
        assert status in (1, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM), (
            f"the driver ended with {status}\n{self._end_of_log()}"
        )
        if status == 1:
            assert failed, f"exit status 1, but no stage has failed\n{self._end_of_log()}"
            for cause in failed.values():
                assert "CANCELLED" in cause, (
                    f"failed, although its job was not cancelled externally: {cause}\n{self._end_of_log()}"
                )
            self._say(f"failed, to be retried: {failed}")
        self._away.add("driver")

        def start() -> None:
            self._away.remove("driver")
            self._start_driver("retry" if status == 1 else "run")

        self._later.append((time.monotonic() + self.rng.uniform(0.0, 3.0), start))

    def _failures(self) -> dict[str, str]:
        return {
            stage_id: failure["cause"]
            for stage_id in self._stages()
            if (failure := self.store.failure(stage_id)) is not None
        }

    # -- faults -------------------------------------------------------------------------------------------------------

    def _fault(self, kind: str) -> str | None:
        """Inject a fault; return what it hit, or None if there is no target now."""
        act = {
            "a job is killed": self._kill_job,
            "a job is cancelled externally": lambda: self._run_on_job("scancel"),
            "a job is requeued externally": lambda: self._run_on_job("scontrol", "requeue"),
            "a job is preempted": self._preempt,
            "the driver is killed": lambda: self._end_driver(signal.SIGKILL),
            "the driver is asked to detach": lambda: self._end_driver(signal.SIGTERM),
            "a slurmd is killed": self._kill_slurmd,
            "slurmctld is killed": lambda: self._kill_daemon("slurmctld", (1.0, 8.0)),
            "slurmdbd is killed": lambda: self._kill_daemon("slurmdbd", (2.0, 12.0)),
            "the Prefect server is killed": lambda: self._kill_prefect(empty=False),
            "the Prefect server is emptied": lambda: self._kill_prefect(empty=True),
            "MLflow's store is deleted": self._delete_mlflow,
        }
        return act[kind]()

    def _jobs(self) -> list[RunningJob]:
        """Return, in random order, the study's jobs that are in the middle of a stage and not already hit."""
        jobs = []
        for job in running_jobs(self.cluster, self.store):
            head = self._stage_of(job.name)
            if job.pid not in self._struck and head is not None and any(self.store.previous_attempts(head)):
                jobs.append(job)
        self.rng.shuffle(jobs)
        return jobs

    def _stage_of(self, job: str) -> str | None:
        """Return the id of a job's first unfinished stage; None if there is none."""
        with contextlib.suppress(OSError, ValueError):
            stages = json.loads(self.store.paths.job_spec(job).read_text("utf-8"))["stages"]
            return next((stage["id"] for stage in stages if not self.store.has(stage["id"])), None)
        return None

    def _num_unsaved(self, job: RunningJob) -> int:
        """Return how many steps a job has trained since its last checkpoint; a kill makes it train them again."""
        stage = self._stage_of(job.name)
        newest = next(iter(self.store.previous_attempts(stage)), None) if stage is not None else None
        steps = steps_of(newest) if newest is not None else None
        if newest is None or steps is None:
            return 0
        first, last = steps
        return last - max(first, newest_step(newest / CHECKPOINTS_FOLDER))

    def _describe(self, job: RunningJob) -> str:
        stage = self._stage_of(job.name)
        label = self.store.requested(stage)["label"] if stage else "no stage"
        return f"Slurm job {job.slurm_id} on {job.node}, at {label}"

    def _kill_job(self) -> str | None:
        for job in sorted(self._jobs(), key=self._num_unsaved, reverse=True):
            stage = self._stage_of(job.name)
            if self._num_unsaved(job) == 0 and not self.hits["a job is killed"]:
                return None  # the first kill must cost steps
            if stage is None or _num_kills(self.store, stage) >= 2:
                continue  # after a third kill, the driver fails the stage
            target = self._describe(job)
            with contextlib.suppress(ProcessLookupError):
                os.kill(job.pid, signal.SIGKILL)
                self._struck.add(job.pid)
                return target
        return None

    def _run_on_job(self, *command: str) -> str | None:
        for job in self._jobs():
            target = self._describe(job)
            if self._slurm(*command, job.slurm_id) is not None:
                self._struck.add(job.pid)
                return target
        return None

    def _slurm(self, *command: str) -> str | None:
        """Run a command; return its output, None if Slurm does not respond or the job has just ended."""
        try:
            return self.cluster.run(*command)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None

    def _preempt(self) -> str | None:
        """Preempt a job of the study: submit a higher-priority job for its whole node and wait until that runs."""
        for job in self._jobs():
            target, mark = self._describe(job), self._visitors / job.slurm_id
            wanted = ["--partition=cpu", f"--nodelist={job.node}", "--exclusive", "--time=1", "--output=/dev/null"]
            visitor = self._slurm("sbatch", "--parsable", *wanted, f"--wrap=touch '{mark}'; sleep 1")
            if visitor is None:
                return None
            deadline = time.monotonic() + 30.0
            while time.monotonic() < deadline:
                self._wait(0.2)
                if mark.exists():
                    return target
            self._slurm("scancel", visitor.strip())
            return None
        return None

    def _end_driver(self, number: signal.Signals) -> str | None:
        if self.driver.poll() is None and any(self.store.paths.drivers.glob(f"*-{self.driver.pid}-*/heartbeat")):
            self.driver.send_signal(number)
            return f"process {self.driver.pid}"
        return None

    def _kill_slurmd(self) -> str | None:
        for job in self._jobs():
            if job.node not in self._away:
                target = self._describe(job)
                return target if self._kill_daemon(job.node, (2.0, 16.0)) else None
        return None

    def _kill_daemon(self, daemon: str, away_s: tuple[float, float]) -> str | None:
        # One node at a time, and never controller and database together: the controller may need the database to restart.
        others = [group for group in (NODES, ("slurmctld", "slurmdbd")) if daemon in group]
        if any(self._away.intersection(group) for group in others):
            return None
        self.cluster.kill_daemon(daemon)
        self._away.add(daemon)
        seconds = self.rng.uniform(*away_s)

        def start() -> None:
            self.cluster.start_daemon(daemon)
            self._away.remove(daemon)
            self._resume_nodes()

        self._later.append((time.monotonic() + seconds, start))
        return f"for {seconds:.1f} s"

    def _resume_nodes(self) -> None:
        """Resume failed nodes, as an administrator would."""
        for line in (self._slurm("sinfo", "-h", "-N", "-p", "cpu", "-o", "%N %T") or "").splitlines():
            node, state = line.split()
            if state.rstrip("*") in ("down", "drained", "draining") and node not in self._away:
                self._slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def _kill_prefect(self, *, empty: bool) -> str | None:
        if "Prefect" in self._away or not self.prefect.is_healthy():
            return None
        self.prefect.kill()
        if empty:
            for path in self.prefect.folder.glob("prefect.db*"):
                path.unlink()
        self._away.add("Prefect")

        def start() -> None:
            self._away.remove("Prefect")
            self.prefect.start()

        seconds = self.rng.uniform(0.5, 6.0)
        self._later.append((time.monotonic() + seconds, start))
        return f"for {seconds:.1f} s"

    def _delete_mlflow(self) -> str | None:
        """Delete MLflow's store during a sync started in addition to the driver's own, as a schedule or a user may do."""
        arguments = ["track", "sync", STUDY, "--store", str(self.store.root)]
        with self.log.open("ab") as log:
            sync = subprocess.Popen([sys.executable, "-m", "midstudy.cli.main", *arguments], stdout=log, stderr=log)
        self._others.append(sync)
        while sync.poll() is None and not (self.store.paths.mlflow / "mlflow.db").exists():
            self._wait(0.1)
        self._wait(self.rng.uniform(0.0, 4.0))
        if not (self.store.paths.mlflow / "mlflow.db").exists():
            return None
        shutil.rmtree(self.store.paths.mlflow, ignore_errors=True)
        return "during a sync" if sync.poll() is None else "after a sync"

    # -- diagnostics --------------------------------------------------------------------------------------------------

    def _what_hangs(self) -> str:
        if self.driver.poll() is None:
            self.driver.send_signal(signal.SIGUSR1)
            time.sleep(1.0)
        arguments = ["status", STUDY, "--store", str(self.store.root)]
        try:
            status = subprocess.run(
                [sys.executable, "-m", "midstudy.cli.main", *arguments], capture_output=True, text=True, timeout=120
            ).stdout
        except subprocess.TimeoutExpired:
            status = "midstudy status: no response within 120 s"
        listed = self._slurm("squeue", "--array", "--states=all")
        nodes = self._slurm("sinfo", "-N", "-p", "cpu", "-o", "%N %T %E")
        return f"away: {self._away}\n{listed}\n{nodes}\n{status}\n{self._end_of_log()}"

    def _end_of_log(self) -> str:
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-150:])

    def end(self) -> None:
        """Kill all processes that are left."""
        for process in (self.driver, *self._others):
            if process.poll() is None:
                process.kill()
            process.wait()


def running_jobs(cluster: Cluster, store: Store) -> list[RunningJob]:
    """Return the store's jobs whose Python process is running, by name."""
    jobs = []
    place = re.compile(re.escape(str(store.paths.jobs)) + r"/([\w-]+)/submitit")
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if words[1:4] != ["-u", "-m", "submitit.core._submit"] or (named := place.search("\n".join(words))) is None:
                continue
            variables = dict(
                line.split("=", 1)
                for line in (entry / "environ").read_bytes().decode("utf-8", "replace").split("\0")
                if "=" in line
            )
            if variables.get("SLURM_CONF") == f"{cluster.folder}/slurm.conf" and "SLURM_JOB_ID" in variables:
                node = variables.get("SLURMD_NODENAME", "")
                jobs.append(RunningJob(named[1], int(entry.name), variables["SLURM_JOB_ID"], node))
    return sorted(jobs, key=lambda job: job.name)


def processes_of(store: Store) -> list[str]:
    """Return PID and command line of the processes whose command line contains the store's path."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if str(store.root) in command:
                processes.append(f"{entry.name} {command}")
    return processes


def _num_kills(store: Store, stage_id: str) -> int:
    """Return how many of a stage's jobs were killed."""
    return sum(interruption["cause"] == "killed" for interruption in store.interruptions(stage_id))


def digests(store: Store, stages: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of every published tensor file."""
    return {
        f"{stage_id}/{path.relative_to(store.published_folder(stage_id))}": hashlib.sha256(path.read_bytes()).hexdigest()
        for stage_id in stages
        for path in store.published_folder(stage_id).rglob("*.safetensors")
    }


def wait_until(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.2)


@pytest.fixture
def prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path / "prefect")
    monkeypatch.setenv("PREFECT_API_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server.start()
    yield server
    server.kill()


def midstudy(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "midstudy.cli.main", *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_study_gives_the_same_table_and_tensors_whatever_is_killed_during_it(
    cluster: Cluster, prefect: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"CHAOS_SEED={seed}", flush=True)
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)  # where jobs find chaos_command
    write_text(tmp_path / "text")
    experiment, placement = tmp_path / "experiment.py", tmp_path / "placement.toml"
    experiment.write_text(EXPERIMENT.format(tests=str(TESTS), text=str(tmp_path / "text")), "utf-8")
    placement.write_text(PLACEMENT, "utf-8")
    wait_until(prefect.is_healthy, "the Prefect server", 240)
    local = Store.open(tmp_path / "local", create=True)
    began = time.monotonic()
    midstudy("run", str(experiment), "--store", str(local.root), "--jobs", "2")
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)

    store = Store.open(tmp_path / "a 'store'", create=True)
    at_slurm = ["--store", str(store.root), "--backend", "slurm", "--placement", str(placement)]
    chaos = Chaos(cluster, store, prefect, ["run", str(experiment), *at_slurm], seed)
    try:
        chaos.run()
    finally:
        chaos.end()
    print(f"done in {time.monotonic() - chaos.began:.0f} s with {chaos.num_drivers} drivers, {chaos.hits.total()} faults:")
    print(*(f"  {number} × {kind}" for kind, number in chaos.hits.items()), sep="\n", flush=True)
    assert chaos.hits.total() >= WANTED_FAULTS
    assert len(+chaos.hits) >= WANTED_KINDS

    mine, undisturbed = load(store, STUDY), load(local, STUDY)
    stages = mine.stages
    assert stages.keys() == undisturbed.stages.keys()
    arms = [pd.read_parquet(each.paths.study(STUDY) / "arms.parquet").drop(columns="wall_s") for each in (store, local)]
    pd.testing.assert_frame_equal(*arms, check_exact=True)
    for table in ("similarity.parquet", "proximity.parquet"):
        assert (store.paths.study(STUDY) / table).read_bytes() == (local.paths.study(STUDY) / table).read_bytes()
    assert not pd.read_parquet(store.paths.study(STUDY) / "arms.parquet").isna().any(axis=None)
    assert digests(store, stages) == digests(local, stages)

    # One record per stage, no leftovers of other attempts, no failures.
    records = store.records(stages)
    assert records.keys() == stages.keys() == set(store.stage_ids())
    leftovers = [
        path
        for stage_id in stages
        for path in store.paths.stage(stage_id).iterdir()
        if path.name not in ("recipe.json", "claim.json")
    ]
    assert leftovers == [store.paths.published(stage_id) for stage_id in stages]

    # Recomputed steps are listed with the stage, in the study's costs and in its report.
    recomputed = {stage_id: record.metrics.get("recomputed_steps", 0) for stage_id, record in records.items()}
    cost = json.loads((store.paths.study(STUDY) / "cost.json").read_text("utf-8"))
    undisturbed_cost = json.loads((local.paths.study(STUDY) / "cost.json").read_text("utf-8"))
    assert cost["recomputed_steps"] == sum(recomputed.values()) > 0
    assert cost["useful_steps"] == undisturbed_cost["useful_steps"]
    assert any(record.environment.get("interruptions") for record in records.values())
    assert "steps repeated after faults" in (store.paths.study(STUDY) / "report" / "report.html").read_text("utf-8")
    print({stages[stage_id].label: steps for stage_id, steps in recomputed.items() if steps}, flush=True)

    # No jobs and no processes are left.
    status = json.loads(midstudy("status", STUDY, "--store", str(store.root), "--json"))
    assert (status["finished"], status["failed"], status["jobs"]) == (len(stages), [], [])
    listed = ("squeue", "--format=%i %j %T %r %N %P")
    wait_until(lambda: cluster.run(*listed, "-h") == "", f"the end of these jobs:\n{cluster.run(*listed)}", 60)
    wait_until(lambda: not processes_of(store), f"the end of {processes_of(store)}", 60)

    # MLflow shows the same as after a first sync into a fresh database.
    midstudy("track", "sync", STUDY, "--store", str(store.root), "--tracking-uri", f"sqlite:///{tmp_path / 'fresh.db'}")
    shown = mlflow_rows(store.paths.mlflow / "mlflow.db")
    assert shown == mlflow_rows(tmp_path / "fresh.db")
    assert len(shown["runs"]) == 1 + len(stages)
    assert {run[2] for run in shown["runs"]} == {"FINISHED"}
