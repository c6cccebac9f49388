"""Load checkpoints as models for evaluation, and reuse model objects between checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from midstudy.model.architecture import empty_model
from midstudy.model.compiled import compile_model
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.shape import AnyShape
from midstudy.train import checkpoint
from midstudy.train.checkpoint import Checkpoint
from midstudy.train.precision import Weights

_KEPT_MODELS = 2
_Kind = tuple[AnyShape, str, torch.device, bool]
_idle: list[tuple[_Kind, Weights]] = []
"""Models that are not in use, in the order of their return."""


def load_model(
    folder: Path, *, precision: str | None = None, device: torch.device | str = "cpu", compiled: bool = False
) -> LanguageModel:
    """Load a checkpoint into a model of its own that computes as it was trained, or in `precision`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ValueError: `compiled` is set, but the requirements of compilation are not installed.
    """
    state = checkpoint.read(folder, with_optimizer=False)
    return _built(state, (state.shape, precision or state.precision, torch.device(device), compiled)).model


@contextmanager
def borrow_weights(
    folder: Path, *, precision: str | None = None, device: torch.device | str = "cpu", compiled: bool = False
) -> Iterator[Weights]:
    """Load a checkpoint's trained weights with a model that computes as it was trained, or in `precision`.

    A cache reuses both for the next checkpoint: a process that evaluates many checkpoints of the same shape, precision and
    device thus builds (and compiles) one model. Nested calls get different models.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ValueError: `compiled` is set, but the requirements of compilation are not installed.
    """
    state = checkpoint.read(folder, with_optimizer=False)
    kind = (state.shape, precision or state.precision, torch.device(device), compiled)
    index = next((index for index, (idle_kind, _) in enumerate(_idle) if idle_kind == kind), None)
    if index is None:
        del _idle[: len(_idle) - _KEPT_MODELS + 1]  # make room before more is allocated
        weights = _built(state, kind)
    else:
        _, weights = _idle.pop(index)
        with torch.no_grad():
            for name, master in weights.masters.items():
                master.copy_(state.weights[name])
        weights.refresh()
    yield weights
    _idle.append((kind, weights))
    del _idle[:-_KEPT_MODELS]


def forget_models() -> None:
    """Free the models that are not in use; call before training, which needs the memory."""
    _idle.clear()


def _built(state: Checkpoint, kind: _Kind) -> Weights:
    shape, precision, device, compiled = kind
    model = empty_model(shape, device="meta")
    masters = {name: tensor.to(device, copy=True) for name, tensor in state.weights.items()}
    weights = Weights(model, masters, precision=precision)
    if compiled:
        compile_model(model)
    return weights
