"""Learning-rate schedules as data, and the curve they draw over a curriculum's steps.

`lr(s)` is the rate of the update that leads from state s to state s + 1, so the curve over steps < s is all a state s has
seen of it. A curve is a row of segments; cutting it before step s keeps the segments that began before s, and of a hold
nothing of its end. That is why a longer warmup-stable-decay run shares the ids of the shorter one's stable part, and why
a state inside the warmup does not depend on the horizon.

Source: nightingal3/litgpt `litgpt/schedulers.py` (linear warmup from 0, cosine to a floor), keyed here to optimizer steps,
never to micro-batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from midstudy.recipe.errors import RecipeError, require_choice, require_positive

RAMP_SHAPES = ("linear", "cosine")


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A constant rate from `start_step` until the next segment, or for ever."""

    start_step: int
    lr: float

    def at(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A rate going from `from_lr` at `start_step` to `to_lr` at `start_step + num_steps`."""

    start_step: int
    num_steps: int
    from_lr: float
    to_lr: float
    shape: str

    def __post_init__(self) -> None:
        require_choice("schedule.shape", self.shape, RAMP_SHAPES)

    def at(self, step: int) -> float:
        progress = min(1.0, (step - self.start_step) / self.num_steps)
        if self.shape == "cosine":
            return self.to_lr + 0.5 * (self.from_lr - self.to_lr) * (1.0 + math.cos(math.pi * progress))
        return self.from_lr + (self.to_lr - self.from_lr) * progress


Segment = Hold | Ramp


@dataclass(frozen=True)
class Curve:
    """Segments in order of their start; each reigns until the next begins."""

    segments: tuple[Segment, ...]

    def lr(self, step: int) -> float:
        """The rate of the update from state `step` to state `step + 1`."""
        reigning = self.segments[0]
        for segment in self.segments:
            if segment.start_step > step:
                break
            reigning = segment
        return reigning.at(step)

    def then(self, after: Curve, *, step: int) -> Curve:
        """This curve up to `step`, and `after` from there; a hold that goes on at its rate stays one segment."""
        earlier, later = self.window(0, step).segments, after.shifted(step).segments
        if earlier and isinstance(earlier[-1], Hold) and isinstance(later[0], Hold) and earlier[-1].lr == later[0].lr:
            later = later[1:]
        return Curve((*earlier, *later))

    def shifted(self, offset_steps: int) -> Curve:
        """The same curve, begun `offset_steps` later."""
        if offset_steps == 0:
            return self
        return Curve(
            tuple(
                Hold(start_step=s.start_step + offset_steps, lr=s.lr)
                if isinstance(s, Hold)
                else Ramp(
                    start_step=s.start_step + offset_steps,
                    num_steps=s.num_steps,
                    from_lr=s.from_lr,
                    to_lr=s.to_lr,
                    shape=s.shape,
                )
                for s in self.segments
            )
        )

    def window(self, start_step: int, stop_step: int) -> Curve:
        """The segments that set the rate of some update in [start_step, stop_step); a hold's start is cut to the window."""
        kept: list[Segment] = []
        for index, segment in enumerate(self.segments):
            end = self.segments[index + 1].start_step if index + 1 < len(self.segments) else None
            if segment.start_step >= stop_step or (end is not None and end <= start_step):
                continue
            if isinstance(segment, Hold):
                segment = Hold(start_step=max(segment.start_step, start_step), lr=segment.lr)
            kept.append(segment)
        return Curve(tuple(kept))

    def ends_of_holds(self) -> tuple[int, ...]:
        """Steps at which a hold gives way: where a longer run of the same schedule will leave this one."""
        return tuple(
            after.start_step
            for before, after in zip(self.segments, self.segments[1:], strict=False)
            if isinstance(before, Hold)
        )


def _check_rate(path: str, value: float) -> None:
    if not 0 <= value < 1 or not math.isfinite(value):
        raise RecipeError(path, found=value, allowed="a learning rate in [0, 1)")


def _check_warmup(warmup_steps: int) -> None:
    if isinstance(warmup_steps, bool) or not isinstance(warmup_steps, int) or warmup_steps < 0:
        raise RecipeError("schedule.warmup_steps", found=warmup_steps, allowed="a whole number of steps, at least 0")


def _warmup(peak_lr: float, warmup_steps: int) -> tuple[Segment, ...]:
    if warmup_steps == 0:
        return ()
    return (Ramp(start_step=0, num_steps=warmup_steps, from_lr=0.0, to_lr=peak_lr, shape="linear"),)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One rate throughout."""

    lr: float

    def __post_init__(self) -> None:
        _check_rate("schedule.lr", self.lr)

    def curve(self) -> Curve:
        return Curve((Hold(start_step=0, lr=self.lr),))


@dataclass(frozen=True, kw_only=True)
class LinearWarmup:
    """Linear warmup from 0 to the peak, then constant."""

    peak_lr: float
    warmup_steps: int

    def __post_init__(self) -> None:
        _check_rate("schedule.peak_lr", self.peak_lr)
        _check_warmup(self.warmup_steps)

    def curve(self) -> Curve:
        return Curve((*_warmup(self.peak_lr, self.warmup_steps), Hold(start_step=self.warmup_steps, lr=self.peak_lr)))


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Linear warmup from 0, then a half cosine from the peak to the floor at `total_steps`."""

    peak_lr: float
    floor_lr: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        _check_rate("schedule.peak_lr", self.peak_lr)
        _check_rate("schedule.floor_lr", self.floor_lr)
        _check_warmup(self.warmup_steps)
        require_positive("schedule.total_steps", self.total_steps, unit="steps")
        if self.warmup_steps >= self.total_steps:
            raise RecipeError(
                "schedule.warmup_steps", found=self.warmup_steps, allowed=f"less than total_steps ({self.total_steps})"
            )

    def curve(self) -> Curve:
        decay = Ramp(
            start_step=self.warmup_steps,
            num_steps=self.total_steps - self.warmup_steps,
            from_lr=self.peak_lr,
            to_lr=self.floor_lr,
            shape="cosine",
        )
        return Curve((*_warmup(self.peak_lr, self.warmup_steps), decay))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """Linear warmup, a constant peak, and a linear decay over the last `decay_steps` (MiniCPM)."""

    peak_lr: float
    floor_lr: float
    warmup_steps: int
    decay_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        _check_rate("schedule.peak_lr", self.peak_lr)
        _check_rate("schedule.floor_lr", self.floor_lr)
        _check_warmup(self.warmup_steps)
        require_positive("schedule.decay_steps", self.decay_steps, unit="steps")
        if self.warmup_steps + self.decay_steps > self.total_steps:
            raise RecipeError(
                "schedule.decay_steps",
                found=self.decay_steps,
                allowed=f"at most total_steps - warmup_steps ({self.total_steps - self.warmup_steps})",
            )

    def curve(self) -> Curve:
        decay_start = self.total_steps - self.decay_steps
        stable = (Hold(start_step=self.warmup_steps, lr=self.peak_lr),) if decay_start > self.warmup_steps else ()
        decay = Ramp(
            start_step=decay_start,
            num_steps=self.decay_steps,
            from_lr=self.peak_lr,
            to_lr=self.floor_lr,
            shape="linear",
        )
        return Curve((*_warmup(self.peak_lr, self.warmup_steps), *stable, decay))


Schedule = Constant | LinearWarmup | Cosine | WarmupStableDecay
