"""The learning rate over a curriculum's steps, as a sequence of segments.

`lr(s)` is the rate of the update from state s to state s + 1, so state s depends only on the curve over steps < s. Cutting
a curve before step s keeps the segments that started before s; an open-ended segment holds nothing about what follows it.
Therefore a longer warmup-stable-decay run shares the ids of the shorter run's stable part, and a state inside the warmup
does not depend on the horizon.

A rate may be one that a choice decides (`choice.py`). Such a curve can be placed, cut and hashed like any other; its rates
are known once the outcome is filled in.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from midstudy.recipe.canonical import added_field
from midstudy.recipe.choice import Choice, Decidable, chosen_in, number_of
from midstudy.recipe.errors import require_choice
from midstudy.recipe.plain import hold_plain_numbers

RAMP_SHAPES = ("linear", "cosine", "1-sqrt")


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A constant rate from `start_step` until the next segment, or indefinitely."""

    start_step: int
    lr: Decidable

    def at(self, step: int) -> float:
        return number_of(self.lr)

    def starting_at(self, step: int) -> Self:
        """Return the same rates, starting at `step`."""
        return replace(self, start_step=step)


@dataclass(frozen=True, kw_only=True)
class _Changing:
    """A segment whose rate depends on its elapsed steps; its first `skipped_steps` steps are not part of the curve."""

    start_step: int
    skipped_steps: int = added_field(omit_at=0)

    def starting_at(self, step: int) -> Self:
        """Return the same rates, starting at `step`."""
        return replace(self, start_step=step, skipped_steps=self._elapsed_steps(step))

    def _elapsed_steps(self, step: int) -> int:
        return step - self.start_step + self.skipped_steps


@dataclass(frozen=True, kw_only=True)
class Ramp(_Changing):
    """A rate that goes from `from_lr` to `to_lr` in `num_steps` steps and stays there.

    With p the completed share of the steps, `linear` is from + (to - from) p, `cosine` is half a cosine period, and
    `1-sqrt` is to + (from - to)(1 - √p), the annealing of YuLan-Mini.
    """

    num_steps: int
    from_lr: Decidable
    to_lr: Decidable
    shape: str

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_choice("schedule.shape", self.shape, RAMP_SHAPES)

    def at(self, step: int) -> float:
        progress = min(1.0, self._elapsed_steps(step) / self.num_steps)
        from_lr, to_lr = number_of(self.from_lr), number_of(self.to_lr)
        if self.shape == "cosine":
            return to_lr + 0.5 * (from_lr - to_lr) * (1.0 + math.cos(math.pi * progress))
        if self.shape == "1-sqrt":
            return to_lr + (from_lr - to_lr) * (1.0 - math.sqrt(progress))
        return from_lr + (to_lr - from_lr) * progress


@dataclass(frozen=True, kw_only=True)
class PowerLaw(_Changing):
    """`from_lr` · ((t + t0) / t0)^exponent after t steps, with t0 = `reference_steps`; open-ended."""

    reference_steps: int
    from_lr: Decidable
    exponent: float

    def at(self, step: int) -> float:
        from_lr = number_of(self.from_lr)
        return from_lr * ((self._elapsed_steps(step) + self.reference_steps) / self.reference_steps) ** self.exponent


@dataclass(frozen=True, kw_only=True)
class HalfLife(_Changing):
    """`from_lr` · 0.5^(t / `half_life_steps`) after t steps; open-ended."""

    half_life_steps: int
    from_lr: float

    def at(self, step: int) -> float:
        return self.from_lr * 0.5 ** (self._elapsed_steps(step) / self.half_life_steps)


Segment = Hold | Ramp | PowerLaw | HalfLife


@dataclass(frozen=True)
class Curve:
    """Segments in order of their start; each applies until the next one starts."""

    segments: tuple[Segment, ...]

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The choices that decide some of the rates, each once."""
        return tuple({chosen.choice.id: chosen.choice for chosen in chosen_in(self.segments)}.values())

    @cached_property
    def is_decided(self) -> bool:
        """True if no rate depends on an open choice."""
        return all(chosen.value is not None for chosen in chosen_in(self.segments))

    def lr(self, step: int) -> float:
        """Return the rate of the update from state `step` to state `step + 1`.

        Raises:
            RecipeError: the rate depends on an open choice.
        """
        return self.segments[self._segment_index(step)].at(step)

    def _segment_index(self, step: int) -> int:
        return max(0, bisect_right(self.segments, step, key=lambda segment: segment.start_step) - 1)

    def then(self, after: Curve, *, step: int) -> Curve:
        """Return this curve up to `step` and `after` from there; a hold that continues at its rate stays one segment."""
        earlier, later = self.window(0, step).segments, after.shifted(step).segments
        if earlier and isinstance(earlier[-1], Hold) and isinstance(later[0], Hold) and earlier[-1].lr == later[0].lr:
            later = later[1:]
        return Curve((*earlier, *later))

    def shifted(self, offset_steps: int) -> Curve:
        """Return the same curve, starting `offset_steps` later."""
        if offset_steps == 0:
            return self
        return Curve(tuple(replace(s, start_step=s.start_step + offset_steps) for s in self.segments))

    def onward(self, step: int) -> Curve:
        """Return the curve from step `step` on, with that step renumbered to 0."""
        first, *rest = self.segments[self._segment_index(step) :]
        return Curve((first.starting_at(step), *rest)).shifted(-step)

    def window(self, start_step: int, stop_step: int) -> Curve:
        """Return the segments that set the rate of some update in [start_step, stop_step).

        A hold that starts before the window starts with it; other segments keep their start, which their rate depends on.
        """
        kept: list[Segment] = []
        for index, segment in enumerate(self.segments):
            end = self.segments[index + 1].start_step if index + 1 < len(self.segments) else None
            if segment.start_step >= stop_step or (end is not None and end <= start_step):
                continue
            kept.append(segment.starting_at(max(segment.start_step, start_step)) if isinstance(segment, Hold) else segment)
        return Curve(tuple(kept))

    def open_segment_ends(self) -> tuple[int, ...]:
        """Return the steps where an open-ended segment is replaced: a longer run of the same schedule diverges there."""
        return tuple(
            after.start_step
            for before, after in zip(self.segments, self.segments[1:], strict=False)
            if not isinstance(before, Ramp)
        )
