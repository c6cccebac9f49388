"""Studies that compare states: from training to the table of arms, interrupted, cleaned and exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from builders.comparing_study import comparing_study
from builders.small_study import make_study, plan_in

from midstudy.analysis.tables import arms_table
from midstudy.cli.main import main
from midstudy.evaluate.sequences import SEQUENCES_PER_BATCH
from midstudy.execute.stage import StoppedError, execute_stage
from midstudy.execute.state import CHECKPOINT_FOLDER
from midstudy.files.errors import StoreError
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import Plan
from midstudy.recipe import Arm, RepresentationSimilarity, Study
from midstudy.recipe.representation import CKA_FILE
from midstudy.recipe.stage import Stage
from midstudy.store.retention import survey
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze


def comparison_of(plan: Plan, row: int = 0) -> Stage:
    return plan.stages[plan.arms[row].measures["last_layer_cka"][0]]


def make(store: Store, stage: Stage, should_stop: Callable[[], bool] = lambda: False) -> None:
    execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=should_stop)


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    store = Store.open(tmp_path_factory.mktemp("finished") / "store", create=True)
    return store, make_study(store, comparing_study(text))


def test_the_table_of_arms_holds_the_summary_of_the_published_matrix(finished: tuple[Store, Plan]) -> None:
    store, plan = finished
    arms = arms_table(store, manifest_of(plan, command=""))
    for row in range(len(plan.arms)):
        stage = comparison_of(plan, row)
        matrix = pd.read_parquet(store.published_folder(stage.id) / CKA_FILE)
        assert matrix[["layer_a", "layer_b"]].to_numpy().tolist() == [[a, b] for a in range(3) for b in range(3)]
        diagonal = matrix.loc[matrix["layer_a"] == matrix["layer_b"], "cka"]
        assert arms["mean_diagonal_cka"][row] == pytest.approx(diagonal.mean())
        assert arms["last_layer_cka"][row] == diagonal.iloc[-1]
        assert 0.3 < diagonal.min() < diagonal.max() < 1
        assert arms["layer_distortion"][row] > 0
        record = store.record(stage.id)
        assert record.files.keys() == {CKA_FILE}
        assert record.parents == stage.parents


def test_an_interrupted_comparison_publishes_nothing_and_ends_with_the_same_numbers(text: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    study = comparing_study(text, max_sequences=2 * SEQUENCES_PER_BATCH)
    plan = plan_in(store, study)
    freeze(store, manifest_of(plan, command=""))
    comparisons = {comparison_of(plan, row).id for row in range(len(plan.arms))}
    for stage in plan.stages.values():
        store.request(stage)
        if stage.id not in comparisons:
            execute_stage(
                store,
                stage.id,
                start_from=stage.start_from,
                keeps_optimizer=stage.keeps_optimizer,
                should_stop=lambda: False,
            )
    stage = comparison_of(plan)
    with pytest.raises(StoppedError, match="the next attempt evaluates from the beginning"):
        make(store, stage, should_stop=lambda: True)
    assert not store.has(stage.id)
    assert store.previous_attempts(stage.id) == []
    make(store, stage)
    again = Store.open(tmp_path / "again", create=True)
    make_study(again, study)
    assert store.record(stage.id).metrics == again.record(stage.id).metrics
    assert store.record(stage.id).files == again.record(stage.id).files


@pytest.mark.parametrize("which", [0, -1], ids=["the state", "the other state"])
def test_a_damaged_checkpoint_of_either_state_is_named(which: int, text: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, comparing_study(text))
    stage = comparison_of(plan)
    make_study(store, comparing_study(text), until=plan.stages[stage.parents[0]].label)
    store.request(stage)
    damaged = store.published_folder(stage.parents[which])
    weights = damaged / CHECKPOINT_FOLDER / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match=rf"Remove {damaged} and run the study again"):
        make(store, stage)


def test_a_state_that_only_a_comparison_needs_is_made_and_kept_before_and_after_it(text: Path, tmp_path: Path) -> None:
    control, code = comparing_study(text).arms
    evaluation = code.measures["last_layer_cka"].evaluation
    assert isinstance(evaluation, RepresentationSimilarity)
    against_control = replace(evaluation, other=control.measures["sft_loss_before"].all_states[0])
    measure = replace(code.measures["last_layer_cka"], evaluation=against_control)
    arm = Arm(curriculum=code.curriculum, measures={"last_layer_cka": measure})
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, Study(name="alone", question="?", arms=[arm]))
    stage = comparison_of(plan)
    state, other = stage.parents[0], stage.parents[-1]
    last_but_one = [planned.label for planned in plan.stages.values() if planned.id != stage.id][-1]
    make_study(store, plan.study, until=last_but_one)
    assert (store.has(other), store.has(stage.id)) == (True, False)
    store.request(stage)
    for _ in range(2):
        retained = survey(store, live_stages=(), resume_point=lambda attempts: None, unreferenced=True)
        assert retained.free == []
        kept = {item.stage: f"{item.reason}; {item.detail}" for item in retained.kept}
        assert "evaluated 1 time" in kept[state]
        assert "evaluated 1 time" in kept[other]
        make(store, stage)


def test_an_exported_state_shows_its_losses_only(finished: tuple[Store, Plan], tmp_path: Path) -> None:
    store, plan = finished
    before = comparison_of(plan).parents[-1]
    arguments = ["export", before, "--to", "hf", "--output", str(tmp_path / "model"), "--store", str(store.root)]
    assert main(arguments) == 0
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    losses = [store.record(plan.arms[0].measures[name][0]) for name in ("sft_loss_before", "general_loss_before")]
    assert [loss for loss in losses if f"{loss.metrics['loss_nats']:.4f}"[:5] not in card] == []
