"""The driver with real job processes: what runs once, what a failure takes along, what survives the driver's death."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_execute import ENTRY, fake_stage, let_go, starts

from midstudy.launch.cancel import cancel_study
from midstudy.launch.claim import claimed_by
from midstudy.launch.debug import DebugLauncher
from midstudy.launch.driver import Driver, Outcome
from midstudy.launch.job_file import Job, is_live, job_end, job_names, job_process, live_jobs, read_job, unended_jobs
from midstudy.launch.local import LocalLauncher
from midstudy.plan.stage import Stage
from midstudy.store.errors import RecipeMismatchError, StoreError, unwritable
from midstudy.store.store import Store

SOON_S = 20.0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    store = Store.open(tmp_path / "store", create=True)
    yield store
    LocalLauncher(store, grace_s=0.5).cancel([job for job in unended_jobs(store) if is_live(store, job)])


def request(store: Store, *stages: Stage) -> Mapping[str, Stage]:
    for stage in stages:
        store.request(stage)
    return {stage.id: stage for stage in stages}


def driver_of(store: Store, stages: Mapping[str, Stage], max_jobs: int = 2, **options: Any) -> Driver:
    launcher = LocalLauncher(store, entry=ENTRY, grace_s=0.5)
    return Driver(store, stages, launcher, study="study", max_jobs=max_jobs, poll_s=0.02, **options)


def run(store: Store, *stages: Stage, **options: Any) -> dict[str, Outcome]:
    """Outcomes by the first word of the label."""
    known = request(store, *stages)

    async def drive() -> dict[str, Outcome]:
        async with driver_of(store, known, **options) as driver:
            outcomes = await asyncio.gather(*(driver.finished(identity) for identity in known))
        return {stage.label.split()[0]: outcome for stage, outcome in zip(stages, outcomes, strict=True)}

    return asyncio.run(asyncio.wait_for(drive(), SOON_S))


def wait_for_start(store: Store, name: str) -> None:
    deadline = time.monotonic() + SOON_S
    while name not in starts(store):
        assert time.monotonic() < deadline, f"{name} did not start"
        time.sleep(0.02)


def statuses(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    return {name: outcome.status for name, outcome in outcomes.items()}


# -- what runs --------------------------------------------------------------------------------------------------------


def test_every_stage_is_made_once_after_its_parents_and_reused_by_the_next_run(store: Store) -> None:
    root = fake_stage("root")
    left, right = fake_stage("left", root), fake_stage("right", root)
    last = fake_stage("last", left, right)
    stages = (root, left, right, last)
    assert set(statuses(run(store, *stages)).values()) == {"published"}
    lines = [line.split(" ") for line in (store.root.parent / "starts.txt").read_text().splitlines()]
    assert sorted(name for name, _, _ in lines) == ["last", "left", "right", "root"]
    assert {missing for _, _, missing in lines} == {""}  # every parent was there when its child began
    jobs = job_names(store)
    assert set(statuses(run(store, *stages)).values()) == {"reused"}
    assert job_names(store) == jobs


def test_branches_start_while_their_trunk_goes_on_in_one_job(store: Store) -> None:
    first = fake_stage("first", cost_s=10)
    second = fake_stage("second until=branch", first, cost_s=10, trunk=True)
    branch = fake_stage("branch", first)
    assert set(statuses(run(store, first, second, branch)).values()) == {"published"}
    pids = {name: store.record(stage.id).metrics["pid"] for name, stage in [("f", first), ("s", second), ("b", branch)]}
    assert pids["f"] == pids["s"] != pids["b"]


def test_no_more_jobs_run_at_a_time_than_allowed(store: Store) -> None:
    stages = [fake_stage(f"stage-{index} sleep=0.3", cost_s=100) for index in range(4)]
    most = 0

    async def drive() -> None:
        nonlocal most
        known = request(store, *stages)
        async with driver_of(store, known, max_jobs=2) as driver:
            waiting = asyncio.gather(*(driver.finished(identity) for identity in known))
            while not waiting.done():
                most = max(most, len(driver.in_jobs), sum(is_live(store, job) for job in unended_jobs(store)))
                await asyncio.sleep(0.02)

    asyncio.run(drive())
    assert most == 2
    assert len(job_names(store)) == 4


def test_the_debug_backend_runs_in_this_process(store: Store) -> None:
    first, bad = fake_stage("first"), fake_stage("bad raise")
    child, later = fake_stage("child", bad), fake_stage("later", first)
    known = request(store, first, bad, child, later)

    async def drive() -> list[str]:
        launcher = DebugLauncher(store, entry=ENTRY)
        async with Driver(store, known, launcher, study="study", max_jobs=1, poll_s=0.01) as driver:
            return [(await driver.finished(identity)).status for identity in known]

    assert asyncio.run(drive()) == ["published", "failed", "skipped", "published"]
    assert store.record(later.id).metrics["pid"] == os.getpid()


def test_every_change_is_told(store: Store) -> None:
    good, bad = fake_stage("good"), fake_stage("bad raise")
    child = fake_stage("child", bad)
    run(store, good)
    told: list[tuple[str, str]] = []
    run(store, good, bad, child, on_change=lambda identity, status: told.append((identity, status)))
    assert told == [
        (good.id, "reused"),
        (bad.id, "submitted"),
        (child.id, "submitted"),
        (bad.id, "failed"),
        (child.id, "skipped"),
    ]


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_failed_stage_skips_its_descendants_and_nothing_else(store: Store) -> None:
    root, bad = fake_stage("root"), fake_stage("bad raise")
    child = fake_stage("child", bad, root)
    grandchild, other = fake_stage("grandchild", child), fake_stage("other", root)
    outcomes = run(store, root, bad, child, grandchild, other)
    assert statuses(outcomes) == {
        "root": "published", "bad": "failed", "child": "skipped", "grandchild": "skipped", "other": "published",
    }  # fmt: skip
    assert outcomes["bad"].cause == "ValueError: bad cannot be made"
    assert outcomes["grandchild"].ancestor == bad.id
    assert outcomes["grandchild"].cause == "needs 'bad raise', which failed: ValueError: bad cannot be made"
    assert starts(store, "bad") == ["bad"]  # an exception is not run again


def test_a_later_run_tries_what_failed_again(store: Store) -> None:
    stage = fake_stage("stage raise")
    assert statuses(run(store, stage)) == {"stage": "failed"}
    cured = fake_stage("stage")
    assert cured.id == stage.id
    assert statuses(run(store, cured)) == {"stage": "published"}


def test_a_stage_whose_job_was_killed_is_run_once_more(store: Store) -> None:
    before, killed, after = fake_stage("before"), fake_stage("killed kill_once"), fake_stage("after")
    outcomes = run(store, before, killed, after, max_jobs=1)
    assert set(statuses(outcomes).values()) == {"published"}
    assert {name: len(starts(store, name)) for name in outcomes} == {"before": 1, "killed": 2, "after": 1}


def test_a_stage_that_kills_its_job_twice_has_failed_and_the_others_go_on(store: Store) -> None:
    killed, after = fake_stage("killed kill"), fake_stage("after")
    child = fake_stage("child", killed)
    outcomes = run(store, killed, child, after, max_jobs=1)
    assert statuses(outcomes) == {"killed": "failed", "child": "skipped", "after": "published"}
    assert "killed by SIGKILL" in outcomes["killed"].cause
    failure = store.failure(killed.id)
    assert failure is not None
    assert failure["log"][-1] == "making killed"
    assert len(starts(store, "killed")) == 2


def test_a_job_that_ends_without_a_word_fails_the_stage_it_was_in(store: Store) -> None:
    outcomes = run(store, fake_stage("gone exit"), fake_stage("after"), max_jobs=1)
    assert statuses(outcomes) == {"gone": "failed", "after": "published"}
    assert "ended with exit status 3" in outcomes["gone"].cause
    assert starts(store, "gone") == ["gone"]


def test_what_stops_the_driver_is_raised_to_everybody_who_waits(store: Store) -> None:
    class FullDisk(LocalLauncher):
        def submit(self, job: Job) -> None:
            raise unwritable(store.paths.job(job.name), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    known = request(store, fake_stage("one"), fake_stage("two"))

    async def drive() -> list[Outcome | BaseException]:
        async with Driver(store, known, FullDisk(store), study="study", max_jobs=2, poll_s=0.02) as driver:
            told = await asyncio.gather(*(driver.finished(identity) for identity in known), return_exceptions=True)
            with pytest.raises(StoreError, match="No space left"):
                await driver.finished(min(known))  # and to those who ask later
            return told

    errors = asyncio.run(asyncio.wait_for(drive(), SOON_S))
    assert len(errors) == 2
    assert all(isinstance(error, StoreError) and "No space left" in str(error) for error in errors)
    assert live_jobs(store, known) == []


def test_a_record_made_from_another_recipe_stops_the_run_before_it_starts(store: Store) -> None:
    stage = fake_stage("stage")
    run(store, stage)
    path = store.paths.record(stage.id)
    path.write_text(path.read_text().replace('"max_bytes": 1000', '"max_bytes": 1001'))
    with pytest.raises(RecipeMismatchError, match="max_bytes: found 1001, asked for 1000"):
        run(store, stage, fake_stage("other"))
    assert starts(store) == ["stage"]


def test_a_parent_of_another_study_has_to_be_finished(store: Store) -> None:
    elsewhere = fake_stage("elsewhere")
    with pytest.raises(StoreError, match=f"stage {elsewhere.id}: needed by the study and not finished"):
        run(store, fake_stage("stage", elsewhere))
    run(store, elsewhere)
    assert statuses(run(store, fake_stage("stage", elsewhere))) == {"stage": "published"}


# -- ends of drivers --------------------------------------------------------------------------------------------------


def test_cancelling_the_driver_ends_its_jobs_within_seconds_and_leaves_them_to_be_run_again(store: Store) -> None:
    stages = [fake_stage(f"stage-{index} sleep=30", cost_s=100) for index in range(2)]
    known = request(store, *stages)

    async def drive() -> None:
        async with driver_of(store, known) as driver:
            await asyncio.gather(*(driver.finished(identity) for identity in known))

    async def interrupt() -> float:
        task = asyncio.create_task(drive())
        while len(starts(store)) < 2:
            await asyncio.sleep(0.02)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(asyncio.wait_for(interrupt(), SOON_S)) < 5
    assert live_jobs(store, known) == []
    assert [job_end(store, name) for name in job_names(store)] == ["stopped", "stopped"]
    cured = [fake_stage(f"stage-{index}") for index in range(2)]
    assert set(statuses(run(store, *cured)).values()) == {"published"}


def start_driver(store: Store, *stages: Stage) -> subprocess.Popen[bytes]:
    """A driver in a process of its own, for these labels; it ends when all are settled."""
    request(store, *stages)
    script = """if True:
        import asyncio, json, sys
        from pathlib import Path
        from fake_execute import ENTRY, fake_stage
        from midstudy.launch.driver import Driver
        from midstudy.launch.local import LocalLauncher
        from midstudy.store.store import Store
        store = Store.open(Path(sys.argv[1]))
        stages = [fake_stage(label, cost_s=100) for label in json.loads(sys.argv[2])]
        known = {stage.id: stage for stage in stages}
        async def drive():
            launcher = LocalLauncher(store, entry=ENTRY, grace_s=0.5)
            async with Driver(store, known, launcher, study="study", max_jobs=2, poll_s=0.02) as driver:
                await asyncio.gather(*(driver.finished(identity) for identity in known))
        asyncio.run(drive())
    """
    labels = json.dumps([stage.label for stage in stages])
    return subprocess.Popen([sys.executable, "-c", script, str(store.root), labels], stderr=subprocess.DEVNULL)


def test_the_next_driver_goes_on_with_the_jobs_of_one_that_was_killed(store: Store) -> None:
    stages = [fake_stage("one until=go", cost_s=100), fake_stage("other until=go", cost_s=100)]
    with start_driver(store, *stages) as driver:
        wait_for_start(store, "one")
        wait_for_start(store, "other")
        driver.kill()
    jobs = job_names(store)
    assert len(live_jobs(store, [stage.id for stage in stages])) == 2
    let_go(store, "go")
    assert set(statuses(run(store, *stages)).values()) <= {"published", "reused"}
    assert sorted(starts(store)) == ["go", "one", "other"]
    assert job_names(store) == jobs


def test_jobs_that_died_with_their_driver_are_run_again(store: Store) -> None:
    stage = fake_stage("stage kill_once sleep=0", cost_s=100)
    with start_driver(store, stage) as driver:
        wait_for_start(store, "stage")
        driver.kill()
    assert statuses(run(store, stage)) == {"stage": "published"}
    assert len(starts(store)) == 2


def test_two_drivers_on_one_store_start_no_stage_twice(store: Store) -> None:
    shared = [fake_stage(f"shared-{index} sleep=0.3", cost_s=100) for index in range(3)]
    own = fake_stage("own")
    with start_driver(store, *shared) as other:
        outcomes = run(store, *shared, own)
        assert other.wait(SOON_S) == 0
    assert set(statuses(outcomes).values()) <= {"published", "reused"}
    assert sorted(starts(store)) == ["own", "shared-0", "shared-1", "shared-2"]


def test_a_driver_that_is_cancelled_leaves_another_drivers_jobs_alone(store: Store) -> None:
    stage = fake_stage("stage until=go", cost_s=100)
    with start_driver(store, stage) as other:
        wait_for_start(store, "stage")
        known = request(store, stage)

        async def look() -> list[str]:
            async with driver_of(store, known) as driver:
                return driver.in_jobs

        assert asyncio.run(look()) == [stage.id]
        assert len(live_jobs(store, known)) == 1
        let_go(store, "go")
        assert other.wait(SOON_S) == 0
    assert store.has(stage.id)


def test_what_another_driver_gives_up_is_made_here(store: Store) -> None:
    stage = fake_stage("stage until=go", cost_s=100)
    with start_driver(store, stage) as other:
        wait_for_start(store, "stage")
        known = request(store, stage)

        async def look() -> Outcome:
            async with driver_of(store, known) as driver:
                other.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(other.wait, SOON_S) != 0
                let_go(store, "go")
                return await driver.finished(stage.id)

        assert asyncio.run(asyncio.wait_for(look(), SOON_S)).status == "published"
    assert starts(store, "stage") == ["stage", "stage"]


def test_an_adopted_job_is_cancelled_with_the_driver_that_adopted_it(store: Store) -> None:
    stage = fake_stage("stage sleep=30", cost_s=100)
    with start_driver(store, stage) as driver:
        wait_for_start(store, "stage")
        driver.kill()
    known = request(store, stage)

    async def look() -> None:
        async with driver_of(store, known):
            assert len(live_jobs(store, known)) == 1

    asyncio.run(look())
    assert live_jobs(store, known) == []


def test_a_study_is_cancelled_from_another_process(store: Store) -> None:
    stages = [fake_stage(f"stage-{index} sleep=30", cost_s=100) for index in range(3)]
    with start_driver(store, *stages) as driver:
        wait_for_start(store, "stage-0")
        wait_for_start(store, "stage-1")
        assert cancel_study(store, LocalLauncher(store), "another study") == []
        assert len(cancel_study(store, LocalLauncher(store, grace_s=0.5), "study")) == 2
        assert driver.wait(SOON_S) != 0
    assert live_jobs(store, [stage.id for stage in stages]) == []
    assert "stage-2" not in starts(store)


def test_jobs_without_a_driver_are_cancelled_too(store: Store) -> None:
    stage = fake_stage("stage sleep=30", cost_s=100)
    with start_driver(store, stage) as driver:
        wait_for_start(store, "stage")
        driver.send_signal(signal.SIGKILL)
    cancel_study(store, LocalLauncher(store, grace_s=0.5), "study")
    assert live_jobs(store, [stage.id]) == []


def test_the_store_says_which_job_has_a_stage(store: Store) -> None:
    stage = fake_stage("stage")
    assert claimed_by(store, stage.id) is None
    run(store, stage)
    name = claimed_by(store, stage.id)
    assert name is not None
    assert read_job(store, name).stage_ids == (stage.id,)
    assert job_process(store, name) is not None
