"""Inside a Slurm job: asked to stop, it saves and requeues itself; restarted, it resumes, a limited number of times."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.fake_execute import fake_stage

from midstudy.launch import job as job_module
from midstudy.launch.job import run_job
from midstudy.launch.job_file import Job, JobStage, is_cancelled, job_end, job_name, mark_cancelled, write_end, write_job
from midstudy.launch.launcher import Exit
from midstudy.launch.process import this_process
from midstudy.launch.restarts import MOST_WITHOUT_PROGRESS, starts
from midstudy.launch.slurm.batch_file import Submission, write_submission
from midstudy.launch.slurm.commands import SlurmAwayError, SlurmCommands, SlurmRefusedError
from midstudy.launch.slurm.job import requeue
from midstudy.launch.stop import stop_signals
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from midstudy.train.placement import Placement

ACTIONS: list[Callable[[Store, str], None]] = []
"""What the stages of this test do, one after the other; the last entry also applies to all later stages."""


def execute(store: Store, stage_id: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    act = ACTIONS.pop(0) if len(ACTIONS) > 1 else ACTIONS[0]
    act(store, stage_id)
    if should_stop():
        raise RuntimeError("asked to stop")
    wanted = store.requested(stage_id)
    store.attempt(stage_id).publish(
        kind=wanted["kind"],
        label=wanted["label"],
        recipe=wanted["recipe"],
        canonical=wanted["canonical"],
        parents=tuple(wanted["parents"]),
        metrics={},
    )


def send_self(number: signal.Signals) -> Callable[[Store, str], None]:
    return lambda store, stage_id: os.kill(os.getpid(), number)


def nothing(store: Store, stage_id: str) -> None:
    pass


class Scontrol(SlurmCommands):
    """Record the commands; `scontrol show job` prints `shown`."""

    def __init__(self, shown: str = "JobId=7 JobState=RUNNING PreemptTime=None") -> None:
        self.shown, self.asked = shown, [""]
        self.error: Exception | None = None

    def run(self, command: Any, *, timeout_s: float = 0.0) -> str:
        self.asked.append(" ".join(command))
        if self.error is not None:
            raise self.error
        return self.shown if "show" in command else ""


@pytest.fixture
def scontrol(monkeypatch: pytest.MonkeyPatch) -> Scontrol:
    """Make this process look like Slurm job 7, with a fake `scontrol`."""
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}.items():
        monkeypatch.setenv(name, value)
    commands = Scontrol()
    monkeypatch.setattr(job_module, "requeue", lambda received: requeue(received, commands))
    return commands


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def job_of(store: Store, *stages: Stage) -> Job:
    for stage in stages:
        store.request(stage)
    job = Job(
        name=job_name(stages[0].id),
        study="study",
        stages=tuple(JobStage(id=stage.id, start_from=None, keeps_optimizer=False) for stage in stages),
        backend="slurm",
        placement=Placement(),
        entry=f"{__name__}:execute",
        driver=this_process(),
    )
    write_job(store, job)
    write_submission(store, job.name, Submission(name=job.name, index=None, submitted_at=0.0, id="7"))
    return job


def test_a_job_signalled_before_preemption_or_its_time_limit_is_requeued_and_resumes(
    store: Store, scontrol: Scontrol
) -> None:
    first, second = fake_stage("first"), fake_stage("second")
    job = job_of(store, first, second)
    ACTIONS[:] = [nothing, send_self(signal.SIGUSR2), nothing]
    run_job(str(store.root), job.name)
    assert scontrol.asked[1:] == ["scontrol requeue 7"]
    assert (store.has(first.id), store.has(second.id)) == (True, False)
    assert job_end(store, job.name) is None  # for a driver, the job is still running
    assert store.failure(second.id) is None
    run_job(str(store.root), job.name)
    assert store.has(second.id)
    assert job_end(store, job.name) == "done"
    assert [(start.slurm_id, start.node) for start in starts(store, job.name)] == [("7", "n1")] * 2


@pytest.mark.parametrize(
    ("shown", "requeued"),
    [
        ("JobId=7 JobState=RUNNING Reason=None PreemptTime=2026-11-24T12:18:37 SuspendTime=None", True),
        ("JobId=7 JobState=RUNNING Reason=None PreemptTime=None SuspendTime=None", False),
        ("JobId=7 JobState=CANCELLED Reason=None PreemptTime=None SuspendTime=None", False),
        ("JobId=7 JobState=CANCELLED Reason=None PreemptTime=2026-11-24T12:18:37 SuspendTime=None", False),
        ("JobId=7 JobState=TIMEOUT Reason=TimeLimit PreemptTime=None SuspendTime=None", False),
    ],
)
def test_sigterm_counts_as_preemption_only_if_slurm_reports_one(
    store: Store, scontrol: Scontrol, shown: str, requeued: bool
) -> None:
    job = job_of(store, fake_stage("stage"))
    scontrol.shown = shown
    ACTIONS[:] = [send_self(signal.SIGTERM)]
    run_job(str(store.root), job.name)
    assert ("scontrol requeue 7" in scontrol.asked) == requeued
    assert job_end(store, job.name) == (None if requeued else "stopped")


def test_a_job_cancelled_by_its_study_is_not_requeued(store: Store, scontrol: Scontrol) -> None:
    job = job_of(store, fake_stage("stage"))

    def cancelled(store: Store, stage_id: str) -> None:
        mark_cancelled(store, job.name)
        os.kill(os.getpid(), signal.SIGUSR2)

    ACTIONS[:] = [cancelled]
    run_job(str(store.root), job.name)
    assert is_cancelled(store, job.name)
    assert scontrol.asked == [""]
    assert job_end(store, job.name) == "stopped"


def test_a_cancellation_reaches_a_job_without_a_signal(
    store: Store, scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, later = fake_stage("stage"), fake_stage("later")
    job = job_of(store, stage, later)
    ACTIONS[:] = [lambda store, stage_id: mark_cancelled(store, job.name)]
    monkeypatch.setattr("midstudy.launch.stop._CHECK_EVERY_S", 0.0)
    run_job(str(store.root), job.name)
    assert job_end(store, job.name) == "stopped"
    assert not store.has(stage.id)
    assert store.failure(stage.id) is None


@pytest.mark.parametrize("error", [SlurmAwayError("scontrol: no response"), SlurmRefusedError("scontrol: disabled")])
def test_a_job_that_cannot_be_requeued_reports_that_it_stopped(store: Store, scontrol: Scontrol, error: Exception) -> None:
    job = job_of(store, fake_stage("stage"))
    scontrol.error = error
    ACTIONS[:] = [send_self(signal.SIGUSR2)]
    run_job(str(store.root), job.name)
    assert job_end(store, job.name) == "stopped"  # a driver then submits its stages in a new job


def test_a_stage_without_progress_over_several_starts_fails(store: Store, scontrol: Scontrol) -> None:
    stage, later = fake_stage("stage"), fake_stage("later")
    job = job_of(store, stage, later)
    ACTIONS[:] = [send_self(signal.SIGUSR2)]
    for number in range(1, MOST_WITHOUT_PROGRESS):
        run_job(str(store.root), job.name)
        assert job_end(store, job.name) is None, number
    run_job(str(store.root), job.name)
    failure = store.failure(stage.id)
    assert failure is not None
    assert failure["cause"] == "its job was started 5 times (on n1) without progress"
    assert failure["where"] == "Slurm job 7 on node n1"
    assert failure["retry"].startswith("midstudy retry --backend slurm --store ")
    assert job_end(store, job.name) == "cut short"
    assert store.failure(later.id) is None


def test_a_checkpoint_is_progress(store: Store, scontrol: Scontrol) -> None:
    job = job_of(store, fake_stage("stage"))
    steps = iter(range(100))

    def save(store: Store, stage_id: str) -> None:
        (store.attempt(stage_id).checkpoints / f"step-{next(steps)}").mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGUSR2)

    ACTIONS[:] = [save]
    for _ in range(2 * MOST_WITHOUT_PROGRESS):
        run_job(str(store.root), job.name)
    assert job_end(store, job.name) is None


def test_a_stage_that_failed_in_one_start_is_not_retried_in_the_next(store: Store, scontrol: Scontrol) -> None:
    bad, good = fake_stage("bad"), fake_stage("good")
    below = fake_stage("below", bad)
    job = job_of(store, bad, good, below)

    def fail(store: Store, stage_id: str) -> None:
        raise ValueError("bad")

    ACTIONS[:] = [fail, send_self(signal.SIGUSR2), nothing]
    run_job(str(store.root), job.name)
    run_job(str(store.root), job.name)
    failure = store.failure(bad.id)
    assert failure is not None
    assert failure["cause"] == "ValueError: bad"
    assert (store.has(bad.id), store.has(good.id), store.has(below.id)) == (False, True, False)
    assert job_end(store, job.name) == "done"


def test_a_job_that_was_declared_ended_or_submitted_twice_runs_nothing(store: Store, scontrol: Scontrol) -> None:
    stage = fake_stage("stage")
    job = job_of(store, stage)
    ACTIONS[:] = [nothing]
    write_submission(store, job.name, Submission(name=job.name, index=None, submitted_at=0.0, id="8"))
    run_job(str(store.root), job.name)
    lost = Exit(text="is unknown to Slurm", cause="lost")
    write_submission(store, job.name, Submission(name=job.name, index=None, submitted_at=0.0, id="7", ended=lost))
    run_job(str(store.root), job.name)
    write_submission(store, job.name, Submission(name=job.name, index=None, submitted_at=0.0, id="7"))
    write_end(store, job.name, "gone")
    run_job(str(store.root), job.name)
    assert not store.has(stage.id)
    assert starts(store, job.name) == []


def test_an_earlier_start_that_is_still_alive_neither_ends_nor_requeues_the_job(store: Store, scontrol: Scontrol) -> None:
    stage = fake_stage("stage")
    job = job_of(store, stage)

    def started_elsewhere(store: Store, stage_id: str) -> None:
        with store.paths.job_starts(job.name).open("a") as file:
            file.write(store.paths.job_starts(job.name).read_text().replace('"n1"', '"n2"'))
        os.kill(os.getpid(), signal.SIGUSR2)

    ACTIONS[:] = [started_elsewhere]
    run_job(str(store.root), job.name)
    assert scontrol.asked == [""]
    assert job_end(store, job.name) is None


def test_a_signal_to_a_forked_worker_does_not_stop_its_job() -> None:
    with stop_signals() as stop:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGUSR2)
            os._exit(int(stop()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not stop()
        signal.raise_signal(signal.SIGUSR2)
        assert stop()
        assert stop.signals == [signal.SIGUSR2]
