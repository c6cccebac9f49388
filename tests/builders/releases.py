"""Released models as on the Hub, written by transformers and tokenizers without any code of midstudy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_release(folder: Path, *, seed: int = 0, dtype: str = "float16", shard: str = "1GB", **config) -> Path:
    """Write a randomly initialised GPT-NeoX with two layers and a tokenizer like Pythia's; return `folder`."""
    transformers = pytest.importorskip("transformers")
    import torch

    fields = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 512,
        "max_position_embeddings": 64,
        "rotary_pct": 0.5,
        "rotary_emb_base": 20_000,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    torch.manual_seed(seed)
    model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**(fields | config)))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, since their default values could hide errors
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    write_tokenizer(folder)
    return folder


def write_llama(folder: Path, *, model_type: str = "llama", seed: int = 0, dtype: str = "float32", **config):
    """Write a randomly initialised Llama, Qwen 2 or Qwen 3 with two layers, and a tokenizer; return `folder` and the model.

    Its base and its scaling of the rotation are no library's defaults.
    """
    transformers = pytest.importorskip("transformers")
    import torch

    fields = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
        "max_position_embeddings": 64,
        "rms_norm_eps": 2e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 20_000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 3.0,
            "original_max_position_embeddings": 32,
        },
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(model_type, **(fields | config)))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, since their default values could hide errors
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    write_tokenizer(folder)
    return folder, model.eval()


def write_tokenizer(folder: Path, *, special: tuple[str, ...] = ("<|endoftext|>", "<|padding|>")) -> None:
    """Write a byte-level BPE tokenizer with NFC normalisation and runs of blanks as added tokens, like Pythia's."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ("time year people way day man thing woman life child world school state def return self import class for",)
    tokenizer.train_from_iterator(words * 20, trainer=trainer)
    tokenizer.add_tokens([AddedToken("  ", normalized=True), AddedToken("    ", normalized=True)])
    tokenizer.save(str(folder / "tokenizer.json"))


def cached_snapshot(owner_and_name: str, commit: str = COMMIT) -> Path:
    """Return the folder of a model at a commit in the Hub's cache, whose files are used without network access."""
    folder = Path(os.environ["HF_HOME"]) / "hub" / f"models--{owner_and_name.replace('/', '--')}" / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder
