"""Deployed runs on a real Prefect server and worker: the command line's results, cancelled, detached, re-attached; and a
server that goes away or forgets while a study runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders.places import REPOSITORY
from builders.waiting import wait_until

from midstudy.cli.main import main
from midstudy.store.store import Store
from midstudy.store.study_manifest import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TINY = {"size": "nano", "start_steps": [10], "weights": [0.2], "main_start_step": 10, "trunk_seeds": [0], "total_steps": 40}
"""Two arms, seconds of training."""
LONG = {**TINY, "trunk_seeds": [0, 1], "total_steps": 500, "main_start_step": 250, "start_steps": [250]}
"""The same with stages that take a few seconds each."""


class Prefect:
    """A Prefect server with the project's deployments, and the commands of a person at its terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store.open(folder / "store", create=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "PREFECT_HOME": str(folder),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "MIDSTUDY_STORE": str(self.store.root),
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start_server()
        self.prefect("work-pool", "create", "midstudy", "--type", "process")
        self.prefect("deploy", "--all")

    def start_server(self) -> None:
        self.server = self._begin("server", "start", "--port", str(self.port))
        wait_until(self._is_healthy)

    @contextlib.contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        process = self._begin("worker", "start", "--pool", "midstudy")
        try:
            yield process
        finally:
            _end(process)

    def prefect(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def begin_run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """The id of a new flow run."""
        given = [part for name, value in parameters.items() for part in ("-p", f"{name}={json.dumps(value)}")]
        printed = self.prefect("deployment", "run", deployment, *given)
        return next(line.split()[-1] for line in printed.splitlines() if "UUID" in line)

    def state(self, run: str) -> tuple[str, str]:
        """Name and message of a flow run's state."""
        state = self.ask(f"/flow_runs/{run}")["state"]
        return state["name"], state["message"] or ""

    def task_states(self, run: str) -> list[str]:
        wanted = {"flow_runs": {"id": {"any_": [run]}}}
        return [one["state_name"] for one in self.ask("/task_runs/filter", wanted)]

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.environment['PREFECT_API_URL']}{path}"
        with urllib.request.urlopen(
            urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=120
        ) as answer:
            return json.load(answer)

    def close(self) -> None:
        for process in self.processes:
            _end(process)
        main(["cancel", *self._studies(), "--store", str(self.store.root)])

    def _studies(self) -> list[str]:
        return self.store.studies()[:1]

    def _begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{arguments[0]}.log").open("ab")
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        process = subprocess.Popen(
            command,
            env=self.environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # Shells have what they run in the background ignore SIGINT, which is what a worker makes of SIGTERM.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.processes.append(process)
        return process

    def _is_healthy(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.ask("/health"))
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server or worker as a service manager does: told, and then by force."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _processes(store: Store, what: bytes) -> list[int]:
    """Processes of the store's whose command holds `what`."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (one / "cmdline").read_bytes()
            environment = (one / "environ").read_bytes()
            if what in command and str(store.root).encode() in command + environment:
                found.append(int(one.name))
    return found


def _jobs(store: Store) -> list[int]:
    return _processes(store, b"submitit")


def _flow_process(store: Store) -> int:
    (process,) = _processes(store, b"prefect.engine")
    return process


def _training(store: Store, study: str) -> bool:
    """Whether a job of the study makes a state."""
    with contextlib.suppress(ValueError):
        states = [one for one, stage in load(store, study).stages.items() if stage.kind == "state"]
        return bool(_jobs(store)) and any(store.paths.attempts(one).exists() and not store.has(one) for one in states)
    return False


def _runs(store: Store, study: str) -> set[int]:
    """In how many jobs a stage of the study was, of those that were in any; others were finished by an earlier study."""
    carried = Counter(
        stage["id"] for job in store.paths.jobs.glob("*/job.json") for stage in json.loads(job.read_text())["stages"]
    )
    return {carried[one] for one in load(store, study).stages if carried[one]}


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    made = Prefect(tmp_path_factory.mktemp("prefect"))
    try:
        yield made
    finally:
        made.close()


def _ended(prefect: Prefect, run: str, names: Sequence[str] = ("Completed", "Failed", "Crashed", "Cancelled")) -> bool:
    return prefect.state(run)[0] in names


def test_a_deployed_run_does_what_the_command_line_does(prefect: Prefect, tmp_path: Path) -> None:
    with prefect.worker():
        run = prefect.begin_run("timing-weight/micro", TINY)
        wait_until(lambda: _ended(prefect, run))
        assert prefect.state(run) == ("Completed", "22 stages, of which 0 reused")
        assert prefect.task_states(run) == ["Completed"] * 22
        again = prefect.begin_run("timing-weight/micro", TINY)
        wait_until(lambda: _ended(prefect, again))
        assert prefect.state(again)[1] == "22 stages, of which 22 reused"
        assert prefect.task_states(again) == ["Cached"] * 22

    settings = [f"{name}={tuple(value) if isinstance(value, list) else value}" for name, value in TINY.items()]
    arguments = ["run", "experiments/timing_weight.py", "--store", str(tmp_path / "store")]
    command = [sys.executable, "-m", "midstudy.cli.main", *arguments, *(part for one in settings for part in ("--set", one))]
    subprocess.run(
        command, check=True, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True
    )
    other = Store.open(tmp_path / "store")
    mine, theirs = load(prefect.store, "timing_weight"), load(other, "timing_weight")
    assert mine.stages.keys() == theirs.stages.keys()
    assert mine.command.split()[:3] == theirs.command.split()[:3]
    assert mine.arms == theirs.arms
    folders = [one.paths.study("timing_weight") for one in (prefect.store, other)]
    pd.testing.assert_frame_equal(
        *(pd.read_csv(folder / "arms.csv").drop(columns="wall_s") for folder in folders)
    )  # to the last digit
    assert all((folder / "report" / "report.html").is_file() for folder in folders)


def test_the_cancel_button_ends_the_jobs_within_seconds(prefect: Prefect) -> None:
    with prefect.worker() as worker:
        run = prefect.begin_run("timing-weight/micro", {**LONG, "name": "cancelled"})
        wait_until(lambda: _training(prefect.store, "cancelled"))
        prefect.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
        wait_until(lambda: not _jobs(prefect.store))
        wait_until(lambda: not _processes(prefect.store, b"prefect.engine"))
        wait_until(lambda: _ended(prefect, run))
        assert prefect.state(run)[0] == "Cancelled"
        # Those that were running are mostly shown as cancelled; where Prefect ended the process first they are not shown.
        assert set(prefect.task_states(run)) <= {"Cached", "Completed", "Cancelled"}
        assert worker.poll() is None


def test_a_worker_that_ends_leaves_the_jobs_running_and_the_next_one_follows_them(prefect: Prefect) -> None:
    with prefect.worker() as worker:
        run = prefect.begin_run("timing-weight/micro", {**LONG, "name": "left", "trunk_seeds": [4]})
        wait_until(lambda: _training(prefect.store, "left"))
        begun = _jobs(prefect.store)
        worker.terminate()
        worker.wait(60)
    wait_until(lambda: prefect.state(run)[0] == "AwaitingRetry")
    assert "the jobs keep running" in prefect.state(run)[1]
    assert set(prefect.task_states(run)) <= {"Completed", "Cached", "Detached"}
    assert set(_jobs(prefect.store)) & set(begun)
    assert not _processes(prefect.store, b"prefect.engine")

    with prefect.worker():
        wait_until(lambda: "Running" in prefect.task_states(run))  # those of the first worker are Detached
        # A signal to the flow's own process has the same effect, and the flow run is started again.
        os.kill(_flow_process(prefect.store), signal.SIGTERM)
        wait_until(lambda: _ended(prefect, run))
        assert prefect.state(run)[0] == "Completed"
        assert _runs(prefect.store, "left") == {1}, "every stage was begun once"


def test_a_server_that_restarts_does_not_affect_the_study(prefect: Prefect) -> None:
    with prefect.worker():
        run = prefect.begin_run("timing-weight/micro", {**LONG, "name": "restarted", "trunk_seeds": [2]})
        wait_until(lambda: _training(prefect.store, "restarted"))
        prefect.server.kill()
        prefect.server.wait()
        time.sleep(3)
        prefect.start_server()
        wait_until(lambda: _ended(prefect, run))
        assert prefect.state(run)[0] == "Completed"


def test_a_server_that_forgets_does_not_affect_the_study(prefect: Prefect) -> None:
    """The last test of the file: deployments are forgotten, too."""
    with prefect.worker():
        prefect.begin_run("timing-weight/micro", {**LONG, "name": "forgotten", "trunk_seeds": [3]})
        wait_until(lambda: _training(prefect.store, "forgotten"))
        _empty(prefect.folder / "prefect.db")
        report = prefect.store.paths.study("forgotten") / "report" / "report.html"
        wait_until(report.is_file)
        wait_until(lambda: not _processes(prefect.store, b"prefect.engine"))
        stages = load(prefect.store, "forgotten").stages
        assert prefect.store.published(stages) == set(stages)
        assert _runs(prefect.store, "forgotten") == {1}


def _empty(database: Path) -> None:
    """Take every row out of a Prefect database that a server has open."""
    connection = sqlite3.connect(database, timeout=30)
    with connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if table != "alembic_version" and not table.startswith("sqlite_"):
                connection.execute(f'DELETE FROM "{table}"')
    connection.close()
