"""`midstudy ui`: both pages on loopback, addresses printed, nothing left running however it ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from builders.places import REPOSITORY
from builders.synthetic_study import frozen, synthetic_study
from builders.waiting import wait_until

from midstudy.store.store import Store
from midstudy.track.client import default_tracking_uri
from midstudy.track.sync import sync


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_both_are_served_until_it_ends(tmp_path: Path, how: signal.Signals) -> None:
    store = Store.open(tmp_path / "the store, 'quoted'", create=True)
    study = frozen(store, synthetic_study())
    study.publish(store, next(iter(study.stages)))
    sync(store, "synthetic", tracking_uri=default_tracking_uri(store))
    ui = _started(store)
    try:
        lines = _lines(ui, 3)
        mlflow, page, prefect = lines[0].split()[1], lines[1].split()[-1], lines[2].split()[1]
        assert page.startswith(f"{mlflow}/#/experiments/1/runs?")
        servers = _descendants(ui.pid)
        for address in (f"{mlflow}/health", mlflow, f"{prefect}/api/health", prefect):
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as answer:
                assert answer.status == 200, address
    finally:
        ui.send_signal(how)
        status = ui.wait()
    assert status == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    assert len(servers) >= 2
    wait_until(lambda: not any(_runs(pid) for pid in servers))


def test_configured_servers_are_named_and_not_started(tmp_path: Path) -> None:
    ui = _started(
        Store.open(tmp_path / "store", create=True),
        PREFECT_API_URL="http://prefect.example:4200/api",
        MLFLOW_TRACKING_URI="http://mlflow.example:5000",
    )
    try:
        assert _lines(ui, 2) == ["MLflow   http://mlflow.example:5000\n", "Prefect  http://prefect.example:4200\n"]
        assert _descendants(ui.pid) == []
    finally:
        ui.send_signal(signal.SIGINT)
        assert ui.wait() == 0


def _started(store: Store, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "midstudy.cli.main", "ui", "--store", str(store.root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**{name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}, **environment},
    )


def _lines(process: subprocess.Popen[str], number: int) -> list[str]:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 200)[0], "no address was printed"
    return [process.stdout.readline() for _ in range(number)]


def _descendants(parent: int) -> list[int]:
    """What a process started, sessions of their own included."""
    children = [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return [*children, *(pid for one in children for pid in _descendants(one))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
