"""If a kept state is damaged on disk, training resumes from an earlier intact one with the same result, and warns."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders.changed_studies import fine_tuned_from, with_arms
from builders.releases import write_release
from builders.small_study import make_study, plan_in, small_study

from midstudy.data.release import released_start
from midstudy.execute.stage import StoppedError, execute_stage
from midstudy.files.errors import StoreError
from midstudy.plan.planner import Plan
from midstudy.plan.published import published_states
from midstudy.recipe import Average, Start, Study
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from midstudy.train import checkpoint
from midstudy.train.checkpoint import MANIFEST, MODEL, OPTIMIZER


def flipped(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def damage(store: Store, state: str, file: str = MODEL, how: Callable[[Path], None] = flipped) -> Path:
    """Damage a file of a kept state's checkpoint; return the folder that must be removed."""
    how(store.published_folder(state) / "checkpoint" / file)
    return store.published_folder(state)


TRUNK, CONTROL, CODE = (
    f"{run} seed 0 to step {step}"
    for run, step in (("pretrain nano", 3), ("pretrain nano", 12), ("midtrain nano code50@3", 12))
)
TUNED_CONTROL, TUNED = "sft nano control → code_task, trunk 0, SFT 7", "sft nano code50@3 → code_task, trunk 0, SFT 7"


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    store = Store.open(tmp_path_factory.mktemp("finished") / "store", create=True)
    return store, make_study(store, small_study(text))


@pytest.fixture
def store(finished: tuple[Store, Plan], tmp_path: Path) -> Store:
    return Store.open(Path(shutil.copytree(finished[0].root, tmp_path / "store")))


def stage_of(plan: Plan, label: str) -> Stage:
    return next(stage for stage in plan.stages.values() if stage.label == label)


def execute(store: Store, stage: Stage, should_stop: Callable[[], bool] = lambda: False) -> None:
    execute_stage(
        store, stage.id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer, should_stop=should_stop
    )


def after(num_polls: int) -> Callable[[], bool]:
    """Return a `should_stop` that is true after `num_polls` polls: one before and one within each update."""
    answers: Iterator[bool] = iter([False] * num_polls)
    return lambda: next(answers, True)


def files(store: Store, stage: Stage) -> dict[str, bytes]:
    """Return the published weights and optimizer files."""
    folder = store.published_folder(stage.id) / "checkpoint"
    return {name: (folder / name).read_bytes() for name in (MODEL, OPTIMIZER) if (folder / name).exists()}


@pytest.mark.parametrize("how", [flipped, cut, emptied, missing])
@pytest.mark.parametrize("file", [MODEL, OPTIMIZER, MANIFEST])
def test_if_any_file_of_a_kept_state_is_damaged_training_resumes_before_it(store, finished, caplog, file, how):
    """Step 12 is trained from step 3 of the trunk; no earlier state is kept, so the initial weights are drawn again."""
    whole, plan = finished
    child = stage_of(plan, CODE)
    shutil.rmtree(store.published_folder(child.id))
    folder = damage(store, stage_of(plan, TRUNK).id, file, how)
    execute(store, child)
    assert files(store, child) == files(whole, child)
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.search(rf"{re.escape(file)}: .* Remove {re.escape(str(folder))} and run its study again", warning)
    assert "resumes from step 0 (the first weights); steps 0 to 3 are recomputed" in warning
    metrics, before = (each.record(child.id).metrics for each in (store, whole))
    assert metrics["recomputed_steps"] == 3
    for name in ("num_steps", "num_tokens", "token_shares", "epochs", "resumed_at_step", "train_loss_nats"):
        assert metrics[name] == before[name]


@pytest.mark.parametrize(
    ("child", "damaged", "from_step", "until_step"),
    [
        (CONTROL, [TRUNK], 0, 3),
        (TUNED_CONTROL, [CONTROL], 3, 12),
        (TUNED_CONTROL, [CONTROL, TRUNK], 0, 12),
        (TUNED, [CODE], 3, 12),
        (TUNED, [CODE, TRUNK], 0, 12),  # through two phases with different data
    ],
)
def test_training_resumes_from_the_nearest_intact_earlier_state_with_the_same_bits(
    store, finished, caplog, child, damaged, from_step, until_step
):
    whole, plan = finished
    stage = stage_of(plan, child)
    shutil.rmtree(store.published_folder(stage.id))
    folders = [damage(store, stage_of(plan, label).id) for label in damaged]
    execute(store, stage)
    assert files(store, stage) == files(whole, stage)
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"resumes from step {from_step} (" in warning
    assert f"steps {from_step} to {until_step} are recomputed" in warning
    assert [f"Remove {folder} " in warning for folder in folders] == [True] * len(folders)
    record = store.record(stage.id)
    assert record.metrics["recomputed_steps"] == until_step - from_step
    assert record.metrics["num_steps"] == stage.num_steps
    assert record.parents == whole.record(stage.id).parents


def test_training_does_not_resume_from_a_state_without_its_optimizer(store, finished, caplog):
    """The state of step 3 is intact but has no optimizer, so a phase that continues the optimizer starts before it."""
    whole, plan = finished
    stage, trunk = stage_of(plan, TUNED), stage_of(plan, TRUNK)
    shutil.rmtree(store.published_folder(stage.id))
    damage(store, stage_of(plan, CODE).id)
    record = store.record(trunk.id)
    without = dataclasses.replace(record, metrics={**record.metrics, "has_optimizer": False})
    store.paths.record(trunk.id).write_bytes(without.as_bytes())
    execute(store, stage)
    assert files(store, stage) == files(whole, stage)
    assert "resumes from step 0 " in caplog.text


def test_a_damaged_record_is_harmless_if_the_checkpoint_is_intact(store, finished, caplog):
    whole, plan = finished
    child = stage_of(plan, TUNED)
    shutil.rmtree(store.published_folder(child.id))
    flipped(store.paths.record(stage_of(plan, CODE).id))
    execute(store, child)
    assert files(store, child) == files(whole, child)
    assert store.record(child.id).metrics["recomputed_steps"] == 0


@pytest.mark.parametrize("how", [cut, missing])
def test_a_plan_skips_damaged_states_and_names_them(store, finished, caplog, how):
    _, plan = finished
    code, trunk = stage_of(plan, CODE), stage_of(plan, TRUNK)
    folder = damage(store, code.id, how=how)
    kept = {state.id for state in published_states(store).kept}
    assert trunk.id in kept
    assert code.id not in kept
    assert f"{folder}/checkpoint/{MODEL}: expected " in caplog.text
    assert f"Remove {folder} to make the stage again" in caplog.text


@pytest.mark.parametrize("file", [MODEL, MANIFEST])
def test_a_stage_resumes_from_its_rolling_checkpoint_if_its_start_was_damaged(store, finished, caplog, file):
    whole, plan = finished
    child = stage_of(plan, CODE)
    shutil.rmtree(store.published_folder(child.id))
    with pytest.raises(StoppedError, match="stopped at step 6 of 12"):
        execute(store, child, after(6))
    damage(store, stage_of(plan, TRUNK).id, file, missing)
    execute(store, child)
    assert files(store, child) == files(whole, child)
    metrics = store.record(child.id).metrics
    assert (metrics["resumed_at_step"], metrics["recomputed_steps"]) == (6, 0)


def test_recomputed_steps_are_not_recomputed_again(store, finished, caplog):
    """Stopped at step 7 between step 3 and the damaged step 12; the next attempt resumes at step 7."""
    whole, plan = finished
    child = stage_of(plan, TUNED)
    shutil.rmtree(store.published_folder(child.id))
    damage(store, stage_of(plan, CODE).id)
    with pytest.raises(StoppedError, match="stopped at step 7 of 16"):
        execute(store, child, after(8))
    execute(store, child)
    assert files(store, child) == files(whole, child)
    metrics = store.record(child.id).metrics
    assert (metrics["resumed_at_step"], metrics["recomputed_steps"]) == (7, 9)
    rows = [row["step"] for row in _metrics(store, child)]
    assert rows == [row["step"] for row in _metrics(whole, child)]  # none belong to another stage


def test_a_rolling_checkpoint_before_an_intact_start_is_not_used(store, finished, caplog):
    whole, plan = finished
    child = stage_of(plan, TUNED)
    shutil.rmtree(store.published_folder(child.id))
    start = store.published_folder(stage_of(plan, CODE).id) / "checkpoint" / MODEL
    kept = start.read_bytes()
    flipped(start)
    with pytest.raises(StoppedError, match="stopped at step 7 of 16"):
        execute(store, child, after(8))
    start.write_bytes(kept)  # as if the state had been recomputed
    execute(store, child)
    assert store.record(child.id).metrics["resumed_at_step"] is None
    assert files(store, child) == files(whole, child)


def _metrics(store: Store, stage: Stage) -> list[dict]:
    from midstudy.store.attempt import METRICS_FILE, read_metrics

    return list(read_metrics(store.published_folder(stage.id) / METRICS_FILE))


# -- without a usable earlier state -----------------------------------------------------------------------------------


def released(text: Path, folder: Path) -> Study:
    return small_study(text, start=released_start(str(write_release(folder / "tiny-neox"))))


def averaging(text: Path, folder: Path) -> Study:
    """Average both arms' states of step 12, then fine-tune."""
    study = small_study(text)
    control, code = study.arms
    states = tuple(arm.curriculum.state(12) for arm in (control, code))
    start = Start.averaged(Average(states=states))
    return with_arms(study, control, code, fine_tuned_from(start, control, sft_seed=8))


@pytest.mark.parametrize(
    ("study_of", "damaged", "needs_it"),
    [
        (released, "import tiny-neox", "pretrain nano seed 0 to step 3"),
        (averaging, "midtrain nano code50@3 seed 0 to step 12", "average of 2 states"),
        (averaging, "midtrain nano code50@3 seed 0 to step 12", "evaluate midtrain nano code50@3 seed 0 to step 12 on"),
    ],
    ids=["imported weights", "a state that is averaged", "a state that is evaluated"],
)
def test_a_damaged_parent_is_named_with_a_fix(text, tmp_path, study_of, damaged, needs_it):
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, study_of(text, tmp_path))

    def stage_labelled(label: str) -> Stage:
        return next(stage for stage in plan.stages.values() if stage.label.startswith(label))

    child = stage_labelled(needs_it)
    for stage in plan.stages.values():
        store.request(stage)
        if stage.id == child.id:
            break
        execute(store, stage)
    parent = damage(store, stage_labelled(damaged).id)
    message = rf"{re.escape(MODEL)}: .* Remove {re.escape(str(parent))} and run the study again"
    with pytest.raises(StoreError, match=message):
        execute(store, child)
    assert not store.has(child.id)
    checkpoint.step_of(parent / "checkpoint")  # the manifest of the damaged stage is intact
