"""The schedule: what runs next and which stages share a job. Uses no process."""

from __future__ import annotations

from collections.abc import Iterable

from builders.fake_execute import fake_stage
from builders.operations import num_calls
from hypothesis import given
from hypothesis import strategies as st

from midstudy.launch.schedule import SMALLEST_JOB_S, Schedule
from midstudy.recipe.stage import Stage


def schedule(*stages: Stage, published: Iterable[Stage] = (), budget_s: float = 30.0) -> Schedule:
    done = {stage.id for stage in published}
    return Schedule({stage.id: stage for stage in stages}, published=done, job_budget_s=budget_s)


def names(jobs: list[list[str]], *stages: Stage) -> list[list[str]]:
    labels = {stage.id: stage.label for stage in stages}
    return [[labels[stage_id] for stage_id in job] for job in jobs]


def test_a_trunks_milestones_share_one_job_with_nothing_else() -> None:
    first = fake_stage("first", cost_s=1)
    second = fake_stage("second", first, cost_s=1, trunk=True)
    third = fake_stage("third", second, cost_s=1, trunk=True)
    look = fake_stage("look-at-first", first, cost_s=0.1)
    branch = fake_stage("branch", first, cost_s=1)
    alone = fake_stage("alone", cost_s=0.1)
    stages = (first, second, third, look, branch, alone)
    jobs = schedule(*stages).next_jobs(num_free=2, num_slots=2)
    assert names(jobs, *stages) == [["first", "second", "third"], ["alone"]]


def test_a_trunk_whose_first_milestones_are_published_continues_with_the_rest() -> None:
    first = fake_stage("first")
    second = fake_stage("second", first, trunk=True)
    third = fake_stage("third", second, trunk=True)
    stages = (first, second, third)
    jobs = schedule(*stages, published=[first]).next_jobs(num_free=1, num_slots=1)
    assert names(jobs, *stages) == [["second", "third"]]


def test_a_trunk_does_not_start_in_the_job_that_makes_it_ready() -> None:
    tokens = fake_stage("tokens", cost_s=1)
    first = fake_stage("first", tokens, cost_s=1)
    second = fake_stage("second", first, cost_s=1, trunk=True)
    midtrained = fake_stage("midtrained", tokens, cost_s=1)
    tuned = fake_stage("tuned", midtrained, cost_s=1)
    stages = (tokens, first, second, midtrained, tuned)
    plan = schedule(*stages)
    assert names(plan.next_jobs(num_free=1, num_slots=1), *stages) == [["tokens", "midtrained", "tuned"]]
    plan.publish(tokens.id)
    assert names(plan.next_jobs(num_free=1, num_slots=1), *stages) == [["first", "second"]]


def test_the_longest_chain_comes_first_in_any_order_of_the_plan() -> None:
    short = fake_stage("short", cost_s=50)
    head = fake_stage("head", cost_s=40)
    tail = fake_stage("tail", head, cost_s=20)
    jobs = schedule(short, head, tail).next_jobs(num_free=1, num_slots=1)
    assert jobs[0][0] == head.id


def test_evaluations_of_a_state_follow_it_in_its_job_before_anything_else() -> None:
    state = fake_stage("state", cost_s=10)
    after = fake_stage("fine-tuned", state, cost_s=2)
    looks = [fake_stage(f"look-{index}", state, cost_s=0.1) for index in range(3)]
    final = fake_stage("look-after", after, cost_s=0.1)
    stages = (state, after, *looks, final)
    jobs = schedule(*stages).next_jobs(num_free=1, num_slots=1)
    assert jobs[0][0] == state.id
    assert set(jobs[0][1:4]) == {look.id for look in looks}
    assert jobs[0][4:] == []  # nothing else is ready, so the slot's share is the state itself


def test_small_stages_share_a_job_until_each_slot_has_its_share() -> None:
    stages = [fake_stage(f"sft-{index}", cost_s=2) for index in range(20)]
    jobs = schedule(*stages).next_jobs(num_free=2, num_slots=2)
    assert [len(job) for job in jobs] == [10, 10]


def test_no_job_is_filled_beyond_its_budget() -> None:
    stages = [fake_stage(f"sft-{index}", cost_s=2) for index in range(100)]
    jobs = schedule(*stages, budget_s=30).next_jobs(num_free=2, num_slots=2)
    assert [len(job) for job in jobs] == [15, 15]


def test_the_last_few_small_stages_share_one_job_because_starting_another_costs_more() -> None:
    stages = [fake_stage(f"look-{index}", cost_s=SMALLEST_JOB_S / 10) for index in range(8)]
    jobs = schedule(*stages).next_jobs(num_free=2, num_slots=2)
    assert [len(job) for job in jobs] == [8]


def test_a_long_stage_is_not_put_behind_others() -> None:
    small = [fake_stage(f"small-{index}", cost_s=1) for index in range(4)]
    long = fake_stage("long", cost_s=25)
    longer = fake_stage("longer", cost_s=26)
    stages = (*small, long, longer)
    jobs = names(schedule(*stages).next_jobs(num_free=3, num_slots=3), *stages)
    assert jobs[:2] == [["longer"], ["long"]]
    assert len(jobs[2]) == 4


def test_a_stage_given_back_is_ready_again_once_its_parents_are_published() -> None:
    first = fake_stage("first")
    second = fake_stage("second", first, trunk=True)
    plan = schedule(first, second)
    job = plan.next_jobs(num_free=1, num_slots=1)[0]
    assert plan.next_jobs(num_free=1, num_slots=1) == []
    plan.publish(first.id)
    plan.give_back(job[1:])
    assert plan.next_jobs(num_free=1, num_slots=1) == [[second.id]]


def test_a_failure_settles_only_its_descendants() -> None:
    bad, good = fake_stage("bad"), fake_stage("good")
    child = fake_stage("child", bad, good)
    grandchild = fake_stage("grandchild", child)
    plan = schedule(bad, good, child, grandchild)
    assert plan.fail(bad.id) == [child.id, grandchild.id]
    assert plan.unsettled == {good.id}
    assert plan.next_jobs(num_free=4, num_slots=4) == [[good.id]]


def test_stages_with_different_keys_never_share_a_job() -> None:
    state = fake_stage("a-state", cost_s=2)
    look = fake_stage("b-look", state, cost_s=0.1)
    tuned = fake_stage("a-tuned", state, cost_s=2)
    further = fake_stage("b-further", state, cost_s=2, trunk=True)
    others = [fake_stage(f"{place}-other-{index}", cost_s=0.5) for index in range(3) for place in "ab"]
    stages = {stage.id: stage for stage in (state, look, tuned, further, *others)}
    plan = Schedule(stages, published=(), job_budget_s=30, pack_key=lambda stage: stage.label[0])
    done: set[str] = set()
    while plan.unsettled:
        for job in plan.next_jobs(num_free=2, num_slots=2):
            assert len({stages[stage_id].label[0] for stage_id in job}) == 1
            assert all(set(stages[stage_id].parents) <= done | set(job) for stage_id in job)
            for stage_id in job:
                plan.publish(stage_id)
                done.add(stage_id)
    assert done == stages.keys()


@given(st.data())
def test_every_stage_of_any_graph_runs_once_after_its_parents(data: st.DataObject) -> None:
    stages: list[Stage] = []
    for index in range(data.draw(st.integers(1, 12))):
        parents = (
            data.draw(st.lists(st.sampled_from(stages), max_size=3, unique_by=lambda stage: stage.id)) if stages else []
        )
        trunk = bool(parents) and data.draw(st.booleans())
        cost_s = data.draw(st.sampled_from([0.0, 0.5, 3.0, 40.0]))
        stages.append(fake_stage(f"stage-{index}", *parents, cost_s=cost_s, trunk=trunk))
    slots = data.draw(st.integers(1, 3))
    plan = schedule(*stages)
    running: list[list[str]] = []
    done: list[str] = []
    while plan.unsettled:
        running += plan.next_jobs(num_free=slots - len(running), num_slots=slots)
        assert len(running) <= slots
        assert running, "stages are left and nothing runs"
        job = running[data.draw(st.integers(0, len(running) - 1))]
        plan.publish(job[0])
        done.append(job.pop(0))
        running = [job for job in running if job]
    parents_of = {stage.id: stage.parents for stage in stages}
    assert sorted(done) == sorted(parents_of)
    assert all(set(parents_of[stage_id]) <= set(done[:place]) for place, stage_id in enumerate(done))


def test_scheduling_two_thousand_stages_does_not_visit_all_of_them_for_each() -> None:
    trunk = fake_stage("trunk", cost_s=100)
    branches = [fake_stage(f"branch-{index}", trunk, cost_s=20) for index in range(100)]
    tuned = [fake_stage(f"sft-{i}-{seed}", branch, cost_s=2) for i, branch in enumerate(branches) for seed in range(10)]
    looks = [fake_stage(f"look-{i}", state, cost_s=0.1) for i, state in enumerate(tuned)]
    stages = (trunk, *branches, *tuned, *looks)

    def run() -> None:
        plan = schedule(*stages)
        running: list[list[str]] = []
        while plan.unsettled:
            running += plan.next_jobs(num_free=4 - len(running), num_slots=4)
            for stage_id in running.pop(0):
                plan.publish(stage_id)

    assert len(stages) > 2_000
    assert num_calls(run) / len(stages) < 500  # about a hundred; visiting every stage each time takes two thousand
