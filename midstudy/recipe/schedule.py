"""Learning-rate schedules: the recipe of a phase's learning rate. `curve.py` holds the curve that they produce.

A schedule counts the steps of its own phase. Most schedules define all their rates; `Anneal` and `Exponential` start at the
current rate of the previous curve. Schedules are pure functions of optimizer steps, never of micro-batches. A rate that
enters a segment unchanged may be `Chosen(choice)`: it is decided while the study runs.

Sources: nightingal3/litgpt `litgpt/schedulers.py` (linear warmup from 0, cosine to a floor), karpathy/nanochat
`scripts/mid_train.py` (hold, then linear), allenai/OLMo-core `src/olmo_core/optim/scheduler.py` (all others).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from midstudy.recipe.canonical import added_field
from midstudy.recipe.choice import Chosen, Decidable, possible_numbers
from midstudy.recipe.curve import Curve, HalfLife, Hold, PowerLaw, Ramp
from midstudy.recipe.errors import RecipeError, require_choice, require_kind, require_number, require_positive
from midstudy.recipe.exact_share import exact_share
from midstudy.recipe.plain import hold_plain_numbers, plain

TAIL_SHAPES = ("linear", "1-sqrt")


def _check_rate(field: str, value: Decidable) -> None:
    for rate in possible_numbers(value):
        require_number(f"schedule.{field}", rate, 0, what="a learning rate")
        if rate > 1:  # 1 is the peak of a multiplier of the rates of parameter groups
            raise RecipeError(f"schedule.{field}", expected="a learning rate of at most 1", got=rate)


def _check_below_peak(field: str, value: Decidable, peak_lr: Decidable) -> None:
    lowest_peak_lr = min(possible_numbers(peak_lr))
    for rate in possible_numbers(value):
        if rate > lowest_peak_lr:
            raise RecipeError(f"schedule.{field}", expected=f"at most peak_lr ({lowest_peak_lr})", got=rate)


def _check_is_number(field: str, value: object) -> None:
    """Raise `RecipeError` if the schedule computes with a rate that a choice decides later."""
    if isinstance(value, Chosen):
        raise RecipeError(
            f"schedule.{field}",
            expected="a number, since this schedule computes other rates from it",
            got=f"a rate that {value.choice.name} decides",
        )


def _check_steps(field: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RecipeError(f"schedule.{field}", expected="a whole number of steps, at least 0", got=value)


def require_schedule(path: str, value: object) -> None:
    """Raise `RecipeError` unless `value` is one of the schedules of this module."""
    require_kind(path, value, Schedule, expected="a schedule, such as Constant or Cosine")


def _check_warmup_ends(warmup_steps: int, total_steps: int) -> None:
    _check_steps("warmup_steps", warmup_steps)
    require_positive("schedule.total_steps", total_steps, unit="steps")
    if warmup_steps >= total_steps:
        raise RecipeError("schedule.warmup_steps", expected=f"less than total_steps ({total_steps})", got=warmup_steps)


def _warmup(peak_lr: Decidable, warmup_steps: int, *, from_lr: Decidable = 0.0) -> tuple[Ramp, ...]:
    if warmup_steps == 0:
        return ()
    return (Ramp(start_step=0, num_steps=warmup_steps, from_lr=from_lr, to_lr=peak_lr, shape="linear"),)


class AbsoluteSchedule(ABC):
    """A schedule that defines all its rates, whatever the curve before it."""

    @abstractmethod
    def curve(self) -> Curve:
        """Return the rate over the phase's own steps, from 0."""

    def after(self, before: Curve, *, step: int) -> Curve:
        """Return `before` up to `step`, followed by this schedule."""
        return before.then(self.curve(), step=step)


@dataclass(frozen=True, kw_only=True)
class Constant(AbsoluteSchedule):
    """One rate throughout."""

    lr: Decidable

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        _check_rate("lr", self.lr)

    def curve(self) -> Curve:
        return Curve((Hold(start_step=0, lr=self.lr),))


@dataclass(frozen=True, kw_only=True)
class LinearWarmup(AbsoluteSchedule):
    """Linear warmup from `from_lr` to the peak, then constant. Llama-3-SynE warms up from 1e-7."""

    peak_lr: Decidable
    warmup_steps: int
    from_lr: Decidable = added_field(omit_at=0.0)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        _check_rate("peak_lr", self.peak_lr)
        _check_rate("from_lr", self.from_lr)
        _check_below_peak("from_lr", self.from_lr, self.peak_lr)
        _check_steps("warmup_steps", self.warmup_steps)

    def curve(self) -> Curve:
        warmup = _warmup(self.peak_lr, self.warmup_steps, from_lr=self.from_lr)
        return Curve((*warmup, Hold(start_step=self.warmup_steps, lr=self.peak_lr)))


@dataclass(frozen=True, kw_only=True)
class _ToFloor(AbsoluteSchedule):
    """Linear warmup from 0 to the peak, then a ramp to the floor at `total_steps`."""

    peak_lr: Decidable
    floor_lr: Decidable
    warmup_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        _check_rate("peak_lr", self.peak_lr)
        _check_rate("floor_lr", self.floor_lr)
        _check_below_peak("floor_lr", self.floor_lr, self.peak_lr)
        _check_warmup_ends(self.warmup_steps, self.total_steps)

    def _curve(self, shape: str) -> Curve:
        decay = Ramp(
            start_step=self.warmup_steps,
            num_steps=self.total_steps - self.warmup_steps,
            from_lr=self.peak_lr,
            to_lr=self.floor_lr,
            shape=shape,
        )
        return Curve((*_warmup(self.peak_lr, self.warmup_steps), decay))


@dataclass(frozen=True, kw_only=True)
class Linear(_ToFloor):
    """Linear warmup from 0, then linear from the peak to the floor at `total_steps`."""

    def curve(self) -> Curve:
        return self._curve("linear")


@dataclass(frozen=True, kw_only=True)
class Cosine(_ToFloor):
    """Linear warmup from 0, then a half cosine from the peak to the floor at `total_steps`."""

    def curve(self) -> Curve:
        return self._curve("cosine")


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(AbsoluteSchedule):
    """Linear warmup, a constant peak, and a decay over the last `decay_steps`: linear, or 1-sqrt (YuLan-Mini).

    For MiniCPM's open-ended exponential tail use
    `Sequential(first=LinearWarmup(...), at_step=..., then=Exponential(...))`.
    """

    peak_lr: Decidable
    floor_lr: Decidable
    warmup_steps: int
    decay_steps: int
    total_steps: int
    shape: str = added_field(omit_at="linear")

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        _check_rate("peak_lr", self.peak_lr)
        _check_rate("floor_lr", self.floor_lr)
        _check_below_peak("floor_lr", self.floor_lr, self.peak_lr)
        _check_steps("warmup_steps", self.warmup_steps)
        require_positive("schedule.decay_steps", self.decay_steps, unit="steps")
        require_positive("schedule.total_steps", self.total_steps, unit="steps")
        if self.shape == "exponential":
            raise RecipeError(
                "schedule.shape",
                expected=f"one of {', '.join(TAIL_SHAPES)}",
                got=self.shape,
                fix="Use Sequential(first=LinearWarmup(...), at_step=..., then=Exponential(...)): this tail has no end.",
            )
        require_choice("schedule.shape", self.shape, TAIL_SHAPES)
        if self.warmup_steps + self.decay_steps > self.total_steps:
            raise RecipeError(
                "schedule.decay_steps",
                expected=f"at most total_steps - warmup_steps ({self.total_steps - self.warmup_steps})",
                got=self.decay_steps,
            )

    def curve(self) -> Curve:
        decay_start = self.total_steps - self.decay_steps
        stable = (Hold(start_step=self.warmup_steps, lr=self.peak_lr),) if decay_start > self.warmup_steps else ()
        decay = Ramp(
            start_step=decay_start,
            num_steps=self.decay_steps,
            from_lr=self.peak_lr,
            to_lr=self.floor_lr,
            shape=self.shape,
        )
        return Curve((*_warmup(self.peak_lr, self.warmup_steps), *stable, decay))


@dataclass(frozen=True, kw_only=True)
class HoldThenLinear(AbsoluteSchedule):
    """The peak while progress = step / `total_steps` is below `hold_share`, then linear to the floor at progress 1.

    Progress is the share of steps, which equals the share of tokens read for a constant batch size. There is no warmup.
    The end of the hold may lie between two steps; the rates after it lie on the line that starts exactly there. nanochat's
    midtraining uses a `hold_share` of 0.8 and a floor of 0.
    """

    peak_lr: float
    floor_lr: float
    hold_share: float | str | Fraction
    total_steps: int

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        for field in ("peak_lr", "floor_lr"):
            _check_is_number(field, getattr(self, field))
        _check_rate("peak_lr", self.peak_lr)
        _check_rate("floor_lr", self.floor_lr)
        _check_below_peak("floor_lr", self.floor_lr, self.peak_lr)
        require_positive("schedule.total_steps", self.total_steps, unit="steps")
        if exact_share("schedule.hold_share", self.hold_share) == 1:
            raise RecipeError(
                "schedule.hold_share",
                expected="a share in [0, 1)",
                got=self.hold_share,
                fix="Use Constant to hold the rate indefinitely.",
            )

    def curve(self) -> Curve:
        break_step = exact_share("schedule.hold_share", self.hold_share) * self.total_steps
        first = math.ceil(break_step)  # the first step that is not held
        hold = (Hold(start_step=0, lr=self.peak_lr),) if first > 0 else ()
        if first == self.total_steps:
            return Curve((*hold, Hold(start_step=first, lr=self.floor_lr)))
        left = (self.total_steps - first) / (self.total_steps - break_step)
        first_lr = Fraction(self.floor_lr) + (Fraction(self.peak_lr) - Fraction(self.floor_lr)) * left
        decay = Ramp(
            start_step=first,
            num_steps=self.total_steps - first,
            from_lr=float(first_lr),
            to_lr=self.floor_lr,
            shape="linear",
        )
        return Curve((*hold, decay))


@dataclass(frozen=True, kw_only=True)
class PiecewiseLinear(AbsoluteSchedule):
    """Linear between `knots`, pairs of a step and the rate there, of which the first is step 0; the last rate stays.

    With `steps_of.hold_then_linear`, an experiment gets the knots of a schedule by the items that its data have left.
    """

    knots: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "knots", tuple((plain(step), plain(rate)) for step, rate in self.knots))
        steps = [step for step, _ in self.knots]
        for step, rate in self.knots:
            _check_steps("knots", step)
            _check_is_number("knots", rate)
            _check_rate("knots", rate)
        if steps[:1] != [0] or any(before >= after for before, after in pairwise(steps)):
            raise RecipeError("schedule.knots", expected="growing steps, the first of them 0", got=steps)

    def curve(self) -> Curve:
        segments: list[Hold | Ramp] = [] if len(self.knots) > 1 else [Hold(start_step=0, lr=self.knots[0][1])]
        for (step, rate), (after, to_lr) in pairwise(self.knots):
            if rate == to_lr:
                segments.append(Hold(start_step=step, lr=rate))
            else:
                ramp = Ramp(start_step=step, num_steps=after - step, from_lr=rate, to_lr=to_lr, shape="linear")
                segments.append(ramp)
        return Curve(tuple(segments))


@dataclass(frozen=True, kw_only=True)
class Power(AbsoluteSchedule):
    """Linear warmup from 0, then peak · (step / warmup_steps)^exponent, open-ended.

    An exponent of -0.5 is the inverse square root; the power scheduler uses -0.51. Add a tail as the `then` of a
    `Sequential`.
    """

    peak_lr: Decidable
    warmup_steps: int
    exponent: float

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        _check_rate("peak_lr", self.peak_lr)
        require_positive("schedule.warmup_steps", self.warmup_steps, unit="steps")
        require_number("schedule.exponent", self.exponent, -10, 0)

    def curve(self) -> Curve:
        decay = PowerLaw(
            start_step=self.warmup_steps,
            reference_steps=self.warmup_steps,
            from_lr=self.peak_lr,
            exponent=self.exponent,
        )
        return Curve((*_warmup(self.peak_lr, self.warmup_steps), decay))


@dataclass(frozen=True, kw_only=True)
class Continued(AbsoluteSchedule):
    """Another run's schedule from its step `from_step` on, for a released checkpoint that was trained up to that step."""

    schedule: Schedule
    from_step: int

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_schedule("schedule.schedule", self.schedule)
        _check_steps("from_step", self.from_step)

    def curve(self) -> Curve:
        return self.schedule.after(Curve(()), step=0).onward(self.from_step)


def _current_lr(name: str, before: Curve, step: int) -> float:
    if not before.segments:
        raise RecipeError(
            "schedule",
            expected="a schedule that defines its first rate",
            got=f"{name} with no learning rate before it",
            fix="Use it in a later phase, or as the `then` of a Sequential whose `first` is the schedule so far.",
        )
    return before.lr(step)


@dataclass(frozen=True, kw_only=True)
class Anneal:
    """From the current rate of the previous curve to the floor in `num_steps` steps, without a warmup (OLMo 2)."""

    floor_lr: float
    num_steps: int
    shape: str

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        _check_is_number("floor_lr", self.floor_lr)
        _check_rate("floor_lr", self.floor_lr)
        require_positive("schedule.num_steps", self.num_steps, unit="steps")
        require_choice("schedule.shape", self.shape, TAIL_SHAPES)

    def after(self, before: Curve, *, step: int) -> Curve:
        """Return `before` up to `step`, followed by the anneal.

        Raises:
            RecipeError: `before` has no rate to start from, or that rate is below the floor.
        """
        current_lr = _current_lr("Anneal", before, step)
        if current_lr < self.floor_lr:
            raise RecipeError(
                "schedule.floor_lr", expected=f"at most {current_lr:g}, the rate it starts from", got=self.floor_lr
            )
        anneal = Ramp(start_step=0, num_steps=self.num_steps, from_lr=current_lr, to_lr=self.floor_lr, shape=self.shape)
        return before.then(Curve((anneal,)), step=step)


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """From the current rate of the previous curve, halved every `half_life_steps`, open-ended (MiniCPM's decay)."""

    half_life_steps: int

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_positive("schedule.half_life_steps", self.half_life_steps, unit="steps")

    def after(self, before: Curve, *, step: int) -> Curve:
        """Return `before` up to `step`, followed by the decay.

        Raises:
            RecipeError: `before` has no rate to start from.
        """
        current_lr = _current_lr("Exponential", before, step)
        decay = HalfLife(start_step=0, half_life_steps=self.half_life_steps, from_lr=current_lr)
        return before.then(Curve((decay,)), step=step)


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """`first` for `at_step` steps, then `then`, which counts its steps from there."""

    first: Schedule
    at_step: int
    then: Schedule

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_schedule("schedule.first", self.first)
        require_schedule("schedule.then", self.then)
        _check_steps("at_step", self.at_step)

    def after(self, before: Curve, *, step: int) -> Curve:
        """Return `before` up to `step`, followed by this schedule.

        Raises:
            RecipeError: `first` has no rate to start from.
        """
        return self.then.after(self.first.after(before, step=step), step=step + self.at_step)


Schedule = AbsoluteSchedule | Anneal | Exponential | Sequential
