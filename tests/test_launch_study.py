"""A real small study through the driver and real jobs, undisturbed and with its jobs killed: the same files either way."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from pathlib import Path

import pytest
from small_study import plan_in, small_study, write_text

from midstudy.launch.driver import Driver
from midstudy.launch.job_file import job_process, unended_jobs
from midstudy.launch.local import LocalLauncher
from midstudy.plan.planner import Plan
from midstudy.store.store import Store

pytestmark = pytest.mark.slow


def tensors(store: Store, plan: Plan) -> dict[str, str]:
    """SHA-256 of every published tensor file of the study."""
    return {
        f"{identity}/{path.relative_to(store.published_folder(identity))}": hashlib.sha256(path.read_bytes()).hexdigest()
        for identity in plan.stages
        for path in store.published_folder(identity).rglob("*.safetensors")
    }


def run(store: Store, plan: Plan, *, kill_jobs: int = 0) -> set[str]:
    for stage in plan.missing:
        store.request(stage)

    async def kill() -> None:
        killed: set[str] = set()
        while len(killed) < kill_jobs:
            for job in unended_jobs(store):
                process = job_process(store, job.name)
                if process is not None and process.is_alive() and job.name not in killed:
                    await asyncio.sleep(1.5)  # it has begun to train, or is about to
                    if process.is_alive():
                        os.kill(process.pid, signal.SIGKILL)
                        killed.add(job.name)
            await asyncio.sleep(0.05)

    async def drive() -> set[str]:
        async with Driver(store, plan.stages, LocalLauncher(store), study="small", max_jobs=2) as driver:
            killing = asyncio.create_task(kill())
            outcomes = await asyncio.gather(*(driver.finished(identity) for identity in plan.stages))
            killing.cancel()
            return {outcome.status for outcome in outcomes}

    return asyncio.run(drive())


def test_jobs_that_are_killed_change_nothing_in_the_result(tmp_path: Path) -> None:
    text = tmp_path / "text"
    write_text(text)
    results = []
    for name, kill_jobs in (("quiet", 0), ("disturbed", 2)):
        store = Store.open(tmp_path / name, create=True)
        plan = plan_in(store, small_study(text, total_steps=40))
        assert run(store, plan, kill_jobs=kill_jobs) == {"published"}
        results.append(tensors(store, plan))
        again = plan_in(store, small_study(text, total_steps=40))
        assert again.missing == []
        assert run(store, again) == {"reused"}
    assert len(results[0]) > 5
    assert results[0] == results[1]
