"""The state of step 0 where weights are not drawn: a release imported, or kept states averaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from midstudy.data.release import release_bytes
from midstudy.execute.stopped import until_told
from midstudy.model.huggingface import from_huggingface
from midstudy.recipe.curriculum import State
from midstudy.recipe.model import ModelShape
from midstudy.recipe.start_weights import Average, Release
from midstudy.train import checkpoint
from midstudy.train.averaging import mean_weights
from midstudy.train.checkpoint import Checkpoint

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def make_first_state(
    recipe: State,
    *,
    checkpoint_of: Callable[[str], Path],
    folder: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write the checkpoint of a start's weights to `folder`; returns the stage's metrics.

    It has no optimizer: the first phase begins one.

    Args:
        checkpoint_of: the checkpoint of a kept state, by its id.
        should_stop: asked before every file of a release and every checkpoint of an average.

    Raises:
        StoppedError: `should_stop` said so.
        ValueError: the release changed since the plan or is not of its model, or a checkpoint is damaged.
    """
    start = recipe.curriculum.start
    metrics: dict[str, Any] = {}
    if isinstance(start.weights, Average):
        kept = (checkpoint_of(state.id) for state in start.weights.states)
        weights = mean_weights(until_told(kept, should_stop, doing="averaging", then="averages from the beginning"))
        metrics["num_states"] = len(start.weights.states)
    else:
        assert start.weights is not None
        weights = _imported(start.weights, start.model, should_stop)
        metrics["num_parameters"] = sum(tensor.numel() for tensor in weights.values())
    state = Checkpoint(
        step=0,
        state_id=recipe.id,
        precision=recipe.precision,
        shape=start.model,
        tokens_seen=0,
        weights=weights,
        moments=None,
        num_updates=0,
    )
    checkpoint.write(state, folder)
    return {
        "step": 0,
        "stretch_from": recipe.id,
        "has_optimizer": False,
        "size": start.model.name,
        "precision": recipe.precision,
        "num_steps": 0,
        "num_tokens": 0,
        **metrics,
    }


def _imported(release: Release, shape: ModelShape, should_stop: Callable[[], bool]) -> dict[str, Tensor]:
    """The weights of a release in fp32, which holds those of Pythia (fp16) and any bf16 ones exactly."""
    found: dict[str, Tensor] = {}
    files = release_bytes(release)
    for path, content in until_told(files, should_stop, doing="importing", then="imports from the beginning"):
        try:
            shard = load(content)
        except SafetensorError as error:
            raise ValueError(f"{path}: not readable as safetensors ({error}). Fetch the file again.") from None
        if twice := sorted(found.keys() & shard.keys()):
            raise ValueError(f"{path}: {twice[0]} is in another shard too; allowed: each tensor once.")
        found |= shard
    weights = from_huggingface(found, shape)
    for name, tensor in weights.items():
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{release}: {name} is {tensor.dtype}; allowed: {', '.join(map(str, _FLOATS))}.")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{release}: {name} holds numbers that are not finite. Fetch the file again, or name another.")
    return {name: tensor.float() for name, tensor in weights.items()}
