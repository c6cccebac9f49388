"""The model is Llama, Qwen 2 or Qwen 3: logits, hidden states and gradients agree with transformers, in both directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.releases import write_llama
from builders.small_models import LLAMA_NANO, LLAMAS, from_transformers, lively, token_ids
from safetensors.torch import load_file
from torch.nn import functional as F

from midstudy.data.release import released_start
from midstudy.model.architecture import empty_model
from midstudy.model.config import huggingface_config, shape_of_config
from midstudy.model.huggingface import from_huggingface, to_huggingface
from midstudy.recipe import LlamaShape, RecipeError, RotaryScaling, llama

MAX_ERROR = 1e-5  # fp32, in standard deviations; the order of summation differs


@pytest.mark.parametrize("shape", LLAMAS, ids=lambda shape: shape.name)
def test_logits_and_hidden_states_equal_those_of_transformers(shape: LlamaShape, tmp_path: Path) -> None:
    model = lively(shape)
    ids = token_ids(shape, 2, shape.max_seq_len)
    with torch.no_grad():
        theirs = from_transformers(tmp_path, model)(ids, output_hidden_states=True)
        ours, states = model(ids), model.hidden_states(ids)
        assert torch.equal(states[-1], model.hidden(ids))
    assert theirs.logits.std() > 0.3
    assert (ours - theirs.logits).abs().max() < MAX_ERROR * theirs.logits.std()
    assert len(states) == len(theirs.hidden_states) == shape.num_layers + 1
    for layer, (one, other) in enumerate(zip(states, theirs.hidden_states, strict=True)):
        assert (one - other).abs().max() < MAX_ERROR * other.std(), layer


@pytest.mark.parametrize("shape", LLAMAS, ids=lambda shape: shape.name)
def test_gradients_equal_those_of_transformers(shape: LlamaShape, tmp_path: Path) -> None:
    """The gradient of a tied embedding is the sum of its two uses."""
    model = lively(shape)
    other = from_transformers(tmp_path, model)
    ids, targets = token_ids(shape, 2, 32), token_ids(shape, 3, 32)[1:]
    model.scaled_loss(ids, targets, scale=1 / targets.numel()).backward()
    F.cross_entropy(other(ids).logits.flatten(0, 1), targets.flatten()).backward()
    theirs = from_huggingface({name: p.grad for name, p in other.named_parameters()}, shape)
    assert theirs.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_a_model_that_transformers_wrote_gives_its_logits(model_type: str, is_tied: bool, tmp_path: Path) -> None:
    folder, theirs = write_llama(tmp_path / "release", model_type=model_type, tie_word_embeddings=is_tied)
    shape = released_start(str(folder)).model
    ours = empty_model(shape)
    ours.load_state_dict(from_huggingface(load_file(folder / "model.safetensors"), shape))
    ids = token_ids(shape, 2, 64)
    with torch.no_grad():
        expected = theirs(ids).logits
        assert (ours(ids) - expected).abs().max() < MAX_ERROR * expected.std()
    assert shape.num_parameters == theirs.num_parameters() == sum(p.numel() for p in ours.parameters())


def test_the_scaling_of_long_contexts_changes_the_logits() -> None:
    """Otherwise the comparisons above could not show that it is right."""
    scaled = next(shape for shape in LLAMAS if shape.rotary_scaling is not None)
    ids = token_ids(scaled, 1, 64)
    with torch.no_grad():
        first, second = (lively(shape)(ids) for shape in (scaled, replace(scaled, rotary_scaling=None)))
    assert (first - second).abs().max() > 0.01 * first.std()


@pytest.mark.parametrize("shape", LLAMAS, ids=lambda shape: shape.name)
def test_weights_and_shape_survive_conversion_to_hugging_face_and_back(shape: LlamaShape) -> None:
    weights = lively(shape).state_dict()
    back = from_huggingface(to_huggingface(weights, shape), shape)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    assert shape_of_config(huggingface_config(shape)) == replace(shape, name=shape_of_config(huggingface_config(shape)).name)


def test_the_head_of_a_tied_model_may_repeat_the_embedding_and_nothing_else() -> None:
    tied = replace(LLAMA_NANO, is_tied=True)
    weights = to_huggingface(lively(tied).state_dict(), tied)
    assert "lm_head.weight" not in weights
    embedding = weights["model.embed_tokens.weight"]
    assert from_huggingface(weights | {"lm_head.weight": embedding.clone()}, tied).keys() == lively(tied).state_dict().keys()
    with pytest.raises(ValueError, match=r"lm_head\.weight: expected the values of model\.embed_tokens\.weight"):
        from_huggingface(weights | {"lm_head.weight": embedding + 1}, tied)


# config.json of each as published, without fields that say nothing about the model.
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "llama-3-8b": (
        {
            "model_type": "llama",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 8192,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "vocab_size": 128256,
        },
        8_030_261_248,
    ),
    "llama-3.2-1b": (
        {
            "model_type": "llama",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 16,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "vocab_size": 128256,
        },
        1_235_814_400,
    ),
    "qwen2-24x896": (  # Qwen2.5-0.5B
        {
            "model_type": "qwen2",
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "max_position_embeddings": 32768,
            "max_window_layers": 24,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "use_mrope": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        494_032_768,
    ),
    "qwen3-28x1024": (  # Qwen3-0.6B-Base
        {
            "model_type": "qwen3",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "max_position_embeddings": 32768,
            "max_window_layers": 28,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        596_049_920,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_gives_a_model_of_the_published_size(name: str) -> None:
    config, num_parameters = PUBLISHED[name]
    shape = shape_of_config(config)
    counts = {key: p.numel() for key, p in empty_model(shape, device="meta").named_parameters()}
    in_matrices = sum(n for key, n in counts.items() if ".weight" in key and "norm" not in key and key.startswith("blocks"))
    outside = counts["embedding.weight"] + counts.get("head.weight", 0)
    assert (shape.name, shape.num_parameters, sum(counts.values())) == (name, num_parameters, num_parameters)
    assert (shape.num_parameters_non_embedding, shape.num_parameters_of_matrices) == (num_parameters - outside, in_matrices)
    if name.startswith("llama"):
        assert shape == llama(name.removeprefix("llama-"))


def test_flops_count_a_tied_head_and_every_query() -> None:
    """By hand for Llama 3.2 1B: 1,235,748,864 of its parameters are in matrix products, vectors included as for Pythia."""
    shape = llama("3.2-1b")
    assert shape.flops_per_token(seq_len=2_048) == 6 * 1_235_814_400 + 12 * 16 * 2_048 * 2_048
    assert replace(shape, is_tied=False).flops_per_token(seq_len=2_048) == shape.flops_per_token(seq_len=2_048)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"head_size": 15}, "head_size"),
        ({"mlp_width": 0}, "mlp_width"),
        ({"rotary_base": 0}, "rotary_base"),
        ({"norm_epsilon": -1e-5}, "norm_epsilon"),
        ({"is_tied": 1}, "is_tied"),
        ({"attention": "grouped"}, "attention"),
        ({"rotary_scaling": {"factor": 8}}, "rotary_scaling"),
    ],
)
def test_an_impossible_shape_is_rejected_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeError) as raised:
        replace(LLAMA_NANO, **changes)
    assert raised.value.path == f"model.{field}"


def test_an_impossible_scaling_is_rejected_by_field() -> None:
    with pytest.raises(RecipeError, match="high_frequency_factor: expected more than low_frequency_factor, 4"):
        RotaryScaling(factor=8, low_frequency_factor=4, high_frequency_factor=1, original_seq_len=8_192)
