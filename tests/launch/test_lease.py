"""Leases: job ownership among drivers on several hosts, takeover of stale drivers' jobs, and an unwritable store."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders.fake_execute import ENTRY, fake_stage, let_go, starts
from builders.places import PYTHONPATH
from builders.waiting import finish, until

from midstudy.files.errors import StoreError
from midstudy.launch import clock
from midstudy.launch.backends import live_jobs
from midstudy.launch.cancel import cancel_study
from midstudy.launch.claim import claim, claimed_by
from midstudy.launch.driver import Driver, Outcome, StudyCancelledError
from midstudy.launch.heartbeat import STALE_AFTER_S, Heartbeats
from midstudy.launch.job import run_job
from midstudy.launch.job_file import Job, job_end, job_names, read_job, unended_jobs, write_job
from midstudy.launch.launcher import Exit, Refusal
from midstudy.launch.local import LocalLauncher
from midstudy.launch.process import Process, this_process
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store

ELSEWHERE = dataclasses.replace(this_process(), host="elsewhere")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    store = Store.open(tmp_path / "store", create=True)
    yield store
    LocalLauncher(store, grace_s=0.5).cancel(list(unended_jobs(store)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed heartbeats up by a factor of one hundred."""
    for module in ("driver", "heartbeat"):
        monkeypatch.setattr(f"midstudy.launch.{module}.BEAT_EVERY_S", 0.05)
        monkeypatch.setattr(f"midstudy.launch.{module}.STALE_AFTER_S", 1.0)


def request(store: Store, *stages: Stage) -> Mapping[str, Stage]:
    for stage in stages:
        store.request(stage)
    return {stage.id: stage for stage in stages}


def driver_of(store: Store, launcher: LocalLauncher, *stages: Stage, me: Process | None = None, **options: Any) -> Driver:
    with pytest.MonkeyPatch.context() as patch:
        if me is not None:
            patch.setattr("midstudy.launch.driver.this_process", lambda: me)
        known = request(store, *stages)
        return Driver(store, known, launcher, study="study", max_jobs=2, poll_s=0.02, **options)


def local(store: Store) -> LocalLauncher:
    return LocalLauncher(store, entry=ENTRY, grace_s=0.5)


# -- heartbeats -------------------------------------------------------------------------------------------------------


def test_a_driver_on_another_host_is_fresh_while_its_heartbeat_changes_whatever_its_clock_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(clock, "monotonic", lambda: now_s)
    theirs, mine = Heartbeats(store, ELSEWHERE), Heartbeats(store, this_process())
    theirs.begin("study")
    beat = store.paths.driver_heartbeat(ELSEWHERE.key)
    for their_clock in (4e9, 1e9, 2e9):  # set years ahead, back, and ahead again
        os.utime(beat, (their_clock, their_clock))
        assert mine.is_fresh(ELSEWHERE)
        now_s += 0.9 * STALE_AFTER_S
        assert mine.is_fresh(ELSEWHERE)
    now_s += 0.2 * STALE_AFTER_S
    assert not mine.is_fresh(ELSEWHERE)
    theirs.beat()
    assert mine.is_fresh(ELSEWHERE)
    theirs.end(jobs_go_on=True)
    assert not mine.is_fresh(ELSEWHERE)


def test_a_driver_on_this_host_is_judged_by_its_process_alone(store: Store) -> None:
    hearts = Heartbeats(store, dataclasses.replace(this_process(), pid=1))
    assert hearts.is_fresh(this_process())
    assert not hearts.is_fresh(dataclasses.replace(this_process(), start_ticks=1))


def test_a_host_of_the_same_name_but_another_boot_cannot_be_inspected(store: Store) -> None:
    """Two machines with one name, or this one before a reboot: only the heartbeat counts."""
    assert Heartbeats(store, this_process()).is_fresh(dataclasses.replace(this_process(), pid=1, boot_id="another"))


# -- two drivers ------------------------------------------------------------------------------------------------------


class RefusingLauncher(LocalLauncher):
    """Refuse all jobs until a test sets `accepts`."""

    accepts = False

    def __init__(self, store: Store) -> None:
        super().__init__(store, entry=ENTRY, grace_s=0.5)
        self.asked: list[str] = []

    def submit(self, jobs: Sequence[Job]) -> dict[str, Refusal]:
        self.asked += [job.name for job in jobs]
        if self.accepts:
            return super().submit(jobs)
        return {job.name: Refusal(text="away", may_pass=True) for job in jobs}


@pytest.mark.usefixtures("quick")
def test_a_stage_waits_for_a_driver_on_another_host_as_long_as_its_heartbeat_is_fresh(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midstudy.launch.driver.FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("midstudy.launch.driver.LONGEST_WAIT_S", 0.05)
    stage, refusing = fake_stage("stage"), RefusingLauncher(store)
    notices: list[str] = []

    async def both() -> list[Outcome]:
        other = driver_of(store, refusing, stage, me=ELSEWHERE)
        await other.start()
        await until(lambda: refusing.asked)
        async with driver_of(store, local(store), stage, on_notice=notices.append) as driver:
            await asyncio.sleep(2.0)  # twice as long as it takes a heartbeat to become stale
            assert starts(store) == []
            assert notices == []
            other._beating.cancel()  # type: ignore[union-attr]
            first = await driver.finished(stage.id)
        refusing.accepts = True  # the other driver recovers and finds that the job is no longer its own
        num_asked = len(refusing.asked)
        second = await other.finished(stage.id)
        await other.stop()
        assert refusing.asked[num_asked:] == []
        return [first, second]

    assert {outcome.status for outcome in finish(both())} == {"published"}
    assert starts(store) == ["stage"]
    first = next(job for job in (read_job(store, name) for name in job_names(store)) if job.former_drivers)
    assert first.former_drivers == (ELSEWHERE,)
    assert notices == [
        f"job {first.name}: taken over; its driver, process {ELSEWHERE.pid} on elsewhere, is unresponsive",
        f"stage: its job {first.name} was never started; retried (lost: 1 of at most 3 times)",
    ]


@pytest.mark.usefixtures("quick")
def test_a_driver_that_stalled_does_not_touch_jobs_that_another_has_taken_over(store: Store) -> None:
    stage = fake_stage("stage until=go", cost_s=100)

    async def both() -> Outcome:
        other = driver_of(store, local(store), stage, me=ELSEWHERE)
        await other.start()
        await until(lambda: starts(store))
        for task in (other._beating, other._loop):
            task.cancel()  # type: ignore[union-attr]
        async with driver_of(store, local(store), stage) as driver:
            await until(lambda: next(iter(unended_jobs(store))).driver == this_process())
            await other.stop()
            let_go(store, "go")
            return await driver.finished(stage.id)

    assert finish(both()).status == "published"
    assert starts(store, "stage") == ["stage"]


def test_a_job_that_starts_late_does_not_run_a_stage_that_another_job_has_taken_over(store: Store) -> None:
    """The last safeguard: a driver suspended between its ownership check and submission submits a job it no longer owns."""
    first, second = fake_stage("first"), fake_stage("second")
    launcher = RefusingLauncher(store)

    async def leave() -> str:
        async with driver_of(store, launcher, first, second) as driver:
            await until(lambda: launcher.asked)
            await driver.detach()
        return launcher.asked[0]

    late = read_job(store, finish(leave()))
    assert late.stage_ids == (first.id, second.id)
    newer = dataclasses.replace(late, name=f"{first.id}-newer", stages=late.stages[:1])
    write_job(store, newer)
    assert claim(store, first.id, newer, dead={late.name}) is None
    run_job(str(store.root), late.name)
    assert starts(store) == []
    assert job_end(store, late.name) == "cut short"


# -- detaching --------------------------------------------------------------------------------------------------------


def test_a_driver_that_detaches_keeps_its_jobs_running_and_the_next_follows_them_at_once(store: Store) -> None:
    stage = fake_stage("stage until=go", cost_s=100)

    async def leave() -> int:
        async with driver_of(store, local(store), stage, me=ELSEWHERE) as driver:
            await until(lambda: starts(store))
            return await driver.detach()

    async def come_back() -> Outcome:
        async with driver_of(store, local(store), stage) as driver:
            await until(lambda: live_jobs(store)[0].driver == this_process())
            let_go(store, "go")
            return await driver.finished(stage.id)

    async def come_back_again() -> str:
        async with driver_of(store, local(store), stage) as driver:
            return (await driver.finished(stage.id)).status

    assert finish(leave()) == 1
    assert len(live_jobs(store)) == 1
    assert finish(come_back()).status == "published"
    assert starts(store) == ["stage", "go"]
    assert finish(come_back_again()) == "reused"
    assert not any(store.paths.drivers.iterdir())


def test_a_driver_on_another_host_is_asked_to_cancel(store: Store) -> None:
    stages = [fake_stage(f"stage-{index} until=never", cost_s=100) for index in range(3)]

    async def both() -> None:
        async with driver_of(store, local(store), *stages, me=ELSEWHERE) as driver:
            await until(lambda: len(starts(store)) == 2)
            await asyncio.to_thread(cancel_study, store, "study")
            with pytest.raises(StudyCancelledError, match="study: cancelled by `midstudy cancel`"):
                await driver.finished(stages[2].id)

    finish(both())
    assert list(unended_jobs(store)) == []
    assert len(starts(store)) == 2


# -- a store that cannot be written -----------------------------------------------------------------------------------


class FullDisk:
    """Fail all writes of this process while `full`; jobs, which are separate processes, are unaffected."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, real = False, os.fsync

        def fsync(handle: int) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)


def test_the_driver_waits_for_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    notices: list[str] = []
    first, killed, last = fake_stage("first until=full"), fake_stage("killed kill_once"), fake_stage("last")
    second = fake_stage("second", first)

    async def drive() -> list[Outcome]:
        stages = (first, second, killed, last)
        async with driver_of(store, local(store), *stages, on_notice=notices.append, job_budget_s=0.1) as driver:
            await until(lambda: "first" in starts(store))
            disk.full = True
            let_go(store, "full")
            await until(lambda: any("No space left on device" in line for line in notices))
            await asyncio.sleep(0.5)
            disk.full = False
            return await asyncio.gather(*(driver.finished(stage.id) for stage in stages))

    assert {outcome.status for outcome in finish(drive())} == {"published"}
    assert sorted(starts(store)) == ["first", "full", "killed", "killed", "last", "second"]


def test_a_disk_that_stays_full_fails_the_unfinished_stages_with_its_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midstudy.launch.driver.PATIENCE_S", 0.3)
    disk = FullDisk(monkeypatch)
    running, killed = fake_stage("running until=go", cost_s=100), fake_stage("killed until=go kill", cost_s=100)
    other = fake_stage("other")
    child = fake_stage("child", running, other)

    async def drive() -> list[Outcome]:
        stages = (running, killed, other, child)
        async with driver_of(store, local(store), *stages) as driver:
            await until(lambda: len(starts(store)) == 2)
            disk.full = True
            let_go(store, "go")
            return await asyncio.gather(*(driver.finished(stage.id) for stage in stages))

    made, lost, idle, below = finish(drive())
    assert [made.status, lost.status, idle.status, below.status] == ["published", "failed", "failed", "skipped"]
    assert "killed by SIGKILL" in lost.cause
    assert "No space left on device" in lost.cause
    assert "No space left on device" in idle.cause
    disk.full = False
    stages = (running, other, child)

    async def again() -> list[Outcome]:
        async with driver_of(store, local(store), *stages) as driver:
            return await asyncio.gather(*(driver.finished(stage.id) for stage in stages))

    assert [outcome.status for outcome in finish(again())] == ["reused", "published", "published"]


def test_a_damaged_claim_fails_its_stage_and_nothing_else(store: Store) -> None:
    bad, other = fake_stage("bad"), fake_stage("other")
    child = fake_stage("child", bad)
    request(store, bad)
    store.paths.claim(bad.id).write_text("{")

    async def drive() -> list[Outcome]:
        async with driver_of(store, local(store), bad, other, child) as driver:
            return await asyncio.gather(*(driver.finished(stage.id) for stage in (bad, other, child)))

    outcomes = finish(drive())
    assert [outcome.status for outcome in outcomes] == ["failed", "published", "skipped"]
    assert "claim.json: damaged" in outcomes[0].cause
    with pytest.raises(StoreError):
        claimed_by(store, bad.id)


def test_a_job_on_a_host_that_is_gone_counts_as_a_node_failure(store: Store) -> None:
    launcher = local(store)
    stage = fake_stage("stage")
    driver = driver_of(store, launcher, stage)
    job = driver._new_job([stage.id]) if driver else None
    assert job is not None
    write_job(store, job)
    store.paths.job_process(job.name).write_text(
        f'{{"pid": 1, "start_ticks": 1, "host": "elsewhere", "boot_id": "{ELSEWHERE.boot_id}"}}'
    )
    assert launcher.live([job]) == {job.name}  # cannot be inspected from this host
    text = "ran on elsewhere, where its driver became unresponsive"
    assert launcher.poll([job]) == {job.name: Exit(text=text, cause="node failed")}
