"""A plan trains every shared step once, and additions to a study only train what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from builders.operations import num_calls
from builders.small_recipes import (
    CODE,
    GENERAL,
    MATH,
    PYCODE,
    TOKENIZER,
    WORDS,
    arm,
    code_branch,
    phase,
    sft,
    trunk,
    whole_arm,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import KeptState, Plan, make_plan
from midstudy.recipe import (
    Anneal,
    Arm,
    Claim,
    Comparison,
    Constant,
    Cosine,
    Curriculum,
    Exponential,
    LinearWarmup,
    Measure,
    Mix,
    Mixture,
    MixtureRamp,
    Power,
    RecipeError,
    Sequential,
    Study,
    TokenCounts,
    WarmupStableDecay,
)
from midstudy.recipe.curriculum import State
from midstudy.recipe.task_data import TaskData


def plan_of(arms: Iterable[Arm], *, published: Iterable[str] = (), kept: Iterable[KeptState] = ()) -> Plan:
    done = set(published)
    counts = tuple(
        TokenCounts(data=data, tokenizer=TOKENIZER, num_documents=10, tokens_per_document=32, seed=0)
        for data in (GENERAL, CODE, MATH, PYCODE, WORDS)
    )
    study = Study(name="small", question="?", arms=tuple(arms), counts=counts)
    return make_plan(
        study,
        throughput=Throughput(CPU_CORE, {}),
        published=lambda ids: {stage_id for stage_id in ids if stage_id in done},
        kept_states=kept,
    )


def states_of(plan: Plan) -> dict[str, State]:
    return {stage.id: stage.recipe for stage in plan.stages.values() if isinstance(stage.recipe, State)}


def kept_of(plan: Plan) -> list[KeptState]:
    kept = []
    for state_id, state in states_of(plan).items():
        start_step = state.curriculum.stretches[-1].start_step
        kept.append(KeptState(stretch_from=state.curriculum.state_id(start_step), step=state.step, id=state_id))
    return kept


def control(**changes) -> Arm:
    return arm(trunk(**changes))


def code(start_step: int = 6, weight: float = 0.2, **changes) -> Arm:
    return arm(code_branch(trunk(**changes), start_step, weight), mix="code", weight=weight, start_step=start_step)


def brute_force_steps(plan: Plan) -> int:
    """Count distinct (state, next state) pairs by listing every state of every arm."""
    return len(
        {entry.arm.curriculum.state_id(step) for entry in plan.arms for step in range(1, entry.arm.curriculum.num_steps + 1)}
    )


def stable_decay(total_steps: int) -> Curriculum:
    schedule = WarmupStableDecay(peak_lr=1e-3, floor_lr=0.0, warmup_steps=5, decay_steps=20, total_steps=total_steps)
    return trunk(total_steps, schedule=schedule)


def power(tail_step: int) -> Curriculum:
    """Return a run with an open-ended power law that is replaced at `tail_step` by a linear tail of ten steps."""
    schedule = Sequential(
        first=Power(peak_lr=1e-3, warmup_steps=5, exponent=-0.51),
        at_step=tail_step,
        then=Anneal(floor_lr=0.0, num_steps=10, shape="linear"),
    )
    return trunk(tail_step + 10, schedule=schedule)


def ramped(start_step: int = 6, num_steps: int = 30) -> Curriculum:
    """Return a 60-step run whose mixture ramps to one fifth code over `num_steps` steps."""
    to_code = Mixture.blend(GENERAL, {CODE: 0.2})
    ramp = MixtureRamp(from_mixture=Mixture.only(GENERAL), to_mixture=to_code, num_steps=num_steps)
    return trunk().branch(start_step=start_step, data=ramp, name="ramp")


RAMP_WEIGHT = 0.2 * (30 / 2 + 24) / 54
"""Code share of `ramped()` from step 6 on: 30 of the 54 steps read half of the fifth on average, the other 24 all of it."""


def ramp_arm(curriculum: Curriculum, weight: float = RAMP_WEIGHT, **changes) -> Arm:
    labels: dict[str, Any] = {"mix": "ramp", "weight": weight, "start_step": 6}
    return arm(curriculum, **(labels | changes))


GRIDS = {
    "one arm": lambda: [control()],
    "branches": lambda: [control(), code(6), code(20), code(20, 0.5), arm(trunk(), data=WORDS), code(59)],
    "stable decay": lambda: [control(), arm(stable_decay(60), size="a"), arm(stable_decay(90), size="b")],
    "power laws": lambda: [control(), arm(power(40), size="a"), arm(power(70), size="b")],
    "mixture ramps": lambda: [
        control(),
        ramp_arm(ramped()),
        ramp_arm(ramped(num_steps=60), mix="slow ramp", weight=0.09),
        ramp_arm(code_branch(ramped(), 20, 0.5), weight=0.5, start_step=20),
        ramp_arm(code_branch(ramped(), 50, 0.5), weight=0.5, start_step=50),
    ],
    "two seeds": lambda: [control(), arm(trunk(seed=1), trunk_seed=1)],
}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_plan_trains_exactly_the_distinct_steps(grid: str):
    plan = plan_of(GRIDS[grid]())
    assert plan.total_steps == plan.lower_bound_steps == brute_force_steps(plan)
    assert plan.unshared_steps == sum(entry.arm.curriculum.num_steps for entry in plan.arms)


schedules = st.one_of(
    st.just(Constant(lr=1e-3)),
    st.builds(lambda w: LinearWarmup(peak_lr=1e-3, warmup_steps=w), st.sampled_from([5, 10])),
    st.builds(
        lambda w, total: Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=w, total_steps=total),
        *(st.sampled_from([0, 5]), st.sampled_from([60, 80])),
    ),
    st.builds(
        lambda d: WarmupStableDecay(peak_lr=1e-3, floor_lr=0.0, warmup_steps=5, decay_steps=d, total_steps=60),
        st.sampled_from([5, 10]),
    ),
    st.builds(
        lambda at, tail: Sequential(first=Power(peak_lr=1e-3, warmup_steps=5, exponent=-0.5), at_step=at, then=tail),
        st.sampled_from([15, 25]),
        st.sampled_from([Exponential(half_life_steps=9), Anneal(floor_lr=0.0, num_steps=10, shape="1-sqrt")]),
    ),
    st.builds(
        lambda at, lr: Sequential(first=Constant(lr=1e-3), at_step=at, then=Constant(lr=lr)),  # two open-ended segments
        st.sampled_from([15, 40]),
        st.sampled_from([1e-3, 5e-4]),
    ),
)
branches = st.tuples(st.integers(0, 29), st.sampled_from([0.1, 0.2]), st.sampled_from([0, 10, 60]))
families = st.lists(
    st.tuples(
        st.sampled_from([30, 60]), schedules, st.sets(branches, max_size=3), st.sampled_from(["", "continue", "reset"])
    ),
    min_size=1,
    max_size=4,
)


def ramp_branch(whole: Curriculum, start_step: int, weight: float, ramp_steps: int) -> tuple[Curriculum, float]:
    """Return a branch whose code share rises for `ramp_steps`, possibly beyond its end, and its code share by hand."""
    if ramp_steps == 0:
        return code_branch(whole, start_step, weight), weight
    ends = Mixture.only(GENERAL), Mixture.blend(GENERAL, {CODE: weight})
    ramp = MixtureRamp(from_mixture=ends[0], to_mixture=ends[1], num_steps=ramp_steps)
    num_steps = whole.num_steps - start_step
    rising = min(num_steps, ramp_steps)
    read = weight * (rising * rising / (2 * ramp_steps) + num_steps - rising)
    return whole.branch(start_step=start_step, data=ramp, name="ramp"), read / num_steps


@settings(max_examples=50, deadline=None)
@given(families)
def test_the_plan_of_any_grid_trains_exactly_the_distinct_steps(grid):
    """Trunks of any length and schedule, branches and ramps anywhere, fine-tuning once or twice.

    Every distinct update is planned once, every state starts from one that it can resume from, and labels are unique.
    """
    arms = []
    for number, (total_steps, schedule, branches, second) in enumerate(grid):
        whole = trunk(total_steps, schedule=schedule)
        arms.append(arm(whole, size=f"size{number}"))
        if second:
            twice = whole.then(sft(PYCODE)).then(sft(WORDS, optimizer_state=second, seed=1))
            arms.append(whole_arm(twice, size=f"size{number}"))
        for start_step, weight, ramp_steps in branches:
            branch, share = ramp_branch(whole, start_step, weight, ramp_steps)
            mix = f"code over {ramp_steps}"
            arms.append(arm(branch, size=f"size{number}", mix=mix, weight=share, start_step=start_step))
    plan = plan_of(arms)
    assert plan.total_steps == plan.lower_bound_steps == brute_force_steps(plan)
    assert len({stage.label for stage in plan.stages.values()}) == len(plan.stages)
    for state_id, state in states_of(plan).items():
        stage, placed = plan.stages[state_id], state.curriculum.stretches[-1]
        data = placed.phase.data
        kind = "sft" if isinstance(data, TaskData) else "midtrain" if data.specialist_corpora else "pretrain"
        assert stage.role == kind
        if stage.start_from and (stage.continues_trunk or placed.phase.optimizer_state == "continue"):
            assert plan.stages[stage.start_from].keeps_optimizer


def test_a_run_with_a_restarted_rate_shares_the_steps_before_the_restart():
    whole = trunk(60, schedule=Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=0, total_steps=60))
    restarted = whole.until(20).then(phase(Mixture.only(GENERAL), 20, schedule=Constant(lr=1e-3)))
    plan = plan_of([arm(whole, size="a"), arm(restarted, size="b")])
    assert plan.total_steps == plan.lower_bound_steps == brute_force_steps(plan) == 60 + 20 + 5 + 5


def test_a_state_keeps_its_optimizer_if_the_next_phase_continues_it():
    twice = trunk(10).then(sft(WORDS)).then(sft(PYCODE, optimizer_state="continue", schedule=None))
    plan = plan_of([whole_arm(twice)])
    kept = {s.step: s.keeps_optimizer for s in plan.stages.values() if s.kind == "state"}
    assert kept == {10: True, 15: True, 20: False}


def test_a_phase_that_continues_an_optimizer_that_was_not_kept_is_rejected():
    def twice(optimizer_state: str) -> Arm:
        second = sft(PYCODE, optimizer_state=optimizer_state, seed=1)
        return whole_arm(trunk().then(sft(PYCODE)).then(second), sft_seed=1)

    once = control()
    finished = plan_of([once])
    done = finished.stages.keys()
    kept = [state for state in kept_of(finished) if finished.stages[state.id].keeps_optimizer]
    assert len(kept) == 1
    with pytest.raises(
        RecipeError,
        match=rf"phases\.sft\.optimizer_state: expected reset, .* got continue, from state {once.final_state.id}.*new",
    ):
        plan_of([once, twice("continue")], published=done, kept=kept)
    plan_of([once, twice("continue")])  # in a new store
    plan_of([once, twice("reset")], published=done, kept=kept)
    again = plan_of([once, twice("continue")])
    plan_of([once, twice("continue")], published=again.stages.keys(), kept=kept)  # nothing is left to train


def test_tokens_are_counted_over_a_ramp_and_the_constant_mixture_after_it():
    """The normal form splits the phase where the ramp ends; the arm's tokens count both parts."""
    row = manifest_of(plan_of([control(), ramp_arm(ramped())]), command="").arms[1]
    assert row.tokens["code"] == round(0.2 * (30 / 2 + 24) * 8) * 64


def _trained(**changes: Any) -> Arm:
    """Return an arm on a trunk; `changes` give another trunk with the same label."""
    return arm(trunk(60, **changes), sft_seed=1 if changes else 0)


def _mixed(**changes: Any) -> Arm:
    branch = code_branch(trunk(60, **changes), 20)
    return arm(branch, mix="code", weight=0.2, start_step=20, sft_seed=1 if changes else 0)


def _tuned_twice(**changes: Any) -> Arm:
    """Return an arm that is fine-tuned twice; `changes` apply to the first fine-tuning, whose label stays the same."""
    curriculum = trunk().then(sft(PYCODE, **changes)).then(sft(WORDS, seed=1))
    return whole_arm(curriculum, sft_seed=1 if changes else 0)


def _measured(**changes: Any) -> Arm:
    return arm(trunk(), sft_seed=1 if changes else 0, changes=changes)


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        (_trained, {"precision": "bf16_true"}, ("precision fp32", "precision bf16_true")),
        (_trained, {"seq_len": 32}, ("seq_len 64", "seq_len 32")),
        (_trained, {"num_sequences": 16}, ("num_sequences 8", "num_sequences 16")),
        (_trained, {"schedule": Constant(lr=2e-3)}, ("lr 0.001", "lr 0.002")),
        (_trained, {"document_mask": True}, ("no document_mask", "document_mask True")),
        (_mixed, {"precision": "bf16_true"}, ("precision fp32", "precision bf16_true")),
        (_mixed, {"num_sequences": 16}, ("num_sequences 8", "num_sequences 16")),
        (_tuned_twice, {"precision": "bf16_mixed"}, ("precision fp32", "precision fp32 → bf16_mixed")),
        (_tuned_twice, {"loss": "target_tokens"}, ("loss all_tokens", "loss all_tokens → target_tokens")),
        (_tuned_twice, {"schedule": Constant(lr=2e-3)}, ("lr 0.001", "lr 0.001 → 0.002")),
        (_measured, {"seq_len": 32}, ("seq_len 64", "seq_len 32")),
        (_measured, {"max_sequences": 4}, ("max_sequences 8", "max_sequences 4")),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else value.__name__ if callable(value) else "",
)
def test_equal_labels_get_the_field_that_differs(kind: Any, changes: dict, expected: tuple[str, str]) -> None:
    """The stages differ in one field of a phase or evaluation. Labels differ only in that field, and all are unique."""
    arms = [kind(), kind(**changes)]
    controls = [arm(trunk(), sft_seed=seed) for seed in (0, 1)] if kind is _mixed else []
    plan = plan_of([*arms, *controls])
    labels = [stage.label for stage in plan.stages.values()]
    assert len(set(labels)) == len(labels)
    without = []
    for words in expected:
        suffix = re.compile(rf", {re.escape(words)}(?= on |$)")
        without.append({suffix.sub("", label) for label in labels if suffix.search(label)})
    assert without[0] == without[1]
    assert without[0], labels


def test_equal_labels_get_all_fields_that_differ() -> None:
    """Four trunks with two precisions and two lengths: both fields are named once."""
    kinds: list[dict[str, Any]] = [
        {"precision": precision, "seq_len": length} for precision in ("fp32", "bf16_true") for length in (64, 32)
    ]
    plan = plan_of([arm(trunk(60, **kind), sft_seed=seed) for seed, kind in enumerate(kinds)])
    assert {stage.label for stage in plan.stages.values() if stage.role == "pretrain"} == {
        f"pretrain to step 60, seq_len {kind['seq_len']}, precision {kind['precision']}" for kind in kinds
    }


def test_equal_labels_of_averages_and_schedules_are_made_unique():
    """Two schedules of the same length, two averages of branches that differ only in weight, and an average of averages."""
    from midstudy.recipe import Average, Start

    def soup(*states: State) -> Curriculum:
        return Curriculum.of(Start.averaged(Average.of(*states)))

    tenth, fifth = (code_branch(trunk(), 20, weight) for weight in (0.1, 0.2))
    averages = [soup(branch.state(50), branch.state(60)) for branch in (tenth, fifth)]
    whole = soup(*(average.state() for average in averages))
    restarted = trunk(60, schedule=Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=0, total_steps=60))
    twice = trunk().then(sft(PYCODE)).then(sft(WORDS, seed=1))
    plan = plan_of(
        [
            control(),
            arm(restarted, sft_seed=1),
            arm(whole, mix="soup", weight=0.15, start_step=20),
            whole_arm(twice),
        ]
    )
    labels = [stage.label for stage in plan.stages.values()]
    assert len(set(labels)) == len(labels)
    named = {stage.id: stage.label for stage in plan.stages.values()}
    assert {named[curriculum.state_id(60)] for curriculum in (trunk(), restarted)} == {
        "pretrain to step 60, learning rate hold",
        "pretrain to step 60, learning rate ramp",
    }
    assert named[fifth.state_id(60)].startswith("midtrain code to step 60, ")
    assert named[averages[0].state_id(0)].startswith("average of 2 states: midtrain code to step 50, 60")
    assert plan.stages[twice.state_id(65)].role == plan.stages[twice.state_id(70)].role == "sft"


def test_training_does_not_resume_from_a_state_published_without_its_optimizer():
    short, long = arm(stable_decay(60), size="a"), arm(stable_decay(90), size="b")
    finished = plan_of([short])

    def start_of_longer(kept: list[KeptState]) -> tuple[int, str | None]:
        plan = plan_of([short, long], published=finished.stages.keys(), kept=kept)
        first = next(s for s in plan.missing if s.step == 70)
        return first.num_steps, first.start_from

    assert start_of_longer(kept_of(finished)) == (30, stable_decay(60).state_id(40))
    assert start_of_longer([]) == (70, None)


def test_two_cosines_with_the_same_warmup_share_it():
    def run(total_steps: int) -> Curriculum:
        return trunk(60, schedule=Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=10, total_steps=total_steps))

    plan = plan_of([arm(run(60), size="a"), arm(run(80), size="b")])
    assert plan.total_steps == plan.lower_bound_steps == brute_force_steps(plan) == 2 * 65 - 10


def test_parents_come_first_and_a_trunk_is_one_chain():
    plan = plan_of([control(), code(6), code(20)])
    seen: set[str] = set()
    for stage in plan.stages.values():
        assert set(stage.parents) <= seen
        seen.add(stage.id)
    chain = [s for s in plan.stages.values() if s.role == "pretrain"]
    assert [s.step for s in chain] == [6, 20, 60]
    assert [s.continues_trunk for s in chain] == [False, True, True]
    assert [s.start_from for s in chain] == [None, chain[0].id, chain[1].id]
    assert [s.num_steps for s in chain] == [6, 14, 40]


def test_adding_a_start_step_or_an_arm_keeps_all_finished_stages():
    finished = plan_of([control(), code(6), code(20)])
    done = finished.stages.keys()
    kept = [
        KeptState(stretch_from=state.curriculum.state_id(state.curriculum.stretches[-1].start_step), step=state.step, id=i)
        for i, state in states_of(finished).items()
    ]
    start_step = plan_of([control(), code(6), code(20), code(30)], published=done, kept=kept)
    assert done <= start_step.stages.keys()
    # The trunk from its kept state at 20 to the new branch point at 30, the branch, and its fine-tuning.
    assert sorted(s.num_steps for s in start_step.missing if s.num_steps) == [5, 10, 30]

    new_arm = plan_of([control(), code(6), code(20), arm(trunk(), data=WORDS)], published=done, kept=kept)
    assert [s.num_steps for s in new_arm.missing if s.num_steps] == [5]


def test_a_longer_stable_decay_run_resumes_from_the_end_of_the_stable_part():
    finished = plan_of([arm(stable_decay(60))])
    kept = [
        KeptState(stretch_from=state.curriculum.state_id(state.curriculum.stretches[-1].start_step), step=state.step, id=i)
        for i, state in states_of(finished).items()
    ]
    longer = plan_of([arm(stable_decay(90))], published=finished.stages.keys(), kept=kept)
    assert sum(s.num_steps for s in longer.missing) == 50 + 5  # steps 40 to 90, and fine-tuning


def test_a_longer_power_law_resumes_where_the_tail_of_the_shorter_one_began():
    finished = plan_of([arm(power(40))])
    longer = plan_of([arm(power(70))], published=finished.stages.keys(), kept=kept_of(finished))
    assert sum(s.num_steps for s in longer.missing) == 40 + 5  # steps 40 to 80, and fine-tuning


def test_a_branch_inside_a_mixture_ramp_trains_again_only_from_the_last_kept_state():
    finished = plan_of([control(), ramp_arm(ramped())])
    branch = ramp_arm(code_branch(ramped(), 20, 0.5), weight=0.5, start_step=20)
    more = plan_of([control(), ramp_arm(ramped()), branch], published=finished.stages.keys(), kept=kept_of(finished))
    assert finished.stages.keys() <= more.stages.keys()
    # From the ramp's beginning at 6 to the branch point, the branch, and its fine-tuning.
    assert sorted(s.num_steps for s in more.missing if s.num_steps) == [5, 14, 40]


def test_a_ramp_is_midtraining_and_reads_the_corpora_of_both_mixtures():
    plan = plan_of([control(), ramp_arm(ramped(num_steps=60), weight=0.09)])
    to_the_end = plan.stages[plan.arms[1].arm.curriculum.state_id(60)]
    assert (to_the_end.label, to_the_end.role) == ("ramp to step 60", "midtrain")
    data = [plan.stages[parent].data for parent in to_the_end.parents if plan.stages[parent].kind != "state"]
    assert data == ["general", "code"]
    row = manifest_of(plan, command="").arms[1]
    assert row.tokens["code"] == 39 * 64  # 54 of the ramp's 60 steps at half of its 0.2: 54 · 8 · 0.09 = 38.88


def test_an_evaluation_added_later_needs_no_training():
    finished = plan_of([control()])
    wider = arm(trunk(), changes={"max_sequences": 16})
    plan = plan_of([wider], published=finished.stages.keys())
    assert {s.kind for s in plan.missing} == {"evaluation"}
    assert len(plan.missing) == 2  # before and after fine-tuning


def test_training_resumes_from_a_kept_state_of_another_study():
    whole = trunk()
    kept = [KeptState(stretch_from=whole.state_id(0), step=45, id=whole.state_id(45))]
    plan = plan_of([control()], kept=kept)
    first = next(s for s in plan.stages.values() if s.role == "pretrain")
    assert (first.start_from, first.num_steps) == (whole.state_id(45), 15)
    stranger = [KeptState(stretch_from=whole.state_id(0), step=45, id="0" * 16)]
    assert plan_of([control()], kept=stranger).total_steps == 65


def test_the_before_evaluation_is_made_once_per_model_and_task():
    plan = plan_of([control(), arm(trunk(), sft_seed=1)])
    first, second = plan.arms
    assert first.measures["task_loss_before"] == second.measures["task_loss_before"]
    assert first.measures["task_loss"] != second.measures["task_loss"]
    assert first.state != second.state


def test_the_realised_tokens_and_the_dose_of_an_arm():
    """60 steps at a constant rate, a fifth of the last 54 of them code, then 5 steps of fine-tuning at the same rate."""
    row = manifest_of(plan_of([control(), code(6)]), command="").arms[1]
    assert row.tokens == {"general": (480 - 86) * 64, "code": 86 * 64}  # the design's worked example
    assert row.items == {"pycode": 5 * 8}
    assert row.dose == {
        "general": pytest.approx((60 - 54 * 0.2) / 65),
        "code": pytest.approx(54 * 0.2 / 65),
        "pycode": pytest.approx(5 / 65),
    }


def test_a_dose_weighs_steps_by_their_learning_rate():
    """Equal shares give equal doses under a constant rate; under a falling rate, late steps count less."""
    falling = Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=0, total_steps=60)

    def dose_of_code(schedule: Any, start_step: int, weight: float) -> float:
        branch = code_branch(trunk(60, schedule=schedule), start_step, weight)
        dose = manifest_of(plan_of([whole_arm(branch)]), command="").arms[0].dose["code"]
        assert dose is not None
        return dose

    assert dose_of_code(Constant(lr=1e-3), 30, 0.2) == pytest.approx(0.1)
    rates = [falling.curve().lr(step) for step in range(60)]
    assert dose_of_code(falling, 30, 0.2) == pytest.approx(0.2 * sum(rates[30:]) / sum(rates))
    rising = MixtureRamp(from_mixture=Mixture.only(GENERAL), to_mixture=Mixture.blend(GENERAL, {CODE: 0.4}), num_steps=60)
    ramp = trunk(60, schedule=falling).branch(start_step=0, data=rising, name="ramp")
    by_hand = sum(rate * 0.4 * (step + 0.5) / 60 for step, rate in enumerate(rates)) / sum(rates)
    assert manifest_of(plan_of([whole_arm(ramp)]), command="").arms[0].dose["code"] == pytest.approx(by_hand)


def test_a_duplicate_arm_is_rejected():
    with pytest.raises(
        RecipeError,
        match=r"study\.arms\[1\]: expected a combination of factors that no other arm has, got .*as in arms\[0\]",
    ):
        plan_of([control(), control()])


def test_an_arm_with_other_factors_is_rejected():
    with pytest.raises(
        RecipeError, match=r"study\.arms\[1\]\.factors: expected the factors of study\.arms\[0\]: .*, got .*loader"
    ):
        plan_of([control(), arm(code_branch(trunk(), 6), mix="code", loader="best_fit")])


def comparison_of(arms: Iterable[Arm], references: Iterable[Arm], **changes: Any) -> Comparison:
    fields: dict[str, Any] = {"name": "main", "columns": ("task_loss",), "match": ("size", "task")}
    return Comparison(arms=tuple(arms), references=tuple(references), **(fields | changes))


def study_of(arms: Iterable[Arm], *comparisons: Comparison, **changes: Any) -> Study:
    return Study(name="small", question="?", arms=tuple(arms), comparisons=comparisons, **changes)


def test_an_arm_without_its_reference_is_rejected_and_both_are_named():
    arms = [control(), code(), arm(code_branch(trunk(seed=1), 6), mix="code", weight=0.2, start_step=6, trunk_seed=1)]
    study_of(arms, comparison_of(arms[1:2], arms[:1]))
    with pytest.raises(
        RecipeError,
        match=r"study\.comparisons\.main\.references: expected a reference with the same size, task, trunk_seed, sft_seed "
        r"as the arm with .*trunk_seed 1.*, got none\.",
    ):
        study_of(arms, comparison_of(arms[1:], arms[:1]))
    with pytest.raises(
        RecipeError, match=r"main\.references: expected one reference .* the arm with .*start_step 20.*, got 2\."
    ):
        study_of([*arms[:2], code(20)], comparison_of([code(20)], arms[:2]))
    with pytest.raises(RecipeError, match=r"main\.arms: expected arms of the study, got .*start_step 30"):
        study_of(arms[:2], comparison_of([code(30)], arms[:1]))
    with pytest.raises(
        RecipeError, match=r"comparisons\.main\.references: expected at least one arm of the study, got nothing"
    ):
        comparison_of(arms[1:2], [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"comparison": "timing"},
            r"comparison: expected a comparison of the study \(main\), got 'timing', for the claim 'code helps'",
        ),
        (
            {"arms": {"mix": "math"}},
            r"arms: expected factors of some arm of main, got \{'mix': 'math'\}, for the claim 'code helps'",
        ),
        (
            {"column": "general_loss"},
            r"column: expected a column that main compares \(task_loss\), got general_loss",
        ),
    ],
    ids=["comparison", "arms", "column"],
)
def test_a_claim_that_the_study_cannot_decide_is_rejected_with_its_text(changes: dict[str, Any], message: str):
    arms = [control(), code()]
    fields: dict[str, Any] = {"text": "code helps", "source": "own", "estimator": "paired_effect", "comparison": "main"}
    claim = Claim(**(fields | {"column": "task_loss", "arms": {"mix": "code"}} | changes))
    with pytest.raises(RecipeError, match=r"study\.claims\[0\]\." + message):
        study_of(arms, comparison_of(arms[1:], arms[:1]), claims=(claim,))


def test_seeds_are_factors_of_the_arms():
    with pytest.raises(RecipeError, match=r"study\.seeds: expected factors of the arms \(size, mix.*\), got seed\."):
        study_of([control()], seeds=("seed",))


def test_a_measure_of_random_weights_is_rejected():
    with pytest.raises(
        RecipeError,
        match=r"study\.arms\[0\]\.measures\.general_loss_before\.state: expected a state after at least one step, "
        r"got the random weights",
    ):
        plan_of([whole_arm(trunk(), before=0)])


def test_a_curve_evaluates_all_its_states():
    """States inside a phase are kept for the curve and need no additional training."""
    whole = trunk()
    evaluation = whole_arm(whole).measures["general_loss"].evaluation
    labelled = whole_arm(whole).curriculum
    curve = Measure(states=tuple(labelled.state(step) for step in (7, 31, 60)), evaluation=evaluation)
    plan = plan_of([Arm(curriculum=labelled, measures={"general_curve": curve})])
    ids = plan.arms[0].measures["general_curve"]
    assert [plan.stages[evaluation_id].step for evaluation_id in ids] == [7, 31, 60]
    assert plan.total_steps == plan.lower_bound_steps == 60
    manifest = manifest_of(plan, command="")
    assert manifest.columns["general_curve"].is_curve


def test_a_study_without_arms_counts_its_data_sets():
    plan = plan_of([])
    assert {stage.role for stage in plan.stages.values()} == {"data", "similarity"}
    assert plan.total_steps == plan.unshared_steps == 0
    with pytest.raises(RecipeError, match=r"study\.arms: expected at least one arm, or counts of data sets, got neither"):
        study_of([])


def test_a_mix_of_a_corpus_that_is_not_counted_is_rejected():
    mix = Mix(name="code 20 %", mixture=Mixture.blend(GENERAL, {CODE: 0.2}), reference=GENERAL)
    with pytest.raises(
        RecipeError, match=r"study\.counts: expected counts of general, for the mix code 20 %, got counts of nothing"
    ):
        study_of([control()], mixes=(mix,))


@pytest.mark.parametrize("name", ["question", "notes"])
def test_text_that_utf_8_cannot_encode_is_rejected_before_anything_runs(name: str):
    texts: dict[str, Any] = {"question": "Helps?", name: "caf\udce9" if name == "question" else ("fine", "caf\udce9")}
    with pytest.raises(RecipeError, match=rf"study\.{name}: expected text that UTF-8 can encode, got 'caf\\udce9'"):
        Study(name="small", arms=(control(),), **texts)


def test_planning_twice_as_many_seeds_takes_about_twice_the_work():
    """Counted in function calls; `benchmarks/plan.py` measures seconds."""
    few, many = (_calls_to_plan(num_seeds) for num_seeds in (2, 4))
    assert few > 10_000
    assert many < 2.5 * few


def _calls_to_plan(num_seeds: int) -> int:
    def build() -> None:
        arms = []
        for seed in range(num_seeds):
            whole = trunk(seed=seed)
            for mix, weight, start_step, curriculum in _branches(whole):
                for data in (PYCODE, WORDS):
                    for sft_seed in range(4):
                        labels = {"mix": mix, "weight": weight, "start_step": start_step}
                        arms.append(arm(curriculum, data=data, trunk_seed=seed, sft_seed=sft_seed, **labels))
        assert len(plan_of(arms).stages) > 10 * num_seeds

    return num_calls(build)


def _branches(whole: Curriculum):
    yield "control", 0.0, 0, whole
    for percent in range(1, 11):
        yield f"code{percent}", percent / 100, 6, code_branch(whole, 6, percent / 100)
    mixture = Mixture.blend(GENERAL, {MATH: 0.1, CODE: 0.1})
    yield "both", 0.2, 10, whole.branch(start_step=10, data=mixture, name="both")
