"""A decision in a real store: the first record wins, and what was decided trains to the same bits as a plain recipe."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.decided_study import RATES, decided_study
from builders.small_study import make_study, plan_in
from safetensors.numpy import load_file

from midstudy.analysis.tables import arms_table, reproduction
from midstudy.execute import evaluation
from midstudy.execute.stage import StoppedError, execute_stage
from midstudy.files.errors import StoreError
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import ArmStages, Plan
from midstudy.recipe import Choice
from midstudy.recipe.curriculum import State
from midstudy.recipe.decode import decode
from midstudy.recipe.stage import Stage
from midstudy.store.decisions import Decision
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze, load


@pytest.fixture(scope="module")
def made(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    store = Store.open(tmp_path_factory.mktemp("decided") / "store", create=True)
    return store, make_study(store, decided_study(text))


@pytest.fixture
def copy(made: tuple[Store, Plan], tmp_path: Path) -> tuple[Store, Plan]:
    """The finished study in a store of its own."""
    return Store.open(Path(shutil.copytree(made[0].root, tmp_path / "store"))), made[1]


def weights(store: Store, stage_id: str) -> dict[str, bytes]:
    tensors = load_file(store.published_folder(stage_id) / "checkpoint" / "model.safetensors")
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def choice_of(entry: ArmStages) -> Choice:
    (choice,) = entry.arm.curriculum.choices
    return choice


def arm_of(plan: Plan, *, mix: str, seed: int) -> ArmStages:
    return next(entry for entry in plan.arms if entry.arm.factors["mix"] == mix and entry.arm.factors["trunk_seed"] == seed)


def run(store: Store, stage: Stage, should_stop: Callable[[], bool] = lambda: False) -> None:
    execute_stage(
        store, stage.id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer, should_stop=should_stop
    )


def unpublish(store: Store, plan: Plan, *stage_ids: str) -> None:
    for stage_id in stage_ids:
        shutil.rmtree(store.published_folder(stage_id))
        store.request(plan.stages[stage_id])


def publish(store: Store, stage: Stage, metrics: dict[str, Any]) -> bool:
    """Publish a record with these metrics, as an attempt of another driver would."""
    return store.attempt(stage.id).publish(
        kind=stage.kind,
        label=stage.label,
        recipe=stage.expanded_form,
        canonical=stage.canonical_form,
        parents=stage.parents,
        metrics=metrics,
    )


# -- the outcome ------------------------------------------------------------------------------------------------------


def test_the_option_with_the_lowest_loss_on_dev_is_chosen(made: tuple[Store, Plan]):
    store, plan = made
    for entry in plan.arms:
        choice = choice_of(entry)
        record = store.record(choice.id)
        losses = [store.record(parent).metrics["loss_nats"] for parent in record.parents]
        best = losses.index(min(losses))
        assert record.metrics == {
            "name": "sft_peak_lr",
            "chosen": RATES[best],
            "metric": "loss_nats",
            "rule": "lowest",
            "judged_on": "code_task dev",
            "options": [
                {
                    "value": option.value,
                    "state": option.state_id,
                    "evaluation": parent,
                    "measured": loss,
                    "margin": loss - min(losses),
                }
                for option, parent, loss in zip(choice.options, record.parents, losses, strict=True)
            ],
        }


def test_the_decided_state_of_the_first_seed_is_the_winning_candidate_to_the_bit(made: tuple[Store, Plan]):
    store, plan = made
    for mix in ("control", "code"):
        entry = arm_of(plan, mix=mix, seed=0)
        chosen = Decision.of(store.record(choice_of(entry).id)).chosen
        for option in choice_of(entry).options:
            same = weights(store, entry.state) == weights(store, option.state_id)
            assert same == (option.value == chosen)
        assert entry.state not in {option.state_id for option in choice_of(entry).options}


def test_decided_states_of_all_seeds_equal_those_of_the_plain_study(made: tuple[Store, Plan], copy, text: Path):
    """The same study with the chosen rates written as numbers: same weights and losses, other ids."""
    store, plan = made
    (chosen,) = {Decision.of(store.record(choice_of(entry).id)).chosen for entry in plan.arms}
    plain = make_study(copy[0], decided_study(text, rates=(chosen,)))
    for decided, of_plain in zip(plan.arms, plain.arms, strict=True):
        assert weights(store, decided.state) == weights(copy[0], of_plain.state)
        assert decided.state != of_plain.state
        losses = [
            [store_.record(entry.measures[column][0]).metrics["loss_nats"] for column in ("sft_loss", "general_loss")]
            for store_, entry in ((store, decided), (copy[0], of_plain))
        ]
        assert losses[0] == losses[1]


def test_the_record_of_a_decided_state_holds_the_outcome_under_the_same_id(made: tuple[Store, Plan]):
    store, plan = made
    entry = arm_of(plan, mix="code", seed=1)
    record = store.record(entry.state)
    state: State = decode(record.recipe)
    chosen = Decision.of(store.record(choice_of(entry).id)).chosen
    assert state.id == entry.state
    assert state.curriculum.curve.lr(13) == chosen  # the end of the warmup of one step
    assert choice_of(entry).id in record.parents
    store.verify(plan.stages[entry.state])


def test_the_tables_show_the_outcome_and_the_dose_of_the_plain_study(made: tuple[Store, Plan], copy, text: Path):
    store, plan = made
    table = arms_table(store, load(store, "decided"))
    chosen = [Decision.of(store.record(choice_of(entry).id)).chosen for entry in plan.arms]
    assert table["chosen:sft_peak_lr"].tolist() == chosen
    plain = plan_in(copy[0], decided_study(text, rates=(chosen[0],)))
    assert len(set(chosen)) == 1
    doses = [entry.dose for entry in manifest_of(plain, command="").arms]
    for row, dose in enumerate(doses):
        for name, value in dose.items():
            assert table[f"dose:{name}"][row] == pytest.approx(value)
    assert [made_["chosen"] for made_ in reproduction(store, load(store, "decided"))["decisions"]] == [chosen[0], chosen[1]]


def test_an_open_choice_is_missing_in_the_tables(text: Path, tmp_path: Path):
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, decided_study(text))
    for stage in plan.missing:
        store.request(stage)
    freeze(store, manifest_of(plan, command=""))
    table = arms_table(store, load(store, "decided"))
    assert table[["chosen:sft_peak_lr", "dose:general", "dose:code_task"]].isna().all(axis=None)
    assert reproduction(store, load(store, "decided"))["decisions"] == []


# -- faults -----------------------------------------------------------------------------------------------------------


def test_the_first_record_wins_when_two_drivers_race(copy: tuple[Store, Plan]):
    """The other driver's decision, published first, stands even if it differs, and later stages train with it."""
    store, plan = copy
    entry = arm_of(plan, mix="code", seed=0)
    choice = choice_of(entry)
    computed = store.record(choice.id).metrics
    loser = next(option for option in choice.options if option.value != computed["chosen"])
    unpublish(store, plan, choice.id, entry.state)
    mine = store.attempt(choice.id)
    assert publish(store, plan.stages[choice.id], {**computed, "chosen": loser.value})
    stage = plan.stages[choice.id]
    assert not mine.publish(
        kind=stage.kind,
        label=stage.label,
        recipe=stage.expanded_form,
        canonical=stage.canonical_form,
        parents=stage.parents,
        metrics=computed,
    )
    run(store, stage)  # finished: left as it is
    assert store.record(choice.id).metrics["chosen"] == loser.value
    run(store, plan.stages[entry.state])
    assert weights(store, entry.state) == weights(store, loser.state_id)


@pytest.mark.parametrize("polls", [2, 4, 6])
def test_an_interrupted_decided_state_resumes_to_the_same_bits(copy: tuple[Store, Plan], polls: int):
    store, plan = copy
    entry = arm_of(plan, mix="code", seed=1)
    whole = weights(store, entry.state)
    unpublish(store, plan, entry.state)
    left = iter(range(polls))
    with pytest.raises(StoppedError, match=r"stopped at step 1[2-5] of 16"):
        run(store, plan.stages[entry.state], should_stop=lambda: next(left, None) is None)
    assert not store.has(entry.state)
    run(store, plan.stages[entry.state])
    assert weights(store, entry.state) == whole


def test_a_state_is_not_trained_before_its_decision(copy: tuple[Store, Plan]):
    store, plan = copy
    entry = arm_of(plan, mix="code", seed=1)
    choice = choice_of(entry)
    unpublish(store, plan, choice.id, entry.state)
    with pytest.raises(StoreError, match=rf"stage {choice.id}: required, since it chooses sft_peak_lr, but not finished"):
        run(store, plan.stages[entry.state])


@pytest.mark.parametrize("how", ["missing", "edited"])
def test_a_decision_without_an_intact_candidate_is_refused_by_name(copy: tuple[Store, Plan], how: str):
    store, plan = copy
    choice = choice_of(arm_of(plan, mix="code", seed=0))
    unpublish(store, plan, choice.id)
    evaluation_id = plan.stages[choice.id].parents[1]
    if how == "missing":
        unpublish(store, plan, evaluation_id)
        problem = "required, but not finished"
    else:
        path = store.paths.record(evaluation_id)
        text = path.read_text("utf-8")
        path.write_text(text.replace('"loss_nats": ', '"loss_nats": 1'), "utf-8")
        problem = "was changed after it was written"
    expected = rf"choice sft_peak_lr: the candidate {RATES[1]:g} \(state {choice.options[1].state_id}\): .*{problem}"
    with pytest.raises(StoreError, match=expected):
        run(store, plan.stages[choice.id])
    assert not store.has(choice.id)


def diverged(monkeypatch: pytest.MonkeyPatch, *state_ids: str) -> None:
    """Let evaluations of these states find a loss that is not a number."""
    evaluate = evaluation.evaluate_state

    def evaluate_state(recipe: Any, *, checkpoint: Path, **more: Any) -> dict[str, Any]:
        metrics = evaluate(recipe, checkpoint=checkpoint, **more)
        return metrics | ({"loss_nats": math.nan} if any(one in str(checkpoint) for one in state_ids) else {})

    monkeypatch.setattr(evaluation, "evaluate_state", evaluate_state)


def test_a_candidate_whose_loss_is_not_a_number_is_never_chosen(copy: tuple[Store, Plan], monkeypatch: pytest.MonkeyPatch):
    store, plan = copy
    entry = arm_of(plan, mix="code", seed=0)
    choice = choice_of(entry)
    (best,) = (index for index, rate in enumerate(RATES) if rate == store.record(choice.id).metrics["chosen"])
    bad = plan.stages[choice.id].parents[best]
    unpublish(store, plan, choice.id, bad)
    diverged(monkeypatch, choice.options[best].state_id)
    run(store, plan.stages[bad])
    assert store.record(bad).metrics["not_finite"] == {"loss_nats": "nan"}
    run(store, plan.stages[choice.id])
    record = store.record(choice.id)
    assert record.metrics["chosen"] == RATES[1 - best]
    assert (record.metrics["options"][best]["measured"], record.metrics["options"][best]["margin"]) == (None, None)
    assert f"({RATES[best]:g}: not finite)" in Decision.of(record).sentence


def test_a_decision_without_a_finite_candidate_fails_by_name(copy: tuple[Store, Plan], monkeypatch: pytest.MonkeyPatch):
    store, plan = copy
    choice = choice_of(arm_of(plan, mix="code", seed=0))
    evaluations = plan.stages[choice.id].parents
    unpublish(store, plan, choice.id, *evaluations)
    diverged(monkeypatch, *(option.state_id for option in choice.options))
    for evaluation_id in evaluations:
        run(store, plan.stages[evaluation_id])
    with pytest.raises(
        ValueError, match=r"choice sft_peak_lr: expected a finite loss_nats on code_task dev for at least one"
    ):
        run(store, plan.stages[choice.id])
    assert not store.has(choice.id)
