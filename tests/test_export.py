"""Exported states: transformers computes the same logits and tokens, and another study can start from the export."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders.changed_studies import state_before_sft
from builders.releases import write_release
from builders.small_recipes import CODE, GENERAL, PYCODE, sft, trunk, with_muon
from builders.small_study import SYMBOLS, WORDS, exchange_two_ids, make_study, small_study
from safetensors.torch import load_file
from tokenizers import processors

from midstudy.cli.main import main
from midstudy.data.release import released_start, released_tokenizer
from midstudy.data.tokenizer import train_tokenizer
from midstudy.evaluate.model_cache import load_model
from midstudy.export import _phases
from midstudy.plan.planner import Plan
from midstudy.recipe import Mixture, MixtureRamp, Start, pythia
from midstudy.store.store import Store

transformers = pytest.importorskip("transformers")


FINAL = "sft nano code50@3 → code_task, trunk 0, SFT 7"


@pytest.fixture(scope="module", params=["fp32", "bf16_mixed", "bf16_true"])
def exported(request, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan, Path]:
    """Export the final state of the code arm, trained in each precision."""
    place = tmp_path_factory.mktemp(request.param)
    store = Store.open(place / "store", create=True)
    plan = make_study(store, small_study(text, precision=request.param))
    arguments = ["export", FINAL, "--to", "hf", "--output", str(place / "model"), "--store", str(store.root)]
    assert main(arguments) == 0
    return store, plan, place / "model"


def precision_of(plan: Plan) -> str:
    return plan.arms[0].arm.curriculum.stretches[-1].phase.precision


def test_the_logits_equal_those_of_transformers_in_the_trained_precision(exported):
    store, plan, folder = exported
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert [name for name, keys in info.items() if keys] == []
    assert theirs.dtype == (torch.bfloat16 if precision_of(plan) == "bf16_true" else torch.float32)
    ids = torch.randint(300, (2, 32), generator=torch.Generator().manual_seed(0))
    checkpoint = store.published_folder(plan.arms[1].state) / "checkpoint"
    for precision, tolerance in (("fp32", 1e-5), ("bf16_true", 0.05)):
        ours = load_model(checkpoint, precision=precision)
        like = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=ours.head.weight.dtype).eval()
        with torch.no_grad():
            actual, expected = ours(ids).float(), like(ids).logits.float()
        assert expected.std() > 0.3
        assert (actual - expected).abs().max() < tolerance * expected.std()


def test_the_weights_equal_the_checkpoint_bit_for_bit(exported):
    store, plan, folder = exported
    ours = load_file(store.published_folder(plan.arms[1].state) / "checkpoint" / "model.safetensors")
    theirs = load_file(folder / "model.safetensors")
    assert {(t.dtype, tuple(t.shape)) for t in ours.values()} == {(t.dtype, tuple(t.shape)) for t in theirs.values()}
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # all files have the same permissions
    assert torch.equal(ours["head.weight"], theirs["embed_out.weight"])
    assert torch.equal(ours["blocks.1.mlp_in.bias"], theirs["gpt_neox.layers.1.mlp.dense_h_to_4h.bias"])


def test_the_tokenizer_gives_the_same_ids_and_decodes_back(exported):
    from midstudy.data.tokenizer import load_tokenizer
    from midstudy.recipe.stage import stage_id

    store, plan, folder = exported
    ours = load_tokenizer(store.published_folder(stage_id(plan.arms[0].arm.curriculum.start.tokenizer)))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (" ".join(WORDS), "\n\t".join(SYMBOLS), "naïve  –  ünïcode 🙂", " leading", "a<|endoftext|>b", ""):
        ids = ours.encode(text, add_special_tokens=False).ids
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.unk_token_id) == (0, 0, 0)
    assert theirs.model_max_length == 32
    assert len(theirs) == 300


def test_the_model_card_describes_recipe_lineage_and_commands(exported):
    store, plan, folder = exported
    card = (folder / "README.md").read_text()
    entry = plan.arms[1]
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"# {FINAL}" in card
    assert "| midtrain nano code50@3 seed 0 | 3 to 12 | 50 % general, 50 % code | 4 × 32 tokens |" in card
    assert f"| {FINAL} | 12 to 16 | task code_task |" in card
    assert f"- `{state_before_sft(entry)}` midtrain nano code50@3 seed 0 to step 12" in card
    assert "tokenizer 300 on general" in card
    assert f"midstudy export {entry.state} --to hf --study small" in card
    assert "midstudy run small.py" in card
    loss = store.record(entry.measures["sft_loss"][0]).metrics["loss_nats"]
    assert f"code_task test: {loss:.4f} nats per token" in card
    kept = json.loads((folder / "midstudy.json").read_text())
    assert (kept["id"], kept["recipe"]) == (entry.state, store.record(entry.state).recipe)


def test_the_model_card_describes_ramps_loss_weights_and_masks():
    ends = (Mixture.blend(GENERAL, {CODE: share}, loss_weights={CODE: 0.5}) for share in (0.1, 0.5))
    ramp = MixtureRamp(from_mixture=next(ends), to_mixture=next(ends), num_steps=40)
    whole = trunk(60, document_mask=True).branch(start_step=10, data=ramp, name="ramp")
    rows = [row.split(" | ")[2] for row in _phases(whole.until(30)).splitlines()[2:]]
    assert rows == [
        "100 % general, attention within documents",
        "90 % → 70 % general, 10 % → 30 % code (loss weight 0.5), attention within documents",
    ]
    rows = [row.split(" | ")[2] for row in _phases(whole.then(sft(PYCODE))).splitlines()[2:]]
    assert rows[2:] == ["50 % general, 50 % code (loss weight 0.5), attention within documents", "task pycode"]
    tuned = trunk().then(sft(PYCODE, loss="target_tokens", prompt_weight=0.1))
    assert "| task pycode (prompt weight 0.1) |" in _phases(tuned)


def test_the_model_card_says_what_the_learning_rate_multiplies():
    rows = _phases(trunk(optimizer=with_muon(768))).splitlines()
    assert (
        "| 0.001 to 0.001 × 0.2 for embedding, 0.004 for head, 0.02 for matrices (Muon), 0.004 for vectors | fp32" in rows[2]
    )


def test_an_exported_state_can_be_imported_with_the_same_weights_and_trained_further(exported, text, tmp_path):
    store, plan, folder = exported
    start = released_start(str(folder))
    assert start.model.name == "nano"
    other = Store.open(tmp_path / "store", create=True)
    again = make_study(other, small_study(text, start=start, starts=()), until="pretrain nano seed 0 to step 12")
    before = load_file(store.published_folder(plan.arms[1].state) / "checkpoint" / "model.safetensors")
    imported = load_file(other.published_folder(again.arms[0].arm.curriculum.start.id) / "checkpoint" / "model.safetensors")
    assert before.keys() == imported.keys()
    assert all(torch.equal(tensor.float(), imported[name]) for name, tensor in before.items())
    trained = load_file(other.published_folder(state_before_sft(again.arms[0])) / "checkpoint" / "model.safetensors")
    assert all(not torch.equal(tensor, imported[name]) for name, tensor in trained.items())
    # The imported state can be exported again, and equals the release.
    back = tmp_path / "back"
    assert main(["export", "import model", "--to", "hf", "--output", str(back), "--store", str(other.root)]) == 0
    first, second = (load_file(export / "model.safetensors") for export in (folder, back))
    assert all(torch.equal(tensor.float(), second[name]) for name, tensor in first.items())
    assert (back / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert "The initial weights are those of the release model" in (back / "README.md").read_text()


def test_another_rotary_embedding_survives_import_and_export(text, tmp_path):
    """Rotated fraction 0.5 and base 20,000, which are no library's defaults."""
    release = write_release(tmp_path / "tiny-neox", dtype="float32")
    store = Store.open(tmp_path / "store", create=True)
    make_study(store, small_study(text, start=released_start(str(release))), until="tokens general")
    assert main(["export", "import", "--to", "hf", "--output", str(tmp_path / "out"), "--store", str(store.root)]) == 0
    ids = torch.randint(512, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (
            transformers.AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
            for folder in (release, tmp_path / "out")
        )
    assert torch.equal(first, second)


def test_documents_may_end_with_another_token_than_id_0_and_a_beginning_is_not_added(text, tmp_path):
    """A tokenizer as Llama 3's: special tokens after the text's, and a template that puts the beginning before a text."""
    tokenizer = train_tokenizer([" ".join(WORDS), " ".join(SYMBOLS)] * 50, vocab_size=300)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    template = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 300)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    release = tmp_path / "like-llama"
    release.mkdir()
    tokenizer.save(str(release / "tokenizer.json"))
    released = released_tokenizer(str(release), end_of_text="<|end_of_text|>")
    start = Start(model=pythia("nano", vocab_size=512, max_seq_len=32), tokenizer=released, seed=0)
    store = Store.open(tmp_path / "store", create=True)
    plan = make_study(store, small_study(text, start=start))
    folder = tmp_path / "model"
    assert main(["export", plan.arms[1].state, "--to", "hf", "--output", str(folder), "--store", str(store.root)]) == 0

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert (theirs.eos_token, theirs.eos_token_id) == ("<|end_of_text|>", 301)
    assert (model.config.eos_token_id, model.generation_config.eos_token_id) == (301, 301)
    for sentence in (" ".join(SYMBOLS), "a<|end_of_text|>b", "ünïcode 🙂", ""):
        assert theirs(sentence)["input_ids"] == tokenizer.encode(sentence, add_special_tokens=False).ids
    assert "Documents end with `<|end_of_text|>` (id 301)" in (folder / "README.md").read_text()
    ours = load_model(store.published_folder(plan.arms[1].state) / "checkpoint")
    ids = torch.tensor([[*theirs(" ".join(SYMBOLS))["input_ids"][:30], 301]])
    with torch.no_grad():
        assert torch.allclose(ours(ids), model(ids).logits, atol=1e-4)


def test_decoding_restores_the_text(exported):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported[2])
    text = "do n't , they say : it 's so ! \n  def f ( x ) :"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_tokenizer_that_was_changed_on_disk_is_not_exported(begun, tmp_path, capsys):
    store = Store.open(Path(shutil.copytree(begun.root, tmp_path / "store")))
    (tokenizer,) = store.paths.stages.glob("*/published/tokenizer.json")
    exchange_two_ids(tokenizer)
    command = ["export", "pretrain nano seed 0 to step 3", "--to", "hf", "--output", str(tmp_path / "model")]
    assert main([*command, "--store", str(store.root)]) != 0
    assert "tokenizer.json: not what was published" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_generation_ends_at_the_end_of_text(exported):
    _, _, folder = exported
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == 0


@pytest.fixture(scope="module")
def begun(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.open(tmp_path_factory.mktemp("begun") / "store", create=True)
    make_study(store, small_study(text), until="pretrain nano seed 0 to step 3")
    return store


def test_without_an_output_the_folder_is_named_after_the_stage(begun, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "pretrain nano seed 0 to step 3", "--to", "hf", "--store", str(begun.root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["folder"] == f"pretrain-nano-seed-0-to-step-3-{facts['stage'][:8]}"
    assert [path.name for path in tmp_path.iterdir()] == [facts["folder"]]


@pytest.mark.parametrize(
    ("stage", "output", "message"),
    [
        ("pretrain nano seed 0 to step 3", "taken", "taken: expected a new folder, got one that exists"),
        ("pretrain nano seed 0 to step 12", "new", "is not finished"),
        ("tokenizer", "new", "no stage 'tokenizer'"),
        ("{tokens}", "new", "expected a state, such as"),
        ("pretrain nano seed 0 to step 3", "/proc/new", "cannot be written"),
    ],
)
def test_an_impossible_export_is_reported_and_leaves_nothing(begun, tmp_path, capsys, stage, output, message):
    (tmp_path / "taken").mkdir()
    labels = {stage_id: begun.requested(stage_id)["label"] for stage_id in begun.stage_ids()}
    tokens = next(stage_id for stage_id, label in labels.items() if label == "tokens general")
    arguments = ["export", stage.format(tokens=tokens), "--to", "hf", "--output", str(tmp_path / output)]
    assert main([*arguments, "--store", str(begun.root)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_write_that_fails_halfway_leaves_no_folder(begun, tmp_path, monkeypatch, capsys):
    import midstudy.export

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(midstudy.export, "_model_card", full)
    arguments = ["export", "pretrain nano seed 0 to step 3", "--to", "hf", "--output", str(tmp_path / "new")]
    assert main([*arguments, "--store", str(begun.root)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


_EXPORT = """
import os, pathlib, signal, sys
import midstudy.export
from midstudy.cli.main import main

def card(*arguments, **options):
    made = [path for path in pathlib.Path(sys.argv[2]).parent.iterdir()]
    print([path.name[:5] for path in made], sorted(path.name for path in made[0].iterdir())[:2], flush=True)
    os.kill(os.getpid(), int(sys.argv[3]))
    return ""

midstudy.export._model_card = card
main(["export", sys.argv[4], "--to", "hf", "--output", sys.argv[2], "--store", sys.argv[1]])
print("continued", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_an_export_that_is_stopped_halfway_leaves_no_folder_of_its_name(begun, tmp_path, number):
    place = tmp_path / "place"
    place.mkdir()
    arguments = [begun.root, place / "new", int(number), "pretrain nano seed 0 to step 3"]
    command = [sys.executable, "-c", _EXPORT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("['.new.'] ['config.json', 'midstudy.json']\n"), done.stderr  # the export was in progress
    assert done.returncode == (-number if number == signal.SIGTERM else 0)  # `main` returns 130
    assert [path.name.startswith(".new.") for path in place.iterdir()] == ([True] if number == signal.SIGTERM else [])
