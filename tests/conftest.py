"""What every test runs under: nothing of the person's own settings, one thread, the same examples every time."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest
from builders import leftovers
from builders.patience import wait_for_followers
from slurm.cluster import Cluster, missing_programs

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Real text and reference material beside the repository. Not part of it, so tests do without where it is absent."""

# Examples are derived from the test, not drawn anew: a failure seen once is seen by everybody. Machines are shared, so
# no example is judged by its time; the time limit is the whole test's.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
# For looking for what those examples missed: pytest --hypothesis-profile=search
hypothesis.settings.register_profile("search", max_examples=2_000, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test imports torch, Prefect, MLflow or datasets, which read it when imported."""
    leftovers.pytest_configure(config)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell begin with it ignored,
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and those of nohup with this one
    home = tempfile.mkdtemp(prefix="midstudy-tests-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "MLFLOW_", "MIDSTUDY_STORE", "SLURM_", "SBATCH_")):
            del os.environ[name]
    os.environ.update(
        PREFECT_HOME=f"{home}/prefect",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        MLFLOW_DISABLE_TELEMETRY="true",
        HF_HOME=f"{home}/huggingface",
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS="1",
    )


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip, with a reason, what was asked for by its marker and cannot run here."""
    if missing := missing_programs():
        _skip(items, "slurm", f"no Slurm here ({', '.join(missing)}): make test-slurm installs it, as root on Debian")
    if not Path("/dev/nvidiactl").exists():
        _skip(items, "gpu", "no CUDA device here")


def _skip(items: Sequence[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _no_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans made in the test process do not calibrate: every shape has a fixed rate."""
    from midstudy.execute import calibration
    from midstudy.plan.cost import Calibrated

    monkeypatch.setattr(calibration, "calibrated", lambda workloads, machine: {})
    monkeypatch.setattr(
        calibration,
        "calibrate",
        lambda workloads, machine: {(one.model.name, one.precision): Calibrated(5e10, 0.4) for one in workloads},
    )


@pytest.fixture(scope="session", autouse=True)
def _patient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        wait_for_followers(patch)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text beside the repository (`../shared/data`)."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("needs the real text of ../shared/data, which is not here")
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text of the small study; no test changes it."""
    from builders.small_study import write_text  # imports torch

    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    return folder


@pytest.fixture(scope="session")
def _slurm() -> Iterator[Cluster]:
    """Started once, since that takes ten seconds. One that cannot be started fails the tests: what it needs is there."""
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="midstudy-slurm-")))
    cluster.stop_with_this_process()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(_slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A real Slurm that this process and its children talk to, whole and without jobs before and after each test."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, _slurm.environment[name])
    yield _slurm
    _slurm.restore()
