"""What a stage costs before it runs: tokens, FLOPs, seconds on one device, bytes on disk.

Seconds come from the throughput of finished stages of the same shape and precision where the store has any, else from what
was measured of the device, else from the device's assumed rate; `Throughput.source` says which. A rate of one vocabulary or
sequence length stands for others by the floating-point operations a token takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from midstudy.plan.device import Device
from midstudy.recipe.measure import Evaluation
from midstudy.recipe.model import ModelShape

FORWARD_SHARE = 1 / 3
"""A forward pass costs a third of forward and backward."""

FILE_BYTES_PER_S = 2e8
"""Reading, hashing and writing weights on one core and a plain disk, for stages that do nothing else."""


@dataclass(frozen=True)
class Throughput:
    """Training rates of one device; those of the store's finished stages in FLOP/s, by (shape name, precision)."""

    device: Device
    measured_flops_per_s: Mapping[tuple[str, str], float]

    def source(self, model: ModelShape, precision: str, *, seq_len: int) -> str:
        """Where the rate comes from: `store`, `recorded` or `assumed`."""
        if (model.name, precision) in self.measured_flops_per_s:
            return "store"
        return "recorded" if self.device.rate(model, precision, seq_len=seq_len) else "assumed"

    def training_s(self, model: ModelShape, precision: str, *, num_tokens: int, seq_len: int) -> float:
        """Seconds to train on `num_tokens` tokens."""
        flops_per_s = self.measured_flops_per_s.get((model.name, precision))
        if flops_per_s is None:
            rate = self.device.rate(model, precision, seq_len=seq_len)
            flops_per_s = rate.flops_per_s if rate else self.device.assumed_flops_per_s(model, precision)
        return num_tokens * model.flops_per_token(seq_len=seq_len) / flops_per_s

    def evaluation_s(self, model: ModelShape, precision: str, evaluation: Evaluation) -> float:
        """Seconds of a forward pass over the evaluation's sequences, at most."""
        num_tokens = evaluation.max_sequences * evaluation.seq_len
        return FORWARD_SHARE * self.training_s(model, precision, num_tokens=num_tokens, seq_len=evaluation.seq_len)


def measured_throughput(samples: Iterable[tuple[str, str, float]]) -> dict[tuple[str, str], float]:
    """Median FLOP/s of finished stages, from (shape name, precision, FLOP/s)."""
    by_kind: dict[tuple[str, str], list[float]] = {}
    for shape, precision, flops_per_s in samples:
        by_kind.setdefault((shape, precision), []).append(flops_per_s)
    return {kind: median(rates) for kind, rates in by_kind.items()}


def checkpoint_bytes(model: ModelShape, *, precision: str, with_optimizer: bool) -> int:
    """Weights, and both Adam moments where they are kept."""
    width = 2 if precision == "bf16_true" else 4
    return model.num_parameters * width * (3 if with_optimizer else 1)
