"""Real stages: exact results, published once, and only from the requested recipe and inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.changed_studies import measured_like, state_before_sft, with_arms
from builders.small_study import exchange_two_ids, make_study, plan_in, small_study, write_split, write_text
from safetensors.numpy import load_file

from midstudy.data.batches import Batches
from midstudy.evaluate import model_cache
from midstudy.execute.stage import StoppedError, execute_stage
from midstudy.files.errors import RecipeMismatchError, StoreError
from midstudy.plan.planner import Plan
from midstudy.recipe import Constant, Mixture, MixtureRamp, Study, WarmupStableDecay, factors, versions
from midstudy.store.attempt import Attempt
from midstudy.store.store import Store
from midstudy.train.divergence import DivergedError
from midstudy.train.placement import Placement
from midstudy.train.precision import Weights


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    store = Store.open(tmp_path_factory.mktemp("finished") / "store", create=True)
    return store, make_study(store, small_study(text))


def published_bytes(store: Store) -> dict[str, str]:
    """Return the SHA-256 of every published file."""
    return {
        f"{stage_id}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for stage_id in store.stage_ids()
        for path in sorted(store.published_folder(stage_id).rglob("*"))
        if path.is_file()
    }


def weights(store: Store, stage_id: str) -> dict[str, bytes]:
    tensors = load_file(store.published_folder(stage_id) / "checkpoint" / "model.safetensors")
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def test_the_records_of_a_study_have_the_right_metrics(finished: tuple[Store, Plan]):
    store, plan = finished
    assert store.published(plan.stages) == set(plan.stages)
    steps = sum(record.metrics.get("num_steps", 0) for record in store.records(plan.stages).values())
    assert steps == plan.total_steps == plan.lower_bound_steps
    shares = store.record(state_before_sft(plan.arms[1])).metrics["token_shares"]
    assert shares == {"general": 30 / 48, "code": 18 / 48}  # half of the 36 sequences after step 3
    for entry in plan.arms:
        loss = store.record(entry.measures["sft_loss"][0]).metrics
        assert loss["target_tokens"] > 0
        assert 0 < loss["loss_nats"] < 10
        before = store.record(entry.measures["sft_loss_before"][0]).metrics["loss_nats"]
        assert loss["loss_nats"] < before  # four steps of fine-tuning reduce it


@pytest.mark.parametrize(
    "changes",
    [
        {"starts": (3, 7)},
        {"tasks": ("code_task", "word_task")},
        {"test_items": 24},
    ],
    ids=["a start step", "an arm", "an evaluation"],
)
def test_adding_to_a_finished_study_runs_only_the_missing_stages(text, tmp_path, changes):
    store = Store.open(tmp_path / "store", create=True)
    first = make_study(store, small_study(text))
    before = published_bytes(store)
    second = make_study(store, small_study(text, **changes))
    assert {stage.id for stage in second.missing}.isdisjoint(first.stages)
    after = published_bytes(store)
    assert {name: after[name] for name in before} == before
    assert store.published(second.stages) == set(second.stages)


def test_a_longer_run_with_warmup_stable_decay_continues_from_the_stable_part(text, tmp_path):
    def schedule(total_steps: int) -> WarmupStableDecay:
        return WarmupStableDecay(peak_lr=3e-3, floor_lr=0.0, warmup_steps=2, decay_steps=4, total_steps=total_steps)

    store = Store.open(tmp_path / "store", create=True)
    make_study(store, small_study(text, starts=(), schedule=schedule(12)))
    before = published_bytes(store)
    longer = make_study(store, small_study(text, starts=(), total_steps=16, schedule=schedule(16)))
    assert sum(stage.num_steps for stage in longer.missing) == (16 - 8) + 4
    after = published_bytes(store)
    assert {name: after[name] for name in before} == before

    straight = Store.open(tmp_path / "straight", create=True)
    plan = make_study(straight, small_study(text, starts=(), total_steps=16, schedule=schedule(16)))
    final = plan.arms[0].state
    assert weights(store, final) == weights(straight, final)


def with_ramp(study: Study, *branch_steps: int) -> Study:
    """Return the study with a ramp to code over 8 steps from step 2, and arms that branch from it to code alone."""
    control, code = study.arms
    curriculum, sft = control.curriculum.until(12), control.curriculum.stretches[-1].phase
    mixture = code.curriculum.stretches[1].phase.data
    assert isinstance(mixture, Mixture)
    ramp = MixtureRamp(from_mixture=Mixture.only(mixture.corpora[0]), to_mixture=mixture, num_steps=8)
    labels = factors(mix="ramp", weight=0.3, start_step=2)
    ramped = curriculum.branch(start_step=2, data=ramp, name="ramp", factors=labels)
    only_code = Mixture.blend(mixture.corpora[0], {mixture.corpora[1]: 1})
    arms = [control, measured_like(code, ramped.then(sft))]
    for step in branch_steps:
        labels = factors(mix="code", weight=1.0, start_step=step)
        branch = ramped.branch(start_step=step, data=only_code, name="code", factors=labels)
        arms.append(measured_like(code, branch.then(sft)))
    return with_arms(study, *arms)


def test_a_mixture_ramp_that_is_split_at_a_branch_has_the_same_bits(text, tmp_path):
    split, whole = (Store.open(tmp_path / name, create=True) for name in ("split", "whole"))
    make_study(split, with_ramp(small_study(text), 5))
    plan = make_study(whole, with_ramp(small_study(text)))
    state = state_before_sft(plan.arms[1])
    # 8 sequences of code during the 8 ramp steps (from none to half of 4), and 4 in the 2 steps after it (half of 4).
    assert whole.record(state).metrics["token_shares"] == {"general": 36 / 48, "code": 12 / 48}
    assert weights(split, state) == weights(whole, state)


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed"])
def test_milestones_do_not_change_any_bit(text, tmp_path, precision):
    """A trunk that is split at its branch points ends with the weights of one trained in one stage."""
    split, whole = (Store.open(tmp_path / name, create=True) for name in ("split", "whole"))
    many = make_study(split, small_study(text, starts=(3, 7, 9), precision=precision))
    few = make_study(whole, small_study(text, starts=(), precision=precision))
    final = few.arms[0].state
    assert final in many.stages
    assert weights(split, final) == weights(whole, final)


def test_a_stopped_stage_resumes_bit_for_bit(text, tmp_path, finished, capsys):
    reference, plan = finished
    store = Store.open(tmp_path / "store", create=True)
    for stage in plan.stages.values():
        store.request(stage)
        if stage.kind == "state" and stage.num_steps >= 4:
            polls = iter([False, False, True]).__next__
            with pytest.raises(StoppedError, match="stopped at step"):
                execute_stage(
                    store,
                    stage.id,
                    start_from=stage.start_from,
                    keeps_optimizer=stage.keeps_optimizer,
                    should_stop=polls,
                )
            assert not store.has(stage.id)
            assert store.previous_attempts(stage.id)
        execute_stage(
            store, stage.id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer, should_stop=lambda: False
        )
        if stage.kind == "state":
            assert weights(store, stage.id) == weights(reference, stage.id)
            assert not store.paths.attempts(stage.id).exists()
            last = stage.recipe.step
            assert f"step {last:,} of {last:,} (100.0 %) | loss " in capsys.readouterr().out


def test_a_signal_while_a_state_is_saved_ends_the_stage_there(text, tmp_path, monkeypatch):
    """No further step is computed, and the state is saved only once."""
    from midstudy.execute import state
    from midstudy.train import checkpoint

    store = Store.open(tmp_path / "store", create=True)
    plan = make_study(store, small_study(text, starts=()))
    longer = plan_in(store, small_study(text, starts=(), total_steps=40))
    stage = next(stage for stage in longer.missing if stage.kind == "state")
    store.request(stage)
    monkeypatch.setattr(state, "ROLLING_INTERVAL_S", 0.0)
    monkeypatch.setattr(state, "ROLLING_MOST_OF_TIME", math.inf)
    written: list[int] = []
    write = checkpoint.write

    def recorded(state: checkpoint.Checkpoint, folder: Path) -> None:
        written.append(state.step)
        write(state, folder)

    monkeypatch.setattr(checkpoint, "write", recorded)
    with pytest.raises(StoppedError, match="stopped at step 5 of 40"):
        execute_stage(
            store,
            stage.id,
            start_from=stage.start_from,
            keeps_optimizer=stage.keeps_optimizer,
            should_stop=lambda: 5 in written,
        )
    assert plan.stages.keys() != longer.stages.keys()
    assert written == [1, 2, 3, 4, 5]


def test_an_evaluation_that_is_asked_to_stop_stops_between_batches(text, tmp_path, finished):
    reference, plan = finished
    store = Store.open(tmp_path / "store", create=True)
    evaluation = plan.stages[plan.arms[0].measures["sft_loss"][0]]
    for parent in evaluation.parents:
        shutil.copytree(reference.paths.stage(parent), store.paths.stage(parent))
    for stage in plan.stages.values():
        store.request(stage)
        if stage.kind in ("tokenizer", "tokens") and not store.has(stage.id):
            shutil.copytree(reference.paths.published(stage.id), store.paths.published(stage.id))
    with pytest.raises(StoppedError, match="stopped while evaluating"):
        execute_stage(store, evaluation.id, start_from=None, keeps_optimizer=False, should_stop=lambda: True)
    assert not store.paths.attempts(evaluation.id).exists() or not store.previous_attempts(evaluation.id)
    execute_stage(store, evaluation.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    assert store.record(evaluation.id).metrics == reference.record(evaluation.id).metrics


def test_a_divergence_names_the_documents_that_were_read(text, tmp_path):
    """The recipe's learning rate is far too high; the message names the rows of the text."""
    store = Store.open(tmp_path / "store", create=True)
    study = small_study(text, starts=(), total_steps=60, schedule=Constant(lr=0.99))
    with pytest.raises(
        DivergedError, match=r"It read general train, documents [\d–, ]+\. .*Lower the learning rate"
    ) as raised:
        make_study(store, study)
    named = [int(number) for number in re.findall(r"\d+", str(raised.value).split("documents ")[1].split(". ")[0])]
    assert 0 <= min(named) <= max(named) < 300


def test_a_stage_that_diverged_diverges_again_at_each_retry(text, tmp_path, monkeypatch):
    """Checkpoints from during the divergence are not resumed from; the last good one is named and kept."""
    from midstudy.execute import state
    from midstudy.train import engine

    monkeypatch.setattr(state, "ROLLING_INTERVAL_S", 0.0)
    monkeypatch.setattr(state, "ROLLING_MOST_OF_TIME", math.inf)
    update = engine.TrainingRun._update

    def worse_from_step_60(self, *arguments, **options):
        made = update(self, *arguments, **options)
        assert made is not None
        return made if self.step < 60 else dataclasses.replace(made, loss=made.loss + 3.5)

    monkeypatch.setattr(engine.TrainingRun, "_update", worse_from_step_60)
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text, starts=(), total_steps=120))
    messages = []
    for stage in plan.missing:
        store.request(stage)
        if stage.kind != "state":
            execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
            continue
        for _ in range(3):
            with pytest.raises(DivergedError) as raised:
                execute_stage(store, stage.id, start_from=None, keeps_optimizer=True, should_stop=lambda: False)
            assert not store.has(stage.id)
            messages.append(str(raised.value).split(" It read ")[0])
            left = [int(path.name[5:]) for path in store.paths.attempts(stage.id).glob("*/checkpoints/step-*")]
            assert all(step <= raised.value.good_step for step in left)
        break
    assert len(set(messages)) == 1


def test_a_divergence_after_interruptions_names_and_resumes_from_the_good_checkpoint_of_a_previous_attempt(
    text, tmp_path, monkeypatch
):
    """Stopped at step 50, then at step 64 after the divergence began: the attempt that detects it names step 50."""
    from midstudy.train import engine

    update = engine.TrainingRun._update
    steps: list[int] = []

    def worse_from_step_60(self, *arguments, **options):
        made = update(self, *arguments, **options)
        assert made is not None
        steps.append(self.step)
        return made if self.step < 60 else dataclasses.replace(made, loss=made.loss + 3.5)

    monkeypatch.setattr(engine.TrainingRun, "_update", worse_from_step_60)
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text, starts=(), total_steps=120))
    stage = next(stage for stage in plan.missing if stage.kind == "state")
    for earlier in plan.missing[: plan.missing.index(stage)]:
        store.request(earlier)
        execute_stage(store, earlier.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    store.request(stage)

    def attempt(should_stop=lambda: False):
        execute_stage(store, stage.id, start_from=None, keeps_optimizer=True, should_stop=should_stop)

    def saved() -> list[tuple[str, str]]:
        """Return (attempt, checkpoint) pairs, oldest attempt first."""
        folders = sorted(store.paths.attempts(stage.id).glob("*/checkpoints/step-*"))
        return [(folder.parents[1].name, folder.name) for folder in folders]

    for last in (49, 63):
        with pytest.raises(StoppedError, match=f"stopped at step {last + 1} of 120"):
            attempt(lambda last=last: steps[-1:] == [last])
    (first, at_50), (second, at_64) = saved()
    assert (at_50, at_64) == ("step-00000050", "step-00000064")
    assert first != second
    for _ in range(2):  # detected when resuming from step 64, then when resuming from step 50
        steps.clear()
        with pytest.raises(DivergedError) as raised:
            attempt()
        assert 50 <= raised.value.good_step < 64
        named = store.paths.attempts(stage.id) / first / "checkpoints" / at_50
        assert f"The last good checkpoint is {named}." in str(raised.value)
        assert saved() == [(first, at_50)]
    assert steps[0] == 50


def test_recomputed_steps_are_counted(text, tmp_path, monkeypatch):
    """Asked to stop in the tenth step, then killed twice at step 45; each attempt resumes from the saved state."""
    from midstudy.train import engine

    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text, starts=(), total_steps=60))
    stage = next(stage for stage in plan.missing if stage.kind == "state")
    for earlier in plan.missing[: plan.missing.index(stage)]:
        store.request(earlier)
        execute_stage(store, earlier.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    store.request(stage)
    steps: list[int] = []
    update = engine.TrainingRun._update
    ends: dict[int, BaseException] = {}

    def recorded(self, *arguments, **options):
        if self.step in ends:
            raise ends[self.step]
        steps.append(self.step)
        return update(self, *arguments, **options)

    monkeypatch.setattr(engine.TrainingRun, "_update", recorded)

    def attempt(should_stop=lambda: False):
        execute_stage(store, stage.id, start_from=None, keeps_optimizer=True, should_stop=should_stop)

    with pytest.raises(StoppedError):
        attempt(lambda: len(steps) >= 10)
    for _ in range(2):
        ends[45] = KeyboardInterrupt()
        monkeypatch.setattr(Attempt, "discard", lambda self: None)  # a killed process does not clean up
        with pytest.raises(KeyboardInterrupt):
            attempt()
    ends.clear()
    monkeypatch.undo()
    attempt()
    assert store.record(stage.id).metrics["resumed_at_step"] == 9
    assert store.record(stage.id).metrics["recomputed_steps"] == 2 * (45 - 9)
    assert store.record(stage.id).metrics["num_steps"] == 60


def test_the_loss_of_an_evaluation_is_the_token_weighted_mean_of_transformers(finished):
    """The whole path, from text on disk to nats, compared with an independent model and an independent mean."""
    transformers = pytest.importorskip("transformers")
    from midstudy.data.tokenizer import load_tokenizer
    from midstudy.model.config import huggingface_config
    from midstudy.model.huggingface import to_huggingface
    from midstudy.recipe.data import Tokenizer
    from midstudy.recipe.stage import stage_id

    store, plan = finished
    entry = plan.arms[1]
    tokenizer_stage = next(s for s in plan.stages.values() if isinstance(s.recipe, Tokenizer))
    tokenizer = load_tokenizer(store.published_folder(stage_id(tokenizer_stage.recipe)))
    shape = entry.arm.curriculum.start.model
    model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**huggingface_config(shape)))
    tensors = load_file(store.published_folder(entry.state) / "checkpoint" / "model.safetensors")
    weights = {name: torch.from_numpy(value) for name, value in tensors.items()}
    # The head is named embed_out in Pythia's files and lm_head in this version of transformers.
    theirs = to_huggingface(weights, shape)
    model.load_state_dict({name.replace("embed_out", "lm_head"): tensor for name, tensor in theirs.items()})
    model.eval()
    nats, tokens = 0.0, 0
    folder = Path(entry.arm.measures["sft_loss"].evaluation.data.source.location)
    for line in (folder / "test.jsonl").read_text().splitlines()[:16]:
        row = json.loads(line)
        prompt, target = (tokenizer.encode(row[field], add_special_tokens=False).ids for field in ("question", "answer"))
        ids = torch.tensor([*prompt, *target, 0])[:33]
        with torch.no_grad():
            logp = model(ids[None, :-1]).logits[0].log_softmax(-1)
        losses = -logp[torch.arange(len(ids) - 1), ids[1:]][len(prompt) - 1 :]
        nats, tokens = nats + losses.sum().item(), tokens + len(losses)
    metrics = store.record(entry.measures["sft_loss"][0]).metrics
    assert metrics["target_tokens"] == tokens
    assert metrics["loss_nats"] == pytest.approx(nats / tokens, rel=1e-5)


def test_text_that_changed_since_the_plan_is_rejected(tmp_path):
    text = tmp_path / "text"
    write_text(text)
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text))
    first = plan.missing[0]
    store.request(first)
    write_split(text / "general", "train", [{"text": "something else"}])
    with pytest.raises(ValueError, match="its files changed"):
        execute_stage(store, first.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    assert not store.has(first.id)


def test_replaced_token_files_are_rejected(text, tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text, starts=()))
    for stage in plan.missing:
        store.request(stage)
        if stage.kind == "state":
            break
        execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    tokens = next(store.paths.stages.glob("*/published/train-00000.tokens"))
    tokens.write_bytes(b"\x07" * tokens.stat().st_size)
    with pytest.raises(StoreError, match=r"train-00000\.tokens: not what was published"):
        execute_stage(store, stage.id, start_from=None, keeps_optimizer=True, should_stop=lambda: False)


def test_a_process_evaluates_many_states_on_one_model_and_frees_it_before_training(finished, tmp_path, monkeypatch):
    reference, plan = finished
    store = Store.open(Path(shutil.copytree(reference.root, tmp_path / "store")))
    evaluations = [stage for stage in plan.stages.values() if stage.kind == "evaluation"]
    tuned = plan.stages[plan.arms[1].state]
    for stage in (*evaluations, tuned):
        shutil.rmtree(store.published_folder(stage.id))
    built: list[Weights] = []

    def recorded(*arguments: Any, **options: Any) -> Weights:
        built.append(Weights(*arguments, **options))
        return built[-1]

    monkeypatch.setattr(model_cache, "Weights", recorded)
    model_cache.forget_models()
    for stage in evaluations:
        if tuned.id not in stage.parents:
            execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
            assert store.record(stage.id).metrics == reference.record(stage.id).metrics
    assert len(evaluations) > 4
    assert len(built) == 1
    first = next(stage for stage in evaluations if tuned.id not in stage.parents)
    shutil.rmtree(store.published_folder(first.id))
    compiled_models: list[object] = []
    monkeypatch.setattr(model_cache, "compile_model", compiled_models.append)
    compiled = Placement(compiled=True)
    execute_stage(store, first.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False, placement=compiled)
    assert (len(built), len(compiled_models)) == (2, 1)
    execute_stage(store, tuned.id, start_from=tuned.start_from, keeps_optimizer=False, should_stop=lambda: False)
    assert model_cache._idle == []


def test_a_replaced_tokenizer_is_rejected(text, tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    tokenizer, tokens = plan_in(store, small_study(text, starts=())).missing[:2]
    for stage in (tokenizer, tokens):
        store.request(stage)
    execute_stage(store, tokenizer.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    exchange_two_ids(store.published_folder(tokenizer.id) / "tokenizer.json")
    with pytest.raises(StoreError, match=r"tokenizer\.json: not what was published"):
        execute_stage(store, tokens.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)


def with_model_version(study: Study, version: int) -> Study:
    arms = []
    for arm in study.arms:
        start = arm.curriculum.start
        older = dataclasses.replace(start, model=dataclasses.replace(start.model, version=version))
        arms.append(measured_like(arm, dataclasses.replace(arm.curriculum, start=older)))
    return with_arms(study, *arms)


def test_a_stage_planned_for_another_numerical_version_is_rejected(text, tmp_path):
    """midstudy may be updated while a job is queued; the stage's id refers to results of the older version."""
    store = Store.open(tmp_path / "store", create=True)
    make_study(store, small_study(text), until="midtrain nano code50@3 seed 0 to step 12")
    older = plan_in(store, with_model_version(small_study(text), 1))
    state = next(stage for stage in older.missing if stage.kind == "state")
    store.request(state)
    expected = rf"expected version 1 of ModelShape\.version, that of the plan, got {versions.MODEL} in this midstudy"
    with pytest.raises(StoreError, match=expected):
        execute_stage(store, state.id, start_from=None, keeps_optimizer=True, should_stop=lambda: False)
    assert not store.has(state.id)
    assert not store.previous_attempts(state.id)


def test_a_state_whose_batches_do_not_match_the_quotas_is_not_published(text, tmp_path, monkeypatch):
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text, starts=()))
    read = Batches.__call__

    def one_too_many(self: Batches, step: int) -> Any:
        batch = read(self, step)
        if step == 5:
            self.drawn[next(iter(self.drawn))] += 1
        return batch

    monkeypatch.setattr(Batches, "__call__", one_too_many)
    with pytest.raises(
        ValueError, match=r"mixture: sequences read since step 0: expected .*48.* by the quotas, got .*'general': 49"
    ):
        make_study(store, small_study(text, starts=()))
    assert not any(store.has(stage.id) for stage in plan.stages.values() if stage.kind == "state")


def test_a_recipe_edited_by_hand_is_rejected(text, tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text))
    stage = plan.missing[0]
    store.request(stage)
    path = store.paths.recipe(stage.id)
    edited = json.loads(path.read_text())
    edited["recipe"]["vocab_size"] = 301
    path.write_text(json.dumps(edited))
    with pytest.raises(StoreError, match="its recipe has id"):
        execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)


def test_a_record_of_another_recipe_is_an_error(text, tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    study = small_study(text, starts=())
    plan = make_study(store, study)
    stage = plan.stages[plan.arms[0].measures["sft_loss"][0]]
    record = store.record(stage.id)
    record.canonical["evaluation"]["max_sequences"] = 99
    store.paths.record(stage.id).write_bytes(record.as_bytes())
    with pytest.raises(RecipeMismatchError, match=r"evaluation\.max_sequences: expected 16, got 99"):
        store.verify(stage)


@pytest.fixture
def small_disk(tmp_path: Path):
    """Return the folder of a file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # token files may still be mapped


def test_a_full_disk_loses_no_finished_stage_and_the_run_resumes_when_there_is_space(text, small_disk):
    store = Store.open(small_disk / "store", create=True)
    study = small_study(text, starts=())
    with pytest.raises(StoreError, match=r"No space left on device.*Free space"):
        make_study(store, study)
    before = published_bytes(store)
    assert before
    assert store.published(plan_in(store, study).stages) < set(plan_in(store, study).stages)
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    plan = make_study(store, study)
    after = published_bytes(store)
    assert {name: after[name] for name in before} == before
    assert store.published(plan.stages) == set(plan.stages)
