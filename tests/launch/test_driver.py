"""The driver with real job processes: stages run once, failures skip only descendants, jobs survive the driver's death."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders.fake_execute import ENTRY, fake_stage, let_go, starts
from builders.places import PYTHONPATH
from builders.waiting import finish, until, wait_until

from midstudy.files.errors import RecipeMismatchError, StoreError
from midstudy.launch import clock
from midstudy.launch.backends import live_jobs
from midstudy.launch.cancel import cancel_study
from midstudy.launch.claim import claimed_by
from midstudy.launch.debug import DebugLauncher
from midstudy.launch.driver import MAX_RUNS_AGAIN, Driver, Outcome
from midstudy.launch.job_file import Job, job_end, job_names, job_process, read_job, unended_jobs
from midstudy.launch.launcher import Cause, Exit, Refusal
from midstudy.launch.local import LocalLauncher
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from midstudy.train.placement import Placement


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    store = Store.open(tmp_path / "store", create=True)
    yield store
    LocalLauncher(store, grace_s=0.5).cancel(list(unended_jobs(store)))


def request(store: Store, *stages: Stage) -> Mapping[str, Stage]:
    for stage in stages:
        store.request(stage)
    return {stage.id: stage for stage in stages}


def driver_of(store: Store, stages: Mapping[str, Stage], max_jobs: int = 2, **options: Any) -> Driver:
    launcher = LocalLauncher(store, entry=ENTRY, grace_s=0.5)
    return Driver(store, stages, launcher, study="study", max_jobs=max_jobs, poll_s=0.02, **options)


def run(store: Store, *stages: Stage, **options: Any) -> dict[str, Outcome]:
    """Run the stages to their end; return the outcomes by the first word of the stages' labels."""
    known = request(store, *stages)

    async def drive() -> dict[str, Outcome]:
        async with driver_of(store, known, **options) as driver:
            outcomes = await asyncio.gather(*(driver.finished(stage_id) for stage_id in known))
        return {stage.label.split()[0]: outcome for stage, outcome in zip(stages, outcomes, strict=True)}

    return finish(drive())


def wait_for_start(store: Store, name: str) -> None:
    wait_until(lambda: name in starts(store))


def statuses(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    return {name: outcome.status for name, outcome in outcomes.items()}


# -- what runs --------------------------------------------------------------------------------------------------------


def test_every_stage_runs_once_after_its_parents_and_is_reused_by_the_next_run(store: Store) -> None:
    root = fake_stage("root")
    left, right = fake_stage("left", root), fake_stage("right", root)
    last = fake_stage("last", left, right)
    stages = (root, left, right, last)
    assert set(statuses(run(store, *stages)).values()) == {"published"}
    lines = [line.split(" ") for line in (store.root.parent / "starts.txt").read_text().splitlines()]
    assert sorted(name for name, _, _ in lines) == ["last", "left", "right", "root"]
    assert {missing for _, _, missing in lines} == {""}  # every parent was published when its child began
    jobs = job_names(store)
    assert set(statuses(run(store, *stages)).values()) == {"reused"}
    assert job_names(store) == jobs


def test_branches_start_while_their_trunk_continues_in_one_job(store: Store) -> None:
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
            waiting = asyncio.gather(*(driver.finished(stage_id) for stage_id in known))
            while not waiting.done():
                most = max(most, len(driver.in_jobs), len(live_jobs(store)))
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
            return [(await driver.finished(stage_id)).status for stage_id in known]

    assert asyncio.run(drive()) == ["published", "failed", "skipped", "published"]
    assert store.record(later.id).metrics["pid"] == os.getpid()


def test_every_status_change_is_reported(store: Store) -> None:
    good, bad = fake_stage("good"), fake_stage("bad raise")
    child = fake_stage("child", bad)
    run(store, good)
    changes: list[tuple[str, str]] = []
    run(store, good, bad, child, on_change=lambda stage_id, status: changes.append((stage_id, status)))
    assert changes == [
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
    assert outcomes["grandchild"].cause == "depends on 'bad raise', which failed: ValueError: bad cannot be made"
    assert starts(store, "bad") == ["bad"]  # a stage that raised is not retried


def test_a_later_run_retries_failed_stages(store: Store) -> None:
    stage = fake_stage("stage raise")
    assert statuses(run(store, stage)) == {"stage": "failed"}
    cured = fake_stage("stage")
    assert cured.id == stage.id
    assert statuses(run(store, cured)) == {"stage": "published"}


def test_a_stage_whose_job_was_killed_once_is_retried(store: Store) -> None:
    before, killed, after = fake_stage("before"), fake_stage("killed kill_once"), fake_stage("after")
    outcomes = run(store, before, killed, after, max_jobs=1)
    assert set(statuses(outcomes).values()) == {"published"}
    assert {name: len(starts(store, name)) for name in outcomes} == {"before": 1, "killed": 2, "after": 1}


def test_a_stage_whose_job_is_killed_repeatedly_fails_and_the_others_continue(store: Store) -> None:
    killed, after = fake_stage("killed kill"), fake_stage("after")
    child = fake_stage("child", killed)
    notices: list[str] = []
    outcomes = run(store, killed, child, after, max_jobs=1, on_notice=notices.append)
    assert statuses(outcomes) == {"killed": "failed", "child": "skipped", "after": "published"}
    assert "killed by SIGKILL" in outcomes["killed"].cause
    assert outcomes["killed"].cause.endswith("killed 3 times, not retried; its log ends: making killed")
    assert [line.partition("; retried ")[2] for line in notices] == [
        "(killed: 1 of at most 2 times)", "(killed: 2 of at most 2 times)",
    ]  # fmt: skip
    failure = store.failure(killed.id)
    assert failure is not None
    assert failure["log"][-1] == "making killed"
    assert len(starts(store, "killed")) == 3


def test_a_job_that_exits_without_reporting_a_result_fails_the_stage_it_was_in(store: Store) -> None:
    outcomes = run(store, fake_stage("gone exit"), fake_stage("after"), max_jobs=1)
    assert statuses(outcomes) == {"gone": "failed", "after": "published"}
    assert outcomes["gone"].cause.endswith("ended with exit status 3; its log ends: making gone")
    assert starts(store, "gone") == ["gone"]


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ("nowhere:execute_stage", "ModuleNotFoundError: No module named 'nowhere'"),
        ("builders.fake_execute:nothing", "AttributeError: module 'builders.fake_execute' has no attribute 'nothing'"),
        ("advises:execute_stage", "RuntimeError: CUDA error: no kernel image is available | advice 5 | advice 6"),
        ("talks:execute_stage", f"RuntimeError: {'x' * 286}…"),
        ("just_says:execute_stage", "3 | 4 | the licence has run out"),
    ],
)
def test_the_cause_is_reported_for_a_job_that_dies_before_its_first_stage(
    entry: str, cause: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    error = "CUDA error: no kernel image is available\\n" + "\\n".join(f"advice {number}" for number in range(7))
    (tmp_path / "advises.py").write_text(f'raise RuntimeError("{error}")')
    (tmp_path / "talks.py").write_text('raise RuntimeError("x" * 9_999)')
    (tmp_path / "just_says.py").write_text('print(*range(5), sep="\\n"); raise SystemExit("the licence has run out")')
    stage = fake_stage("stage")
    known = request(store, stage)

    async def drive() -> Outcome:
        launcher = LocalLauncher(store, entry=entry, grace_s=0.5)
        async with Driver(store, known, launcher, study="study", max_jobs=1, poll_s=0.02) as driver:
            return await driver.finished(stage.id)

    outcome = asyncio.run(drive())
    assert outcome.cause.endswith(f"ended with exit status 1; its log ends: {cause}")
    failure = store.failure(stage.id)
    assert failure is not None
    assert failure["cause"] == outcome.cause
    for line in cause.removesuffix("…").split(" | "):
        assert line in "\n".join(failure["log"])


class Scripted(LocalLauncher):
    """End and refuse jobs as scripted by a test."""

    def __init__(self, store: Store, *, exits: Sequence[Exit] = (), refusals: Sequence[Refusal] = ()) -> None:
        super().__init__(store, entry=ENTRY)
        self._exits, self._refusals = list(exits), list(refusals)
        self.submitted: list[str] = []

    def submit(self, jobs: Sequence[Job]) -> dict[str, Refusal]:
        refused = {}
        for job in jobs:
            self.submitted.append(job.name)
            if self._refusals:
                refused[job.name] = self._refusals.pop(0)
            elif not self._exits:
                super().submit([job])
        return refused

    def poll(self, jobs: Sequence[Job]) -> dict[str, Exit]:
        exits = super().poll(jobs)
        return {name: self._exits.pop(0) if exit.cause == "lost" else exit for name, exit in exits.items()}


def drive(store: Store, launcher: LocalLauncher, *stages: Stage, **options: Any) -> dict[str, Outcome]:
    known = request(store, *stages)

    async def all_finished() -> list[Outcome]:
        async with Driver(store, known, launcher, study="study", max_jobs=1, poll_s=0.01, **options) as driver:
            return await asyncio.gather(*(driver.finished(stage_id) for stage_id in known))

    outcomes = finish(all_finished())
    return {stage.label.split()[0]: outcome for stage, outcome in zip(stages, outcomes, strict=True)}


@pytest.mark.parametrize("cause", ["preempted", "timed out", "node failed", "out of memory", "killed", "lost"])
def test_a_stage_is_retried_as_often_as_the_cause_allows(store: Store, cause: Cause) -> None:
    ended = Exit(text="was ended by Slurm", cause=cause)
    allowed = MAX_RUNS_AGAIN[cause]
    launcher = Scripted(store, exits=[ended] * allowed)
    stage = fake_stage("stage")
    assert statuses(drive(store, launcher, stage)) == {"stage": "published"}
    assert len(launcher.submitted) == allowed + 1
    interruptions = store.record(stage.id).environment["interruptions"]
    assert [interruption["cause"] for interruption in interruptions] == [cause] * allowed
    assert store.interruptions(stage.id) == []

    other = fake_stage("other")
    launcher = Scripted(store, exits=[ended] * (allowed + 1))
    outcomes = drive(store, launcher, other)
    assert statuses(outcomes) == {"other": "failed"}
    assert len(launcher.submitted) == allowed + 1
    assert f"{cause} {allowed + 1} times" in outcomes["other"].cause


@pytest.mark.parametrize("cause", ["exited", "cancelled"])
def test_a_stage_whose_job_exited_or_was_cancelled_is_not_retried(store: Store, cause: Cause) -> None:
    launcher = Scripted(store, exits=[Exit(text="was ended", cause=cause)])
    outcomes = drive(store, launcher, fake_stage("stage"))
    assert outcomes["stage"].cause == f"its job {launcher.submitted[0]} was ended"
    assert len(launcher.submitted) == 1


def test_causes_are_counted_separately_and_across_drivers_until_the_stage_fails(store: Store) -> None:
    stage = fake_stage("stage")
    memory, node = Exit(text="was ended", cause="out of memory"), Exit(text="was ended", cause="node failed")
    for known, ended in enumerate([memory, node, node, node]):  # each driver is stopped before it retries the stage

        async def once(known: int = known, ended: Exit = ended) -> None:
            launcher = Scripted(store, exits=[ended])
            async with Driver(store, request(store, stage), launcher, study="study", max_jobs=1, poll_s=0.01):
                await until(lambda: len(store.interruptions(stage.id)) > known)

        finish(once())
    assert "node failed 4 times" in drive(store, Scripted(store, exits=[node]), stage)["stage"].cause
    # A later run of the study starts with the full number of retries.
    assert statuses(drive(store, Scripted(store, exits=[memory, node]), stage)) == {"stage": "published"}


def test_a_job_that_was_asked_to_stop_does_not_count_as_killed(store: Store) -> None:
    num_stops = MAX_RUNS_AGAIN["killed"] + 1
    stage = fake_stage(f"stage starts={num_stops + 1}")
    known = request(store, stage)

    async def disturbed() -> Outcome:
        async with driver_of(store, known) as driver:
            for times in range(1, num_stops + 1):
                await until(functools.partial(lambda number: len(starts(store, "stage")) == number, times))
                process = job_process(store, live_jobs(store)[0].name)
                assert process is not None
                os.kill(process.pid, signal.SIGUSR2)
            return await driver.finished(stage.id)

    assert finish(disturbed()).status == "published"
    interruptions = store.record(stage.id).environment["interruptions"]
    assert {interruption["cause"] for interruption in interruptions} == {"preempted"}


def test_a_job_with_a_temporary_refusal_is_submitted_again_and_costs_no_retry(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midstudy.launch.driver.FIRST_WAIT_S", 0.02)
    away = Refusal(text="slurmctld does not respond", may_pass=True)
    ticks = itertools.count()
    monkeypatch.setattr(clock, "monotonic", lambda: next(ticks) * 0.001)  # advances one millisecond per call
    submitted_at: list[float] = []

    class Noting(Scripted):
        def submit(self, jobs: Sequence[Job]) -> dict[str, Refusal]:
            submitted_at.append(clock.monotonic())
            return super().submit(jobs)

    launcher = Noting(store, refusals=[away] * 5)
    stage = fake_stage("stage")
    notices: list[str] = []
    assert statuses(drive(store, launcher, stage, on_notice=notices.append)) == {"stage": "published"}
    assert len(set(launcher.submitted)) == 1  # always the same job, so that a lost answer can be recovered
    assert len(launcher.submitted) == 6
    waits = [later - earlier for earlier, later in itertools.pairwise(submitted_at)]
    assert [wait >= 0.02 * 2**number for number, wait in enumerate(waits)] == [True] * 5  # the wait grows
    assert notices == ["stage: not submitted yet, will retry: slurmctld does not respond"]
    assert "interruptions" not in store.record(stage.id).environment


def test_a_permanent_refusal_fails_only_its_stages_and_their_descendants(store: Store) -> None:
    launcher = Scripted(store, refusals=[Refusal(text="invalid partition: gpu9", may_pass=False)])
    bad, child, other = fake_stage("bad", cost_s=100), fake_stage("child"), fake_stage("other", cost_s=50)
    child = fake_stage("child", bad)
    outcomes = drive(store, launcher, bad, child, other)
    assert statuses(outcomes) == {"bad": "failed", "child": "skipped", "other": "published"}
    assert outcomes["bad"].cause == f"its job {launcher.submitted[0]} was refused: invalid partition: gpu9"
    failure = store.failure(bad.id)
    assert failure is not None
    assert "midstudy retry" in failure["retry"]


def test_stages_with_different_placements_never_share_a_job(store: Store) -> None:
    class Places(LocalLauncher):
        def pack_key(self, stage: Stage) -> str:
            return stage.label[0]

        def placement_for(self, stages: Sequence[Stage]) -> Placement:
            (key,) = {stage.label[0] for stage in stages}
            return Placement(num_threads={"a": 1, "b": 2}[key])

    stages = [fake_stage(f"{place}{index}") for index in range(3) for place in "ab"]
    drive(store, Places(store, entry=ENTRY), *stages)
    threads = {stage.label: store.record(stage.id).environment["placement"]["num_threads"] for stage in stages}
    assert threads == {"a0": 1, "a1": 1, "a2": 1, "b0": 2, "b1": 2, "b2": 2}
    assert len(job_names(store)) == 2


def test_blocking_launcher_calls_do_not_block_the_event_loop(store: Store) -> None:
    num_ticks = 0

    class Slow(LocalLauncher):
        """Calls return only once other tasks have made progress, so never if they block those."""

        calls_block = True

        def poll(self, jobs: Sequence[Job]) -> dict[str, Exit]:
            before = num_ticks
            wait_until(lambda: num_ticks > before + 3)
            return super().poll(jobs)

    stage = fake_stage("stage")
    known = request(store, stage)

    async def tick() -> None:
        nonlocal num_ticks
        while True:
            await asyncio.sleep(0.01)
            num_ticks += 1

    async def all_finished() -> Outcome:
        ticking = asyncio.create_task(tick())
        async with Driver(store, known, Slow(store, entry=ENTRY), study="study", max_jobs=1, poll_s=0.02) as driver:
            outcome = await driver.finished(stage.id)
        ticking.cancel()
        return outcome

    assert finish(all_finished()).status == "published"
    assert num_ticks > 3


def test_an_error_that_stops_the_driver_is_raised_to_all_waiters(store: Store) -> None:
    class Broken(LocalLauncher):
        def submit(self, jobs: Sequence[Job]) -> dict[str, Refusal]:
            raise RuntimeError("a bug of the launcher")

    known = request(store, fake_stage("one"), fake_stage("two"))

    async def all_finished() -> list[Outcome | BaseException]:
        async with Driver(store, known, Broken(store), study="study", max_jobs=2, poll_s=0.02) as driver:
            raised = await asyncio.gather(*(driver.finished(stage_id) for stage_id in known), return_exceptions=True)
            with pytest.raises(RuntimeError, match="a bug of the launcher"):
                await driver.finished(min(known))  # and to later callers
            return raised

    errors = finish(all_finished())
    assert [str(error) for error in errors] == ["a bug of the launcher"] * 2
    assert live_jobs(store, known) == []


def test_a_record_made_from_another_recipe_stops_the_run_before_it_starts(store: Store) -> None:
    stage = fake_stage("stage")
    run(store, stage)
    record = store.record(stage.id)
    edited = json.loads(json.dumps(record.canonical).replace('"max_bytes": 1000', '"max_bytes": 1001'))
    store.paths.record(stage.id).write_bytes(dataclasses.replace(record, canonical=edited).as_bytes())
    with pytest.raises(RecipeMismatchError, match="max_bytes: expected 1000, got 1001"):
        run(store, stage, fake_stage("other"))
    assert starts(store) == ["stage"]


def test_a_parent_outside_the_study_must_be_finished(store: Store) -> None:
    elsewhere = fake_stage("elsewhere")
    with pytest.raises(StoreError, match=f"stage {elsewhere.id}: the study depends on it, but it is not finished"):
        run(store, fake_stage("stage", elsewhere))
    run(store, elsewhere)
    assert statuses(run(store, fake_stage("stage", elsewhere))) == {"stage": "published"}


# -- ends of drivers --------------------------------------------------------------------------------------------------


def test_cancelling_the_driver_ends_its_jobs_and_their_stages_can_run_again(store: Store) -> None:
    stages = [fake_stage(f"stage-{index} until=never", cost_s=100) for index in range(2)]
    known = request(store, *stages)

    async def drive() -> None:
        async with driver_of(store, known) as driver:
            await asyncio.gather(*(driver.finished(stage_id) for stage_id in known))

    async def interrupt() -> None:
        task = asyncio.create_task(drive())
        await until(lambda: len(starts(store)) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    finish(interrupt())
    assert live_jobs(store, known) == []
    assert [job_end(store, name) for name in job_names(store)] == ["stopped", "stopped"]
    cured = [fake_stage(f"stage-{index}") for index in range(2)]
    assert set(statuses(run(store, *cured)).values()) == {"published"}


def start_driver(store: Store, *stages: Stage) -> subprocess.Popen[bytes]:
    """Start a driver for these stages in its own process; it ends once all of them are settled."""
    request(store, *stages)
    script = """if True:
        import asyncio, json, sys
        from pathlib import Path
        from builders.fake_execute import ENTRY, fake_stage
        from midstudy.launch.driver import Driver
        from midstudy.launch.local import LocalLauncher
        from midstudy.store.store import Store
        store = Store.open(Path(sys.argv[1]))
        stages = [fake_stage(label, cost_s=100) for label in json.loads(sys.argv[2])]
        known = {stage.id: stage for stage in stages}
        async def drive():
            launcher = LocalLauncher(store, entry=ENTRY, grace_s=0.5)
            async with Driver(store, known, launcher, study="study", max_jobs=2, poll_s=0.02) as driver:
                await asyncio.gather(*(driver.finished(stage_id) for stage_id in known))
        asyncio.run(drive())
    """
    labels = json.dumps([stage.label for stage in stages])
    return subprocess.Popen([sys.executable, "-c", script, str(store.root), labels], stderr=subprocess.DEVNULL)


def test_the_next_driver_follows_the_jobs_of_one_that_was_killed(store: Store) -> None:
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


def test_stages_of_jobs_that_died_with_their_driver_are_retried(store: Store) -> None:
    stage = fake_stage("stage kill_once sleep=0", cost_s=100)
    with start_driver(store, stage) as driver:
        wait_for_start(store, "stage")
        driver.kill()
    assert statuses(run(store, stage)) == {"stage": "published"}
    assert len(starts(store)) == 2
    interruptions = store.record(stage.id).environment["interruptions"]
    assert [interruption["cause"] for interruption in interruptions] == ["killed"]


def test_two_drivers_on_one_store_start_no_stage_twice(store: Store) -> None:
    shared = [fake_stage(f"shared-{index} sleep=0.3", cost_s=100) for index in range(3)]
    own = fake_stage("own")
    with start_driver(store, *shared) as other:
        outcomes = run(store, *shared, own)
        assert other.wait() == 0
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
        assert other.wait() == 0
    assert store.has(stage.id)


def test_a_stage_that_another_driver_gives_up_is_run_by_this_one(store: Store) -> None:
    stage = fake_stage("stage until=go", cost_s=100)
    with start_driver(store, stage) as other:
        wait_for_start(store, "stage")
        known = request(store, stage)

        async def look() -> Outcome:
            async with driver_of(store, known) as driver:
                other.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(other.wait) != 0
                let_go(store, "go")
                return await driver.finished(stage.id)

        assert finish(look()).status == "published"
    assert starts(store, "stage") == ["stage", "stage"]


def test_an_adopted_job_is_cancelled_with_the_driver_that_adopted_it(store: Store) -> None:
    stage = fake_stage("stage until=never", cost_s=100)
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
    stages = [fake_stage(f"stage-{index} until=never", cost_s=100) for index in range(3)]
    with start_driver(store, *stages) as driver:
        wait_for_start(store, "stage-0")
        wait_for_start(store, "stage-1")
        assert cancel_study(store, "another study") == []
        assert len(cancel_study(store, "study")) == 2
        assert driver.wait() != 0
    assert live_jobs(store, [stage.id for stage in stages]) == []
    assert "stage-2" not in starts(store)


def test_jobs_without_a_driver_are_cancelled_too(store: Store) -> None:
    stage = fake_stage("stage until=never", cost_s=100)
    with start_driver(store, stage) as driver:
        wait_for_start(store, "stage")
        driver.send_signal(signal.SIGKILL)
    cancel_study(store, "study")
    assert live_jobs(store, [stage.id]) == []


def test_the_claim_names_the_job_of_a_stage(store: Store) -> None:
    stage = fake_stage("stage")
    assert claimed_by(store, stage.id) is None
    run(store, stage)
    name = claimed_by(store, stage.id)
    assert name is not None
    assert read_job(store, name).stage_ids == (stage.id,)
    assert job_process(store, name) is not None


def test_a_failure_in_another_drivers_job_counts_here_too(store: Store) -> None:
    """Two users run one study: a stage whose code raised is not retried by the other user's driver."""
    stage = fake_stage("stage raise")
    job = None

    async def drive() -> Outcome:
        nonlocal job
        launcher = Scripted(store, refusals=[Refusal(text="away", may_pass=True)])
        async with Driver(store, request(store, stage), launcher, study="study", max_jobs=1, poll_s=0.01) as driver:
            await until(lambda: launcher.submitted)
            job = launcher.submitted[0]
            store.paths.job_spec(job).unlink()  # as if another driver had taken it over, and the stage had failed there
            store.report_failure(stage.id, {"job": "another", "cause": "ValueError: no"})
            return await driver.finished(stage.id)

    assert finish(drive()) == Outcome(status="failed", cause="ValueError: no")
    assert starts(store) == []


def test_a_damaged_retry_count_fails_only_its_stage(store: Store) -> None:
    killed, other = fake_stage("killed kill", cost_s=100), fake_stage("other", cost_s=50)
    request(store, killed)
    store.paths.interruptions(killed.id).write_text("")
    outcomes = run(store, killed, other)
    assert statuses(outcomes) == {"killed": "failed", "other": "published"}
    assert "interruptions.json: damaged" in outcomes["killed"].cause
