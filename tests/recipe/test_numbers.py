"""NumPy numbers in a recipe become Python numbers: same recipe, same id, Python types."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from builders.small_recipes import CODE, GENERAL, MATH, PYCODE, TOKENIZER, arm, corpus, phase, sft, start, task, trunk

from midstudy.recipe import (
    AdamW,
    Anneal,
    Average,
    Constant,
    Continued,
    Cosine,
    Curriculum,
    Evaluation,
    Exponential,
    HoldThenLinear,
    Linear,
    LinearWarmup,
    Mixture,
    MixtureRamp,
    Power,
    Sequential,
    Start,
    TokenCounts,
    Tokenizer,
    WarmupStableDecay,
    pythia,
)
from midstudy.recipe.canonical import canonical_text, expanded, identify
from midstudy.recipe.errors import RecipeError
from midstudy.train.placement import Placement

WHOLE: dict[str, tuple[Callable[[Any], Any], int]] = {
    "phase.num_steps": (lambda n: phase(PYCODE, n, data_positions="reset"), 6),
    "phase.num_sequences": (lambda n: phase(Mixture.only(GENERAL), 6, num_sequences=n), 3),
    "phase.seq_len": (lambda n: phase(Mixture.only(GENERAL), 6, seq_len=n), 32),
    "phase.seed": (lambda n: sft(PYCODE, seed=n), 1_337),
    "schedule.Linear": (lambda n: Linear(peak_lr=1e-3, floor_lr=0.0, warmup_steps=n, total_steps=2 * n), 5),
    "schedule.Cosine": (lambda n: Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=n, total_steps=2 * n), 5),
    "schedule.LinearWarmup": (lambda n: LinearWarmup(peak_lr=1e-3, warmup_steps=n), 5),
    "schedule.WarmupStableDecay": (
        lambda n: WarmupStableDecay(peak_lr=1e-3, floor_lr=0.0, warmup_steps=n, decay_steps=n, total_steps=3 * n),
        5,
    ),
    "schedule.HoldThenLinear": (lambda n: HoldThenLinear(peak_lr=1e-3, floor_lr=0.0, hold_share=0.8, total_steps=n), 5),
    "schedule.Power": (lambda n: Power(peak_lr=1e-3, warmup_steps=n, exponent=-0.5), 5),
    "schedule.Continued": (lambda n: Continued(schedule=Constant(lr=1e-3), from_step=n), 5),
    "schedule.Anneal": (lambda n: Anneal(floor_lr=0.0, num_steps=n, shape="linear"), 5),
    "schedule.Exponential": (lambda n: Exponential(half_life_steps=n), 5),
    "schedule.Sequential": (
        lambda n: Sequential(first=Constant(lr=1e-3), at_step=n, then=Anneal(floor_lr=0.0, num_steps=3, shape="linear")),
        5,
    ),
    "mixture_ramp.num_steps": (
        lambda n: MixtureRamp(
            from_mixture=Mixture.only(GENERAL), to_mixture=Mixture.blend(GENERAL, {CODE: 0.5}), num_steps=n
        ),
        5,
    ),
    "model.vocab_size": (lambda n: pythia("nano", vocab_size=n, max_seq_len=64), 512),
    "model.max_seq_len": (lambda n: pythia("nano", vocab_size=512, max_seq_len=n), 64),
    "tokenizer.vocab_size": (lambda n: Tokenizer(corpus=GENERAL, vocab_size=n, max_bytes=1_000), 512),
    "tokenizer.max_bytes": (lambda n: Tokenizer(corpus=GENERAL, vocab_size=512, max_bytes=n), 1_000),
    "corpus.max_bytes": (lambda n: dataclasses.replace(corpus("general"), max_bytes=n), 1_000),
    "task.max_items": (lambda n: dataclasses.replace(task("pycode"), max_items=n), 100),
    "start.seed": (lambda n: start(n), 3),
    "evaluation.seq_len": (
        lambda n: Evaluation(data=PYCODE, split="test", loss="all_tokens", seq_len=n, max_sequences=8),
        64,
    ),
    "evaluation.max_sequences": (
        lambda n: Evaluation(data=PYCODE, split="test", loss="all_tokens", seq_len=64, max_sequences=n),
        8,
    ),
    "token_counts": (
        lambda n: TokenCounts(data=CODE, tokenizer=TOKENIZER, num_documents=n, tokens_per_document=n, seed=n),
        8,
    ),
    "curriculum.until": (lambda n: trunk().until(n), 20),
    "curriculum.branch": (lambda n: trunk().branch(start_step=n, data=Mixture.only(CODE), name="code"), 20),
    "curriculum.state_id": (lambda n: trunk().state_id(n), 20),
    "average.last": (lambda n: Start.averaged(Average.last(trunk(), num_states=n, every_steps=n)), 3),
    "arm.start_step": (
        lambda n: arm(
            trunk().branch(start_step=n, data=Mixture.blend(GENERAL, {CODE: 0.2}), name="c"),
            mix="code",
            weight=0.2,
            start_step=n,
        ),
        20,
    ),
    "arm.trunk_seed": (lambda n: arm(trunk(seed=n), trunk_seed=n), 2),
    "arm.sft_seed": (lambda n: arm(trunk(), sft_seed=n), 2),
    "placement": (lambda n: Placement(num_threads=n, num_ranks=n, micro_batch=n), 2),
}
"""A recipe that takes an integer, and a valid integer."""

NUMBERS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "schedule.lr": (lambda x: Constant(lr=x), 1e-3),
    "schedule.peak_lr": (lambda x: Cosine(peak_lr=x, floor_lr=x, warmup_steps=0, total_steps=5), 1e-3),
    "schedule.exponent": (lambda x: Power(peak_lr=1e-3, warmup_steps=5, exponent=x), -0.5),
    "schedule.hold_share": (lambda x: HoldThenLinear(peak_lr=1e-3, floor_lr=0, hold_share=x, total_steps=5), 0.8),
    "optimizer": (lambda x: AdamW(beta1=x, beta2=x, weight_decay=x, clip_norm=x), 0.1),
    "mixture.share": (lambda x: Mixture.blend(GENERAL, {CODE: x, MATH: x}), 0.1),
    "mixture.loss_weight": (lambda x: Mixture.blend(GENERAL, {CODE: 0.2}, loss_weights={CODE: x}), 0.1),
    "phase.prompt_weight": (lambda x: sft(PYCODE, loss="target_tokens", prompt_weight=x), 0.1),
    "arm.weight": (
        lambda x: arm(
            trunk().branch(start_step=20, data=Mixture.blend(GENERAL, {CODE: x}), name="c"),
            mix="code",
            weight=x,
            start_step=20,
        ),
        0.1,
    ),
}
"""A recipe that takes any number, and a valid number."""


def held(value: Any) -> Iterator[Any]:
    """Yield every value in a recipe, recursively."""
    yield value
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from held(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from held(item)


def assert_same(recipe: Any, expected: Any) -> None:
    assert canonical_text(recipe) == canonical_text(expected)
    assert identify(recipe) == identify(expected)
    assert json.dumps(expanded(recipe)) == json.dumps(expanded(expected))
    assert {type(value).__module__ for value in held(recipe)}.isdisjoint({"numpy"})


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64, np.uint16, np.uint64, np.intp])
@pytest.mark.parametrize("place", WHOLE)
def test_a_numpy_integer_gives_the_same_recipe_as_a_python_integer(place: str, kind: type) -> None:
    make, number = WHOLE[place]
    if number > np.iinfo(kind).max:
        number = int(np.iinfo(kind).max) if place == "phase.seed" else number
    if number > np.iinfo(kind).max:
        pytest.skip(f"{kind.__name__} does not hold {number}")
    assert_same(make(kind(number)), make(number))


@pytest.mark.parametrize(
    "wrong",
    [True, False, np.bool_(True), 5.0, 5.5, np.float32(5), np.float64(5), "5", np.array([5, 6]), None],
    ids=lambda value: f"{type(value).__name__}_{value}".replace(" ", ""),
)
@pytest.mark.parametrize("place", [p for p in WHOLE if p not in ("curriculum.state_id", "arm.start_step")])
def test_values_that_are_not_whole_numbers_are_rejected(place: str, wrong: Any) -> None:
    make, _ = WHOLE[place]
    if wrong is None and place in ("corpus.max_bytes", "task.max_items", "start.seed", "placement"):
        pytest.skip("None is a valid value there")
    with pytest.raises((RecipeError, TypeError)):
        make(wrong)


@pytest.mark.parametrize("flag", [True, False])
def test_a_numpy_bool_gives_the_same_recipe_as_a_python_bool(flag: bool) -> None:
    assert_same(
        phase(Mixture.only(GENERAL), 6, document_mask=np.bool_(flag)), phase(Mixture.only(GENERAL), 6, document_mask=flag)
    )


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("place", NUMBERS)
def test_a_numpy_float_gives_the_same_recipe_as_its_shortest_decimal_form(place: str, kind: type) -> None:
    make, number = NUMBERS[place]
    assert_same(make(kind(number)), make(number))


@pytest.mark.parametrize("wrong", [True, np.bool_(True), np.nan, np.float32(np.nan), np.float64(np.inf)], ids=str)
@pytest.mark.parametrize("place", NUMBERS)
def test_values_that_are_not_numbers_are_rejected(place: str, wrong: Any) -> None:
    with pytest.raises((RecipeError, TypeError)):
        NUMBERS[place][0](wrong)


def test_low_precision_integers_do_not_overflow() -> None:
    """500 steps of 16 × 64 tokens overflow 16 bits."""
    short = phase(Mixture.only(GENERAL), np.int16(500), num_sequences=np.int16(16), seq_len=np.int16(64))  # type: ignore[arg-type]
    assert short.num_steps * short.tokens_per_step == 500 * 16 * 64


def test_a_grid_made_with_numpy_equals_the_grid_made_by_hand() -> None:
    """Start steps from `arange` and weights from `linspace`, as in an experiment file."""

    def curricula(steps: Any, weights: Any) -> list[Curriculum]:
        return [
            trunk().branch(start_step=step, data=Mixture.blend(GENERAL, {CODE: weight}), name="code")
            for step in steps
            for weight in weights
        ]

    grid = curricula(np.arange(10, 40, 10), np.linspace(0.1, 0.4, 4).round(1))
    expected = curricula((10, 20, 30), (0.1, 0.2, 0.3, 0.4))
    assert [curriculum.state().id for curriculum in grid] == [curriculum.state().id for curriculum in expected]
    mixtures = [curriculum.stretches[-1].phase.data for curriculum in grid]
    shares = {part.share for mixture in mixtures if isinstance(mixture, Mixture) for part in mixture.parts}
    assert shares >= {Fraction(1, 10)}
