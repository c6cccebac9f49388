"""Forecast of a run's wall-clock time: work shared among jobs, the critical path, and fixed costs per job."""

from __future__ import annotations

import pytest
from builders.fake_execute import fake_stage

from midstudy.launch import forecast as module
from midstudy.launch.forecast import JOB_START_S, RUN_END_S, RUN_START_S, STAGE_S, Forecast, forecast
from midstudy.recipe.stage import Stage


def outlook(*stages: Stage, published: tuple[Stage, ...] = (), num_jobs: int = 2, job_budget_s: float = 60.0) -> Forecast:
    return forecast(
        {stage.id: stage for stage in stages},
        published=[stage.id for stage in published],
        num_jobs=num_jobs,
        job_budget_s=job_budget_s,
    )


def jobs_s(seen: Forecast) -> float:
    return seen.wall_s - RUN_START_S - RUN_END_S


def test_independent_stages_are_shared_among_jobs_and_a_chain_is_not() -> None:
    alone = [fake_stage(f"alone-{n}", cost_s=100) for n in range(4)]
    each_s = JOB_START_S + 100 + STAGE_S
    assert jobs_s(outlook(*alone, num_jobs=1)) == pytest.approx(4 * each_s)
    assert jobs_s(outlook(*alone, num_jobs=2)) == pytest.approx(2 * each_s)
    assert jobs_s(outlook(*alone, num_jobs=8)) == pytest.approx(each_s)
    first = fake_stage("first", cost_s=100)
    second = fake_stage("second", first, cost_s=100)
    assert jobs_s(outlook(first, second, num_jobs=8)) == pytest.approx(2 * each_s - JOB_START_S), "one job carries both"


def test_a_branch_starts_while_its_trunk_continues() -> None:
    first = fake_stage("first", cost_s=100)
    second = fake_stage("second", first, cost_s=100, trunk=True)
    branch = fake_stage("branch", first, cost_s=100)
    seen = outlook(first, second, branch)
    assert jobs_s(seen) == pytest.approx(JOB_START_S + 100 + STAGE_S + JOB_START_S + 100 + STAGE_S)


def test_published_stages_take_no_time_and_neither_does_a_finished_study() -> None:
    first = fake_stage("first", cost_s=100)
    second = fake_stage("second", first, cost_s=10)
    assert jobs_s(outlook(first, second, published=(first,))) == pytest.approx(JOB_START_S + 10 + STAGE_S)
    assert outlook(first, second, published=(first, second)).wall_s == 0


def test_small_stages_share_the_start_of_a_job() -> None:
    small = [fake_stage(f"small-{n}", cost_s=0.1) for n in range(20)]
    assert jobs_s(outlook(*small, num_jobs=1)) == pytest.approx(JOB_START_S + 20 * (0.1 + STAGE_S))


def test_the_forecast_keeps_the_progress_over_time() -> None:
    first = fake_stage("first", cost_s=100)
    others = [fake_stage(f"other-{n}", first, cost_s=100) for n in range(2)]
    looks = [fake_stage(f"look-{n}", other, cost_s=10) for n, other in enumerate(others)]
    seen = outlook(first, *others, *looks)
    assert seen.done_s[-1] == 320
    assert seen.stages_left_s(0) == pytest.approx(seen.times_s[-1] - RUN_START_S)
    assert seen.stages_left_s(100) == pytest.approx(JOB_START_S + 110 + 2 * STAGE_S)
    assert seen.stages_left_s(50) == pytest.approx((seen.stages_left_s(0) + seen.stages_left_s(100)) / 2)
    assert seen.stages_left_s(320) == 0


@pytest.mark.parametrize("num_jobs", [1, 4, 1_000])
def test_a_study_too_large_to_simulate_gets_about_the_same_forecast(num_jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fake_stage("first", cost_s=30)
    trunk = fake_stage("trunk", first, cost_s=200)
    others = [fake_stage(f"other-{n}", cost_s=20) for n in range(100)]
    simulated = outlook(first, trunk, *others, num_jobs=num_jobs)
    monkeypatch.setattr(module, "MOST_PLAYED", 10)
    even = outlook(first, trunk, *others, num_jobs=num_jobs)
    assert len(even.times_s) == 3
    assert even.wall_s == pytest.approx(simulated.wall_s, rel=0.25)
    assert even.done_s[-1] == simulated.done_s[-1]
    finished = outlook(first, trunk, *others, published=(first, trunk, *others), num_jobs=num_jobs)
    assert finished.wall_s == 0
