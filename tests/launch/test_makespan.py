"""The simulated makespan: bounds that no schedule can beat, interruptions that cost what they say, and the driver itself."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from statistics import mean

import pytest
from builders.fake_execute import fake_stage
from builders.places import PYTHONPATH, TESTS
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation.preempted import JOB_BUDGET_S, stages_of_a_study

from midstudy.launch.forecast import JOB_START_S, RUN_START_S, STAGE_S
from midstudy.launch.makespan import Cluster, Makespan, makespan
from midstudy.recipe.stage import Stage

HOUR_S = 3_600.0


def span(*stages: Stage, published: tuple[Stage, ...] = (), **cluster: float) -> Makespan:
    held = Cluster(**{"gpus": 1, **cluster})  # type: ignore[arg-type]
    return makespan(
        {stage.id: stage for stage in stages}, published=frozenset(stage.id for stage in published), cluster=held
    )


@st.composite
def studies(draw: st.DrawFn) -> list[Stage]:
    """Draw up to 12 stages whose parents are among the stages before them."""
    stages: list[Stage] = []
    for number in range(draw(st.integers(1, 12))):
        parents = draw(st.lists(st.sampled_from(stages), max_size=3, unique_by=lambda one: one.id)) if stages else []
        stages.append(fake_stage(f"s{number}", *parents, cost_s=draw(st.floats(0.1, 50_000.0))))
    return stages


@settings(max_examples=60, deadline=None)
@given(studies(), st.integers(1, 6), st.sampled_from([math.inf, 7_200.0, 600.0]), st.sampled_from([math.inf, 3_600.0]))
def test_no_schedule_beats_the_work_divided_by_the_jobs_or_the_longest_chain(
    stages: list[Stage], gpus: int, preempted_every_s: float, time_limit_s: float
) -> None:
    seen = span(*stages, gpus=gpus, preempted_every_s=preempted_every_s, time_limit_s=time_limit_s)
    chain_s: dict[str, float] = {}
    for stage in stages:  # parents come first
        chain_s[stage.id] = stage.cost_s + max((chain_s[parent] for parent in stage.parents), default=0.0)
    work_s, longest_s = sum(stage.cost_s for stage in stages), max(chain_s.values())
    assert seen.work_bound_s == pytest.approx(work_s / gpus)
    assert seen.chain_bound_s == pytest.approx(longest_s)
    assert seen.wall_s >= max(work_s / gpus, longest_s)
    # Nor is it longer than all work, starts and interruptions in a line, since one job at least is always at work.
    lost_s = (seen.num_preempted + seen.num_timed_out) * seen.cluster.restart_s
    assert seen.wall_s <= work_s + len(stages) * (JOB_START_S + STAGE_S) + lost_s + RUN_START_S


def test_a_time_limit_costs_a_restart_each_time_and_no_work() -> None:
    long = fake_stage("long", cost_s=10 * HOUR_S)
    seen = span(long, time_limit_s=3 * HOUR_S, restart_s=60.0)
    assert (seen.num_timed_out, seen.num_preempted) == (3, 0)
    assert seen.wall_s == pytest.approx(RUN_START_S + JOB_START_S + STAGE_S + 10 * HOUR_S + 3 * 60)


def test_the_clock_of_a_limit_runs_over_the_stages_of_a_job() -> None:
    """A trunk of three milestones of 2 hours is one job: its limit of 3 hours is reached once, after half of the second."""
    trunk = [fake_stage("m0", cost_s=2 * HOUR_S)]
    for number in (1, 2):
        trunk.append(fake_stage(f"m{number}", trunk[-1], cost_s=2 * HOUR_S, trunk=True))
    seen = span(*trunk, time_limit_s=3.5 * HOUR_S, restart_s=60.0)
    assert seen.num_timed_out == 1
    assert seen.wall_s == pytest.approx(RUN_START_S + JOB_START_S + 3 * STAGE_S + 6 * HOUR_S + 60)


def test_preemptions_are_as_frequent_as_stated() -> None:
    stages = [fake_stage(f"s{number}", cost_s=100 * HOUR_S) for number in range(40)]
    seen = span(*stages, gpus=40, preempted_every_s=2 * HOUR_S)
    assert seen.num_preempted == pytest.approx(2_000, abs=4 * math.sqrt(2_000))
    assert span(*stages, gpus=40, preempted_every_s=2 * HOUR_S) == seen


def test_finished_stages_take_no_time() -> None:
    first = fake_stage("first", cost_s=100.0)
    second = fake_stage("second", first, cost_s=10.0)
    seen = span(first, second, published=(first,))
    assert seen.wall_s == pytest.approx(RUN_START_S + JOB_START_S + 10 + STAGE_S)
    assert seen.chain_bound_s == seen.work_bound_s == 10.0
    assert span(first, published=(first,)).wall_s == 0.0


def test_the_gpus_of_a_job_share_training_and_leave_cpu_stages_as_long_as_they_are() -> None:
    training, text = replace(fake_stage("training", cost_s=8_000.0), num_steps=10), fake_stage("text", cost_s=800.0)
    together = span(training, text, gpus=16, gpus_per_job=8)
    assert together.cluster.num_jobs == 2
    assert together.chain_bound_s == 1_000.0
    assert together.work_bound_s == 900.0


@pytest.mark.parametrize("every_s", [1e9, 900.0, 300.0])
def test_it_agrees_with_the_driver_on_a_simulated_slurm(every_s: float) -> None:
    """The real driver, launcher and jobs, whose clock alone is simulated; a requeued job starts again after 14 s there."""
    command = [sys.executable, "-m", "simulation.preempted", "6", str(every_s)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": PYTHONPATH}
    output = subprocess.run(command, cwd=TESTS, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    driver = json.loads(output)
    ours = [
        makespan(
            stages_of_a_study(),
            published=frozenset(),
            cluster=Cluster(gpus=4, preempted_every_s=every_s, restart_s=14.0),
            seed=seed,
            job_budget_s=JOB_BUDGET_S,
        )
        for seed in range(20)
    ]
    assert mean(one.wall_s for one in ours) == pytest.approx(mean(driver["wall_s"]), rel=0.01)
    expected = mean(one.num_preempted for one in ours)
    assert mean(driver["num_preempted"]) == pytest.approx(expected, abs=4 * math.sqrt(expected / 6) + 1e-9)


@pytest.mark.parametrize(
    ("text", "cluster"),
    [
        ("gpus=64", Cluster(gpus=64)),
        ("gpus=64, gpus_per_job=8", Cluster(gpus=64, gpus_per_job=8)),
        ("gpus=8,preempted_every=90m,time_limit=2d", Cluster(gpus=8, preempted_every_s=5_400, time_limit_s=172_800)),
    ],
)
def test_a_cluster_is_written_with_units(text: str, cluster: Cluster) -> None:
    assert Cluster.parse(text) == cluster


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("64", "expected gpus=, gpus_per_job=, preempted_every=, time_limit= each once, got 64"),
        ("gpus=64,gpus=2", "each once, got gpus=2"),
        ("gpus=64,nodes=2", "each once, got nodes=2"),
        ("gpus=6.5", "--makespan gpus: expected a whole number of at least 1, got 6.5"),
        ("gpus=0", "at least 1, got 0"),
        ("gpus=8,time_limit=24", "--makespan time_limit: expected a time such as 30m, 6h or 2d, got 24"),
        ("preempted_every=6h", "gpus: expected at least gpus_per_job, 1, got nothing"),
        ("gpus=4,gpus_per_job=8", "expected at least gpus_per_job, 8, got 4"),
    ],
)
def test_a_wrong_cluster_is_refused_with_its_key(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Cluster.parse(text)
