"""Small training runs for the tests of the engine, its checkpoints and its evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from builders.small_recipes import CODE, GENERAL, NEOX, PYCODE, phase, start
from midstudy.data.batch import Batch
from midstudy.recipe import AdamW, Cosine, Curriculum, Mixture
from midstudy.recipe.shape import AnyShape
from midstudy.train.engine import Metrics, TrainingRun
from midstudy.train.placement import Placement

VOCAB_SIZE = 512


def batch_at(step: int, *, num_sequences: int = 8, length: int | None = None) -> Batch:
    """Return random tokens with a learnable pattern; lengths vary by step, and the end of each row has no loss."""
    random = np.random.default_rng(step)
    length = length or 16 + 8 * (step % 3)
    tokens = random.integers(VOCAB_SIZE // 8, size=(num_sequences, length + 1))
    tokens[:, 1::2] = tokens[:, :-1:2] + 1
    targets = tokens[:, 1:].copy()
    for row in range(num_sequences):
        targets[row, length - random.integers(1, 8) :] = -100
    return Batch(input_ids=tokens[:, :-1], targets=targets)


def curriculum(
    precision: str = "fp32",
    *,
    sft_precision: str | None = None,
    optimizer: AdamW | None = None,
    model: AnyShape = NEOX,
) -> Curriculum:
    """Return 12 steps of general text, 6 with code that continue it, 6 of fine-tuning with a new optimizer and schedule.

    Rates peak at 0.01, then at 0.003; with an optimizer of groups they are multipliers that peak at 1, then at 0.3.
    """
    peak, fields = (1e-2, {}) if optimizer is None else (1.0, {"optimizer": optimizer})
    schedule = Cosine(peak_lr=peak, floor_lr=peak / 100, warmup_steps=3, total_steps=18)
    trunk = Curriculum.of(
        start(model=model), phase(Mixture.only(GENERAL), 18, precision=precision, schedule=schedule, **fields)
    )
    tuning: dict[str, Any] = {
        **fields,
        "name": "sft",
        "precision": sft_precision or precision,
        "schedule": Cosine(peak_lr=0.3 * peak, floor_lr=0.0, warmup_steps=2, total_steps=6),
        "optimizer_state": "reset",
        "data_positions": "reset",
    }
    branch = trunk.branch(start_step=12, data=Mixture.blend(GENERAL, {CODE: 0.5}), name="midtrain")
    return branch.then(phase(PYCODE, 6, **tuning))


def begin(precision: str = "fp32", *, model: AnyShape = NEOX, **placement: Any) -> TrainingRun:
    return TrainingRun.begin(start(model=model), precision=precision, placement=Placement(**placement))


def train(run: TrainingRun, course: Curriculum, to_step: int, **options: Any) -> list[Metrics]:
    """Advance the run to `to_step`; return the metrics of every step."""
    metrics: list[Metrics] = []
    assert run.advance(course, to_step=to_step, batch_at=batch_at, on_metrics=metrics.append, log_every=1, **options)
    return metrics


def weights(run: TrainingRun) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        a.dtype == second[name].dtype and torch.equal(a, second[name]) for name, a in first.items()
    )
