"""Branches of equal amount: their doses and tokens, computed step by step, are those of the branch they are matched with."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from builders.small_study import small_study
from hypothesis import given
from hypothesis import strategies as st

from midstudy.plan.dose import dose, tokens_drawn
from midstudy.plan.matched import Branching, matched, matched_stop
from midstudy.recipe import Corpus, Cosine, Curriculum, Mixture, RecipeError, Source

CODE = Corpus(name="code", source=Source(kind="hub", part="code", revision="fixed"))
NUM_STEPS, NUM_SEQUENCES, SEQ_LEN, PEAK_LR, WARMUP_STEPS = 200, 50, 32, 3e-3, 20


@pytest.fixture(scope="module")
def trunk(text: Path) -> Curriculum:
    schedule = Cosine(peak_lr=PEAK_LR, floor_lr=PEAK_LR / 300, warmup_steps=WARMUP_STEPS, total_steps=NUM_STEPS)
    small = small_study(text, total_steps=NUM_STEPS, schedule=schedule).arms[0].curriculum
    phase = replace(small.stretches[0].phase, num_sequences=NUM_SEQUENCES, num_steps=NUM_STEPS)
    return Curriculum.of(small.start, phase)


def branch(trunk: Curriculum, branching: Branching) -> Curriculum:
    data = trunk.stretches[0].phase.data
    assert isinstance(data, Mixture)
    assert data.base_corpus is not None
    data = Mixture.blend(data.base_corpus, {CODE: branching.share})
    return trunk.branch(start_step=branching.start_step, data=data, name=f"code from {branching.start_step}")


def dose_of(curriculum: Curriculum) -> float:
    found = dose(curriculum)["code"]
    assert found is not None
    return found


def rate(step: int) -> float:
    """The schedule of the trunk by its published formula (litgpt): linear warmup from 0, cosine to the floor."""
    floor = PEAK_LR / 300
    if step < WARMUP_STEPS:
        return PEAK_LR * step / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / (NUM_STEPS - WARMUP_STEPS)
    return floor + 0.5 * (1 + math.cos(math.pi * progress)) * (PEAK_LR - floor)


def test_the_share_of_a_later_start_has_the_dose_by_hand(trunk: Curriculum) -> None:
    twin = matched(trunk, Branching(start_step=20, share=0.2), on="lr_dose", start_step=66)
    early, late = (math.fsum(rate(step) for step in range(start, NUM_STEPS)) for start in (20, 66))
    assert twin == Branching(start_step=66, share=float(f"{0.2 * early / late:.4g}"))
    assert twin.share > 0.2


@pytest.mark.parametrize("on", ["tokens", "lr_dose"])
@given(start=st.integers(0, 199), other=st.integers(0, 199), share=st.sampled_from([0.01, 0.05, 0.2, 0.5]))
def test_the_twin_has_the_same_amount_or_there_is_none(trunk: Curriculum, on: str, start: int, other: int, share: float):
    like = Branching(start_step=start, share=share)
    per_step = [1.0 if on == "tokens" else rate(step) for step in range(NUM_STEPS)]
    if share * math.fsum(per_step[start:]) > math.fsum(per_step[other:]):
        with pytest.raises(RecipeError, match="expected a step early enough"):
            matched(trunk, like, on=on, start_step=other)
        return
    twin = matched(trunk, like, on=on, start_step=other)
    amounts = [
        tokens_drawn(one)["code"] if on == "tokens" else dose_of(one) for one in (branch(trunk, like), branch(trunk, twin))
    ]
    in_whole_sequences = 2 * SEQ_LEN if on == "tokens" else 0
    assert amounts[1] == pytest.approx(amounts[0], rel=6e-4, abs=in_whole_sequences)


@given(start=st.integers(0, 199), share=st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0]))
def test_a_block_of_the_whole_share_stops_at_the_nearest_step(trunk: Curriculum, start: int, share: float) -> None:
    stop = matched_stop(trunk, Branching(start_step=start, share=share))
    wanted = share * math.fsum(rate(step) for step in range(start, NUM_STEPS))
    distances = [
        abs(math.fsum(rate(step) for step in range(start, other)) - wanted) for other in range(start, NUM_STEPS + 1)
    ]
    assert start <= stop <= NUM_STEPS
    assert distances[stop - start] == pytest.approx(min(distances), abs=1e-12)


def test_the_start_of_a_larger_share_is_the_nearest_step(trunk: Curriculum) -> None:
    like = Branching(start_step=66, share=0.12)
    twin = matched(trunk, like, on="lr_dose", share=1.0)
    assert twin.share == 1.0
    wanted = dose_of(branch(trunk, like))
    found = [abs(dose_of(branch(trunk, Branching(start_step=step, share=1.0))) - wanted) for step in range(NUM_STEPS)]
    assert found.index(min(found)) == twin.start_step


def test_a_twin_of_the_same_start_is_the_branch_itself(trunk: Curriculum) -> None:
    like = Branching(start_step=66, share=0.12)
    for on in ("tokens", "lr_dose"):
        assert matched(trunk, like, on=on, start_step=66) == like
        assert matched(trunk, like, on=on, share=0.12) == like


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"start_step": 190},
            r"matched\.start_step: expected a step early enough for the lr_dose of .*, got 190, from which",
        ),
        ({"start_step": 200}, r"matched\.start_step: expected a step of the trunk, \[0, 200\), got 200"),
        ({"share": 0.01}, r"matched\.share: expected a share large enough .*, got 0\.01, which gives only \d+% of it even"),
        ({"share": 1.5}, r"matched\.share: expected a share in \[0, 1\], got 1\.5"),
        ({}, r"matched: expected either start_step or share"),
        ({"on": "steps", "share": 1.0}, r"matched\.on: expected one of tokens, lr_dose, got steps"),
    ],
)
def test_what_cannot_be_matched_is_named(trunk: Curriculum, wanted: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        matched(trunk, Branching(start_step=20, share=0.2), **{"on": "lr_dose", **wanted})  # type: ignore[arg-type]
