"""Progress of training: a line in the job's log every few seconds, with the figures of nanochat's.

    step 1,600 of 2,000 (80.0 %) | loss 1.8021 nats | lrm 1.00 | dt 245 ms | 2,140,000 tok/s | mfu 45.7 % | total 6.5 min,
        1.6 left

As in karpathy/nanochat `scripts/mid_train.py`, except that the loss is that of one update, unsmoothed, and that only time
since this attempt started counts.
"""

from __future__ import annotations

import time

from midstudy.plan.device import peak_flops_per_s
from midstudy.recipe.curriculum import Curriculum
from midstudy.train.engine import Metrics

INTERVAL_S = 5.0


class StepLine:
    """Prints the metrics of updates: the first ones, the stage's last, and others every `INTERVAL_S`.

    `lrm` is the learning rate divided by the largest of the phase up to the stage's state. MFU (PaLM,
    appendix B) is printed for devices whose peak is known.

    Args:
        curriculum: the curriculum up to the stage's state.
        first_step: the state at which this attempt starts.
        device_name: the name that torch gives one of the devices.
        num_devices: the devices that train together.
    """

    def __init__(self, curriculum: Curriculum, *, first_step: int, device_name: str, num_devices: int) -> None:
        self._curriculum, self._first_step, self._last_step = curriculum, first_step, curriculum.num_steps
        self._device_name, self._num_devices = device_name, num_devices
        self._started_s = self._previous_s = time.monotonic()
        self._previous_step = first_step
        self._printed_s: float | None = None
        self._peak_lrs: dict[int, float] = {}

    def __call__(self, metrics: Metrics) -> None:
        now_s, step = time.monotonic(), int(metrics["step"])
        dt_s = (now_s - self._previous_s) / max(1, step - self._previous_step)
        self._previous_s, self._previous_step = now_s, step
        if self._printed_s is not None and step < self._last_step and now_s - self._printed_s < INTERVAL_S:
            return
        self._printed_s = now_s
        placed = next(placed for placed in self._curriculum.stretches if placed.start_step < step <= placed.stop_step)
        phase, spent_s = placed.phase, now_s - self._started_s
        left_s = spent_s / max(1, step - self._first_step) * (self._last_step - step)
        facts = [
            f"step {step:,} of {self._last_step:,} ({step / self._last_step:.1%})".replace("%", " %"),
            f"loss {metrics['loss_nats']:.4f} nats",
            f"lrm {self._multiplier(metrics['lr'], placed.start_step, placed.stop_step):.2f}",
            f"dt {1_000 * dt_s:,.0f} ms",
            f"{metrics['tokens_per_s']:,.0f} tok/s",
        ]
        peak = peak_flops_per_s(self._device_name, phase.precision)
        if peak is not None:
            flops_per_s = metrics["tokens_per_s"] * phase.flops_per_token(self._curriculum.start.model)
            facts.append(f"mfu {100 * flops_per_s / (peak * self._num_devices):.1f} %")
        facts.append(f"total {spent_s / 60:.1f} min, {left_s / 60:.1f} left")
        print(" | ".join(facts), flush=True)

    def _multiplier(self, lr: float, start_step: int, stop_step: int) -> float:
        if start_step not in self._peak_lrs:
            curve = self._curriculum.curve
            ends = {start_step, stop_step - 1}  # rates are monotone within a segment
            for segment in curve.segments:
                ends |= {step for step in (segment.start_step - 1, segment.start_step) if start_step <= step < stop_step}
            self._peak_lrs[start_step] = max(map(curve.lr, ends))
        return lr / self._peak_lrs[start_step] if self._peak_lrs[start_step] > 0 else 0.0
