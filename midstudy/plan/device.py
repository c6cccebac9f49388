"""Devices for cost estimates: their measured training rates, and assumed rates for shapes that were not measured.

`rates.json` holds the measurements; `benchmarks/train_step.py --record DEVICE` adds to it. Rates are converted to other
vocabularies and sequence lengths by FLOPs per token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from midstudy.recipe.model import ModelShape

RATES = Path(__file__).with_name("rates.json")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Measured training throughput of one device."""

    device: str
    shape: str
    precision: str
    vocab_size: int
    seq_len: int
    flops_per_token: float
    compiled: bool
    tokens_per_s: float
    date: str
    """ISO 8601."""
    command: str

    @property
    def flops_per_s(self) -> float:
        return self.tokens_per_s * self.flops_per_token


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device and its assumed rates, in FLOP/s.

    `bf16_flops_per_s` maps a number of parameters to the rate of models up to that size; the last entry also applies to
    larger models. `reason` explains the assumed rates.
    """

    name: str
    title: str
    bf16_flops_per_s: Mapping[float, float]
    fp32_flops_per_s: float
    reason: str

    def assumed_flops_per_s(self, model: ModelShape, precision: str) -> float:
        if precision == "fp32":
            return self.fp32_flops_per_s
        sizes = [size for size in self.bf16_flops_per_s if model.num_parameters <= size] or list(self.bf16_flops_per_s)[-1:]
        return self.bf16_flops_per_s[sizes[0]]

    def rate(self, model: ModelShape, precision: str, *, seq_len: int) -> Rate | None:
        """Return the measurement of this shape and precision at the nearest sequence length, the fastest if several."""
        rates = [r for r in recorded_rates() if (r.device, r.shape, r.precision) == (self.name, model.name, precision)]
        return min(rates, key=lambda rate: (abs(rate.seq_len - seq_len), -rate.flops_per_s), default=None)


CPU_CORE = Device(
    name="cpu-core",
    title="CPU core",
    bf16_flops_per_s={1e9: 1.0e11},
    fp32_flops_per_s=7.0e10,
    reason="training of the micro shape on one core of a 2024 server CPU",
)

# 989 TFLOP/s dense bf16 and 67 TFLOP/s fp32 are NVIDIA's figures.
_HOPPER = {120e6: 0.30 * 989e12, 300e6: 0.35 * 989e12, 1e9: 0.40 * 989e12}
_HOPPER_REASON = "targets at context 2,048: 30 % of 989 TFLOP/s up to 120M parameters, 35 % up to 300M, 40 % above"
H100 = Device(name="h100", title="H100", bf16_flops_per_s=_HOPPER, fp32_flops_per_s=0.5 * 67e12, reason=_HOPPER_REASON)
DEVICES = {device.name: device for device in (CPU_CORE, H100)}


@cache
def recorded_rates() -> tuple[Rate, ...]:
    """Return the measurements in `rates.json`."""
    return tuple(Rate(**row) for row in json.loads(RATES.read_text("utf-8")))
