"""The model of a checkpoint, ready to be evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from midstudy.model.compiled import compile_model
from midstudy.model.pythia import Pythia
from midstudy.recipe.model import ModelShape
from midstudy.train import checkpoint
from midstudy.train.checkpoint import Checkpoint
from midstudy.train.precision import Weights

_KEPT_MODELS = 2
_Kind = tuple[ModelShape, str, torch.device, bool]
_idle: list[tuple[_Kind, Weights]] = []
"""Models that are not in use, the last returned at the end."""


def load_model(
    folder: Path, *, precision: str | None = None, device: torch.device | str = "cpu", compiled: bool = False
) -> Pythia:
    """The model of a checkpoint, computing as it was trained, or in `precision`; the caller's own.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ValueError: `compiled`, and what compiling needs is not installed.
    """
    state = checkpoint.read(folder, with_optimizer=False)
    return _build(state, (state.shape, precision or state.precision, torch.device(device), compiled)).model


@contextmanager
def lent_model(
    folder: Path, *, precision: str | None = None, device: torch.device | str = "cpu", compiled: bool = False
) -> Iterator[Pythia]:
    """The same, lent until the end of the `with`: the next checkpoint of the same kind is read into the same model.

    A process that evaluates many checkpoints builds (and compiles) one model for them. Two models of a kind at a time are
    two models.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ValueError: `compiled`, and what compiling needs is not installed.
    """
    state = checkpoint.read(folder, with_optimizer=False)
    kind = (state.shape, precision or state.precision, torch.device(device), compiled)
    place = next((place for place, (found, _) in enumerate(_idle) if found == kind), None)
    if place is None:
        del _idle[: len(_idle) - _KEPT_MODELS + 1]  # make room before more is allocated
        weights = _build(state, kind)
    else:
        _, weights = _idle.pop(place)
        with torch.no_grad():
            for name, master in weights.masters.items():
                master.copy_(state.weights[name])
        weights.refresh()
    yield weights.model
    _idle.append((kind, weights))
    del _idle[:-_KEPT_MODELS]


def forget_models() -> None:
    """Give back the memory of the models that are not in use: before training, which needs it."""
    _idle.clear()


def _build(state: Checkpoint, kind: _Kind) -> Weights:
    shape, precision, device, compiled = kind
    model = Pythia.empty(shape, device="meta")
    weights = Weights(
        model, {name: tensor.to(device, copy=True) for name, tensor in state.weights.items()}, precision=precision
    )
    if compiled:
        compile_model(model)
    return weights
