"""Choices in a plan: candidates are trained once, on the first seed; every decided state waits for its decision."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import pytest
from builders.small_recipes import CODE, GENERAL, PYCODE, code_branch, phase, sft, trunk, whole_arm

from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.manifest import manifest_of, stages_of
from midstudy.plan.planner import Plan, make_plan
from midstudy.plan.summary import plan_facts, plan_text
from midstudy.recipe import Arm, Choice, Chosen, Constant, Curriculum, Evaluation, Mixture, Study
from midstudy.recipe.choice import Decidable
from midstudy.recipe.curriculum import State
from midstudy.recipe.measure import StateEvaluation

RATES = (1e-4, 1e-3, 1e-2)
DEV = Evaluation(data=PYCODE, split="dev", loss="all_tokens", seq_len=64, max_sequences=8)


def tuned(run: Curriculum, lr: Decidable, **changes: Any) -> Curriculum:
    return run.then(sft(PYCODE, schedule=Constant(lr=lr), **changes))


def choice(run: Curriculum, name: str = "sft_lr") -> Choice:
    return Choice.between(name, {rate: tuned(run, rate, name=f"sft at {rate:g}").state() for rate in RATES}, evaluation=DEV)


def arms(seeds: tuple[int, ...] = (0, 1, 2)) -> list[Arm]:
    """Return a control and a code arm of each seed; each mix chooses its rate on the first seed."""
    made: dict[str, Choice] = {}
    result = []
    for seed in seeds:
        whole = trunk(seed=seed)
        for mix, run in (("control", whole), ("code", code_branch(whole, 24))):
            rule = made.setdefault(mix, choice(run))
            result.append(whole_arm(tuned(run, Chosen(rule)), before=60, mix=mix, trunk_seed=seed))
    return result


def plan_of(study_arms: list[Arm], *, published: Collection[str] = ()) -> Plan:
    return make_plan(
        Study(name="decided", question="?", arms=study_arms),
        throughput=Throughput(CPU_CORE, {}),
        published=lambda ids: {one for one in ids if one in published},
        kept_states=(),
    )


def test_the_stages_of_a_decision():
    plan = plan_of(arms())
    decisions = [stage for stage in plan.stages.values() if stage.kind == "decision"]
    assert len(decisions) == 2  # one for each mix, whatever the number of seeds
    for entry in plan.arms:
        (rule,) = entry.arm.curriculum.choices
        made = plan.stages[rule.id]
        assert rule.id in plan.stages[entry.state].parents
        evaluations = [plan.stages[parent] for parent in made.parents]
        assert [stage.recipe for stage in evaluations] == [
            StateEvaluation(state_id=option.state_id, evaluation=DEV) for option in rule.options
        ]
        for stage in evaluations:
            state = plan.stages[stage.parents[0]]
            assert isinstance(state.recipe, State)
            assert state.recipe.curriculum.start.seed == 0  # the first trunk seed's
    before: set[str] = set()
    for stage in plan.stages.values():
        assert before >= {*stage.parents}, f"{stage.label} comes before a parent"
        before.add(stage.id)


def test_only_what_was_chosen_is_evaluated_on_test():
    plan = plan_of(arms())
    candidates = {option.state_id for one in plan.study.choices for option in one.options}
    splits: dict[bool, set[str]] = {True: set(), False: set()}
    for stage in plan.stages.values():
        if isinstance(stage.recipe, StateEvaluation):
            splits[stage.recipe.state_id in candidates].add(stage.split)
    assert splits == {True: {"dev"}, False: {"test"}}


def test_steps_and_their_bound_count_candidates_once():
    """Three trunks of 60 steps, three branches of 36; 5 steps for each of 6 arms and of 2 × 3 candidates."""
    plan = plan_of(arms())
    assert plan.total_steps == plan.lower_bound_steps == 3 * (60 + 36) + 5 * (6 + 6)
    assert plan.unshared_steps == 6 * (65 + 3 * 65)  # each arm alone would train its own candidates


def test_labels_and_the_plan_say_what_is_chosen():
    plan = plan_of(arms())
    labels = {stage.label for stage in plan.stages.values()}
    assert len(labels) == len(plan.stages)
    assert {label for label in labels if label.startswith("sft, lr chosen by sft_lr")} >= {
        plan.stages[entry.state].label for entry in plan.arms
    }
    # Candidates of two mixes have equal factors here, so the labels fall back on the recipes.
    assert sum(label.startswith("choose sft_lr on pycode dev") for label in labels) == 2
    assert "  choose   sft_lr among 0.0001, 0.001, 0.01: 2 decisions\n" in plan_text(plan)
    assert [one["is_made"] for one in plan_facts(plan)["choices"]] == [False, False]


def test_the_price_of_a_decided_state_is_that_of_a_plain_one():
    """A learning rate does not change how long a step takes."""
    run = trunk()
    plan = plan_of([whole_arm(tuned(run, Chosen(choice(run))), before=60)])
    plain = plan_of([whole_arm(tuned(run, 1e-3), before=60)])
    state, of_plain = (one.stages[one.arms[0].state] for one in (plan, plain))
    assert (state.cost_s, state.disk_bytes, state.num_tokens) == (of_plain.cost_s, of_plain.disk_bytes, of_plain.num_tokens)


def test_plans_without_choices_have_no_decisions():
    run = trunk()
    plan = plan_of([whole_arm(tuned(run, 1e-3), before=60)])
    assert {stage.kind for stage in plan.stages.values()} == {"tokenizer", "tokens", "state", "evaluation"}
    assert "choose" not in plan_text(plan)
    entry = manifest_of(plan, command="").arms[0]
    assert entry.choices == {}
    assert not any(value is None for value in entry.dose.values())


def test_a_dose_is_open_as_long_as_a_rate_is():
    manifest = manifest_of(plan_of(arms()), command="")
    for entry, planned in zip(manifest.arms, plan_of(arms()).arms, strict=True):
        assert entry.choices == {"sft_lr": planned.arm.curriculum.choices[0].id}
        assert set(entry.dose.values()) == {None}
    assert manifest.arms[1].dose.keys() == {"general", "code", "pycode"}


def test_a_manifest_restores_the_stages():
    plan = plan_of(arms())
    restored = stages_of(manifest_of(plan, command=""), lambda stage_id: plan.stages[stage_id].expanded_form)
    assert {one: stage.canonical_form for one, stage in restored.items()} == {
        one: stage.canonical_form for one, stage in plan.stages.items()
    }
    assert all(stage.recipe == plan.stages[one].recipe for one, stage in restored.items() if stage.kind == "decision")


def test_a_finished_decision_needs_no_candidate_that_is_gone():
    plan = plan_of(arms())
    gone = {stage.id for stage in plan.stages.values() if stage.label.startswith("sft at")}
    evaluations = {stage.id for stage in plan.stages.values() if {*stage.parents} & gone and stage.kind == "evaluation"}
    assert (len(gone), len(evaluations)) == (6, 6)
    later = plan_of(arms(), published=plan.stages.keys() - gone)
    assert later.missing == []
    assert later.stages.keys() == plan.stages.keys() - gone - evaluations
    # As long as the decision is not made, they are needed.
    decisions = {stage.id for stage in plan.stages.values() if stage.kind == "decision"}
    before = plan_of(arms(), published=plan.stages.keys() - gone - decisions)
    assert {stage.id for stage in before.missing} == gone | decisions


def test_a_candidate_may_be_an_arm():
    """Then it is trained once, and measured on both splits."""
    run = trunk()
    rule = choice(run)
    plan = plan_of([whole_arm(tuned(run, Chosen(rule)), sft_seed=0), whole_arm(tuned(run, RATES[1]), sft_seed=1)])
    assert plan.total_steps == plan.lower_bound_steps == 60 + 5 * 4
    splits = {stage.split for stage in plan.stages.values() if rule.options[1].state_id in stage.parents}
    assert splits == {"dev", "test"}


def test_a_choice_on_runs_that_were_chosen_themselves():
    """The rate of midtraining is decided first, then that of fine-tuning, on the midtraining that won."""

    def midtrained(lr: Decidable, **changes: Any) -> Curriculum:
        data = Mixture.blend(GENERAL, {CODE: 0.5})
        return trunk(20).then(phase(data, 10, name="midtrain", schedule=Constant(lr=lr), **changes))

    after = Choice.between("mid_lr", {rate: tuned(midtrained(rate), 1e-3).state() for rate in RATES}, evaluation=DEV)
    run = midtrained(Chosen(after))
    final = tuned(run, Chosen(choice(run)))
    plan = plan_of([whole_arm(final, before=30)])
    made = {stage.recipe.name: stage for stage in plan.stages.values() if isinstance(stage.recipe, Choice)}
    order = list(plan.stages)
    assert order.index(made["mid_lr"].id) < order.index(final.state_id(30)) < order.index(made["sft_lr"].id)
    assert {made["mid_lr"].id, made["sft_lr"].id} <= {*plan.stages[plan.arms[0].state].parents}
    # trunk; three candidates and the winner of midtraining; a fine-tuning for each of those three, three more, and the arm's
    assert plan.total_steps == plan.lower_bound_steps == 20 + 10 * 4 + 5 * 7
    assert manifest_of(plan, command="").arms[0].choices.keys() == {"mid_lr", "sft_lr"}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_dose_before_the_decided_phase_is_known(share: float):
    """The state before fine-tuning depends on no choice, so an arm that ends there has its dose in the plan."""
    run = code_branch(trunk(), 30, share) if share else trunk()
    plan = plan_of([whole_arm(run, mix="a"), whole_arm(tuned(run, Chosen(choice(run))), mix="b", before=60)])
    first, second = manifest_of(plan, command="").arms
    assert math.isclose(sum(value for value in first.dose.values() if value is not None), 1.0)
    assert None in second.dose.values()
