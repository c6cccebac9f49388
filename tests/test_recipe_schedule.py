"""Learning-rate curves are pure functions of the step; values from the paper's own schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstudy.recipe.schedule import Constant, Cosine, LinearWarmup, WarmupStableDecay

PAPER = Cosine(peak_lr=3e-4, floor_lr=1e-6, warmup_steps=6_104, total_steps=61_035).curve()


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        *[(0, 0.0), (6_000, 2.949e-4), (10_000, 2.963e-4), (20_000, 2.552e-4), (30_000, 1.808e-4), (40_000, 9.675e-5)],
        *[(50_000, 2.980e-5), (56_000, 7.156e-6), (61_035, 1.0e-6)],
    ],
)
def test_the_papers_cosine(step: int, lr: float):
    assert PAPER.lr(step) == pytest.approx(lr, rel=5e-4)


def test_warmup_stable_decay_by_hand():
    curve = WarmupStableDecay(peak_lr=0.1, floor_lr=0.02, warmup_steps=4, decay_steps=8, total_steps=20).curve()
    assert [curve.lr(s) for s in (0, 1, 4, 11, 12, 16, 20)] == pytest.approx([0, 0.025, 0.1, 0.1, 0.1, 0.06, 0.02])
    assert curve.ends_of_holds() == (12,)


def test_constant_and_warmup():
    assert Constant(lr=0.3).curve().lr(10**9) == 0.3
    curve = LinearWarmup(peak_lr=0.3, warmup_steps=3).curve()
    assert [curve.lr(s) for s in range(5)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.3])


@given(start=st.integers(0, 60), length=st.integers(1, 60), offset=st.integers(0, 10))
def test_a_window_keeps_every_rate_inside_it(start: int, length: int, offset: int):
    schedule = WarmupStableDecay(peak_lr=0.1, floor_lr=0.0, warmup_steps=7, decay_steps=30, total_steps=100)
    curve = schedule.curve().shifted(offset)
    window = curve.window(start + offset, start + offset + length)
    for step in range(start + offset, start + offset + length):
        assert window.lr(step) == curve.lr(step) == schedule.curve().lr(step - offset)
