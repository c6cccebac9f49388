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

from midstudy.recipe.shape import AnyShape

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
    peak_bf16_flops_per_s: float | None = None
    """The maker's figure for dense products."""
    peak_fp32_flops_per_s: float | None = None

    def assumed_flops_per_s(self, model: AnyShape, precision: str) -> float:
        if precision == "fp32":
            return self.fp32_flops_per_s
        sizes = [size for size in self.bf16_flops_per_s if model.num_parameters <= size] or list(self.bf16_flops_per_s)[-1:]
        return self.bf16_flops_per_s[sizes[0]]

    def rate(self, model: AnyShape, precision: str, *, seq_len: int) -> Rate | None:
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


def _gpu(name: str, *, bf16_tflops: int, fp32_tflops: float) -> Device:
    """Return a GPU whose rates are targets: shares of NVIDIA's figures for dense bf16 and fp32."""
    shares = {120e6: 0.30, 300e6: 0.35, 1e9: 0.40}
    reason = f"targets at context 2,048: 30 % of {bf16_tflops} TFLOP/s up to 120M parameters, 35 % up to 300M, 40 % above"
    rates = {size: share * bf16_tflops * 1e12 for size, share in shares.items()}
    peak_bf16, peak_fp32 = bf16_tflops * 1e12, fp32_tflops * 1e12
    return Device(
        name=name,
        title=name.upper(),
        bf16_flops_per_s=rates,
        fp32_flops_per_s=0.5 * peak_fp32,
        reason=reason,
        peak_bf16_flops_per_s=peak_bf16,
        peak_fp32_flops_per_s=peak_fp32,
    )


A100 = _gpu("a100", bf16_tflops=312, fp32_tflops=19.5)
H100 = _gpu("h100", bf16_tflops=989, fp32_tflops=67)
DEVICES = {device.name: device for device in (CPU_CORE, A100, H100)}


def peak_flops_per_s(device_name: str, precision: str) -> float | None:
    """Return the peak of the device that torch calls `device_name`, such as `NVIDIA H100 80GB HBM3`; `None` if unknown."""
    for device in DEVICES.values():
        if device.title in device_name:
            return device.peak_fp32_flops_per_s if precision == "fp32" else device.peak_bf16_flops_per_s
    return None


@cache
def recorded_rates() -> tuple[Rate, ...]:
    """Return the measurements in `rates.json`."""
    return tuple(Rate(**row) for row in json.loads(RATES.read_text("utf-8")))
