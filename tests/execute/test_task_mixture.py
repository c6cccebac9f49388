"""A phase on a mixture of tasks in the store: its packing, what it reads and leaves out, and its exact resumption."""

from __future__ import annotations

import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.chat_study import write_chat
from builders.places import PYTHONPATH
from builders.small_study import plan_in, write_split, write_text
from builders.task_mixture_study import task_mixture_study
from execute.test_interrupted import Victim, assert_same, submit, wait

from midstudy.analysis.tables import cost_summary
from midstudy.data.batch import IGNORED
from midstudy.data.batches import Batches
from midstudy.data.packed_rows import read_counts, read_packed
from midstudy.data.tokens import TokenizedSplit, read_split
from midstudy.execute.stage import execute_stage
from midstudy.launch.local import LocalLauncher
from midstudy.plan.dose import dose, items_drawn, tokens_drawn
from midstudy.plan.left_out import left_out_of
from midstudy.plan.manifest import manifest_of
from midstudy.plan.packed import counts_in
from midstudy.plan.phases import phases_of
from midstudy.plan.planner import Plan
from midstudy.plan.steps_of import StepsOf
from midstudy.plan.summary import plan_text
from midstudy.recipe import Packing, RecipeError, Study
from midstudy.recipe.canonical import identify
from midstudy.recipe.data import TokenizedData
from midstudy.recipe.stage import stage_id
from midstudy.run.study import plan_study
from midstudy.store.store import Store
from midstudy.train import divergence
from midstudy.train.divergence import DivergedError
from midstudy.train.engine import TrainingRun

DATA = ("tokenizer", "tokens", "packing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    write_text(folder)
    write_chat(folder)
    return folder


def run_stages(store: Store, plan: Plan, kinds: tuple[str, ...]) -> None:
    for stage in plan.missing:
        if stage.kind in kinds:
            store.request(stage)
            execute_stage(
                store,
                stage.id,
                start_from=stage.start_from,
                keeps_optimizer=stage.keeps_optimizer,
                should_stop=lambda: False,
            )


def resolved(store: Store, folder: Path, **changes: Any) -> tuple[Study, Plan, Packing]:
    """Make the data stages of the study; return the study with exact lengths, its plan and its packing."""
    counts_of = counts_in(store)
    plan = plan_in(store, task_mixture_study(folder, StepsOf(counts_of), **changes))
    run_stages(store, plan, DATA)
    study = task_mixture_study(folder, StepsOf(counts_of), **changes)
    plan = plan_in(store, study)
    curriculum = study.arms[0].curriculum
    return study, plan, Packing.of(curriculum.stretches[-1].phase, curriculum.start.tokenizer)


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Study, Plan, Packing]:
    store = Store.open(tmp_path_factory.mktemp("store") / "store", create=True)
    study, plan, packing = resolved(store, folder)
    run_stages(store, plan, ("state", "evaluation"))
    return store, study, plan, packing


def splits_of(store: Store, packing: Packing) -> list[TokenizedSplit]:
    return [read_split(store.published_folder(stage_id(one)), "train") for one in packing.tokenized]


def test_the_packing_is_planned_after_the_tokens_and_before_the_training(made: tuple[Store, Study, Plan, Packing]) -> None:
    _, study, plan, packing = made
    state = plan.stages[study.arms[0].final_state.id]
    stage = plan.stages[packing.id]
    assert (stage.kind, stage.role) == ("packing", "data")
    assert stage.label == "packing chat + words ×2 (shuffled, packing stream)"
    assert set(stage.parents) == {stage_id(one) for one in packing.tokenized}
    assert set(state.parents) > {packing.id, *stage.parents}
    assert (state.role, state.keeps_optimizer) == ("midtrain", True)
    order = list(plan.stages)
    assert max(map(order.index, stage.parents)) < order.index(packing.id) < order.index(state.id)
    tuned = plan_in(Store(Path("nowhere")), task_mixture_study(Path(source_folder(packing)), StepsOf(), packing="rows"))
    assert {stage.role for stage in tuned.stages.values() if stage.kind == "state"} == {"pretrain", "sft"}
    assert not tuned.stages[tuned.arms[0].state].keeps_optimizer  # as after fine-tuning on a task


def source_folder(packing: Packing) -> str:
    return str(Path(packing.mixture.tasks[0].source.location).parents[1])


def test_the_record_has_the_tokens_and_items_of_every_task(made: tuple[Store, Study, Plan, Packing]) -> None:
    store, study, plan, packing = made
    metrics = store.record(packing.id).metrics
    splits = splits_of(store, packing)
    assert metrics["packed_steps"] == study.arms[0].curriculum.stretches[-1].phase.num_steps
    num_inputs = metrics["packed_steps"] * 4 * 32
    assert sum(metrics["packed_tokens"].values()) == num_inputs  # a stream has no padding
    assert metrics["padding_share"] == 0
    sizes = {"chat": splits[0].num_documents, "words": 2 * splits[1].num_documents}
    for name, number in metrics["packed_items"].items():
        left = metrics["left_out"][f"train {name}"]
        assert number == left["used"] == sizes[name] - left.get("past_last_batch", 0)
    all_tokens = len(splits[0].tokens) + 2 * len(splits[1].tokens)
    assert 0 <= all_tokens - metrics["packed_steps"] * (4 * 32 + 1) < 4 * 32 + 1
    assert 0 < metrics["largest_gap"] < 0.1
    found = left_out_of(store, plan.stages).tallies
    tallies = {tally.data: tally for tally in found if tally.use == "packing"}
    assert set(tallies) == {"chat", "words"}
    assert tallies["words"].used == metrics["packed_items"]["words"]
    assert not any(tally.use == "training" and tally.data in tallies for tally in found)  # items are not cut one by one
    assert "seen     of the tasks' target tokens: chat 99.2 % within 32" in plan_text(
        replace(plan, left_out=left_out_of(store, plan.stages))
    )


def test_the_state_and_the_plan_account_for_what_was_read(made: tuple[Store, Study, Plan, Packing]) -> None:
    store, study, plan, packing = made
    arm, counts = study.arms[0], read_counts(store.published_folder(packing.id), packing.mixture)
    metrics = store.record(arm.final_state.id).metrics
    read = store.record(packing.id).metrics
    total = sum(read["packed_tokens"].values())
    assert metrics["token_shares"] == pytest.approx({name: number / total for name, number in read["packed_tokens"].items()})
    assert metrics["epochs"]["words"] == pytest.approx(2, abs=0.05)
    assert metrics["epochs"]["chat"] == pytest.approx(1, abs=0.05)
    curriculum, of = arm.curriculum, plan.counts_of
    assert items_drawn(curriculum, of) == read["packed_items"]
    assert tokens_drawn(curriculum, of) == {"general": 4 * 4 * 32, **read["packed_tokens"]}
    rates = np.array([curriculum.curve.lr(step) for step in range(curriculum.num_steps)])
    steps = np.diff(counts.tokens, axis=0)
    by_hand = (rates[4:, None] * steps / steps.sum(axis=1, keepdims=True)).sum(axis=0) / rates.sum()
    found = dose(curriculum, of)
    assert [found["chat"], found["words"]] == pytest.approx(by_hand.tolist())
    assert sum(value or 0.0 for value in found.values()) == pytest.approx(1)
    cost = cost_summary(store, manifest_of(plan, command=""))
    assert (cost["useful_steps"], cost["num_tokens"]) == (plan.total_steps, plan.total_steps * 4 * 32)
    assert phases_of(curriculum, of)[-1].shares == pytest.approx(metrics["token_shares"])


def test_a_sequence_is_kept_in_pieces_with_their_own_shares(folder: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    study, plan, _ = resolved(store, folder, order="sequential")
    entries = phases_of(study.arms[0].curriculum, plan.counts_of)[1:]
    assert entries[0].shares == {"chat": 1.0, "words": 0.0}
    assert entries[-1].shares == {"chat": 0.0, "words": 1.0}
    assert entries[-1].stop_step == study.arms[0].curriculum.num_steps


@pytest.mark.parametrize("order", ["shuffled", "sequential"])
def test_only_a_sequence_of_tasks_may_rise_above_its_lowest_loss(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(divergence, "RISE_NATS", -100.0)  # any loss but a new minimum is then a rise
    monkeypatch.setattr(divergence, "WINDOW_UPDATES", 2)
    store = Store.open(tmp_path / "store", create=True)
    _, plan, _ = resolved(store, folder, order=order)
    trained = nullcontext() if order == "sequential" else pytest.raises(DivergedError, match="above its minimum")
    with trained:
        run_stages(store, plan, ("state",))


def test_a_phase_longer_than_its_epochs_is_rejected_once_their_length_is_known(folder: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    study, _, packing = resolved(store, folder)
    steps_of = StepsOf(counts_in(store))
    exact = steps_of(packing)

    class Longer(StepsOf):
        def __call__(self, packing: Packing) -> int:
            return super().__call__(packing) + 1

    longer = task_mixture_study(folder, Longer(counts_in(store)))
    with pytest.raises(RecipeError, match=rf"phases\.mid\.num_steps: expected at most {exact}, .* got {exact + 1}\. Let"):
        plan_study(longer, store)
    assert study.arms[0].curriculum.num_steps == 4 + exact


def test_too_few_items_for_a_batch_are_an_error(folder: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, task_mixture_study(folder, StepsOf(), num_sequences=400, seq_len=64))
    with pytest.raises(
        ValueError, match=r"packing of chat \+ words ×2: expected items that fill a batch of 400 × 64 tokens"
    ):
        run_stages(store, plan, DATA)


def test_items_longer_than_a_row_are_counted_as_cut(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "text"
    shutil.copytree(folder, other)
    rows = [{"question": "time " * 3, "answer": " year" * (60 if number % 4 == 0 else 2)} for number in range(80)]
    write_split(other / "sft" / "general", "train", rows)
    store = Store.open(tmp_path / "store", create=True)
    _, _, packing = resolved(store, other, packing="best_fit")
    metrics = store.record(packing.id).metrics
    left = metrics["left_out"]["train words"]
    assert left["num_cut"] == 2 * 20
    assert left["target_tokens_seen"] < left["target_tokens"]
    assert 0 < metrics["padding_share"] < 1


def test_the_documents_of_a_step_are_named(made: tuple[Store, Study, Plan, Packing]) -> None:
    store, study, _, packing = made
    curriculum = study.arms[0].curriculum
    splits = {identify(one.data): split for one, split in zip(packing.tokenized, splits_of(store, packing), strict=True)}
    batches = Batches(curriculum, splits, {packing.id: read_packed(store.published_folder(packing.id))})
    text = batches.text_at(4 + 10)
    assert text.startswith("chat train, items ")
    assert "; words train, items " in text
    batch = batches(4 + 10)
    assert batch.input_ids.shape == (4, 32)
    assert (batch.targets != IGNORED).all()


def test_a_run_resumed_at_any_step_has_the_same_bits(made: tuple[Store, Study, Plan, Packing], tmp_path: Path) -> None:
    store, study, _, packing = made
    curriculum = study.arms[0].curriculum.until(24)
    general = TokenizedData(data=curriculum.stretches[0].phase.datasets[0], tokenizer=packing.tokenizer)
    splits = {identify(one.data): read_split(store.published_folder(stage_id(one)), "train") for one in packing.tokenized}
    splits[identify(general.data)] = read_split(store.published_folder(stage_id(general)), "train")
    packings = {packing.id: read_packed(store.published_folder(packing.id))}
    ends = []
    for cuts in ((), (9, 17)):
        run = TrainingRun.begin(curriculum.start, precision="fp32")
        for stop in (*cuts, 24):
            batches = Batches(curriculum, splits, packings)
            run.advance(curriculum, to_step=stop, batch_at=batches, on_metrics=lambda metrics: None)
            run.save(tmp_path / f"{len(cuts)}-{stop}", with_optimizer=True)
            run = TrainingRun.load(tmp_path / f"{len(cuts)}-{stop}")
        ends.append({name: weights.detach().clone() for name, weights in run.model.named_parameters()})
    assert all(torch.equal(weights, ends[1][name]) for name, weights in ends[0].items())


@pytest.mark.slow
@pytest.mark.timeout(1800)  # three minutes on two idle cores, most of it importing torch in each job
def test_an_epoch_killed_25_times_ends_bit_for_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    text = tmp_path / "text"
    shutil.copytree(folder, text)
    calm, store = (Store.open(tmp_path / name / "store", create=True) for name in ("calm", "killed"))
    study, plan, packing = resolved(calm, text, repeats=8)
    trained = [stage for stage in plan.missing if stage.kind == "state"]
    launcher = LocalLauncher(calm)
    wait(calm, launcher, submit(calm, launcher, *trained))
    base, held, end = trained  # an epoch has a kept state where its hold ends
    assert held.num_steps + end.num_steps == calm.record(packing.id).metrics["packed_steps"]
    for stage in plan.stages.values():
        if stage.kind in DATA or stage is base:
            shutil.copytree(calm.paths.stage(stage.id), store.paths.stage(stage.id))
    num_kills = 0
    for seed, (stage, number) in enumerate(((held, 16), (end, 12))):
        num_kills += KilledVictim(store, stage, entry="every_step", seed=seed).make(number)["SIGKILL"]
    assert num_kills >= 25
    again = task_mixture_study(text, StepsOf(counts_in(store)), repeats=8)
    assert again.arms[0].final_state.id == end.id == study.arms[0].final_state.id  # the lengths come from the store
    for stage in (held, end):
        assert_same(store, calm, stage, stage.label)


class KilledVictim(Victim):
    """A victim that only SIGKILL interrupts."""

    def interrupt(self, number: signal.Signals, *, at_step: int | None, within_s: float) -> None:
        super().interrupt(signal.SIGKILL, at_step=at_step, within_s=within_s)
