"""A tracking server may be down, slow, emptied or killed in the middle: a sync says so, and the next one completes it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders.mlflow_database import mlflow_rows, query
from builders.synthetic_study import frozen, synthetic_study
from builders.waiting import wait_until

from midstudy.cli.main import main
from midstudy.store.store import Store
from midstudy.track.client import TrackingError, tracking_uri_of
from midstudy.track.follow import Follower
from midstudy.track.sync import sync

STUDY = "synthetic"


class Server:
    """A real `mlflow server` that can be killed, emptied and started again on its port; its files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.database = folder, folder / "server.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", (self.folder / "artifacts").as_uri()]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{self.url}/health", timeout=10):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = Server(tmp_path / "server")
    one.start()
    yield one
    one.kill()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store", create=True)
    frozen(store, synthetic_study(STUDY)).publish_all(store)
    report = store.paths.study(STUDY) / "report"
    report.mkdir()
    (report / "report.html").write_text("Code helps code.")
    return store


@pytest.mark.slow
def test_a_server_killed_in_the_middle_is_completed_and_an_emptied_one_filled_again(
    server: Server, store: Store, tmp_path: Path
) -> None:
    num_runs = 1 + len(synthetic_study().stages)
    killer = threading.Thread(target=_kill_when_half_done, args=(server, num_runs // 2))
    killer.start()
    with pytest.raises(
        TrackingError, match=rf"MLflow at {server.url}.*The results are in the store; sync later with: midstudy track sync"
    ):
        sync(store, STUDY, tracking_uri=server.url)
    killer.join()
    half = len(mlflow_rows(server.database)["runs"])
    assert 0 < half < num_runs, "killed in the middle"

    server.start()
    report = sync(store, STUDY, tracking_uri=server.url)
    assert report.created >= num_runs - half
    whole = mlflow_rows(server.database)
    assert len(whole["runs"]) == num_runs
    assert sync(store, STUDY, tracking_uri=server.url).unchanged == num_runs
    assert _reports(server) == ["Code helps code."]

    server.kill()
    shutil.rmtree(server.folder)
    server.start()
    sync(store, STUDY, tracking_uri=server.url)
    assert mlflow_rows(server.database) == whole, "run for run"
    assert _reports(server) == ["Code helps code."]

    # Another store with a study of that name does not overwrite what it finds.
    other = Store.open(tmp_path / "other", create=True)
    frozen(other, synthetic_study(STUDY)).publish_all(other)
    owner = rf"^MLflow at {server.url}: the experiment \w+ belongs to the study of that name in {store.root}, not in "
    with pytest.raises(TrackingError, match=owner + str(other.root)):
        sync(other, STUDY, tracking_uri=server.url)
    assert mlflow_rows(server.database) == whole


def _kill_when_half_done(server: Server, num_runs: int) -> None:
    wait_until(lambda: query(server.database, "SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'")[0][0] >= num_runs)
    server.kill()


def _reports(server: Server) -> list[str]:
    return [path.read_text() for path in (server.folder / "artifacts").rglob("report.html")]


def test_a_server_that_is_down_is_told_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, never listening: refused
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with Follower(store, STUDY, tracking_uri=uri, every_s=0.1) as follower:
            time.sleep(1)  # turns that fail do not end it
            with pytest.raises(TrackingError, match=f"MLflow at {uri}"):
                follower.finish()


def test_a_server_that_never_answers_costs_no_more_than_the_time_allowed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)  # the system takes connections, nobody answers
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            Follower(store, STUDY, tracking_uri=uri) as follower,
            pytest.raises(TrackingError, match=r"took more than 3 s .* midstudy track sync"),
        ):
            follower.finish(timeout_s=3)


def _garbage(database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"garbage" * 200)


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "garbage": (_garbage, "SQLite: file is not a database"),
    "a folder": (lambda database: database.mkdir(parents=True), "SQLite: unable to open database file"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_database_that_cannot_be_used_is_told_at_once_by_every_command(
    what: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    make, cause = UNUSABLE[what]
    make(store.paths.mlflow / "mlflow.db")
    for verb in (["track", "sync"], ["ui"]):
        assert main([*verb, "--store", str(store.root)]) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"midstudy {verb[0]}: MLflow at sqlite:///{store.root}/mlflow/mlflow.db: ")
        assert cause in said
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("UPDATE alembic_version SET version_num = 'bd07f7e963c5'", "database schema (found version bd07f7e963c5"),
        ("DROP TABLE alembic_version", "database schema (found version None"),
        ("ALTER TABLE experiments RENAME COLUMN lifecycle_stage TO life", "no such column: experiments.lifecycle_stage. "),
    ],
)  # fmt: skip
def test_a_database_of_another_schema_is_told_in_one_message_by_every_command(change: str, cause: str, store: Store) -> None:
    sync(store, STUDY, tracking_uri=tracking_uri_of(store))
    with contextlib.closing(sqlite3.connect(store.paths.mlflow / "mlflow.db")) as opened:
        opened.execute(change)
        opened.commit()
    for verb in (["track", "sync"], ["ui"]):
        done = subprocess.run(
            [sys.executable, "-m", "midstudy.cli.main", *verb, "--store", str(store.root)], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (2, "")
        said = [line for line in done.stderr.splitlines() if line.startswith("midstudy")]
        assert len(said) == 1
        assert cause in said[0]
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("nosuch+driver://user@host/mlflow", ""),
        ("postgresql+pg8000://user@host/mlflow", "No module named 'pg8000'"),
        ("http://[bad", "Invalid IPv6 URL"),
        ("sqlite:relative.db", ""),
    ],
)
def test_an_address_that_cannot_be_used_is_told_by_every_command(
    uri: str, cause: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in (["track", "sync"], ["ui"]):
        assert main([*verb, "--store", str(store.root), "--tracking-uri", uri]) == 2
        said = capsys.readouterr().err
        assert f"midstudy {verb[0]}: MLflow at {uri}: " in said
        assert cause in said


def test_a_database_whose_path_sqlite_does_not_open_is_told_at_once(store: Store, tmp_path: Path) -> None:
    far = tmp_path.joinpath(*["d" * 99] * 6)
    with pytest.raises(TrackingError, match="SQLite: unable to open database file"):
        sync(store, STUDY, tracking_uri=f"sqlite:///{far}/mlflow.db")


def test_the_address_is_the_given_one_else_the_environments_else_the_stores(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri_of(store) == f"sqlite:///{store.root}/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri_of(store) == "http://tracking:5000"
    assert tracking_uri_of(store, "sqlite:////elsewhere.db") == "sqlite:////elsewhere.db"
