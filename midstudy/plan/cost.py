"""Estimate what a stage costs before it runs: tokens, FLOPs, seconds on one device, bytes on disk.

A model's training rate comes from finished stages in the store with the same shape and precision; otherwise from a
calibration on this machine, a recorded measurement of the device, or the device's assumed rate, in this order
(`Throughput.source`). Rates are converted to other vocabularies and sequence lengths by FLOPs per token. The cost of data
stages is given by seconds of one CPU core per byte of text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from midstudy.plan.device import Device
from midstudy.recipe.measure import AnyEvaluation
from midstudy.recipe.optimizer import AdamW
from midstudy.recipe.shape import AnyShape

FORWARD_SHARE = 1 / 3
"""Cost of a forward pass relative to forward and backward, unless measured."""

FILE_BYTES_PER_S = 2e8
"""Bytes of weights read, hashed and written per second with one core and a plain disk, for stages that do nothing else."""

TOKENISING_BYTES_PER_S = 4e6
"""Bytes of text that one core tokenises and writes per second."""

MEASURING_BYTES_PER_S = 3e7
"""Bytes of text per second and core that are read to measure documents, or to reach those of a part."""

LAYOUT_BYTES_PER_S = 1e9
"""Bytes of text per second whose measured documents are laid out in shards."""

TOKEN_BYTES_PER_TEXT_BYTE = 0.5
"""Bytes on disk of the tokens of a byte of text: ids of two bytes for about 4.5 bytes of text, and offsets."""

TOKENIZER_BYTES_PER_S = 5e6
"""Bytes of text per second and core when training a tokenizer."""

PREPARING_BYTES_PER_S = 1.75e6
"""Bytes of built-in text that one core prepares per second, on first use."""

PREPARATION_BYTES_PER_S = 1.5e6
"""Text that a step of a preparation reads per CPU second."""

DATA_STAGE_S = 0.3
"""Fixed cost of a data stage."""

COUNTING_TOKENS_PER_S = 3e7
"""Tokens that one core counts per second."""

PACKING_ITEMS_PER_S = 1e5
"""Items per second that one core arranges by best fit, the slowest packing."""

EVALUATION_S = 0.05
"""Fixed cost of an evaluation: reading the weights and building the model."""


@dataclass(frozen=True)
class Workload:
    """What one training step computes: model shape, precision, and `num_sequences` × `seq_len` tokens."""

    model: AnyShape
    precision: str
    seq_len: int
    num_sequences: int


@dataclass(frozen=True)
class Calibrated:
    """Result of calibrating one shape and precision: training FLOP/s, and a forward pass as a fraction of a step."""

    flops_per_s: float
    forward_share: float


@dataclass(frozen=True)
class Throughput:
    """Training rates of one device by (shape name, precision).

    `measured_flops_per_s` comes from the store's finished stages, `calibrated` from this machine, which took
    `calibration_s` for this plan. `emulates_bfloat16` is True for a CPU without bfloat16 instructions.
    `tokenising_bytes_per_s` is the rate at which finished parts of the store tokenised text, for each CPU second; `None`
    without any.
    """

    device: Device
    measured_flops_per_s: Mapping[tuple[str, str], float]
    calibrated: Mapping[tuple[str, str], Calibrated] = field(default_factory=dict)
    calibration_s: float = 0.0
    emulates_bfloat16: bool = False
    tokenising_bytes_per_s: float | None = None

    def source(self, model: AnyShape, precision: str, *, seq_len: int) -> str:
        """Return the source of the rate: `store`, `calibrated`, `recorded` or `assumed`."""
        if (model.name, precision) in self.measured_flops_per_s:
            return "store"
        if (model.name, precision) in self.calibrated:
            return "calibrated"
        return "recorded" if self.device.rate(model, precision, seq_len=seq_len) else "assumed"

    def is_measured(self, workload: Workload) -> bool:
        """Return whether the rate was measured on this device, in the store or by calibration."""
        kind = (workload.model.name, workload.precision)
        return kind in self.measured_flops_per_s or kind in self.calibrated

    def times_fp32(self, workload: Workload) -> float | None:
        """Return the slowdown of emulated bfloat16 relative to fp32; `None` for other workloads or if a rate is unknown."""
        fp32 = replace(workload, precision="fp32")
        if not self.emulates_bfloat16 or workload == fp32 or not (self.is_measured(workload) and self.is_measured(fp32)):
            return None
        emulated_s, fp32_s = (
            self.training_s(load.model, load.precision, num_tokens=1, seq_len=load.seq_len) for load in (workload, fp32)
        )
        return emulated_s / fp32_s

    def training_s(
        self, model: AnyShape, precision: str, *, num_tokens: int, seq_len: int, of_updates: float = 0.0
    ) -> float:
        """Return the expected seconds to train on `num_tokens` tokens.

        `of_updates` are FLOPs of the optimizer's matrix products; they are expected to run at the rate of training.
        """
        kind = (model.name, precision)
        flops_per_s = self.measured_flops_per_s.get(kind)
        if flops_per_s is None and kind in self.calibrated:
            flops_per_s = self.calibrated[kind].flops_per_s
        if flops_per_s is None:
            rate = self.device.rate(model, precision, seq_len=seq_len)
            flops_per_s = rate.flops_per_s if rate else self.device.assumed_flops_per_s(model, precision)
        return (num_tokens * model.flops_per_token(seq_len=seq_len) + of_updates) / flops_per_s

    def forward_s(self, model: AnyShape, precision: str, *, num_tokens: int, seq_len: int) -> float:
        """Return the expected seconds of forward passes over `num_tokens` tokens, as in evaluation and generation."""
        known = self.calibrated.get((model.name, precision))
        share = known.forward_share if known else FORWARD_SHARE
        return share * self.training_s(model, precision, num_tokens=num_tokens, seq_len=seq_len)

    def evaluation_s(self, model: AnyShape, precision: str, evaluation: AnyEvaluation) -> float:
        """Return the expected seconds of an evaluation with all its sequences and models, including fixed overhead."""
        num_models = 1 if evaluation.other_id is None else 2
        return num_models * EVALUATION_S + self.forward_s(
            model, precision, num_tokens=evaluation.num_tokens, seq_len=evaluation.seq_len
        )


def measured_throughput(samples: Iterable[tuple[str, str, float]]) -> dict[tuple[str, str], float]:
    """Return the median FLOP/s by (shape name, precision), from samples (shape name, precision, FLOP/s)."""
    by_kind: dict[tuple[str, str], list[float]] = {}
    for shape, precision, flops_per_s in samples:
        by_kind.setdefault((shape, precision), []).append(flops_per_s)
    return {kind: median(rates) for kind, rates in by_kind.items()}


def checkpoint_bytes(model: AnyShape, *, precision: str, optimizer: AdamW | None) -> int:
    """Return the size of a checkpoint: the weights, and the moments of `optimizer` unless it is `None`.

    AdamW has two moments for each parameter, Muon one for each parameter of a matrix.
    """
    width = 2 if precision == "bf16_true" else 4
    if optimizer is None:
        return model.num_parameters * width
    of_muon = 0 if optimizer.muon is None else model.num_parameters_of_matrices
    return (3 * model.num_parameters - of_muon) * width
