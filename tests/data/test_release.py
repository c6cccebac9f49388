"""Released checkpoints as starts: read from a folder or the Hub's cache, without torch, and rejected by field."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders.places import REPOSITORY
from builders.releases import COMMIT, cached_snapshot, write_release, write_tokenizer

from midstudy.data import digests
from midstudy.data.release import release_bytes, release_files, released_start, tokenizer_bytes
from midstudy.model.config import huggingface_config, shape_of_config
from midstudy.recipe import ModelShape, RecipeError, Release, ReleasedTokenizer, Start, llama, pythia

LLAMA_ATTENTION = {"llama": "plain", "qwen2": "qkv_biases", "qwen3": "qk_norms"}

# config.json of EleutherAI/pythia-70m, as published.
PYTHIA_70M = {
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 512,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.24.0",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("releases") / "tiny-neox")


@pytest.fixture
def release(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny-neox"))


def weights(start: Start) -> Release:
    assert isinstance(start.weights, Release)
    return start.weights


def tokenizer(start: Start) -> ReleasedTokenizer:
    assert isinstance(start.tokenizer, ReleasedTokenizer)
    return start.tokenizer


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in (config | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def test_the_published_configuration_of_pythia_gives_the_shape_of_that_name():
    assert shape_of_config(PYTHIA_70M) == pythia("70m")
    assert shape_of_config(huggingface_config(pythia("1b"))) == pythia("1b")


def test_a_folder_gives_model_tokenizer_and_weights(release: Path):
    start = released_start(str(release), step=71_000)
    assert (start.model.num_layers, start.model.width, start.model.vocab_size) == (2, 64, 512)
    assert isinstance(start.model, ModelShape)
    assert (start.model.rotary_fraction, start.model.rotary_base) == (0.5, 20_000)  # as transformers 5 writes them
    assert (start.seed, str(start.weights)) == (None, "tiny-neox@step71000")
    assert start.tokenizer.vocab_size == 322  # with the two added after training
    assert release_files(weights(start)) == [release / "model.safetensors"]
    assert tokenizer_bytes(tokenizer(start)) == (release / "tokenizer.json").read_bytes()


def test_a_copy_is_the_same_release_and_other_weights_are_not(release: Path, tmp_path: Path):
    copy = Path(shutil.copytree(release, tmp_path / "copy"))
    assert released_start(str(copy)).id == released_start(str(release)).id
    other = released_start(str(write_release(tmp_path / "other", seed=1)))
    assert other.id != released_start(str(release)).id
    assert tokenizer(other).digest == tokenizer(released_start(str(release))).digest


def test_shards_are_found_through_their_index(tmp_path: Path):
    folder = write_release(tmp_path / "sharded", shard="100KB")
    assert not (folder / "model.safetensors").exists()
    names = [path.name for path in release_files(weights(released_start(str(folder))))]
    assert len(names) > 1
    assert names == sorted(path.name for path in folder.glob("*.safetensors"))
    (folder / names[0]).unlink()
    with pytest.raises(ValueError, match=f"{names[0]}: missing"):
        released_start(str(folder))


def test_files_changed_since_the_plan_are_rejected(release: Path):
    start = released_start(str(release))
    with (release / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    with pytest.raises(ValueError, match="changed since the plan: expected sha256"):
        release_files(weights(start))
    write_tokenizer(release, special=("<|endoftext|>",))
    with pytest.raises(ValueError, match="changed since the plan: expected sha256"):
        tokenizer_bytes(tokenizer(start))


def replace_file(path: Path) -> None:
    """Replace the file with one of the same size and timestamp but other bytes at the end."""
    status, content = path.stat(), path.read_bytes()
    path.with_name("new").write_bytes(content[:-8] + content[-8:][::-1])
    os.utime(path.with_name("new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    path.with_name("new").replace(path)
    assert path.read_bytes() != content


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_replaced_release_of_the_same_size_and_timestamp_has_another_id(
    release: Path, monkeypatch: pytest.MonkeyPatch, is_cached: bool
):
    if is_cached:
        monkeypatch.setattr(digests, "_SMALL_BYTES", 0)
        monkeypatch.setattr(digests, "_SETTLED_S", -60.0)
    start = released_start(str(release))
    replace_file(release / "model.safetensors")
    assert released_start(str(release)).id != start.id
    with pytest.raises(ValueError, match="changed since the plan: expected sha256"):
        release_files(weights(start))


def test_a_link_that_changes_its_target_changes_the_release(release: Path, tmp_path: Path):
    latest = tmp_path / "latest"
    latest.symlink_to(release.name)
    start = released_start(str(latest))
    shutil.copytree(release, tmp_path / "v2")
    replace_file(tmp_path / "v2" / "model.safetensors")
    latest.unlink()
    latest.symlink_to("v2")
    assert released_start(str(latest)).id != start.id


def test_imported_weights_are_digested_regardless_of_the_cache(release: Path, monkeypatch: pytest.MonkeyPatch):
    start = released_start(str(release))
    known = {path: digests.file_digest(path) for path in release.iterdir()}
    assert [path.name for path, _ in release_bytes(weights(start))] == ["model.safetensors"]
    monkeypatch.setattr("midstudy.data.release.file_digest", known.__getitem__)
    replace_file(release / "model.safetensors")
    with pytest.raises(ValueError, match="changed since the plan: expected sha256"):
        list(release_bytes(weights(start)))
    replace_file(release / "tokenizer.json")
    with pytest.raises(ValueError, match="changed since the plan: expected sha256"):
        tokenizer_bytes(tokenizer(start))


def test_a_file_of_the_hubs_cache_is_checked_against_its_name(original: Path):
    """The cache names a large file by its SHA-256; the commit's folder links to it."""
    snapshot = cached_snapshot("owner/exchanged")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(original / name, snapshot / name)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(exist_ok=True)
    blob = blobs / digests.file_digest(original / "model.safetensors")
    shutil.copy(original / "model.safetensors", blob)
    (snapshot / "model.safetensors").unlink(missing_ok=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    start = released_start(f"hub:owner/exchanged@{COMMIT}")
    assert len(list(release_bytes(weights(start)))) == 1
    replace_file(blob)
    with pytest.raises(ValueError, match=r"damaged: expected sha256 .* \(its file name\), got .*\. Remove it"):
        list(release_bytes(weights(start)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_type": "mistral"}, "model_type"),
        ({"hidden_act": "gelu_fast"}, "hidden_act"),
        ({"use_parallel_residual": False}, "use_parallel_residual"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"attention_bias": False}, "attention_bias"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"hidden_dropout": 0.1}, "hidden_dropout"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"intermediate_size": 128}, "intermediate_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"rope_parameters": None}, "rotary_pct"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters.rope_type"),
        ({"rope_parameters": ["default"]}, "rope_parameters"),
        # Two spellings of one value; versions of transformers differ in which one they use.
        ({"rotary_pct": 1.0}, "rope_parameters.partial_rotary_factor"),
        ({"rotary_emb_base": 500}, "rope_parameters.rope_theta"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope_scaling.rope_type"),
        ({"quantization_config": {"bits": 8}}, "quantization_config"),
    ],
)
def test_an_unsupported_architecture_is_rejected_by_field(release: Path, changes, field: str):
    edit(release, **changes)
    with pytest.raises(RecipeError) as raised:
        released_start(str(release))
    assert raised.value.path == f"release.tiny-neox.config.{field}"


_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8_192,
}


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"num_key_value_heads": "2"}, "num_key_value_heads"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "rope_scaling.low_freq_factor"),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor",
        ),
        ({"rope_theta": 500}, "rope_parameters.rope_theta"),
        ({"rope_scaling": _SCALING}, "rope_scaling"),
        ({"quantization_config": {"bits": 8}}, "quantization_config"),
    ],
)
def test_what_is_not_implemented_of_the_llama_family_is_rejected_by_field(
    model_type: str, changes: dict[str, Any], field: str
):
    config = huggingface_config(dataclasses.replace(llama("nano"), attention=LLAMA_ATTENTION[model_type]))
    rotation = {"rope_scaling": None, "rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    assert shape_of_config(config | rotation).num_layers == 2
    with pytest.raises(RecipeError) as raised:
        shape_of_config(config | rotation | changes)
    assert raised.value.path == f"config.{field}"


@pytest.mark.parametrize(
    ("model_type", "field"),
    [("llama", "attention_bias"), ("llama", "mlp_bias"), ("qwen2", "use_sliding_window"), ("qwen3", "use_sliding_window")],
)
def test_a_switch_of_the_llama_family_that_is_on_is_rejected(model_type: str, field: str):
    config = huggingface_config(dataclasses.replace(llama("nano"), attention=LLAMA_ATTENTION[model_type]))
    with pytest.raises(RecipeError) as raised:
        shape_of_config(config | {field: True})
    assert raised.value.path == f"config.{field}"


def test_a_llama_without_newer_fields_has_a_key_for_every_query_and_the_base_of_then():
    """As the first releases, whose files have none of these fields."""
    newer = (
        "num_key_value_heads",
        "head_dim",
        "rope_theta",
        "rope_scaling",
        "attention_bias",
        "mlp_bias",
        "attention_dropout",
    )
    config = {name: value for name, value in huggingface_config(llama("nano")).items() if name not in newer}
    assert shape_of_config(config) == dataclasses.replace(llama("nano"), name="llama-2x64", num_kv_heads=4)


def test_two_spellings_that_agree_are_accepted(release: Path):
    shape = released_start(str(release)).model
    edit(release, rotary_pct=0.5, rotary_emb_base=20_000)
    assert released_start(str(release)).model == shape


@pytest.mark.parametrize("step", [-5, "main", True, 1.5])
def test_an_invalid_step_is_rejected(release: Path, step: Any):
    with pytest.raises(RecipeError, match=r"step: expected a whole number of at least 0.*, got .*commit after @ selects"):
        released_start(str(release), step=step)


@pytest.mark.parametrize("weight_map", [["model.safetensors"], {"a": ["model.safetensors"]}, {}, None])
def test_an_index_that_does_not_name_files_is_rejected(tmp_path: Path, weight_map: Any):
    folder = write_release(tmp_path / "sharded", shard="100KB")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="weight_map does not name files of this folder"):
        released_start(str(folder))


def test_documents_end_with_the_special_token_that_is_named(release: Path):
    """Llama 3's is <|end_of_text|>; without it, a release that has no <|endoftext|> is rejected with what to name."""
    write_tokenizer(release, special=("<|begin_of_text|>", "<|end_of_text|>"))
    assert tokenizer(released_start(str(release), end_of_text="<|end_of_text|>")).end_of_text_id == 1
    with pytest.raises(
        RecipeError, match=r"tokenizer\.<\|endoftext\|>: expected a special token.*no such token.*end_of_text"
    ):
        released_start(str(release))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("{folder}/nowhere", "no such folder"),
        ("", "release: expected a folder or hub:OWNER/NAME@COMMIT, got nothing"),
        ("  ", "release: expected a folder or hub:OWNER/NAME@COMMIT, got nothing"),
        ("hub:owner/name", "the commit pins the weights"),
        ("hub:owner/name@step71000", "40 hex digits"),
        (f"hub:owner/no-such-model@{COMMIT}", "the Hub cannot be reached"),
        (f"hub:a/b/c@{COMMIT}", "cannot be read"),
    ],
)
def test_an_argument_that_does_not_name_a_release_is_rejected(tmp_path: Path, argument: str, message: str):
    with pytest.raises(ValueError, match=message):
        released_start(argument.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "config.json: missing"),
        ("tokenizer.json", "tokenizer.json: missing"),
        ("model.safetensors", "model.safetensors: missing"),
    ],
)
def test_a_missing_file_is_named(release: Path, missing: str, message: str):
    (release / missing).unlink()
    with pytest.raises(ValueError, match=message):
        released_start(str(release))


def test_pickled_weights_are_rejected_with_a_fix(release: Path):
    (release / "model.safetensors").rename(release / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pytorch_model\.bin: expected model\.safetensors, got pickled weights.*save_pretrained"
    ):
        released_start(str(release))


def test_the_weights_of_a_hub_model_are_needed_only_for_the_import(original: Path):
    snapshot = cached_snapshot("owner/tiny-neox")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(original / name, snapshot / name)
    argument = f"hub:owner/tiny-neox@{COMMIT}"
    start = released_start(argument, step=512)
    assert str(start.weights) == "tiny-neox@step512"
    assert str(weights(start).source) == "hub:owner/tiny-neox"
    assert start.model == released_start(str(original)).model
    with pytest.raises(ValueError, match=r"model\.safetensors: missing.*a commit, with safetensors"):
        release_files(weights(start))
    shutil.copy(original / "model.safetensors", snapshot)
    assert release_files(weights(start)) == [snapshot / "model.safetensors"]
    assert tokenizer_bytes(tokenizer(start)) == (snapshot / "tokenizer.json").read_bytes()


def test_a_release_is_planned_without_torch(original: Path):
    code = (
        "import sys; from midstudy.data.release import released_start\n"
        "import midstudy.plan.planner, midstudy.plan.manifest\n"
        f"released_start({str(original)!r}); print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    assert printed.strip() == "False"
