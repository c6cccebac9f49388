"""A real small study with the driver and real jobs, undisturbed and with its jobs killed: the files must be identical."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from builders.interruptible_execute import KILLED_AT
from builders.interruptible_execute import killed_as_often_as_allowed as killed
from builders.places import PYTHONPATH
from builders.small_study import plan_in, small_study, write_text

from midstudy.launch.driver import MAX_RUNS_AGAIN, Driver
from midstudy.launch.job_file import EXECUTE_STAGE
from midstudy.launch.local import LocalLauncher
from midstudy.plan.planner import Plan
from midstudy.recipe.curriculum import State
from midstudy.store.store import Store

pytestmark = pytest.mark.slow
MAX_RUNS = ["killed"] * MAX_RUNS_AGAIN["killed"]


def tensors(store: Store, plan: Plan) -> dict[str, str]:
    """Return the SHA-256 of every published tensor file of the study."""
    return {
        f"{stage_id}/{path.relative_to(store.published_folder(stage_id))}": hashlib.sha256(path.read_bytes()).hexdigest()
        for stage_id in plan.stages
        for path in store.published_folder(stage_id).rglob("*.safetensors")
    }


def run(store: Store, plan: Plan, *, entry: str = EXECUTE_STAGE) -> set[str]:
    for stage in plan.missing:
        store.request(stage)

    async def drive() -> set[str]:
        async with Driver(store, plan.stages, LocalLauncher(store, entry=entry), study="small", max_jobs=2) as driver:
            outcomes = await asyncio.gather(*(driver.finished(stage_id) for stage_id in plan.stages))
            return {outcome.status for outcome in outcomes}

    return asyncio.run(drive())


def test_killed_jobs_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training stage has its job killed as often as a driver retries it, at fixed steps."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    text = tmp_path / "text"
    write_text(text)
    results = []
    for name, entry in (("quiet", EXECUTE_STAGE), ("disturbed", f"builders.interruptible_execute:{killed.__name__}")):
        store = Store.open(tmp_path / name, create=True)
        plan = plan_in(store, small_study(text, total_steps=40, sft_steps=20))
        assert run(store, plan, entry=entry) == {"published"}
        results.append(tensors(store, plan))
        again = plan_in(store, small_study(text, total_steps=40, sft_steps=20))
        assert again.missing == []
        assert run(store, again) == {"reused"}
    long = [stage for stage in plan.stages.values() if isinstance(stage.recipe, State) and stage.num_steps > 3 * KILLED_AT]
    assert len(long) >= 3
    for stage in long:
        assert [interruption["cause"] for interruption in store.record(stage.id).environment["interruptions"]] == MAX_RUNS
    assert len(results[0]) > 5
    assert results[0] == results[1]
