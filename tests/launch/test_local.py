"""Local jobs as real processes: their environment, the files they leave, how they end."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.fake_execute import ENTRY, fake_stage, starts
from builders.places import PYTHONPATH
from builders.waiting import wait_until

from midstudy.files.errors import StoreError
from midstudy.launch.job import run_job
from midstudy.launch.job_file import (
    Job,
    JobStage,
    job_end,
    job_log,
    job_name,
    job_process,
    read_job,
    unended_jobs,
    write_job,
)
from midstudy.launch.launcher import Cause, Exit, Refusal
from midstudy.launch.local import LocalLauncher
from midstudy.launch.process import Process, this_process
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from midstudy.train.placement import Placement


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)  # where the jobs find fake_execute
    return Store.open(tmp_path / "a store", create=True)


@pytest.fixture
def launcher(store: Store) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(store, entry=ENTRY, grace_s=0.5)
    yield launcher
    launcher.cancel(list(unended_jobs(store)))


def job_of(store: Store, *stages: Stage) -> Job:
    for stage in stages:
        store.request(stage)
    job = Job(
        name=job_name(stages[0].id),
        study="study",
        stages=tuple(JobStage(id=stage.id, start_from=stage.start_from, keeps_optimizer=False) for stage in stages),
        backend="local",
        placement=Placement(),
        entry=ENTRY,
        driver=this_process(),
    )
    write_job(store, job)
    return job


def ended(launcher: LocalLauncher, job: Job) -> Exit:
    return wait_until(lambda: launcher.poll([job]).get(job.name))


def started(store: Store, name: str) -> None:
    wait_until(lambda: name in starts(store))


def test_a_job_runs_its_stages_in_order_in_one_process_with_its_own_session(store: Store, launcher: LocalLauncher) -> None:
    first = fake_stage("first")
    second = fake_stage("second", first)
    job = job_of(store, first, second)
    launcher.submit([job])
    process = job_process(store, job.name)
    assert process is not None
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    assert ended(launcher, job) == Exit(text="ended with exit status 0", cause="exited")
    assert job_end(store, job.name) == "done"
    assert starts(store) == ["first", "second"]
    assert store.record(first.id).metrics == store.record(second.id).metrics == {"pid": process.pid, "threads": "1"}
    assert read_job(store, job.name) == job


def test_a_jobs_environment_has_the_allocators_settings(
    store: Store, launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from midstudy.train.environment import ALLOCATOR

    assert ALLOCATOR
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "17")
    job = job_of(store, fake_stage("slow until=never"))
    launcher.submit([job])
    started(store, "slow")
    process = job_process(store, job.name)
    assert process is not None
    environment = dict(
        line.split("=", 1) for line in Path(f"/proc/{process.pid}/environ").read_text().split("\0") if "=" in line
    )
    assert {name: environment[name] for name in ALLOCATOR} == ALLOCATOR


@pytest.mark.parametrize(
    "odd",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "OMP_NUM_THREADS": "abc", "SUBMITIT_EXECUTOR": "slurm"},
        {"HOME": "", "TMPDIR": "/nowhere", "PYTHONSTARTUP": "/nowhere"},
    ],
)
def test_a_job_runs_whatever_the_environment_of_its_driver(
    odd: dict[str, str], store: Store, launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in odd.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "random.py").write_text("raise SystemExit('this file of the current folder must not be imported')")
    monkeypatch.chdir(tmp_path)
    stage = fake_stage("name → 0.8 [0.7, 0.9] × 3")
    job = job_of(store, stage)
    launcher.submit([job])
    ended(launcher, job)
    log = job_log(store, job.name)
    assert log is not None
    assert store.has(stage.id), log.read_text("utf-8")
    assert "→ 0.8 [0.7, 0.9] × 3" in log.read_text("utf-8")
    assert store.record(stage.id).metrics["threads"] == "1"


def test_a_stage_that_raises_is_recorded_and_only_its_descendants_are_skipped(store: Store, launcher: LocalLauncher) -> None:
    bad = fake_stage("bad raise")
    child = fake_stage("child", bad)
    grandchild, other = fake_stage("grandchild", child), fake_stage("other")
    job = job_of(store, bad, child, grandchild, other)
    launcher.submit([job])
    assert ended(launcher, job).cause == "exited"
    assert starts(store) == ["bad", "other"]
    failure = store.failure(bad.id)
    assert failure is not None
    assert failure["cause"] == "ValueError: bad cannot be made"
    assert "fake_execute.py" in failure["traceback"]
    assert failure["log"][0].startswith(f"=== stage {bad.id} bad raise")
    assert "making bad" in failure["log"]
    assert failure["retry"] == f"midstudy retry --store '{store.root}' study {bad.id}"
    assert store.failure(child.id) is store.failure(grandchild.id) is None
    assert store.has(other.id)


def test_a_successful_retry_clears_the_failure(store: Store, launcher: LocalLauncher) -> None:
    stage = fake_stage("stage")
    store.report_failure(stage.id, {"cause": "yesterday's"})
    job = job_of(store, stage)
    launcher.submit([job])
    ended(launcher, job)
    assert store.failure(stage.id) is None


def test_a_finished_stage_is_not_run_again(store: Store, launcher: LocalLauncher) -> None:
    stage, later = fake_stage("stage"), fake_stage("later")
    for job in (job_of(store, stage), job_of(store, stage, later)):
        launcher.submit([job])
        ended(launcher, job)
    assert starts(store) == ["stage", "later"]


@pytest.mark.parametrize(
    ("word", "text", "cause"),
    [
        ("kill", "killed by SIGKILL (the kernel does so when memory runs out)", "killed"),
        ("exit", "ended with exit status 3", "exited"),
    ],
)
def test_how_a_job_died_is_reported(store: Store, launcher: LocalLauncher, word: str, text: str, cause: Cause) -> None:
    job = job_of(store, fake_stage(f"stage {word}"), fake_stage("later"))
    launcher.submit([job])
    assert ended(launcher, job) == Exit(text=text, cause=cause)
    assert job_end(store, job.name) is None
    assert launcher.live([job]) == set()


def test_a_job_that_cannot_begin_leaves_the_reason_in_its_log(store: Store, launcher: LocalLauncher) -> None:
    job = dataclasses.replace(job_of(store, fake_stage("stage")), entry="no_such_module:execute")
    write_job(store, job)
    launcher.submit([job])
    assert ended(launcher, job).text == "ended with exit status 1"
    log = job_log(store, job.name)
    assert log is not None
    assert "No module named 'no_such_module'" in log.read_text()


def test_cancelling_lets_a_stage_save_its_work(store: Store, launcher: LocalLauncher) -> None:
    stage, later = fake_stage("stage until=never"), fake_stage("later")
    job = job_of(store, stage, later)
    launcher.submit([job])
    started(store, "stage")
    launcher.cancel([job])
    assert launcher.live([job]) == set()
    assert job_end(store, job.name) == "stopped"
    assert store.failure(stage.id) is None
    log = job_log(store, job.name)
    assert log is not None
    assert "told to stop" in log.read_text()
    assert starts(store) == ["stage"]


def test_cancelling_kills_a_job_that_ignores_signals_and_its_children(store: Store, launcher: LocalLauncher) -> None:
    job = job_of(store, fake_stage("stage stubborn=10000"))
    launcher.submit([job])
    started(store, "stage")
    launcher.cancel([job])
    assert launcher.live([job]) == set()
    assert ended(launcher, job).cause == "killed"


def test_cancelling_ends_a_job_at_any_moment_of_its_start(store: Store, launcher: LocalLauncher) -> None:
    for delay_s in (0.0, 0.1, 0.3):
        job = job_of(store, fake_stage("stage until=never"))
        launcher.submit([job])
        time.sleep(delay_s)
        launcher.cancel([job])
        assert launcher.live([job]) == set()


def test_an_unrelated_process_with_the_jobs_pid_is_neither_followed_nor_ended(store: Store, launcher: LocalLauncher) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as stranger:
        known = Process.of(stranger.pid)
        assert known is not None
        earlier = dataclasses.replace(known, start_ticks=known.start_ticks - 1)
        assert known.is_alive()
        assert not earlier.is_alive()
        assert not dataclasses.replace(known, boot_id="another").is_alive()
        assert not earlier.signal_session(signal.SIGKILL)
        assert stranger.poll() is None
        assert known.signal_session(signal.SIGKILL)
        assert stranger.wait() == -signal.SIGKILL
    assert not known.is_alive()


def test_a_job_whose_driver_died_before_writing_process_json_is_found(store: Store, launcher: LocalLauncher) -> None:
    job = job_of(store, fake_stage("stage until=never"))
    launcher.submit([job])
    process = job_process(store, job.name)
    store.paths.job_process(job.name).unlink()
    assert job_process(store, job.name) == process
    assert launcher.live([job]) == {job.name}


def test_a_job_that_was_written_but_never_started_is_lost(store: Store, launcher: LocalLauncher) -> None:
    job = job_of(store, fake_stage("stage"))
    assert launcher.live([job]) == set()
    assert launcher.poll([job]) == {job.name: Exit(text="was never started", cause="lost")}


def test_a_job_that_cannot_be_started_is_refused_and_a_full_disk_is_temporary(
    store: Store, launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(number: int) -> Refusal:
        def fail(*arguments: object, **options: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(subprocess, "Popen", fail)
        job = job_of(store, fake_stage("stage"))
        return launcher.submit([job])[job.name]

    assert refusal(errno.ENOSPC).may_pass
    assert "No space left on device" in refusal(errno.ENOSPC).text
    assert not refusal(errno.EACCES).may_pass


def test_a_jobs_pickle_exists_before_its_process_starts(
    store: Store, launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process finds its pickle even if its driver is killed right after starting it."""

    class KilledError(BaseException):
        pass

    real = subprocess.Popen

    def die(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        raise KilledError

    job = job_of(store, fake_stage("stage"))
    with monkeypatch.context() as killed:
        killed.setattr(subprocess, "Popen", die)
        with pytest.raises(KilledError):
            launcher.submit([job])
    started(store, "stage")
    process = job_process(store, job.name)
    assert process is not None
    wait_until(lambda: not process.is_alive())
    assert job_end(store, job.name) == "done"


def test_a_damaged_job_file_is_named_in_the_error(store: Store) -> None:
    job = job_of(store, fake_stage("stage"))
    store.paths.job_spec(job.name).write_text('{"name": 1}')
    with pytest.raises(StoreError, match=r"job.json: damaged.*will be run again"):
        read_job(store, job.name)
    with pytest.raises(StoreError, match="no such job"):
        run_job(str(store.root), "other")


def test_submitit_pickles_only_the_stores_path_and_the_jobs_name(store: Store, launcher: LocalLauncher) -> None:
    job = job_of(store, fake_stage("stage"))
    launcher.submit([job])
    ended(launcher, job)
    pickled = list(store.root.rglob("*.pkl"))
    assert {path.parent for path in pickled} == {store.paths.job_submitit(job.name)}
    submitted = next(path for path in pickled if path.name.endswith("_submitted.pkl")).read_bytes()
    assert str(store.root).encode() in submitted
    assert b"midstudy.launch.job" in submitted
    assert len(submitted) < 500 + len(str(store.root))
