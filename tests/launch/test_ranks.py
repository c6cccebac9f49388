"""Jobs with several ranks: real processes that share every training step, end together, and lose only time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from builders.changed_studies import state_before_sft
from builders.fake_execute import ENTRY, fake_stage
from builders.places import PYTHONPATH
from builders.small_study import plan_in, small_study
from safetensors.numpy import load_file

from midstudy.launch.driver import Driver, Outcome
from midstudy.launch.job_file import Job, JobStage, job_name, job_process, unended_jobs, write_job
from midstudy.launch.local import LocalLauncher
from midstudy.launch.process import this_process
from midstudy.plan.planner import Plan
from midstudy.store.store import Store
from midstudy.train.placement import Placement


def run(store: Store, text: Path, num_ranks: int, disturb: Callable[[Store], None] = lambda store: None) -> Plan:
    """Run a small study to its end; `disturb` is called every 20 ms."""
    plan = plan_in(store, small_study(text, starts=(), total_steps=60, sft_steps=60))
    for stage in plan.missing:
        store.request(stage)
    launcher = LocalLauncher(store, placement=Placement(num_ranks=num_ranks))

    async def disturbing() -> None:
        while True:
            disturb(store)
            await asyncio.sleep(0.02)

    async def drive() -> set[str]:
        async with Driver(store, plan.stages, launcher, study="small", max_jobs=1) as driver:
            task = asyncio.create_task(disturbing())
            outcomes = await asyncio.gather(*(driver.finished(stage_id) for stage_id in plan.stages))
            task.cancel()
            return {outcome.status for outcome in outcomes}

    assert asyncio.run(drive()) == {"published"}
    return plan


def tensors(store: Store, plan: Plan) -> dict[str, dict[str, bytes]]:
    return {
        f"{stage.id}/{path.name}": {name: tensor.tobytes() for name, tensor in load_file(path).items()}
        for stage in plan.stages.values()
        if stage.kind == "state"
        for path in store.published_folder(stage.id).rglob("*.safetensors")
    }


def rank_pids(store: Store) -> list[int]:
    """Return the PIDs of the running job's ranks, in order; empty before they have started."""
    for job in unended_jobs(store):
        process = job_process(store, job.name)
        if process is not None:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            pids = children.read_text().split() if children.exists() else []
            return [int(pid) for pid in pids]
    return []


def training(store: Store) -> bool:
    """Return whether some unfinished stage has logged a step."""
    return any(path.stat().st_size for path in store.paths.stages.glob("*/attempts/*/result/metrics.jsonl"))


@pytest.mark.slow
def test_two_ranks_match_the_results_of_one_and_reproduce_their_own_bits_after_interruptions(
    text: Path, tmp_path: Path
) -> None:
    alone = Store.open(tmp_path / "alone", create=True)
    plan = run(alone, text, 1)
    quiet = Store.open(tmp_path / "quiet", create=True)
    run(quiet, text, 2)
    for entry in plan.arms:
        for stage_id in (entry.measures["sft_loss"][0], entry.measures["general_loss"][0]):
            expected, actual = alone.record(stage_id), quiet.record(stage_id)
            assert actual.metrics["loss_nats"] == pytest.approx(expected.metrics["loss_nats"], rel=1e-3)
    final = quiet.record(plan.arms[0].state)
    assert final.environment["placement"]["num_ranks"] == 2
    assert "noise_scale_sequences" in final.metrics

    hit: list[str] = []
    trunk = [state_before_sft(entry) for entry in plan.arms]

    def disturb(store: Store) -> None:
        """Kill one rank during the trunk, then ask all ranks to stop during fine-tuning."""
        pids = rank_pids(store)
        if len(pids) == 2 and training(store):
            if not hit:
                os.kill(pids[1], signal.SIGKILL)
                hit.append("killed")
            elif len(hit) == 1 and any(store.has(stage_id) for stage_id in trunk):
                for pid in pids:
                    os.kill(pid, signal.SIGUSR2)
                hit.append("stopped")

    disturbed = Store.open(tmp_path / "disturbed", create=True)
    run(disturbed, text, 2, disturb)
    assert hit == ["killed", "stopped"]
    assert tensors(disturbed, plan) == tensors(quiet, plan)
    assert not list(disturbed.paths.stages.glob("*/attempts"))


@pytest.mark.slow
def test_a_stage_that_fails_on_one_rank_reports_that_ranks_error_and_costs_other_stages_no_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    store = Store.open(tmp_path / "store", create=True)
    stages = {stage.id: stage for stage in map(fake_stage, ("one boom", "bad raise", "late kill_once"))}
    for stage in stages.values():
        store.request(stage)
    launcher = LocalLauncher(store, placement=Placement(num_ranks=2), entry=ENTRY, grace_s=1.0)

    async def drive() -> dict[str, Outcome]:
        async with Driver(store, stages, launcher, study="fake", max_jobs=1) as driver:
            return {stage.label: await driver.finished(stage_id) for stage_id, stage in stages.items()}

    outcomes = asyncio.run(drive())
    assert {label: outcome.status for label, outcome in outcomes.items()} == {
        "one boom": "failed",
        "bad raise": "failed",
        "late kill_once": "published",
    }
    assert outcomes["one boom"].cause == "ValueError: boom on rank 1"
    failure = store.failure(next(iter(stages)))
    assert failure is not None
    assert "boom on rank 1" in failure["traceback"]


@pytest.mark.slow
def test_ranks_die_with_the_process_that_leads_them(text: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    seen: list[int] = []

    def kill_leader(store: Store) -> None:
        pids = rank_pids(store)
        if len(pids) == 2 and training(store) and not seen:
            for job in unended_jobs(store):
                process = job_process(store, job.name)
                assert process is not None
                os.kill(process.pid, signal.SIGKILL)
            seen.extend(pids)

    run(store, text, 2, kill_leader)
    assert len(seen) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)


def test_jobs_that_share_gpus_are_spread_over_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job gets its own GPUs, least used first. The test needs no GPU."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    store = Store.open(tmp_path / "store", create=True)

    def start(launcher: LocalLauncher, label: str, placement: Placement) -> str:
        stage = fake_stage(label)
        store.request(stage)
        job = Job(
            name=job_name(stage.id),
            study="study",
            stages=(JobStage(id=stage.id, start_from=None, keeps_optimizer=False),),
            backend="local",
            placement=placement,
            entry=ENTRY,
            driver=this_process(),
        )
        write_job(store, job)
        launcher.submit([job])
        process = job_process(store, job.name)
        assert process is not None
        variables = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        return next(text.partition("=")[2] for text in variables if text.startswith("CUDA_VISIBLE_DEVICES="))

    placement = Placement(device="cuda")
    launcher = LocalLauncher(store, placement=placement, gpus=("4", "6"), entry=ENTRY, grace_s=0.1)
    try:
        assert [start(launcher, f"one{i} until=never", placement) for i in range(4)] == ["4", "6", "4", "6"]
        pair = Placement(device="cuda", num_ranks=2)
        assert start(launcher, "pair until=never", pair) == "4,6"
    finally:
        launcher.cancel(list(unended_jobs(store)))
