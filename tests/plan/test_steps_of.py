"""Lengths and schedules of whole epochs, as experiments ask for them: estimated until the data is made, then exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders.small_recipes import PYCODE, TOKENIZER, WORDS
from hypothesis import given
from hypothesis import strategies as st

from midstudy.data.packed_counts import PackedCounts
from midstudy.plan.packed import estimated_counts
from midstudy.plan.steps_of import TOLERANCE, StepsOf
from midstudy.recipe import HoldThenLinear, Packing, RecipeError, TaskMixture, TaskPart
from midstudy.recipe.exact_share import exact_share

MIXTURE = TaskMixture(parts=(TaskPart(task=PYCODE), TaskPart(task=WORDS, repeats=2)))
PACKING = Packing(mixture=MIXTURE, tokenizer=TOKENIZER, seq_len=64, num_sequences=8, seed=0)


def reading(*items: int) -> StepsOf:
    """Return the lengths of a packing whose steps read these numbers of items."""
    read = np.cumsum([0, *items])[:, None].astype(np.int64)
    return StepsOf(lambda packing: PackedCounts(("pycode",), tokens=read, items=read))


def rates(steps_of: StepsOf, hold_share: Any, num_steps: int) -> list[float]:
    curve = steps_of.hold_then_linear(PACKING, peak_lr=0.5, hold_share=hold_share).curve()
    return [curve.lr(step) for step in range(num_steps)]


def test_a_share_of_items_is_the_last_step_before_which_it_was_read() -> None:
    steps_of = reading(2, 2, 10, 4, 2)  # shares before steps 0 to 5: 0, 0.1, 0.2, 0.7, 0.9, 1
    assert steps_of(PACKING) == 5
    shares = (0, 0.05, 0.1, 0.2, 0.69, 0.7, "9/10", 0.95, 1)
    assert [steps_of.step_at(PACKING, share) for share in shares] == [0, 0, 1, 2, 2, 3, 4, 4, 5]
    assert list(steps_of.asked) == [PACKING.id]
    with pytest.raises(RecipeError, match=r"steps_of\.share"):
        steps_of.step_at(PACKING, 1.5)
    with pytest.raises(RecipeError, match=r"steps_of\.hold_share: expected a share in \[0, 1\), got 1"):
        steps_of.hold_then_linear(PACKING, peak_lr=1, hold_share=1)
    with pytest.raises(RecipeError, match=r"steps_of\.packing: expected a Packing, got a value of type TaskMixture"):
        steps_of(MIXTURE)  # type: ignore[arg-type]


def test_the_rate_is_held_for_a_share_of_the_items_and_then_falls_by_items() -> None:
    """Shares before steps: 0, 0.5, 0.6, 0.7, 0.8, 1; after half of the items, the multiplier is twice the share left."""
    assert rates(reading(5, 1, 1, 1, 2), "1/2", 5) == pytest.approx([0.5, 0.5, 0.4, 0.3, 0.2])
    assert rates(reading(5, 1, 1, 1, 2), 0, 5) == pytest.approx([0.5, 0.25, 0.2, 0.15, 0.1])


def test_with_equal_steps_it_is_hold_then_linear() -> None:
    expected = HoldThenLinear(peak_lr=0.5, floor_lr=0.0, hold_share=0.8, total_steps=100).curve()
    assert rates(reading(*[3] * 100), 0.8, 100) == pytest.approx([expected.lr(step) for step in range(100)])


@given(
    items=st.lists(st.integers(0, 50), min_size=1, max_size=120).filter(any),
    hold_share=st.sampled_from(["0", "1/4", "4/5", "99/100"]),
)
def test_the_resolved_rates_fall_and_are_near_those_by_items(items: list[int], hold_share: str) -> None:
    steps_of, hold = reading(*items), float(exact_share("", hold_share))
    found = np.array(rates(steps_of, hold_share, len(items) + 1))
    progress = np.cumsum([0, *items]) / sum(items)
    by_items = 0.5 * np.minimum(1, (1 - progress) / (1 - hold))
    assert np.abs(found - by_items).max() <= 0.5 * TOLERANCE + 1e-9
    assert (np.diff(found) <= 1e-12).all()
    assert (found[progress <= hold] == 0.5).all()
    assert found[-1] == pytest.approx(0)


def test_the_parts_of_a_sequence_need_few_knots() -> None:
    """Long items after short ones: the rate falls fast and then slowly. The hold ends between steps 22 and 23."""
    steps_of = reading(*[40] * 30, *[2] * 300)
    schedule = steps_of.hold_then_linear(PACKING, peak_lr=1.0, hold_share=0.5)
    assert [step for step, _ in schedule.knots] == [0, 22, 23, 30, 330]


@pytest.mark.parametrize("name", ["stream", "best_fit", "rows"])
def test_an_estimate_follows_from_the_text_of_the_tasks(name: str) -> None:
    """Of wheels, the bytes and items of every part are recorded."""
    mixture = TaskMixture(parts=MIXTURE.parts, packing=name, num_epochs=3)
    counts = estimated_counts(Packing(mixture=mixture, tokenizer=TOKENIZER, seq_len=64, num_sequences=8, seed=0))
    one = estimated_counts(Packing(mixture=MIXTURE, tokenizer=TOKENIZER, seq_len=64, num_sequences=8, seed=0))
    assert counts.is_estimated
    assert counts.num_steps > 1
    assert counts.items[-1] == pytest.approx(3 * one.items[-1])
    if name == "rows":
        assert counts.num_steps == int(counts.items[-1].sum() / 8)
    assert counts.step_shares(counts.num_steps + 5).shape == (counts.num_steps + 5, 2)
    tokens, items = counts.read(2 * counts.num_steps)
    assert items == pytest.approx((2 * counts.items[-1]).tolist(), abs=1)
    assert tokens == pytest.approx((2 * counts.tokens[-1]).tolist(), abs=1)
    assert sum(counts.shares(0, 10**9).values()) == pytest.approx(1)
