"""The line of a training step in a job's log."""

from __future__ import annotations

import time
from typing import Any

import pytest
from builders.small_recipes import trunk

from midstudy.execute.step_line import StepLine
from midstudy.recipe.curriculum import Curriculum
from midstudy.recipe.schedule import HoldThenLinear


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def held_then_linear(**changes: Any) -> Curriculum:
    """20 updates of 2 × 64 tokens: the peak for 16, then linear to 0."""
    schedule = HoldThenLinear(peak_lr=1e-3, floor_lr=0.0, hold_share=0.8, total_steps=20)
    return trunk(20, schedule=schedule, num_sequences=2, seq_len=64, **changes)


def metrics_of(curriculum: Curriculum, step: int, *, tokens_per_s: float = 1_280.0) -> dict[str, float]:
    return {"step": step, "loss_nats": 3.25, "lr": curriculum.curve.lr(step - 1), "tokens_per_s": tokens_per_s}


def test_the_line_has_progress_loss_multiplier_times_and_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    curriculum = held_then_linear()
    line = StepLine(curriculum, first_step=0, device_name="cpu", num_devices=1)
    clock.now_s += 60
    line(metrics_of(curriculum, 10))
    clock.now_s += 54
    line(metrics_of(curriculum, 19))
    assert capsys.readouterr().out.splitlines() == [
        "step 10 of 20 (50.0 %) | loss 3.2500 nats | lrm 1.00 | dt 6,000 ms | 1,280 tok/s | total 1.0 min, 1.0 left",
        "step 19 of 20 (95.0 %) | loss 3.2500 nats | lrm 0.50 | dt 6,000 ms | 1,280 tok/s | total 1.9 min, 0.1 left",
    ]


def test_an_attempt_that_resumed_counts_its_own_time(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    curriculum = held_then_linear()
    line = StepLine(curriculum, first_step=15, device_name="cpu", num_devices=1)
    clock.now_s += 60
    line(metrics_of(curriculum, 16))
    assert capsys.readouterr().out.endswith("| dt 60,000 ms | 1,280 tok/s | total 1.0 min, 4.0 left\n")


def test_lines_are_five_seconds_apart_and_the_last_update_always_has_one(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    curriculum = held_then_linear()
    line = StepLine(curriculum, first_step=0, device_name="cpu", num_devices=1)
    for step in range(1, 21):
        clock.now_s += 2
        line(metrics_of(curriculum, step))
    printed = capsys.readouterr().out.splitlines()
    assert [text.split(" of ")[0] for text in printed] == [f"step {step}" for step in (1, 4, 7, 10, 13, 16, 19, 20)]
    assert all("dt 2,000 ms" in text for text in printed), "dt is of the updates since the last metrics"


@pytest.mark.parametrize(("precision", "peak"), [("bf16_mixed", 989e12), ("bf16_true", 989e12), ("fp32", 67e12)])
def test_mfu_is_the_share_of_the_peak_of_all_devices(
    clock: Clock, capsys: pytest.CaptureFixture[str], precision: str, peak: float
) -> None:
    curriculum = held_then_linear(precision=precision)
    flops = curriculum.stretches[0].phase.flops_per_token(curriculum.start.model)
    line = StepLine(curriculum, first_step=0, device_name="NVIDIA H100 80GB HBM3", num_devices=8)
    line(metrics_of(curriculum, 20, tokens_per_s=0.457 * 8 * peak / flops))
    assert " | mfu 45.7 % | " in capsys.readouterr().out


def test_mfu_is_left_out_where_the_peak_is_unknown(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    curriculum = held_then_linear()
    for device in ("cpu", "NVIDIA GeForce RTX 3090"):
        StepLine(curriculum, first_step=0, device_name=device, num_devices=1)(metrics_of(curriculum, 20))
    assert "mfu" not in capsys.readouterr().out
