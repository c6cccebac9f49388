"""Decisions beside failures: a candidate that diverges loses, one that fails in another way stops its decision by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.decided_study import RATES, decided_study
from builders.fake_execute import fake_stage
from builders.small_study import plan_in
from builders.waiting import finish
from hypothesis import given
from hypothesis import strategies as st

from midstudy.launch.debug import DebugLauncher
from midstudy.launch.driver import Driver, Outcome
from midstudy.launch.schedule import Schedule
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import Plan
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze
from midstudy.train.divergence import DivergedError
from midstudy.train.engine import TrainingRun


@given(st.lists(st.booleans(), min_size=2, max_size=5), st.randoms())
def test_a_decision_runs_once_all_candidates_have_ended_unless_all_have_failed(fails: list[bool], order: Any):
    """Candidates end in any order, well or not, each with its evaluation."""
    states = [fake_stage(f"state{number}") for number in range(len(fails))]
    evaluations = [fake_stage(f"evaluation{number}", state) for number, state in enumerate(states)]
    decision = fake_stage("decision", *evaluations, role="decision")
    arm = fake_stage("arm", decision)
    stages = (*states, *evaluations, decision, arm)
    schedule = Schedule({stage.id: stage for stage in stages}, published=(), job_budget_s=30.0)
    schedule.take(stage.id for stage in (*states, *evaluations))
    skipped: list[str] = []
    for number in order.sample(range(len(fails)), len(fails)):
        assert schedule.feasible([decision.id]) == []
        if fails[number]:
            skipped += schedule.fail(states[number].id)
        else:
            schedule.publish(states[number].id)
            schedule.publish(evaluations[number].id)
    lost = [evaluations[number].id for number, failed in enumerate(fails) if failed]
    if all(fails):
        assert {*skipped} == {*lost, decision.id, arm.id}
        assert not schedule.unsettled
    else:
        assert {*skipped} == {*lost}
        assert schedule.next_jobs(num_free=1, num_slots=1) == [[decision.id, arm.id]]


def failing_at(rate: float, error: Callable[[], Exception]) -> Any:
    """Return `TrainingRun.advance` that raises in the fine-tuning whose peak rate is this number."""
    advance = TrainingRun.advance

    def failing(self: TrainingRun, curriculum: Any, **more: Any) -> bool:
        if curriculum.num_steps > 12 and curriculum.curve.lr(13) == rate and not curriculum.choices:
            raise error()
        return advance(self, curriculum, **more)

    return failing


def run(store: Store, plan: Plan) -> Mapping[str, Outcome]:
    """Run a plan as `midstudy run` does, in this process."""
    for stage in plan.missing:
        store.request(stage)
    freeze(store, manifest_of(plan, command=""))

    async def drive() -> Mapping[str, Outcome]:
        async with Driver(store, plan.stages, DebugLauncher(store), study="decided", max_jobs=1, poll_s=0.0) as driver:
            outcomes = await asyncio.gather(*(driver.finished(stage_id) for stage_id in plan.stages))
        return dict(zip(plan.stages, outcomes, strict=True))

    return finish(drive())


def test_a_candidate_that_diverges_loses_and_the_study_goes_on(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = decided_study(text)
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, study)
    monkeypatch.setattr(TrainingRun, "advance", failing_at(RATES[1], lambda: DivergedError("it diverged", good_step=12)))
    outcomes = run(store, plan)
    diverged = {choice.options[1].state_id for choice in study.choices}
    unevaluated = {stage.id for stage in plan.stages.values() if {*stage.parents} & diverged}
    assert {one for one, outcome in outcomes.items() if outcome.status == "failed"} == diverged
    assert {one for one, outcome in outcomes.items() if outcome.status == "skipped"} == unevaluated
    assert store.published(plan.stages) == plan.stages.keys() - diverged - unevaluated  # every arm among them
    for choice in study.choices:
        metrics = store.record(choice.id).metrics
        assert metrics["chosen"] == RATES[0]
        assert [option["measured"] is None for option in metrics["options"]] == [False, True]
    later = plan_in(store, study)  # what was decided stays decided
    assert later.missing == []
    assert {outcome.status for outcome in run(store, later).values()} == {"reused"}


def test_a_candidate_that_fails_otherwise_is_named_by_its_decision(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study = decided_study(text, seeds=(0,))
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, study)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "advance", failing_at(RATES[1], lambda: RuntimeError("the node is gone")))
        outcomes = run(store, plan)
    for choice in study.choices:
        cause = outcomes[choice.id].cause
        assert f"choice sft_peak_lr: the candidate {RATES[1]:g} (state {choice.options[1].state_id})" in cause
    assert {outcomes[entry.state].status for entry in plan.arms} == {"skipped"}
    assert {outcome.status for outcome in run(store, plan).values()} <= {"published", "reused"}  # what failed runs again
    assert store.published(plan.stages) == set(plan.stages)
