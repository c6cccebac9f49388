"""What a stage costs before it runs: tokens, FLOPs, seconds on one device, bytes on disk.

Seconds of a model come from the throughput of finished stages of the same shape and precision where the store has any,
else from a calibration on this machine, else from what was measured of the device, else from the device's assumed rate;
`Throughput.source` says which. A rate of one vocabulary or sequence length stands for others by the floating-point
operations a token takes. Seconds of data are those of one processor core, by the bytes of text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from midstudy.plan.device import Device
from midstudy.recipe.measure import Evaluation
from midstudy.recipe.model import ModelShape

FORWARD_SHARE = 1 / 3
"""A forward pass costs a third of forward and backward, where it was not measured."""

FILE_BYTES_PER_S = 2e8
"""Reading, hashing and writing weights on one core and a plain disk, for stages that do nothing else."""

TOKENISING_BYTES_PER_S = 4e6
"""Text that one core reads and turns into token files a second."""

TOKENIZER_BYTES_PER_S = 5e6
"""Text that one core learns a tokenizer from a second."""

PREPARING_BYTES_PER_S = 1.75e6
"""Text that one core makes of the wheels a second, the first time."""

DATA_STAGE_S = 0.3
"""Of a data stage, what does not grow with its text."""

COUNTING_TOKENS_PER_S = 3e7
"""Tokens that one core counts a second."""

EVALUATION_S = 0.05
"""Of an evaluation, what does not grow with its tokens: reading the weights, building the model."""


@dataclass(frozen=True)
class Workload:
    """What one training step computes: the shape and precision of its model, and `num_sequences` times `seq_len` tokens."""

    model: ModelShape
    precision: str
    seq_len: int
    num_sequences: int


@dataclass(frozen=True)
class Calibrated:
    """What a calibration saw of one shape in one precision: training in FLOP/s, a forward pass as share of a step."""

    flops_per_s: float
    forward_share: float


@dataclass(frozen=True)
class Throughput:
    """Training rates of one device, by (shape name, precision): those of the store's finished stages in FLOP/s, and those
    that were calibrated on this machine, which took `calibration_s` for this plan. `emulates_bfloat16` says that the
    device is a processor without instructions for it."""

    device: Device
    measured_flops_per_s: Mapping[tuple[str, str], float]
    calibrated: Mapping[tuple[str, str], Calibrated] = field(default_factory=dict)
    calibration_s: float = 0.0
    emulates_bfloat16: bool = False

    def source(self, model: ModelShape, precision: str, *, seq_len: int) -> str:
        """Where the rate comes from: `store`, `calibrated`, `recorded` or `assumed`."""
        if (model.name, precision) in self.measured_flops_per_s:
            return "store"
        if (model.name, precision) in self.calibrated:
            return "calibrated"
        return "recorded" if self.device.rate(model, precision, seq_len=seq_len) else "assumed"

    def is_measured(self, workload: Workload) -> bool:
        """Whether the rate was seen on this very device: in the store or in a calibration."""
        kind = (workload.model.name, workload.precision)
        return kind in self.measured_flops_per_s or kind in self.calibrated

    def times_fp32(self, workload: Workload) -> float | None:
        """How many times as long as fp32 a workload in emulated bfloat16 takes; none of others, or where it is not known."""
        fp32 = replace(workload, precision="fp32")
        if not self.emulates_bfloat16 or workload == fp32 or not (self.is_measured(workload) and self.is_measured(fp32)):
            return None
        emulated_s, fp32_s = (
            self.training_s(one.model, one.precision, num_tokens=1, seq_len=one.seq_len) for one in (workload, fp32)
        )
        return emulated_s / fp32_s

    def training_s(self, model: ModelShape, precision: str, *, num_tokens: int, seq_len: int) -> float:
        """Seconds to train on `num_tokens` tokens."""
        kind = (model.name, precision)
        flops_per_s = self.measured_flops_per_s.get(kind)
        if flops_per_s is None and kind in self.calibrated:
            flops_per_s = self.calibrated[kind].flops_per_s
        if flops_per_s is None:
            rate = self.device.rate(model, precision, seq_len=seq_len)
            flops_per_s = rate.flops_per_s if rate else self.device.assumed_flops_per_s(model, precision)
        return num_tokens * model.flops_per_token(seq_len=seq_len) / flops_per_s

    def evaluation_s(self, model: ModelShape, precision: str, evaluation: Evaluation) -> float:
        """Seconds of a forward pass over the evaluation's sequences, at most, and of what surrounds it."""
        num_tokens = evaluation.max_sequences * evaluation.seq_len
        known = self.calibrated.get((model.name, precision))
        share = known.forward_share if known else FORWARD_SHARE
        return EVALUATION_S + share * self.training_s(model, precision, num_tokens=num_tokens, seq_len=evaluation.seq_len)


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
