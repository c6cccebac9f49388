"""A comparison of two states depends on both, is priced by both, and brings the other state's run into the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from builders.small_recipes import CODE, GENERAL, PYCODE, arm, code_branch, trunk

from midstudy.plan.cost import EVALUATION_S, Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import Plan, make_plan
from midstudy.recipe import Arm, Evaluation, Measure, RecipeError, RepresentationSimilarity, State, Study
from midstudy.recipe.stage import Stage

RATES = Throughput(CPU_CORE, {("nano", "fp32"): 1e9})


def compared(arm: Arm, other: State, *, state: State | None = None, column: str = "cka") -> Arm:
    """Return the arm with a comparison of its final state, or another one, with `other`."""
    evaluation = RepresentationSimilarity(
        data=PYCODE, split="test", seq_len=64, max_sequences=8, examples="sequences", other=other
    )
    measure = Measure(state=state or arm.final_state, evaluation=evaluation, metric="mean_diagonal_cka", better="higher")
    return Arm(curriculum=arm.curriculum, measures={**arm.measures, column: measure})


def plan_of(arms: Iterable[Arm], *, published: Iterable[str] = ()) -> Plan:
    done = set(published)
    study = Study(name="small", question="?", arms=tuple(arms))
    return make_plan(study, throughput=RATES, published=lambda ids: {one for one in ids if one in done}, kept_states=())


def comparison_in(plan: Plan, row: int = 0) -> Stage:
    (stage_id,) = plan.arms[row].measures["cka"]
    return plan.stages[stage_id]


def test_both_states_are_parents_and_come_first() -> None:
    tuned = arm(trunk())
    plan = plan_of([compared(tuned, trunk().state())])
    stage = comparison_in(plan)
    before, after = trunk().state().id, tuned.final_state.id
    assert {before, after} < {*stage.parents}
    assert stage.parents[0] == after, "the evaluated state comes first: views show the evaluation under it"
    places = list(plan.stages)
    assert max(places.index(parent) for parent in stage.parents) < places.index(stage.id)
    assert plan.total_steps == plan.lower_bound_steps == 65
    assert stage.label == f"compare {plan.stages[after].label} with {plan.stages[before].label} on pycode test"
    assert len({other.label for other in plan.stages.values()}) == len(plan.stages)


def test_the_price_counts_both_forward_passes() -> None:
    plan = plan_of([compared(arm(trunk()), trunk().state())])
    stage = comparison_in(plan)
    loss = Evaluation(data=PYCODE, split="test", loss="all_tokens", seq_len=64, max_sequences=8)
    model = trunk().start.model
    one_model_s = RATES.evaluation_s(model, "fp32", loss)
    assert one_model_s > 1.01 * EVALUATION_S
    assert stage.cost_s == pytest.approx(2 * one_model_s)


def test_a_state_inside_a_phase_of_another_arm_is_kept_for_the_comparison() -> None:
    control, mixed = arm(trunk()), arm(code_branch(trunk(), 30), mix="code", weight=0.2, start_step=30)
    plan = plan_of([control, compared(mixed, trunk().state(45))])
    assert trunk().state(45).id in plan.stages
    assert plan.total_steps == plan.lower_bound_steps == 60 + 30 + 2 * 5


def test_a_state_that_no_arm_makes_is_trained_unless_it_is_finished() -> None:
    other = trunk(40, seed=9).state()
    arms = [compared(arm(trunk()), other)]
    plan = plan_of(arms)
    assert plan.missing_steps == plan.lower_bound_steps == 40 + 65
    assert plan_of(arms, published=[other.id]).missing_steps == 65
    assert {"general", "pycode"} <= manifest_of(plan, command="").sources.keys()


def test_the_corpora_of_a_run_that_only_a_comparison_needs_are_sources_of_the_study() -> None:
    plan = plan_of([compared(arm(trunk()), code_branch(trunk(), 30).state())])
    assert CODE.name in manifest_of(plan, command="").sources
    assert GENERAL.name in manifest_of(plan, command="").sources


def test_a_comparison_added_later_needs_no_training_and_moves_no_id() -> None:
    tuned = arm(trunk())
    first = plan_of([tuned])
    second = plan_of([compared(tuned, trunk().state())], published=first.stages)
    assert [stage.role for stage in second.missing] == ["evaluation"]
    assert {*first.stages} < {*second.stages}


def test_metrics_of_one_comparison_are_one_stage() -> None:
    tuned = compared(arm(trunk()), trunk().state())
    changed: Mapping[str, Any] = {**vars(tuned.measures["cka"]), "metric": "layer_distortion", "better": "lower"}
    both = Arm(curriculum=tuned.curriculum, measures={**tuned.measures, "distortion": Measure(**changed)})
    measures = plan_of([both]).arms[0].measures
    assert measures["cka"] == measures["distortion"]


def test_random_weights_cannot_be_compared() -> None:
    with pytest.raises(RecipeError, match=r"measures\.cka\.state: expected a state after at least one step"):
        plan_of([compared(arm(trunk()), trunk().state(0))])


def test_the_left_out_data_of_a_comparison_are_counted() -> None:
    plan = plan_of([compared(arm(trunk()), trunk().state())])
    tokens = next(parent for parent in comparison_in(plan).parents if plan.stages[parent].kind == "tokens")
    uses = [use for use in manifest_of(plan, command="").uses if use.tokens == tokens and use.use == "evaluation"]
    assert [(use.split, use.max_sequences, use.target_only) for use in uses] == [("test", 8, False)]
