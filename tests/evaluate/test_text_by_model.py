"""Embeddings and gradients of documents against transformers' GPT-NeoX, one document at a time, with plain autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.releases import write_release
from safetensors.torch import load_file

from midstudy.data.release import released_start
from midstudy.evaluate.document_batches import document_batches
from midstudy.evaluate.gradient_alignment import block_gradients
from midstudy.evaluate.mean_embedding import document_embeddings
from midstudy.model.architecture import empty_model
from midstudy.model.huggingface import from_huggingface, huggingface_name
from midstudy.model.language_model import LanguageModel

transformers = pytest.importorskip("transformers")

CONTEXT, END = 64, 0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Any]:
    """The same weights here and in transformers, fp32."""
    folder = write_release(tmp_path_factory.mktemp("release"), dtype="float32")
    shape = released_start(str(folder)).model
    ours = empty_model(shape)
    ours.load_state_dict(from_huggingface(load_file(Path(folder) / "model.safetensors"), shape))
    return ours, transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def documents() -> list[np.ndarray]:
    """More documents than a batch holds, of 1 to 90 tokens; the longest are cut."""
    rng = np.random.default_rng(0)
    return [rng.integers(1, 512, size=size).astype(np.uint16) for size in [*rng.integers(1, 90, size=38), 1, CONTEXT]]


def test_a_document_is_the_mean_of_its_last_hidden_states(models, documents) -> None:
    ours, theirs = models
    found = document_embeddings(ours, document_batches(documents, max_seq_len=CONTEXT, end_id=END))
    assert found.shape == (40, 64)
    for row, ids in zip(found, documents, strict=True):
        with torch.no_grad():
            alone = theirs(torch.tensor([ids[:CONTEXT].tolist()]), output_hidden_states=True).hidden_states[-1][0]
        assert np.allclose(row, alone.double().mean(dim=0).numpy(), atol=1e-5)


def test_a_block_is_the_gradient_of_the_mean_loss_over_its_tokens(models, documents) -> None:
    ours, theirs = models
    blocks = [documents[:35], documents[35:]]
    read = [list(document_batches(block, max_seq_len=CONTEXT, end_id=END)) for block in blocks]
    found = block_gradients(ours, read)
    names = [huggingface_name(name, ours.shape) for name, _ in ours.named_parameters()]
    by_name = {name.replace("lm_head", "embed_out"): parameter for name, parameter in theirs.named_parameters()}
    for row, block in zip(found, blocks, strict=True):
        losses, num_tokens = [], 0
        for ids in block:
            whole = torch.tensor([*ids.tolist(), END][: CONTEXT + 1])
            logits = theirs(whole[None, :-1]).logits[0]
            losses.append(torch.nn.functional.cross_entropy(logits, whole[1:], reduction="sum"))
            num_tokens += len(whole) - 1
        gradients = torch.autograd.grad(torch.stack(losses).sum() / num_tokens, [by_name[name] for name in names])
        expected = torch.cat([one.flatten() for one in gradients]).numpy()
        assert np.abs(expected).max() > 1e-3
        assert np.allclose(row, expected, atol=1e-5)
    assert all(parameter.grad is None for parameter in ours.parameters())
