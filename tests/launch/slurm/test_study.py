"""Studies on a real one-machine Slurm: the results are the same as without it, whatever the cluster does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.divided import (
    digests,
    divided,
    finished_tokenizer,
    in_one_process,
    joined_stage,
    num_finished,
    source_of,
    write_file,
)
from builders.fake_execute import ENTRY, fake_stage, let_go, starts
from builders.places import PYTHONPATH
from builders.small_study import WORDS, plan_in, small_study, write_text
from builders.staged_study import staged_study, write_staged
from builders.waiting import until, wait_until
from slurm.cluster import NODES, Cluster

from midstudy.cli.main import main
from midstudy.execute.stage import execute_stage
from midstudy.launch.backends import live_jobs
from midstudy.launch.driver import Driver, Outcome
from midstudy.launch.job_file import job_end, job_names
from midstudy.launch.restarts import starts as job_starts
from midstudy.launch.slurm.batch_file import read_submission
from midstudy.launch.slurm.launcher import SlurmLauncher
from midstudy.launch.slurm.placement_file import Jobs, PlacementFile
from midstudy.plan.packed import counts_in
from midstudy.plan.planner import Plan
from midstudy.plan.steps_of import StepsOf
from midstudy.recipe.data import Corpus, TokenizedData
from midstudy.recipe.stage import Stage
from midstudy.store.attempt import CHECKPOINTS_FOLDER, METRICS_FILE
from midstudy.store.store import Store
from midstudy.train.placement import Placement

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{PYTHONPATH}")  # where the jobs find fake_execute
    return Store.open(tmp_path / "a 'store'", create=True)


class Study:
    """Stages that a driver runs on the cluster while a test may interfere."""

    def __init__(self, store: Store, *stages: Stage, entry: str = ENTRY, **fields: Any) -> None:
        self.store, self.stages = store, {stage.id: stage for stage in stages}
        for stage in stages:
            store.request(stage)
        self.notices: list[str] = []
        placements = PlacementFile({(None, None): fields}, Jobs(poll_s=0.5))
        self.launcher = SlurmLauncher(
            store,
            placements,
            self.stages,
            entry=entry,
            on_notice=self.notices.append,
            grace_s=10.0,
            lost_after_s=8.0,
            settle_s=4.0,
        )

    def run(
        self, meanwhile: Callable[[], None] = lambda: None, *, budget_s: float = 0.1, max_jobs: int = 8
    ) -> dict[str, Outcome]:
        """Run the stages; return the outcomes by the first word of their labels. `meanwhile` runs in a separate thread."""

        async def drive() -> dict[str, Outcome]:
            async with self.driver(budget_s=budget_s, max_jobs=max_jobs) as driver:
                acting = asyncio.create_task(asyncio.to_thread(meanwhile))
                outcomes = await asyncio.gather(*(driver.finished(stage_id) for stage_id in self.stages))
                await acting
            names = [stage.label.split()[0] for stage in self.stages.values()]
            return dict(zip(names, outcomes, strict=True))

        return asyncio.run(drive())

    def driver(self, *, budget_s: float = 0.1, max_jobs: int = 8) -> Driver:
        return Driver(
            self.store,
            self.stages,
            self.launcher,
            study="study",
            max_jobs=max_jobs,
            job_budget_s=budget_s,
            on_notice=self.notices.append,
        )

    def slurm_id(self, name: str) -> str:
        """Return the Slurm id of the job that runs the stage whose label begins with `name`, or was the last to try."""
        (stage,) = (stage for stage in self.stages.values() if stage.label.split()[0] == name)
        jobs = [job for job in job_names(self.store) if job.startswith(f"{stage.id}-")]
        ids = [submission.id for job in jobs if (submission := read_submission(self.store, job)) is not None]
        assert ids[-1] is not None
        return ids[-1]


def statuses(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    return {name: outcome.status for name, outcome in outcomes.items()}


def tensors(store: Store, plan: Plan) -> dict[str, str]:
    """Return the SHA-256 of every published tensor file of the study."""
    return {
        f"{stage_id}/{path.relative_to(store.published_folder(stage_id))}": hashlib.sha256(path.read_bytes()).hexdigest()
        for stage_id in plan.stages
        for path in store.published_folder(stage_id).rglob("*.safetensors")
    }


OF_THE_RUN = ("data_wait_share", "recomputed_steps", "resumed_at_step", "tokens_per_s")
"""Metrics of a state that depend on how it was made."""


def results(store: Store, plan: Plan) -> dict[str, Any]:
    """Return what the records say of every stage of the study, with the digests of its files other than its curve."""
    records = store.records(plan.stages)
    return {
        record.label: {
            "recipe": record.recipe,
            "parents": record.parents,
            "metrics": {name: value for name, value in record.metrics.items() if name not in OF_THE_RUN},
            "files": {name: facts for name, facts in record.files.items() if name != METRICS_FILE},
        }
        for record in records.values()
    }


def execute_here(store: Store, stages: Mapping[str, Stage]) -> None:
    """Execute the stages in this process, one after the other."""
    for stage in stages.values():
        store.request(stage)
        execute_stage(
            store,
            stage.id,
            start_from=stage.start_from,
            keeps_optimizer=stage.keeps_optimizer,
            should_stop=lambda: False,
            placement=Placement(),
        )


def test_a_preempted_study_gives_the_same_tensors_as_one_run_without_jobs(
    cluster: Cluster, store: Store, tmp_path: Path
) -> None:
    write_text(tmp_path / "text")
    local = Store.open(tmp_path / "local", create=True)
    plan = plan_in(local, small_study(tmp_path / "text", total_steps=60, starts=()))
    execute_here(local, plan.stages)

    def preempt() -> None:
        trunk = next(stage for stage in plan.stages.values() if stage.kind == "state")
        metrics = store.paths.attempts(trunk.id)
        wait_until(lambda: any(path.stat().st_size > 200 for path in metrics.glob("*/result/metrics.jsonl")))
        cluster.run("srun", "--partition=cpu", "--ntasks=16", "true")

    study = Study(store, *plan.stages.values(), entry="builders.interruptible_execute:slowly", partition="preempt")
    outcomes = study.run(preempt, budget_s=60.0, max_jobs=2)
    assert {outcome.status for outcome in outcomes.values()} == {"published"}
    assert tensors(store, plan) == tensors(local, plan)
    restarted = [job for job in job_names(store) if len(job_starts(store, job)) > 1]
    assert restarted
    assert study.notices == []  # no driver was needed for it


@pytest.mark.timeout(1200)
def test_an_epoch_that_is_preempted_and_rl_that_is_killed_give_the_same_results_as_one_run_without_jobs(
    cluster: Cluster, store: Store, tmp_path: Path
) -> None:
    """The packing of the epoch, generated answers and choices are made in jobs, too."""
    write_staged(tmp_path)
    local = Store.open(tmp_path / "local", create=True)
    estimated = plan_in(local, staged_study(tmp_path / "text", StepsOf()))
    execute_here(local, {stage_id: stage for stage_id, stage in estimated.stages.items() if stage.role == "data"})
    plan = plan_in(local, staged_study(tmp_path / "text", StepsOf(counts_in(local))))
    execute_here(local, plan.stages)
    epoch = next(stage for stage in plan.stages.values() if stage.role == "midtrain")
    learned = next(stage for stage in plan.stages.values() if stage.role == "rl")

    def preempt() -> None:
        wait_until(lambda: any(store.paths.attempts(epoch.id).glob(f"*/{CHECKPOINTS_FOLDER}/step-*")))
        cluster.run("srun", "--partition=cpu", "--ntasks=16", "true")

    entry = "builders.interruptible_execute:epoch_waits_and_rl_is_killed"
    study = Study(store, *plan.stages.values(), entry=entry, partition="preempt")
    outcomes = study.run(preempt, budget_s=60.0, max_jobs=2)
    assert {outcome.status for outcome in outcomes.values()} == {"published"}
    for stage in (epoch, learned):
        resumed_at = store.record(stage.id).metrics["resumed_at_step"]
        assert stage.step is not None
        assert stage.step - stage.num_steps < resumed_at < stage.step
    assert [entry["cause"] for entry in store.record(learned.id).environment["interruptions"]] == ["killed"]
    assert [job for job in job_names(store) if len(job_starts(store, job)) > 1], "Slurm restarts what it preempts"
    assert results(store, plan) == results(local, plan)


def test_stages_with_equal_placements_become_one_array_and_each_starts_once(cluster: Cluster, store: Store) -> None:
    study = Study(store, *(fake_stage(f"leaf{number}") for number in range(6)))
    assert set(statuses(study.run()).values()) == {"published"}
    numbers = {study.slurm_id(f"leaf{number}").partition("_")[0] for number in range(6)}
    assert len(numbers) == 1
    assert sorted(starts(store)) == [f"leaf{number}" for number in range(6)]


def test_a_stage_that_raises_is_not_retried_and_the_others_continue(cluster: Cluster, store: Store) -> None:
    bad, good = fake_stage("bad raise"), fake_stage("good")
    study = Study(store, bad, good, fake_stage("below", bad), fake_stage("behind", good))
    outcomes = study.run()
    assert statuses(outcomes) == {"bad": "failed", "good": "published", "below": "skipped", "behind": "published"}
    failure = store.failure(bad.id)
    assert failure is not None
    assert failure["where"].startswith(f"Slurm job {study.slurm_id('bad')} on node 127.0.0.")
    assert "ValueError: bad cannot be made" in failure["log"]
    assert starts(store, "bad") == ["bad"]


def test_a_stage_that_is_killed_or_runs_out_of_memory_fails_with_slurms_reason(cluster: Cluster, store: Store) -> None:
    study = Study(store, fake_stage("killed kill"), fake_stage("once kill_once"), fake_stage("eater eat=600"), memory_gb=0.3)
    outcomes = study.run()
    assert statuses(outcomes) == {"killed": "failed", "once": "published", "eater": "failed"}
    assert "was ended by Slurm: FAILED, SIGKILL" in outcomes["killed"].cause
    assert "on node 127.0.0." in outcomes["killed"].cause
    assert "exceeded memory limit" in outcomes["eater"].cause
    assert len(starts(store, "killed")) == 3
    assert len(starts(store, "once")) == 2
    assert len(starts(store, "eater")) == 2


def test_a_job_signalled_before_its_python_has_a_handler_is_retried_as_preempted(
    cluster: Cluster, store: Store, tmp_path: Path
) -> None:
    signals = tmp_path / "signals"  # one line per signal: once more than a job may be killed
    setup = f'[ "$(cat {signals} | wc -l)" -ge 3 ] || {{ echo >> {signals}; kill -USR2 $$; }}'
    signals.touch()
    study = Study(store, fake_stage("stage"), setup=(setup,))
    assert statuses(study.run()) == {"stage": "published"}
    (stage,) = study.stages
    interruptions = store.record(stage).environment["interruptions"]
    assert [interruption["cause"] for interruption in interruptions] == ["preempted"] * 3


def test_a_job_that_completed_without_a_result_is_retried_as_lost(cluster: Cluster, store: Store, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    study = Study(store, fake_stage("stage"), setup=(f"[ -e {mark} ] || {{ touch {mark}; exit 0; }}",))
    assert statuses(study.run()) == {"stage": "published"}
    (stage,) = study.stages
    interruptions = store.record(stage).environment["interruptions"]
    assert [interruption["cause"] for interruption in interruptions] == ["lost"]


def test_a_study_that_reaches_its_time_limit_gives_the_same_tensors_as_one_run_without_jobs(
    cluster: Cluster, store: Store, tmp_path: Path
) -> None:
    write_text(tmp_path / "text")
    local = Store.open(tmp_path / "local", create=True)
    plan = plan_in(local, small_study(tmp_path / "text", total_steps=60, starts=()))
    execute_here(local, plan.stages)
    study = Study(store, *plan.stages.values(), entry="builders.interruptible_execute:until_stopped", time_limit_min=1)
    outcomes = study.run(budget_s=60.0, max_jobs=2)
    assert {outcome.status for outcome in outcomes.values()} == {"published"}
    assert tensors(store, plan) == tensors(local, plan)
    assert [job for job in job_names(store) if len(job_starts(store, job)) == 2]
    trunk = next(stage for stage in plan.stages.values() if stage.kind == "state")
    metrics = store.record(trunk.id).metrics
    assert (metrics["resumed_at_step"], metrics["recomputed_steps"]) == (9, 0)
    assert study.notices == []  # no driver was needed for it


def test_a_node_that_fails_while_its_processes_keep_running_loses_no_record(cluster: Cluster, store: Store) -> None:
    stage = fake_stage("stage until=go")
    study = Study(store, stage)

    def fail_node() -> None:
        wait_until(lambda: bool(starts(store, "stage")))
        (job,) = job_names(store)
        node = job_starts(store, job)[0].node
        assert node is not None
        cluster.kill_daemon(node)
        wait_until(lambda: len(starts(store, "stage")) == 2)
        let_go(store, "go")  # both processes continue and publish at once

    assert statuses(study.run(fail_node)) == {"stage": "published"}
    assert study.notices == []
    assert store.record(stage.id).kind == "tokenizer"
    assert not list(store.paths.stage(stage.id).glob("attempts/*"))
    (job,) = job_names(store)
    assert len({start.node for start in job_starts(store, job)}) == 2


def kill_node(cluster: Cluster, store: Store, node: str) -> None:
    """Kill a node: its daemon, the daemons of its jobs' steps, and the jobs, in this order, so that nothing is reported."""
    cluster.kill_daemon(node)
    for job in job_names(store):
        for start in job_starts(store, job)[-1:]:
            if start.node == node and Path(f"/proc/{start.pid}").exists():
                above = [start.pid]
                while Path(f"/proc/{above[-1]}/comm").read_text().strip() != "slurmstepd":
                    above.append(int(Path(f"/proc/{above[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
                for process in reversed(above):
                    os.kill(process, signal.SIGKILL)


def test_two_hundred_files_in_parts_on_a_node_that_dies_have_the_digests_of_one_process(
    cluster: Cluster, store: Store, tmp_path: Path
) -> None:
    rng = random.Random(7)
    for number in range(200):
        rows = [{"text": " ".join(rng.choices(WORDS, k=rng.randrange(20, 120)))} for _ in range(15)]
        write_file(tmp_path / "set" / "train" / f"{number}.jsonl", rows)
    for split in ("dev", "test"):
        write_file(tmp_path / "set" / f"{split}.jsonl", rows)
    _, tokenizer = finished_tokenizer(store.root, tmp_path / "set")
    data = TokenizedData(data=Corpus(name="set", source=source_of(tmp_path / "set")), tokenizer=tokenizer)
    in_one_process(store, data, tmp_path / "alone", shard_bytes=8_000)
    plan = divided(data, num_parts=4, shard_bytes=8_000)
    assert plan is not None
    join = joined_stage(data, plan)
    alone = (("exclusive", True),)  # one part on each node
    study = Study(store, *plan.stages, join, entry="builders.interruptible_execute:parts_slowly", sbatch=alone)
    killed: list[str] = []

    def kill_one() -> None:
        wait_until(lambda: any(num_finished(store, part) for part in plan.part_ids))
        part = next(part for part in plan.part_ids if num_finished(store, part))
        (job,) = (name for name in job_names(store) if name.startswith(part))
        node = job_starts(store, job)[-1].node
        assert node is not None
        kill_node(cluster, store, node)
        killed.append(node)

    study.run(kill_one, max_jobs=4)
    assert killed
    assert not [stage_id for stage_id in study.stages if not store.has(stage_id)]
    assert digests(store.published_folder(join.id)) == digests(tmp_path / "alone")
    jobs = [job for job in job_names(store) if job[:16] in plan.part_ids]
    submissions = [submission for job in jobs if (submission := read_submission(store, job)) is not None]
    assert len({submission.name for submission in submissions}) < len(submissions), "parts are tasks of an array"
    nodes = [[start.node for start in job_starts(store, job)] for job in jobs]
    assert killed in [places[:1] for places in nodes if len(places) > 1] or len(jobs) > len(plan.part_ids)
    assert sum(len(places) for places in nodes) == len(plan.part_ids) + 1, "the killed part alone starts again"
    assert sum(store.record(part).metrics["shards_taken_over"] > 0 for part in plan.part_ids) == 1


def test_the_driver_waits_for_a_controller_that_is_restarted(cluster: Cluster, store: Store) -> None:
    first = fake_stage("first until=go")
    study = Study(store, first, fake_stage("second", first))

    def restart() -> None:
        wait_until(lambda: bool(starts(store, "first")))
        time.sleep(5.0)  # if killed within seconds of a job's start, the controller may start it again
        with cluster.without("slurmctld"):
            wait_until(lambda: bool(study.notices))
        wait_until(lambda: len(study.notices) == 2)
        let_go(store, "go")

    assert statuses(study.run(restart)) == {"first": "published", "second": "published"}
    assert starts(store) == ["first", "go", "second"]
    assert "Slurm does not respond" in study.notices[0]
    assert study.notices[1:] == ["Slurm responds again"]


def test_without_accounting_a_job_that_was_killed_is_retried(cluster: Cluster, store: Store) -> None:
    study = Study(store, fake_stage("once kill_once"), fake_stage("good"))
    with cluster.without("slurmdbd"):
        assert statuses(study.run()) == {"once": "published", "good": "published"}


def test_a_pending_array_task_cancelled_by_another_process_is_noticed(cluster: Cluster, store: Store) -> None:
    """sacct does not list such a task, so waiting for it there would never end."""
    study = Study(store, fake_stage("a until=go"), fake_stage("b"), sbatch=(("exclusive", True), ("nodelist", NODES[0])))
    for stage in study.stages.values():
        assert stage.cost_s == 1.0

    def cancel() -> None:
        wait_until(lambda: bool(starts(store)))
        waiting = "b" if "a" in starts(store) else "a"
        cluster.run("scancel", study.slurm_id(waiting))
        let_go(store, "go")

    outcomes = study.run(cancel)
    assert sorted(statuses(outcomes).values()) == ["failed", "published"]
    (failed,) = (outcome for outcome in outcomes.values() if outcome.status == "failed")
    assert "CANCELLED" in failed.cause


def test_cancelling_ends_every_job_and_leaves_every_stage_resumable(cluster: Cluster, store: Store) -> None:
    study = Study(
        store,
        fake_stage("listens until=never"),
        fake_stage("waits until=never"),
        sbatch=(("exclusive", True), ("nodelist", NODES[0])),
    )

    async def drive() -> None:
        async with study.driver():
            await until(lambda: starts(store))

    asyncio.run(drive())
    assert cluster.run("squeue", "--noheader") == ""
    assert not any(store.failure(stage_id) for stage_id in study.stages)
    assert not live_jobs(store)
    assert [job_end(store, job) for job in job_names(store)] == ["stopped", "stopped"]


def test_jobs_of_a_driver_that_died_before_it_knew_their_ids_are_found_and_started_once(
    cluster: Cluster, store: Store
) -> None:
    study = Study(store, fake_stage("one until=go"), fake_stage("two until=go"))
    script = "\n".join(
        [
            "import asyncio, os, sys",
            "from pathlib import Path",
            "from builders.fake_execute import fake_stage",
            "from test_study import Study",
            "from midstudy.launch.slurm.launcher import SlurmLauncher",
            "from midstudy.store.store import Store",
            "SlurmLauncher._keep_id = lambda *arguments: os._exit(9)",
            "Study(Store.open(Path(sys.argv[1])), fake_stage('one until=go'), fake_stage('two until=go')).run()",
        ]
    )
    assert subprocess.run([sys.executable, "-c", script, store.root]).returncode == 9
    known = [read_submission(store, job) for job in job_names(store)]
    assert [submission.id for submission in known if submission is not None] == [None, None]

    def meanwhile() -> None:
        wait_until(lambda: len(starts(store)) == 2)
        time.sleep(2.0)
        let_go(store, "go")

    assert statuses(study.run(meanwhile)) == {"one": "published", "two": "published"}
    assert sorted(starts(store)) == ["go", "one", "two"]


def test_a_job_held_after_a_failed_start_is_released(cluster: Cluster, store: Store) -> None:
    study = Study(store, fake_stage("stage"), sbatch=(("nodelist", NODES[0]),))

    def repair() -> None:
        with cluster.broken_node(NODES[0]):
            wait_until(lambda: "held" in cluster.run("squeue", "--noheader", "--format=%r"))
        cluster.run("scontrol", "update", f"NodeName={NODES[0]}", "State=RESUME")

    assert statuses(study.run(repair)) == {"stage": "published"}


def test_the_ranks_of_a_job_are_tasks_of_srun(cluster: Cluster, store: Store) -> None:
    study = Study(store, fake_stage("pair"), fake_stage("odd boom"), num_ranks=2)
    outcomes = study.run()
    assert statuses(outcomes) == {"pair": "published", "odd": "failed"}
    assert outcomes["odd"].cause == "ValueError: boom on rank 1"


def test_a_detached_driver_is_a_job_that_keeps_running_until_it_is_cancelled(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{PYTHONPATH}")
    write_text(tmp_path / "text")
    experiment, placement, root = tmp_path / "experiment.py", tmp_path / "placement.toml", tmp_path / "store"
    experiment.write_text(
        "from pathlib import Path\nfrom builders.small_study import small_study\n\n"
        "def study(*, data, text: str):\n    return small_study(Path(text), total_steps=100_000, starts=())\n"
    )
    placement.write_text("[default]\ntime_limit_min = 10\n[jobs]\npoll_s = 0.5\n[driver]\nmemory_gb = 2\n")
    command = ["run", str(experiment), "--set", f"text={tmp_path / 'text'}", "--store", str(root), "--backend", "slurm"]
    assert main([*command, "--placement", str(placement), "--detach"]) == 0
    (driver,) = cluster.run("squeue", "--noheader", "--format=%i").split()
    assert f"driver Slurm job {driver}, log: " in capsys.readouterr().out

    store = Store.open(root)
    metrics = "*/attempts/*/result/metrics.jsonl"
    wait_until(lambda: any(path.stat().st_size for path in store.paths.stages.glob(metrics)))

    def places() -> list[str]:
        main(["status", "--store", str(root), "--json"])
        return [*json.loads(capsys.readouterr().out)["slurm"].values()]

    wait_until(lambda: len(places()) == 1)  # data jobs may still be ending
    assert places()[0].endswith("RUNNING")
    assert main(["cancel", "--store", str(root)]) == 0
    said = capsys.readouterr().out
    assert f"driver Slurm job {driver} stopped" in said
    assert "1 jobs cancelled" in said
    assert cluster.run("squeue", "--noheader") == ""
    assert list(store.paths.stages.glob("*/attempts/*/checkpoints/step-*"))


def test_branches_start_while_the_job_of_their_trunk_continues(cluster: Cluster, store: Store) -> None:
    first = fake_stage("first")
    second = fake_stage("second until=branch", first, trunk=True)
    study = Study(store, first, second, fake_stage("branch", first))
    assert set(statuses(study.run()).values()) == {"published"}
    assert len(job_names(store)) == 2
