"""Make the state of step 0 if its weights are not drawn: import a release, or average kept states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from midstudy.data.release import release_bytes
from midstudy.execute.stopped import until_stopped
from midstudy.model.huggingface import from_huggingface
from midstudy.recipe.curriculum import State
from midstudy.recipe.shape import AnyShape
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
    """Write the checkpoint of a start's weights to `folder`; return the stage's metrics.

    The checkpoint does not have an optimizer state: the first phase starts with a new optimizer.

    Args:
        checkpoint_of: returns the checkpoint folder of a kept state, given its id.
        should_stop: polled before every file of a release and every checkpoint of an average.

    Raises:
        StoppedError: `should_stop` returned true.
        ValueError: the release changed since the plan or does not match its model shape, or a checkpoint is damaged.
    """
    start = recipe.curriculum.start
    metrics: dict[str, Any] = {}
    if isinstance(start.weights, Average):
        kept = (checkpoint_of(state.id) for state in start.weights.states)
        weights = mean_weights(until_stopped(kept, should_stop, doing="averaging", then="averages from the beginning"))
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


def _imported(release: Release, shape: AnyShape, should_stop: Callable[[], bool]) -> dict[str, Tensor]:
    """Return the weights of a release in fp32, which represents fp16 (Pythia) and bf16 weights exactly."""
    tensors: dict[str, Tensor] = {}
    files = release_bytes(release)
    for path, content in until_stopped(files, should_stop, doing="importing", then="imports from the beginning"):
        try:
            shard = load(content)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a safetensors file ({error}). Fetch the file again.") from None
        if duplicates := sorted(tensors.keys() & shard.keys()):
            raise ValueError(f"{path}: expected each tensor once, got {duplicates[0]}, which is in another shard too.")
        tensors |= shard
    weights = from_huggingface(tensors, shape)
    for name, tensor in weights.items():
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{release}: {name}: expected {', '.join(map(str, _FLOATS))}, got {tensor.dtype}.")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{release}: {name} has non-finite values. Fetch the file again, or use another release.")
    return {name: tensor.float() for name, tensor in weights.items()}
