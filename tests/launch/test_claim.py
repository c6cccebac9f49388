"""Claims: only one of several drivers gets a stage, and a claim ends with the job it names."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from builders.fake_execute import ENTRY, fake_stage

from midstudy.files.errors import StoreError
from midstudy.launch.claim import claim, claimed_by
from midstudy.launch.job_file import Job, JobStage, job_name, write_end, write_job
from midstudy.launch.log import begin_stage, stage_log
from midstudy.launch.process import this_process
from midstudy.store.store import Store
from midstudy.train.placement import Placement

STAGE = fake_stage("stage")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def new_job(store: Store) -> Job:
    job = Job(
        name=job_name(STAGE.id),
        study="study",
        stages=(JobStage(id=STAGE.id, start_from=None, keeps_optimizer=False),),
        backend="local",
        placement=Placement(),
        entry=ENTRY,
        driver=this_process(),
    )
    write_job(store, job)
    return job


def test_the_first_claim_succeeds_and_the_next_returns_its_holder(store: Store) -> None:
    first, second = new_job(store), new_job(store)
    assert claim(store, STAGE.id, first) is None
    assert claim(store, STAGE.id, first) is None
    assert claim(store, STAGE.id, second) == first
    assert claimed_by(store, STAGE.id) == first.name


def _end(store: Store, job: Job) -> None:
    write_end(store, job.name, "done")


def _remove(store: Store, job: Job) -> None:
    store.paths.job_spec(job.name).unlink()


def _drop_stage(store: Store, job: Job) -> None:
    write_job(store, dataclasses.replace(job, stages=()))


@pytest.mark.parametrize("end", [_end, _remove, _drop_stage])
def test_a_claim_ends_with_its_job(store: Store, end: Callable[[Store, Job], None]) -> None:
    first, second = new_job(store), new_job(store)
    assert claim(store, STAGE.id, first) is None
    end(store, first)
    assert claim(store, STAGE.id, second) is None
    assert claimed_by(store, STAGE.id) == second.name


def test_a_claim_of_a_job_without_an_end_holds_until_the_job_is_known_to_be_dead(store: Store) -> None:
    first, second, third = new_job(store), new_job(store), new_job(store)
    claim(store, STAGE.id, first)
    assert claim(store, STAGE.id, second, dead={third.name}) == first
    assert claim(store, STAGE.id, second, dead={first.name}) is None
    assert claim(store, STAGE.id, first, dead={first.name}) == second


def test_a_damaged_claim_is_not_taken_over(store: Store) -> None:
    claim(store, STAGE.id, new_job(store))
    store.paths.claim(STAGE.id).write_text("")
    with pytest.raises(StoreError, match=r"claim.json: damaged.*Remove it if no job is running the stage"):
        claim(store, STAGE.id, new_job(store))


def _compete(root: str, barrier: Barrier, got: multiprocessing.SimpleQueue[bool]) -> None:
    store = Store(Path(root))
    job = new_job(store)
    barrier.wait()
    got.put(claim(store, STAGE.id, job) is None)
    barrier.wait()  # alive until all have tried


@pytest.mark.parametrize("stale", [False, True])
def test_exactly_one_of_competing_drivers_gets_the_stage(store: Store, stale: bool) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        store.paths.claim(STAGE.id).unlink(missing_ok=True)
        if stale:
            previous = new_job(store)
            claim(store, STAGE.id, previous)
            write_end(store, previous.name, "gone")
        barrier, got = context.Barrier(4), context.SimpleQueue()
        drivers = [context.Process(target=_compete, args=(str(store.root), barrier, got)) for _ in range(4)]
        for driver in drivers:
            driver.start()
        assert sorted(got.get() for _ in drivers) == [False, False, False, True]
        for driver in drivers:
            driver.join()
        assert [path.name for path in store.paths.stage(STAGE.id).iterdir()] == ["claim.json"]


def test_a_stages_log_is_its_part_of_the_jobs_log(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    job, other = new_job(store), fake_stage("other")
    assert stage_log(store, STAGE.id, job.name) == []
    print("starting")
    for stage in (STAGE, other):
        begin_stage(stage.id, stage.label)
        print("made", stage.label)
    folder = store.paths.job_submitit(job.name)
    folder.mkdir()
    (folder / "1_0_log.out").write_text(capsys.readouterr().out)
    assert stage_log(store, STAGE.id, job.name)[1:] == ["made stage"]
    assert stage_log(store, other.id, job.name)[1:] == ["made other"]
    assert stage_log(store, fake_stage("never").id, job.name)[0] == "starting"
