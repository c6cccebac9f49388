"""The learning rate over a curriculum's steps, as a row of segments.

`lr(s)` is the rate of the update that leads from state s to state s + 1, so the curve over steps < s is all a state s has
seen of it. Cutting a curve before step s keeps the segments that began before s, and of a segment without an end nothing
of what comes after. That is why a longer warmup-stable-decay run shares the ids of the shorter one's stable part, and why
a state inside the warmup does not depend on the horizon.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Self

from midstudy.recipe.canonical import added_field
from midstudy.recipe.errors import require_choice
from midstudy.recipe.plain import hold_plain_numbers

RAMP_SHAPES = ("linear", "cosine", "1-sqrt")


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A constant rate from `start_step` until the next segment, or for ever."""

    start_step: int
    lr: float

    def at(self, step: int) -> float:
        return self.lr

    def begun_at(self, step: int) -> Self:
        """The same rates, from `step` on."""
        return replace(self, start_step=step)


@dataclass(frozen=True, kw_only=True)
class _Changing:
    """A segment whose rate depends on how long it has reigned; `skipped_steps` of it lay before it began to."""

    start_step: int
    skipped_steps: int = added_field(omit_at=0)

    def begun_at(self, step: int) -> Self:
        """The same rates, from `step` on."""
        return replace(self, start_step=step, skipped_steps=self._steps_over(step))

    def _steps_over(self, step: int) -> int:
        return step - self.start_step + self.skipped_steps


@dataclass(frozen=True, kw_only=True)
class Ramp(_Changing):
    """A rate going from `from_lr` to `to_lr` in `num_steps`, where it stays.

    With p the part of the steps that is over, `linear` and `cosine` (half a period) go as their names say; `1-sqrt` is
    to + (from - to)(1 - √p), the annealing of YuLan-Mini.
    """

    num_steps: int
    from_lr: float
    to_lr: float
    shape: str

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_choice("schedule.shape", self.shape, RAMP_SHAPES)

    def at(self, step: int) -> float:
        progress = min(1.0, self._steps_over(step) / self.num_steps)
        if self.shape == "cosine":
            return self.to_lr + 0.5 * (self.from_lr - self.to_lr) * (1.0 + math.cos(math.pi * progress))
        if self.shape == "1-sqrt":
            return self.to_lr + (self.from_lr - self.to_lr) * (1.0 - math.sqrt(progress))
        return self.from_lr + (self.to_lr - self.from_lr) * progress


@dataclass(frozen=True, kw_only=True)
class PowerLaw(_Changing):
    """`from_lr` · (t / t0)^exponent, where t is `reference_steps` = t0 at the beginning and grows with the steps; no end."""

    reference_steps: int
    from_lr: float
    exponent: float

    def at(self, step: int) -> float:
        return self.from_lr * ((self._steps_over(step) + self.reference_steps) / self.reference_steps) ** self.exponent


@dataclass(frozen=True, kw_only=True)
class HalfLife(_Changing):
    """`from_lr` · 0.5^(t / half_life_steps) after t steps; no end."""

    half_life_steps: int
    from_lr: float

    def at(self, step: int) -> float:
        return self.from_lr * 0.5 ** (self._steps_over(step) / self.half_life_steps)


Segment = Hold | Ramp | PowerLaw | HalfLife


@dataclass(frozen=True)
class Curve:
    """Segments in order of their start; each reigns until the next begins."""

    segments: tuple[Segment, ...]

    def lr(self, step: int) -> float:
        """The rate of the update from state `step` to state `step + 1`."""
        return self.segments[self._reigning(step)].at(step)

    def _reigning(self, step: int) -> int:
        return max(0, bisect_right(self.segments, step, key=lambda segment: segment.start_step) - 1)

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
        return Curve(tuple(replace(s, start_step=s.start_step + offset_steps) for s in self.segments))

    def onward(self, step: int) -> Curve:
        """The curve from its step `step` on, as steps from 0."""
        first, *rest = self.segments[self._reigning(step) :]
        return Curve((first.begun_at(step), *rest)).shifted(-step)

    def window(self, start_step: int, stop_step: int) -> Curve:
        """The segments that set the rate of some update in [start_step, stop_step); a hold's start is cut to the window."""
        kept: list[Segment] = []
        for index, segment in enumerate(self.segments):
            end = self.segments[index + 1].start_step if index + 1 < len(self.segments) else None
            if segment.start_step >= stop_step or (end is not None and end <= start_step):
                continue
            kept.append(segment.begun_at(max(segment.start_step, start_step)) if isinstance(segment, Hold) else segment)
        return Curve(tuple(kept))

    def ends_of_endless(self) -> tuple[int, ...]:
        """Steps at which a segment without an end gives way: where a longer run of the same schedule will leave this one."""
        return tuple(
            after.start_step
            for before, after in zip(self.segments, self.segments[1:], strict=False)
            if not isinstance(before, Ramp)
        )
