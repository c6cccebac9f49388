"""Divergence: which losses count as one, which do not, and what is reported."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstudy.train.divergence import RISE_NATS, WINDOW_UPDATES, DivergenceWatch, Trouble


def first_trouble(losses: list[float], *, norms: list[float] | None = None, first_step: int = 0) -> Trouble | None:
    watch = DivergenceWatch(first_step, vocab_size=50_304)
    for step, loss in enumerate(losses, start=first_step):
        norm = norms[step - first_step] if norms else 1.0
        trouble = watch.trouble(from_step=step, loss_nats=loss, gradient_norm=norm)
        if trouble is not None:
            return trouble
    return None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_or_gradient_norm_is_reported_at_its_step(bad: float) -> None:
    assert first_trouble([3.0, 2.9, bad], first_step=7) == Trouble(9, f"loss {bad} nats, gradient norm 1.0", 8)
    assert first_trouble([3.0, 2.9, 2.8], norms=[1.0, bad, 1.0]) == Trouble(1, f"loss 2.9 nats, gradient norm {bad}", 0)


def test_a_diverging_loss_is_attributed_to_its_worst_update_and_states_up_to_its_best_are_sound() -> None:
    losses = [6.0 - 0.1 * step for step in range(40)] + [2.0 + 0.5 * step for step in range(40)]
    trouble = first_trouble(losses, first_step=100)
    assert trouble is not None
    assert trouble.good_step <= 100 + 45
    assert 140 < trouble.from_step < 180
    assert "more than 3 above its minimum in this phase" in trouble.what


@given(cut=st.integers(1, 79))
def test_an_interruption_does_not_change_the_result(cut: int) -> None:
    """Interrupted at any step, and resumed from the memory, through JSON as in a checkpoint."""
    losses = [6.0 - 0.1 * step for step in range(40)] + [2.0 + 0.5 * step for step in range(40)]
    expected = first_trouble(losses)
    first = DivergenceWatch(0, vocab_size=50_304)
    for step, loss in enumerate(losses[:cut]):
        if (trouble := first.trouble(from_step=step, loss_nats=loss, gradient_norm=1.0)) is not None:
            assert trouble == expected
            return
    second = DivergenceWatch(0, vocab_size=50_304, memory=json.loads(json.dumps(first.memory())))
    troubles = (second.trouble(from_step=step, loss_nats=losses[step], gradient_norm=1.0) for step in range(cut, 80))
    assert next(trouble for trouble in troubles if trouble is not None) == expected


def test_the_memory_of_another_phase_is_ignored() -> None:
    before = DivergenceWatch(0, vocab_size=50_304)
    for step in range(60):
        before.trouble(from_step=step, loss_nats=1.0, gradient_norm=1.0)
    after = DivergenceWatch(60, vocab_size=50_304, memory=before.memory())
    assert all(after.trouble(from_step=s, loss_nats=9.0, gradient_norm=1.0) is None for s in range(60, 120))


@given(st.lists(st.floats(0.0, RISE_NATS), min_size=1, max_size=200))
def test_losses_within_the_allowed_rise_are_accepted(losses: list[float]) -> None:
    assert first_trouble(losses) is None


def test_a_single_hard_batch_is_accepted() -> None:
    assert first_trouble([2.0] * 50 + [2.0 + 0.9 * WINDOW_UPDATES * RISE_NATS] + [2.0] * 50) is None


def test_a_phase_that_diverges_from_its_start_is_reported() -> None:
    """Without a minimum to compare with, the loss is compared with chance, ln(50,304) = 10.83."""
    trouble = first_trouble([3.0, 7.0] + [16.0] * 30, first_step=5)
    assert trouble is not None
    assert trouble.good_step == 5
    assert "more than 3 above chance (10.83)" in trouble.what


def test_a_phase_on_text_of_another_kind_may_start_above_chance() -> None:
    assert first_trouble([12.5] * 30 + [8.0] * 30 + [5.0] * 30) is None


def test_a_new_phase_may_start_with_a_higher_loss() -> None:
    assert first_trouble([1.0] * 100) is None
    assert first_trouble([9.0] * 100) is None  # a separate watch


def test_the_height_of_a_policy_gradients_loss_is_no_divergence_but_a_non_finite_one_is() -> None:
    watch = DivergenceWatch(0, vocab_size=512, is_likelihood=False)
    losses = [step / 4 - 5 for step in range(100)]
    assert all(watch.trouble(from_step=step, loss_nats=loss, gradient_norm=1) is None for step, loss in enumerate(losses))
    trouble = watch.trouble(from_step=100, loss_nats=math.nan, gradient_norm=1)
    assert trouble is not None
    assert trouble.good_step == 99


def test_the_loss_may_rise_where_tasks_follow_each_other_but_not_above_chance() -> None:
    losses = [1.0] * 30 + [math.log(512)] * 30
    for may_rise in (True, False):
        watch = DivergenceWatch(0, vocab_size=512, may_rise=may_rise)
        troubles = [watch.trouble(from_step=step, loss_nats=loss, gradient_norm=1) for step, loss in enumerate(losses)]
        assert any(troubles) is not may_rise
    watch = DivergenceWatch(0, vocab_size=512, may_rise=True)
    troubles = [watch.trouble(from_step=step, loss_nats=20.0, gradient_norm=1) for step in range(30)]
    assert any(troubles)
