"""Imported and averaged weights in real stages: trained from, fine-tuned, evaluated, planned and shared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.changed_studies import fine_tuned_from, measured_like, relabelled, state_before_sft, with_arms
from builders.releases import write_release
from builders.small_study import make_study, plan_in, small_study
from safetensors.torch import load_file, save_file

from midstudy.data.release import released_start
from midstudy.evaluate.model_cache import load_model
from midstudy.execute.stage import StoppedError, execute_stage
from midstudy.plan.manifest import manifest_of, stages_of
from midstudy.plan.planner import Plan
from midstudy.plan.summary import plan_facts, plan_text
from midstudy.recipe import Average, Curriculum, RecipeError, Release, Start, Study
from midstudy.recipe.curriculum import State
from midstudy.recipe.model import pythia
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from midstudy.track.facts import study_facts
from midstudy.train import checkpoint
from midstudy.train.averaging import mean_weights
from midstudy.train.checkpoint import Checkpoint, CheckpointError


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("releases") / "tiny-neox")


def weights(store: Store, stage: str) -> dict[str, torch.Tensor]:
    return load_file(store.published_folder(stage) / "checkpoint" / "model.safetensors")


def import_stage(store: Store, study: Study) -> Stage:
    return next(s for s in plan_in(store, study).missing if s.role == "import")


# -- releases ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def midtrained(text: Path, release: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    """Return a study of a release: a control, a code branch, and fine-tuning directly from the release."""
    study = small_study(text, start=released_start(str(release), step=71_000))
    control = study.arms[0]
    direct = fine_tuned_from(control.curriculum.start, control, sft_seed=8)
    store = Store.open(tmp_path_factory.mktemp("midtrained") / "store", create=True)
    return store, make_study(store, with_arms(study, *study.arms, direct))


def test_a_release_is_imported_once_midtrained_fine_tuned_and_evaluated(midtrained):
    store, plan = midtrained
    assert store.published(plan.stages) == set(plan.stages)
    [imported] = [stage for stage in plan.stages.values() if stage.role == "import"]
    assert imported.label == "import tiny-neox@step71000"
    assert {stage.id for stage in plan.stages.values() if stage.start_from == imported.id} == {
        plan.arms[2].state,
        *(s.id for s in plan.stages.values() if s.step == 3 and s.kind == "state"),
    }
    assert plan.total_steps == plan.lower_bound_steps == 12 + 9 + 3 * 4
    for entry in plan.arms:
        before, after = (
            store.record(entry.measures[column][0]).metrics["loss_nats"] for column in ("sft_loss_before", "sft_loss")
        )
        assert 0 < after < before


def test_the_imported_weights_are_those_of_transformers(midtrained, release):
    store, plan = midtrained
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPTNeoXForCausalLM.from_pretrained(release, dtype="float32").eval()
    imported = state_before_sft(plan.arms[2])
    ours = load_model(store.published_folder(imported) / "checkpoint")
    ids = torch.randint(512, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, logits = theirs(ids).logits, ours(ids)
    assert expected.std() > 0.3
    assert (logits - expected).abs().max() < 2e-5 * expected.std()


def test_text_is_tokenised_with_the_releases_tokenizer(midtrained, release):
    transformers = pytest.importorskip("transformers")
    from midstudy.data.tokens import read_split

    store, plan = midtrained
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(release / "tokenizer.json"))
    tokens = next(s for s in plan.stages.values() if s.label == "tokens general")
    document = read_split(store.published_folder(tokens.id), "train").document(0)
    first = json.loads((Path(tokens.recipe.data.source.location) / "train.jsonl").read_text().splitlines()[0])["text"]
    assert document.tolist() == [*theirs(first)["input_ids"], 0]


def test_the_manifest_of_a_study_of_releases_is_restored_and_counts_its_tokens(midtrained, release):
    store, plan = midtrained
    manifest = manifest_of(plan, command="midstudy run x.py")
    control, code, direct = manifest.arms
    assert control.tokens == {"general": 12 * 4 * 32}
    assert code.tokens == {"general": 30 * 32, "code": 18 * 32}
    assert (direct.tokens, direct.items, direct.num_steps) == ({}, {"code_task": 16}, 4)
    restored = stages_of(manifest, lambda stage_id: store.requested(stage_id)["recipe"])
    assert {stage_id: stage.canonical_form for stage_id, stage in restored.items()} == {
        stage_id: stage.canonical_form for stage_id, stage in plan.stages.items()
    }
    assert plan_facts(plan)["stages_by_role"]["import"] == {"all": 1, "missing": 1}
    assert "import 1" in plan_text(plan)
    assert f"  release  tiny-neox@step71000: {release}\n" in f"{plan_text(plan)}\n"
    facts = {run.name: run for run in study_facts(store, manifest)}
    model = plan.arms[0].arm.curriculum.start.model
    assert facts["import tiny-neox@step71000"].metrics["num_parameters"] == model.num_parameters


def test_two_releases_of_the_same_name_are_distinguished(text, tmp_path):
    folders = [write_release(tmp_path / name / "tiny-neox", dtype=name) for name in ("float32", "float16")]
    starts = [released_start(str(folder), step=71_000) for folder in folders]
    first, second = (small_study(text, start=start, starts=()).arms[0] for start in starts)
    plan = plan_in(
        Store.open(tmp_path / "store", create=True),
        with_arms(small_study(text, start=starts[0]), first, relabelled(second, sft_seed=8)),
    )
    sources = [start.weights.source for start in starts if isinstance(start.weights, Release)]
    shown = {f"tiny-neox@step71000 ({source.revision[:12]})": str(source) for source in sources}
    assert len(shown) == 2
    assert plan_facts(plan)["releases"] == shown


def test_a_release_whose_weights_do_not_fit_its_model_names_the_tensor(text, release, tmp_path):
    study = small_study(text, start=released_start(str(release)), starts=())
    start = study.arms[0].curriculum.start
    other = dataclasses.replace(start, model=dataclasses.replace(start.model, num_layers=3))
    store = Store.open(tmp_path / "store", create=True)
    stage = import_stage(store, with_arms(study, fine_tuned_from(other, study.arms[0])))
    store.request(stage)
    with pytest.raises(ValueError, match=r"gpt_neox\.layers\.2\..*missing"):
        execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    assert not store.has(stage.id)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_type_of_released_weights_is_imported_exactly(text, tmp_path, dtype):
    folder = write_release(tmp_path / "release", dtype=dtype, shard="100KB")
    store = Store.open(tmp_path / "store", create=True)
    stage = import_stage(store, small_study(text, start=released_start(str(folder))))
    store.request(stage)
    execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    ours = weights(store, stage.id)
    theirs = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
    assert torch.equal(ours["blocks.1.qkv.weight"], theirs["gpt_neox.layers.1.attention.query_key_value.weight"].float())
    assert sum(tensor.numel() for tensor in ours.values()) == sum(tensor.numel() for tensor in theirs.values())


def imported(release: Path, text: Path, root: Path, change: Any) -> dict[str, torch.Tensor]:
    """Return the imported weights of a release whose tensors `change` has modified."""
    tensors = load_file(release / "model.safetensors")
    change(tensors)
    save_file(tensors, release / "model.safetensors", metadata={"format": "pt"})
    store = Store.open(root, create=True)
    stage = import_stage(store, small_study(text, start=released_start(str(release))))
    store.request(stage)
    execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    return weights(store, stage.id)


def test_buffers_of_older_checkpoints_are_ignored(text, tmp_path):
    def tables(tensors: dict[str, torch.Tensor]) -> None:
        for layer in (0, 1):
            inside = f"gpt_neox.layers.{layer}.attention"
            tensors[f"{inside}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
            tensors[f"{inside}.masked_bias"] = torch.tensor(-1e9)
            tensors[f"{inside}.rotary_emb.inv_freq"] = torch.ones(4)

    plain = imported(write_release(tmp_path / "plain"), text, tmp_path / "a", lambda tensors: None)
    older = imported(write_release(tmp_path / "older"), text, tmp_path / "b", tables)
    assert plain.keys() == older.keys()
    assert all(torch.equal(tensor, older[name]) for name, tensor in plain.items())


def test_the_head_may_have_its_newer_name_but_not_both_names(text, tmp_path):
    def renamed(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors.pop("embed_out.weight")

    def doubled(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["embed_out.weight"] + 1

    plain = imported(write_release(tmp_path / "plain"), text, tmp_path / "a", lambda tensors: None)
    newer = imported(write_release(tmp_path / "newer"), text, tmp_path / "b", renamed)
    assert torch.equal(newer["head.weight"], plain["head.weight"])
    with pytest.raises(ValueError, match=r"lm_head\.weight: expected one output head, got embed_out\.weight too"):
        imported(write_release(tmp_path / "two"), text, tmp_path / "c", doubled)


def test_non_finite_weights_are_rejected(text, tmp_path):
    def damaged(tensors: dict[str, torch.Tensor]) -> None:
        tensors["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][3, 5] = float("nan")

    with pytest.raises(ValueError, match=r"blocks\.1\.mlp_out\.weight has non-finite values"):
        imported(write_release(tmp_path / "release"), text, tmp_path / "store", damaged)


def test_integer_weights_are_rejected(text, tmp_path):
    folder = write_release(tmp_path / "release")
    tensors = load_file(folder / "model.safetensors")
    tensors["gpt_neox.embed_in.weight"] = tensors["gpt_neox.embed_in.weight"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors")
    store = Store.open(tmp_path / "store", create=True)
    stage = import_stage(store, small_study(text, start=released_start(str(folder))))
    store.request(stage)
    with pytest.raises(ValueError, match=r"embedding\.weight: expected torch\.float32, .*, got torch\.int8"):
        execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)


def test_evaluating_the_state_before_fine_tuning_needs_weights_that_are_not_random(text, tmp_path):
    study = small_study(text)
    alone = with_arms(study, fine_tuned_from(study.arms[0].curriculum.start, study.arms[0]))
    with pytest.raises(
        RecipeError, match=r"measures\.sft_loss_before\.state: expected .*, got the random weights of a start"
    ):
        plan_in(Store.open(tmp_path / "store", create=True), alone)


# -- averages ---------------------------------------------------------------------------------------------------------


def averaging(text: Path, **changes) -> Study:
    """Return the small study with three fine-tuned averages: the last states of its control, the ends of its two branches,
    and the last states of one branch."""
    study = small_study(text, starts=(3, 6), **changes)
    control, early, late = study.arms
    last = Average.last(control.curriculum.until(12), num_states=3, every_steps=2)
    branch = Average.last(early.curriculum.until(12), num_states=2, every_steps=1)
    ends = Average.of(early.curriculum.state(12), late.curriculum.state(12))
    return with_arms(
        study,
        *study.arms,
        fine_tuned_from(Start.averaged(last), control, sft_seed=8),
        fine_tuned_from(Start.averaged(ends), early, sft_seed=8),
        fine_tuned_from(Start.averaged(branch), early, sft_seed=8, mix="code_averaged"),
    )


@pytest.fixture(scope="module")
def averaged(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    store = Store.open(tmp_path_factory.mktemp("averaged") / "store", create=True)
    return store, make_study(store, averaging(text))


def test_a_stage_of_any_kind_stops_when_asked_and_is_made_by_the_next_attempt(text, release, averaged, tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    whole = plan_in(store, averaging(text))
    stages = [*whole.stages.values(), import_stage(store, small_study(text, start=released_start(str(release))))]
    stopped = set()
    for stage in stages:
        store.request(stage)
        options: dict[str, Any] = {"start_from": stage.start_from, "keeps_optimizer": stage.keeps_optimizer}
        with pytest.raises(StoppedError, match="stopped "):
            execute_stage(store, stage.id, should_stop=lambda: True, **options)
        assert not store.has(stage.id)
        execute_stage(store, stage.id, should_stop=lambda: False, **options)
        stopped.add(stage.role)
    assert stopped == {"data", "similarity", "pretrain", "midtrain", "average", "import", "sft", "evaluation"}
    last = whole.arms[-1].state
    expected = weights(averaged[0], last)
    assert all(torch.equal(tensor, weights(store, last)[name]) for name, tensor in expected.items())


def test_averages_share_the_training_of_their_states(averaged):
    store, plan = averaged
    assert store.published(plan.stages) == set(plan.stages)
    # One trunk of 12 steps with its milestones, two branches of 9 and 6 steps, and fine-tuning six times: no duplicates.
    assert plan.total_steps == plan.lower_bound_steps == 12 + 9 + 6 + 6 * 4
    assert plan.unshared_steps == 3 * 16 + (12 + 4) + (12 + 12 + 4) + (12 + 4)
    labels = {stage.label for stage in plan.stages.values() if stage.role == "average"}
    assert labels == {
        "average of 3 states: pretrain nano seed 0 to step 8, 10, 12",
        "average of 2 states: midtrain nano code50@3 seed 0 to step 12; midtrain nano code50@6 seed 0 to step 12",
        "average of 2 states: midtrain nano code50@3 seed 0 to step 11, 12",
    }
    assert [s.step for s in plan.stages.values() if s.label.startswith("pretrain")] == [3, 6, 8, 10, 12]


def test_an_average_is_the_mean_of_the_published_weights(averaged):
    store, plan = averaged
    for entry in plan.arms[3:]:
        states = entry.arm.curriculum.start.weights.states
        parents = [weights(store, state.id) for state in states]
        mean = weights(store, state_before_sft(entry))
        for name, tensor in mean.items():
            exact = torch.stack([parent[name].double() for parent in parents]).mean(0)
            torch.testing.assert_close(tensor.double(), exact, rtol=1e-7, atol=1e-9)
        assert not any(torch.equal(mean["head.weight"], parent["head.weight"]) for parent in parents)
        assert store.record(state_before_sft(entry)).metrics["num_states"] == len(states)


def test_the_row_of_an_averaged_arm_has_the_tokens_of_its_states(averaged):
    early, late, control, ends, branch = manifest_of(averaged[1], command="").arms[1:]
    assert (control.tokens, control.num_steps) == ({"general": 12 * 4 * 32}, 16)
    assert ends.tokens in (early.tokens, late.tokens)
    assert branch.tokens == early.tokens == {"general": 30 * 32, "code": 18 * 32}


def test_an_average_added_to_a_finished_study_reuses_kept_states(text, tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    first = make_study(store, small_study(text, starts=(3, 6)))
    second = make_study(store, averaging(text))
    assert first.stages.keys() <= second.stages.keys()
    # Steps 8 and 10 of the trunk from the kept step 6, step 11 of the branch from its start, and fine-tuning three times.
    assert sum(stage.num_steps for stage in second.missing) == 4 + 8 + 3 * 4


def test_training_can_start_from_an_average_and_be_averaged_again(text, tmp_path):
    study = averaging(text)
    arm = study.arms[3]
    phase = study.arms[1].curriculum.stretches[1].phase
    onward = Curriculum.of(
        arm.curriculum.start, dataclasses.replace(phase, num_steps=4, schedule=arm.curriculum.stretches[-1].phase.schedule)
    )
    twice = Start.averaged(Average.of(onward.state(2), onward.state(4)))
    longer = measured_like(study.arms[1], onward.then(arm.curriculum.stretches[-1].phase))
    nested = with_arms(study, study.arms[0], fine_tuned_from(twice, study.arms[0], sft_seed=9), longer)
    store = Store.open(tmp_path / "store", create=True)
    plan = make_study(store, nested)
    assert store.published(plan.stages) == set(plan.stages)
    assert plan.total_steps == plan.lower_bound_steps == 12 + 4 + 4 + 4 + 4
    assert isinstance(plan.stages[state_before_sft(plan.arms[1])].recipe, State)


def test_an_average_of_fine_tuning_seeds_names_its_runs(text, tmp_path):
    study = small_study(text, starts=())
    control = study.arms[0]
    phase = control.curriculum.stretches[-1].phase
    phases = [dataclasses.replace(phase, seed=seed, name=f"sft code_task, SFT {seed}") for seed in (1, 2, 3, 4)]
    ends = [control.curriculum.until(12).then(sft).state() for sft in phases]
    soup = fine_tuned_from(Start.averaged(Average.of(*ends)), control, sft_seed=8)
    plan = plan_in(Store.open(tmp_path / "store", create=True), with_arms(study, control, soup))
    [average] = [stage for stage in plan.stages.values() if stage.role == "average"]
    runs = average.label.removeprefix("average of 4 states: ").split("; ")
    names = [f"{sft.name} to step 16" for sft in phases]
    assert (len(set(runs)), {*runs[:2]} <= {*names}, runs[2]) == (3, True, "2 more runs")
    assert len({stage.label for stage in plan.stages.values()}) == len(plan.stages)


def test_bf16_weights_are_averaged_exactly_and_rounded_once(tmp_path):
    """Golden trace of `versions.AVERAGING`, by hand: bf16 has 8 bits of precision and cannot represent 257."""
    values = ((256.0, 258.0), (1.0, 1.0078125, 1.0), (2.0**127, 2.0**127))
    means = (256.0, 1.0, 2.0**127)  # 257 rounds to even; a third of 2⁻⁷ is lost in rounding; no sum overflows
    for number, (row, mean) in enumerate(zip(values, means, strict=True)):
        folders = []
        for index, value in enumerate(row):
            folder = tmp_path / f"{number}-{index}"
            write_checkpoint(folder, torch.full((2, 2), value, dtype=torch.bfloat16))
            folders.append(folder)
        average = mean_weights(folders)["head.weight"]
        assert average.dtype == torch.bfloat16
        assert average.tolist() == [[mean, mean]] * 2


def test_the_mean_of_fp32_weights_is_rounded_once(tmp_path):
    """Golden trace of `versions.AVERAGING`: the mean of 1 + 2⁻²³, 1 and 1 is 1 in fp32, in any order."""
    rows = [1.0 + 2.0**-23, 1.0, 1.0], [1e8, 1.0, -1e8], [0.1, 0.2, 0.3]
    for number, (row, mean) in enumerate(zip(rows, (1.0, 1.0 / 3.0, None), strict=True)):
        tensors = [torch.tensor([value]) for value in row]
        for index, tensor in enumerate(tensors):
            write_checkpoint(tmp_path / f"{number}-{index}", tensor)
        average = mean_weights([tmp_path / f"{number}-{index}" for index in range(3)])["head.weight"]
        exact = torch.stack(tensors).double().mean(0) if mean is None else torch.tensor([mean], dtype=torch.float64)
        assert torch.equal(average, exact.float())


def test_checkpoints_with_different_tensors_are_not_averaged(tmp_path):
    write_checkpoint(tmp_path / "a", torch.zeros(2, 2))
    write_checkpoint(tmp_path / "b", torch.zeros(2, 3))
    write_checkpoint(tmp_path / "c", torch.zeros(2, 2, dtype=torch.bfloat16))
    for other in ("b", "c"):
        with pytest.raises(CheckpointError, match=r"head\.weight differs from that of .*identical tensors"):
            mean_weights([tmp_path / "a", tmp_path / other])


def write_checkpoint(folder: Path, head: torch.Tensor) -> None:
    shape = pythia("nano", vocab_size=512)
    state = Checkpoint(
        step=1,
        state_id="0" * 16,
        precision="fp32",
        shape=shape,
        tokens_seen=0,
        weights={"head.weight": head},
        moments=None,
        num_updates=0,
    )
    checkpoint.write(state, folder)
