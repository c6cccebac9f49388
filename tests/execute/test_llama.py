"""A Llama in whole studies: drawn and trained to its report, and released by transformers as the parent of all arms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.changed_studies import state_before_sft
from builders.releases import write_llama
from builders.small_recipes import LLAMA
from builders.small_study import make_study, small_study
from safetensors.torch import load_file

from midstudy.cli.main import main
from midstudy.data.release import released_start
from midstudy.evaluate.model_cache import load_model
from midstudy.recipe import RotaryScaling
from midstudy.recipe.decode import decode
from midstudy.store.store import Store

transformers = pytest.importorskip("transformers")

SCALING = RotaryScaling(factor=8, low_frequency_factor=1, high_frequency_factor=4, original_seq_len=32)
TIED = replace(LLAMA, is_tied=True, rotary_scaling=SCALING, norm_epsilon=1e-6)
EXPERIMENT = """
from dataclasses import replace
from pathlib import Path
from builders.small_study import small_study
from midstudy.recipe import LlamaShape, RotaryScaling
{shape}

def study(*, data, text: str):
    first = small_study(Path(text)).arms[0].curriculum.start
    return small_study(Path(text), start=replace(first, model=SHAPE))
"""


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert [name for name, keys in info.items() if keys] == []
    with torch.no_grad():
        return model.eval()(ids).logits


def some_ids() -> torch.Tensor:
    return torch.randint(300, (2, 64), generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_of_a_llama_runs_to_its_report_and_its_state_is_exported(text: Path, tmp_path: Path) -> None:
    (tmp_path / "experiment.py").write_text(EXPERIMENT.format(shape=f"SHAPE = {TIED!r}"))
    root = tmp_path / "store"
    settings = ["--set", f"text={text}", "--store", str(root), "--backend", "debug"]
    assert main(["run", str(tmp_path / "experiment.py"), *settings]) == 0
    assert (root / "studies" / "small" / "report" / "report.html").exists()
    out = tmp_path / "model"
    assert main(["export", "sft nano code50@3", "--to", "hf", "--output", str(out), "--store", str(root)]) == 0
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    card = (out / "README.md").read_text()
    assert f"a LlamaForCausalLM of {TIED.num_parameters:,} parameters" in card
    kept = json.loads((out / "midstudy.json").read_text())
    assert decode(kept["recipe"]).curriculum.start.model == TIED
    ours = load_model(Store.open(root).published_folder(kept["id"]) / "checkpoint")
    with torch.no_grad():
        mine, theirs = ours(some_ids()), logits(out, some_ids())
    assert (mine - theirs).abs().max() < 1e-5 * theirs.std()
    assert released_start(str(out)).model == TIED


@pytest.mark.parametrize(
    ("model_type", "config"),
    [("llama", {"tie_word_embeddings": True}), ("llama", {}), ("qwen2", {"tie_word_embeddings": True}), ("qwen3", {})],
    ids=["llama tied", "llama untied", "qwen2 tied", "qwen3 untied"],
)
def test_a_release_is_the_parent_of_a_study_and_is_exported_as_it_was(
    text: Path, tmp_path: Path, model_type: str, config: dict[str, Any]
) -> None:
    release, _ = write_llama(tmp_path / "release", model_type=model_type, **config)
    start = released_start(str(release))
    store = Store.open(tmp_path / "store", create=True)
    plan = make_study(store, small_study(text, start=start, starts=()), until="pretrain nano seed 0 to step 12")
    first, trained = (
        load_file(store.published_folder(stage) / "checkpoint" / "model.safetensors")
        for stage in (start.id, state_before_sft(plan.arms[0]))
    )
    theirs = load_file(release / "model.safetensors")
    assert torch.equal(first["embedding.weight"], theirs["model.embed_tokens.weight"])
    assert torch.equal(first["blocks.1.key.weight"], theirs["model.layers.1.self_attn.k_proj.weight"])
    assert all(not torch.equal(tensor, first[name]) for name, tensor in trained.items())
    assert main(["export", "import", "--to", "hf", "--output", str(tmp_path / "out"), "--store", str(store.root)]) == 0
    assert torch.equal(logits(release, some_ids()), logits(tmp_path / "out", some_ids()))
