"""Learning-rate curves are pure functions of the step; expected values come from the sources' own formulas."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from builders.small_recipes import GENERAL, phase, trunk, wrong
from hypothesis import given
from hypothesis import strategies as st

from midstudy.recipe import (
    Anneal,
    Constant,
    Continued,
    Cosine,
    Exponential,
    HoldThenLinear,
    Linear,
    LinearWarmup,
    Mixture,
    Power,
    RecipeError,
    Sequential,
    WarmupStableDecay,
)
from midstudy.recipe.curve import Curve
from midstudy.recipe.schedule import Schedule

PAPER = Cosine(peak_lr=3e-4, floor_lr=1e-6, warmup_steps=6_104, total_steps=61_035).curve()
PYTHIA_70M = Cosine(peak_lr=1e-3, floor_lr=1e-4, warmup_steps=1_430, total_steps=143_000)


def curve_of(schedule: Schedule) -> Curve:
    return schedule.after(Curve(()), step=0)


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
    assert curve.open_segment_ends() == (12,)


def test_constant_and_warmup():
    assert Constant(lr=0.3).curve().lr(10**9) == 0.3
    curve = LinearWarmup(peak_lr=0.3, warmup_steps=3).curve()
    assert [curve.lr(s) for s in range(5)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.3])


def test_the_warmup_of_llama_3_syne():
    """1e-7 to 1e-5, here over 100 steps, then constant."""
    curve = LinearWarmup(from_lr=1e-7, peak_lr=1e-5, warmup_steps=100).curve()
    assert [curve.lr(s) for s in (0, 50, 100, 5_000)] == pytest.approx([1e-7, 5.05e-6, 1e-5, 1e-5])


def test_linear_by_hand():
    curve = Linear(peak_lr=0.1, floor_lr=0.02, warmup_steps=4, total_steps=12).curve()
    assert [curve.lr(s) for s in (0, 2, 4, 8, 11, 12, 99)] == pytest.approx([0, 0.05, 0.1, 0.06, 0.03, 0.02, 0.02])


def test_the_final_rate_of_yulan_mini():
    """Its annealing is 1e-2 (1 - √((s - s0) / D)) with s0 = 243,198 and D = 19,000; training ends before the annealing."""
    s0, decay_steps, last_step = 243_198, 19_000, 262_000
    schedule = WarmupStableDecay(
        peak_lr=1e-2, floor_lr=0.0, warmup_steps=2_433, decay_steps=decay_steps, total_steps=s0 + decay_steps, shape="1-sqrt"
    )
    whole = trunk(last_step + 1, schedule=schedule)
    curve = whole.state().recipe().curriculum.curve
    assert curve.lr(last_step) == pytest.approx(5.2242e-5, rel=1e-5)
    assert [curve.lr(s) for s in (2_433, s0, s0 + 190, s0 + 4_750)] == pytest.approx([1e-2, 1e-2, 0.9e-2, 0.5e-2])


def test_the_exponential_tail_of_minicpm():
    """After t steps of decay the rate is 0.5^(t / T) of the peak: one half after T steps, one quarter after 2 T."""
    schedule = Sequential(
        first=LinearWarmup(peak_lr=1e-2, warmup_steps=10), at_step=100, then=Exponential(half_life_steps=50)
    )
    curve = curve_of(schedule)
    expected = [5e-3, 1e-2, 1e-2, 1e-2 / math.sqrt(2), 5e-3, 2.5e-3]
    assert [curve.lr(s) for s in (5, 10, 100, 125, 150, 200)] == pytest.approx(expected)


def test_the_inverse_square_root():
    curve = Power(peak_lr=0.1, warmup_steps=100, exponent=-0.5).curve()
    assert [curve.lr(s) for s in (0, 50, 100, 400, 10_000)] == pytest.approx([0, 0.05, 0.1, 0.05, 0.01])


def test_the_power_law_with_and_without_a_linear_tail():
    power = Power(peak_lr=0.1, warmup_steps=100, exponent=-0.51)
    at_ten, at_hundred = 0.0309029543, 0.00954992586  # 0.1 · 10^-0.51 and 0.1 · 100^-0.51
    assert [power.curve().lr(s) for s in (100, 1_000, 10_000)] == pytest.approx([0.1, at_ten, at_hundred])
    tailed = curve_of(Sequential(first=power, at_step=1_000, then=Anneal(floor_lr=0.0, num_steps=200, shape="linear")))
    assert [tailed.lr(s) for s in (500, 1_000, 1_050, 1_200)] == pytest.approx(
        [0.1 * 5**-0.51, at_ten, 0.75 * at_ten, 0], rel=1e-8, abs=1e-18
    )


@given(
    total_steps=st.integers(1, 3_000),
    hold_share=st.fractions(0, 1, max_denominator=1_000).filter(lambda share: share < 1),
    floor=st.sampled_from([0.0, 1e-3]),
)
def test_the_rate_of_nanochat_as_a_function_of_progress(total_steps: int, hold_share: Fraction, floor: float):
    """The multiplier is 1 while progress < 0.8 (here any share), then linear to 0 at 1."""
    peak = 0.02
    schedule = HoldThenLinear(peak_lr=peak, floor_lr=floor, hold_share=hold_share, total_steps=total_steps)
    for step in {*range(0, total_steps, max(1, total_steps // 50)), total_steps - 1, total_steps, total_steps + 5}:
        progress = min(Fraction(step, total_steps), Fraction(1))
        multiplier = 1 if progress < hold_share else (1 - progress) / (1 - hold_share)
        expected = float(Fraction(floor) + (Fraction(peak) - Fraction(floor)) * multiplier)
        assert schedule.curve().lr(step) == pytest.approx(expected, rel=1e-12, abs=1e-16)


def test_a_hold_that_ends_between_two_steps_by_hand():
    """The hold ends at 0.8 · 7 = 5.6. Step 6 is 0.4 steps into the 1.4 steps of decay, so 1 / 1.4 of the rate is left."""
    curve = HoldThenLinear(peak_lr=0.7, floor_lr=0.0, hold_share=0.8, total_steps=7).curve()
    assert [curve.lr(s) for s in (0, 5, 6, 7)] == pytest.approx([0.7, 0.7, 0.5, 0.0])
    assert curve.open_segment_ends() == (6,)


def test_an_anneal_starts_from_the_current_rate():
    half_way = trunk(61_035, schedule=Cosine(peak_lr=3e-4, floor_lr=1e-6, warmup_steps=6_104, total_steps=61_035)).until(
        40_000
    )
    for shape, quarter in (("linear", 0.75), ("1-sqrt", 0.5)):
        anneal = Anneal(floor_lr=0.0, num_steps=1_000, shape=shape)
        curve = half_way.then(phase(Mixture.only(GENERAL), 2_000, schedule=anneal)).curve
        at_switch = PAPER.lr(40_000)
        assert [curve.lr(s) for s in (39_999, 40_000)] == [PAPER.lr(39_999), at_switch]
        assert [curve.lr(s) for s in (40_250, 41_000, 41_999)] == pytest.approx([quarter * at_switch, 0, 0], abs=1e-18)


def test_a_constant_trunk_with_an_anneal_equals_warmup_stable_decay():
    """Training the stable part first and adding the anneal later gives the same states."""
    stable = trunk(40, schedule=LinearWarmup(peak_lr=1e-3, warmup_steps=5))
    annealed = stable.then(phase(Mixture.only(GENERAL), 20, schedule=Anneal(floor_lr=0.0, num_steps=20, shape="1-sqrt")))
    schedule = WarmupStableDecay(peak_lr=1e-3, floor_lr=0.0, warmup_steps=5, decay_steps=20, total_steps=60, shape="1-sqrt")
    assert annealed.state().text() == trunk(60, schedule=schedule).state().text()


def test_a_released_checkpoint_continues_its_own_schedule():
    curve = Continued(schedule=PYTHIA_70M, from_step=71_000).curve()
    for step in (0, 1, 36_000, 72_000, 80_000):
        progress = min(1.0, (71_000 + step - 1_430) / (143_000 - 1_430))
        assert curve.lr(step) == pytest.approx(1e-4 + 0.9e-3 * (1 + math.cos(math.pi * progress)) / 2, rel=1e-12)
    assert Continued(schedule=PYTHIA_70M, from_step=143).curve().lr(0) == pytest.approx(1e-4)  # a tenth of the warmup
    annealed = Sequential(
        first=Continued(schedule=PYTHIA_70M, from_step=71_000),
        at_step=0,
        then=Anneal(floor_lr=0.0, num_steps=100, shape="linear"),
    )
    first = curve.lr(0)
    assert [curve_of(annealed).lr(s) for s in (0, 50, 100)] == pytest.approx([first, first / 2, 0])


def warmup_and_total(cls):
    return st.builds(
        lambda w, t, floor: cls(peak_lr=1e-2, floor_lr=floor, warmup_steps=w, total_steps=w + t),
        *(st.integers(0, 20), st.integers(1, 60), st.sampled_from([0.0, 1e-3])),
    )


seamless = st.one_of(
    st.just(Constant(lr=1e-2)),
    st.builds(lambda w: LinearWarmup(peak_lr=1e-2, warmup_steps=w), st.integers(0, 20)),
    warmup_and_total(Linear),
    warmup_and_total(Cosine),
    st.builds(
        lambda w, stable, d, shape: WarmupStableDecay(
            peak_lr=1e-2, floor_lr=1e-3, warmup_steps=w, decay_steps=d, total_steps=w + stable + d, shape=shape
        ),
        *(st.integers(0, 20), st.integers(0, 20), st.integers(1, 30), st.sampled_from(["linear", "1-sqrt"])),
    ),
    st.builds(
        lambda w, exponent: Power(peak_lr=1e-2, warmup_steps=w, exponent=exponent),
        *(st.integers(1, 20), st.sampled_from([-0.5, -0.51, -2])),
    ),
)
tails = st.one_of(
    st.builds(
        lambda n, shape: Anneal(floor_lr=0.0, num_steps=n, shape=shape),
        *(st.integers(1, 40), st.sampled_from(["linear", "1-sqrt"])),
    ),
    st.builds(lambda half_life: Exponential(half_life_steps=half_life), st.integers(1, 40)),
)
schedules = st.one_of(
    seamless,
    st.builds(
        lambda t, share: HoldThenLinear(peak_lr=1e-2, floor_lr=0.0, hold_share=share, total_steps=t),
        *(st.integers(1, 60), st.fractions(0, "99/100")),
    ),
    st.builds(lambda first, at, tail: Sequential(first=first, at_step=at, then=tail), seamless, st.integers(0, 60), tails),
    st.builds(lambda schedule, step: Continued(schedule=schedule, from_step=step), seamless, st.integers(0, 80)),
)


@given(schedule=schedules, start_step=st.integers(0, 60), length=st.integers(1, 60), offset=st.integers(0, 10))
def test_a_window_keeps_every_rate_inside_it(schedule: Schedule, start_step: int, length: int, offset: int):
    own = curve_of(schedule)
    curve = own.shifted(offset)
    window = curve.window(start_step + offset, start_step + offset + length)
    for step in range(start_step + offset, start_step + offset + length):
        assert window.lr(step) == curve.lr(step) == own.lr(step - offset)


@given(schedule=schedules)
def test_rates_stay_between_zero_and_the_peak(schedule: Schedule):
    curve = curve_of(schedule)
    assert all(0 <= curve.lr(step) <= 1e-2 * (1 + 1e-12) for step in range(150))


@given(schedule=seamless, at_step=st.integers(0, 60), tail=tails)
def test_rates_do_not_jump_where_one_segment_follows_another(schedule: Schedule, at_step: int, tail: Schedule):
    curve = curve_of(Sequential(first=schedule, at_step=at_step, then=tail))
    for before, after in zip(curve.segments, curve.segments[1:], strict=False):
        assert before.at(after.start_step) == pytest.approx(after.at(after.start_step), rel=1e-12, abs=1e-18)


@given(schedule=schedules, from_step=st.integers(0, 90))
def test_continuing_a_schedule_at_a_step_keeps_its_rates(schedule: Schedule, from_step: int):
    whole, rest = curve_of(schedule), Continued(schedule=schedule, from_step=from_step).curve()
    assert [rest.lr(step) for step in range(60)] == [whole.lr(step + from_step) for step in range(60)]


@given(first=schedules, second=st.one_of(schedules, tails), at_step=st.integers(1, 60), cut=st.integers(1, 100))
def test_a_state_does_not_depend_on_later_rates(first: Schedule, second: Schedule, at_step: int, cut: int):
    """For any schedule after any other, cutting the run at any step keeps the ids and the rates up to that step."""
    second_phase = phase(Mixture.only(GENERAL), 40, schedule=second)
    whole = trunk(at_step, schedule=first).then(second_phase)
    cut = min(cut, whole.num_steps)
    state = whole.state(cut)
    assert state.id == whole.state_id(cut) == whole.until(cut).state().id
    seen = state.recipe().curriculum.curve
    assert [seen.lr(step) for step in range(cut)] == [whole.curve.lr(step) for step in range(cut)]
    assert all(segment.start_step < cut for segment in seen.segments)


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: Anneal(floor_lr=0.0, num_steps=0, shape="linear"), "schedule.num_steps"),
        (lambda: Anneal(floor_lr=0.0, num_steps=5, shape="cosine"), "schedule.shape"),
        (lambda: Exponential(half_life_steps=0), "schedule.half_life_steps"),
        (lambda: Power(peak_lr=0.1, warmup_steps=0, exponent=-0.5), "schedule.warmup_steps"),
        (lambda: Power(peak_lr=0.1, warmup_steps=1, exponent=0.5), "schedule.exponent"),
        (lambda: Linear(peak_lr=0.1, floor_lr=0.0, warmup_steps=5, total_steps=5), "schedule.warmup_steps"),
        (lambda: HoldThenLinear(peak_lr=0.1, floor_lr=0.0, hold_share=1, total_steps=5), "schedule.hold_share"),
        (lambda: HoldThenLinear(peak_lr=0.1, floor_lr=0.0, hold_share=1.2, total_steps=5), "schedule.hold_share"),
        (lambda: Continued(schedule=PYTHIA_70M, from_step=-1), "schedule.from_step"),
        (lambda: Sequential(first=PYTHIA_70M, at_step=-1, then=PYTHIA_70M), "schedule.at_step"),
        (lambda: Constant(lr=wrong("1e-3")), "schedule.lr"),
        (lambda: Constant(lr=wrong(None)), "schedule.lr"),
        (lambda: Constant(lr=math.nan), "schedule.lr"),
        (lambda: Constant(lr=1.01), "schedule.lr"),
        (lambda: Constant(lr=math.inf), "schedule.lr"),
        (lambda: Constant(lr=-1e-3), "schedule.lr"),
        (lambda: Constant(lr=True), "schedule.lr"),
        (lambda: Power(peak_lr=0.1, warmup_steps=1, exponent=wrong("x")), "schedule.exponent"),
        (lambda: Power(peak_lr=0.1, warmup_steps=1, exponent=math.nan), "schedule.exponent"),
        (
            lambda: WarmupStableDecay(peak_lr=0.1, floor_lr=0.0, warmup_steps=0, decay_steps=5, total_steps=wrong("9")),
            "schedule.total_steps",
        ),
        (lambda: Cosine(peak_lr=1e-4, floor_lr=1e-3, warmup_steps=1, total_steps=10), "schedule.floor_lr"),
        (lambda: Linear(peak_lr=1e-4, floor_lr=1e-3, warmup_steps=1, total_steps=10), "schedule.floor_lr"),
        (
            lambda: WarmupStableDecay(peak_lr=1e-4, floor_lr=1e-3, warmup_steps=0, decay_steps=5, total_steps=9),
            "schedule.floor_lr",
        ),
        (lambda: HoldThenLinear(peak_lr=1e-4, floor_lr=1e-3, hold_share=0.8, total_steps=10), "schedule.floor_lr"),
        (lambda: LinearWarmup(peak_lr=1e-4, from_lr=1e-3, warmup_steps=5), "schedule.from_lr"),
        (lambda: Continued(schedule=wrong("cosine"), from_step=1), "schedule.schedule"),
        (lambda: Continued(schedule=wrong(None), from_step=1), "schedule.schedule"),
        (lambda: Sequential(first=wrong("cosine"), at_step=1, then=PYTHIA_70M), "schedule.first"),
        (lambda: Sequential(first=PYTHIA_70M, at_step=1, then=wrong(Cosine)), "schedule.then"),
        (lambda: trunk(schedule="cosine"), "phases.pretrain.schedule"),
        (lambda: trunk(schedule=Anneal(floor_lr=0.0, num_steps=5, shape="linear")), "phases.pretrain.schedule"),
        (lambda: trunk(schedule=Exponential(half_life_steps=5)), "phases.pretrain.schedule"),
        (
            lambda: trunk().then(
                phase(Mixture.only(GENERAL), 5, schedule=Anneal(floor_lr=0.1, num_steps=5, shape="linear"))
            ),
            "phases.pretrain.schedule.floor_lr",
        ),
    ],
)
def test_an_invalid_schedule_is_rejected_with_the_path_of_its_field(build, path: str):
    with pytest.raises(RecipeError) as raised:
        build()
    assert raised.value.path == path


def test_the_error_for_an_exponential_shape_says_how_to_build_that_tail():
    message = r"expected one of linear, 1-sqrt, got exponential\. .*Sequential\(.*then=Exponential"
    with pytest.raises(RecipeError, match=message):
        WarmupStableDecay(peak_lr=0.1, floor_lr=0.0, warmup_steps=0, decay_steps=5, total_steps=9, shape="exponential")
