"""Mixtures that change with progress, as phases: from points (progress, mixture), without step arithmetic.

Progress is the part of a phase's steps that is over; a point lies on the nearest whole step. The phase's own mixture is the
one at progress 0. What the phase says of its schedule and of what it takes over holds for its first piece; the others
continue.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

from midstudy.recipe.errors import RecipeError, inside, require_kind
from midstudy.recipe.mixture import Mixture, MixtureRamp, exact_share
from midstudy.recipe.phase import Phase

Points = Sequence[tuple[float | str | Fraction, Mixture]]


def piecewise(phase: Phase, points: Points) -> tuple[Phase, ...]:
    """`phase` with another mixture from each point on: YuLan-Mini's 27 phases are 26 points.

    Raises:
        RecipeError: points that do not lie one after another inside the phase.
    """
    pieces: list[tuple[Mixture | MixtureRamp, int]] = []
    mixture, begin = _first_mixture(phase), 0
    for step, following in _on_steps(phase, points):
        pieces.append((mixture, step - begin))
        mixture, begin = following, step
    return _phases(phase, [*pieces, (mixture, phase.num_steps - begin)])


def interpolated(phase: Phase, points: Points) -> tuple[Phase, ...]:
    """`phase` with shares that go linearly from point to point, and stay where the last one puts them.

    Raises:
        RecipeError: points that do not lie one after another inside the phase, or mixtures that no ramp leads between.
    """
    pieces: list[tuple[Mixture | MixtureRamp, int]] = []
    mixture, begin = _first_mixture(phase), 0
    for index, (step, following) in enumerate(_on_steps(phase, points)):
        with inside(f"points[{index}]"):
            ramp = MixtureRamp(from_mixture=mixture, to_mixture=following, num_steps=step - begin)
        pieces.append((ramp, ramp.num_steps))
        mixture, begin = following, step
    return _phases(phase, [*pieces, (mixture, phase.num_steps - begin)])


def _first_mixture(phase: Phase) -> Mixture:
    if not isinstance(phase.data, Mixture):
        found = f"a value of type {type(phase.data).__name__}"
        raise RecipeError(f"phases.{phase.name}.data", expected="the Mixture at progress 0", got=found)
    return phase.data


def _on_steps(phase: Phase, points: Points) -> list[tuple[int, Mixture]]:
    steps: list[tuple[int, Mixture]] = []
    before = 0
    require_kind("points", points, tuple | list, expected="a list of (progress, Mixture)")
    for index, point in enumerate(points):
        path = f"points[{index}]"
        if not isinstance(point, tuple | list) or len(point) != 2 or not isinstance(point[1], Mixture):
            raise RecipeError(path, expected="(progress, Mixture)", got=f"a value of type {type(point).__name__}")
        progress, mixture = point
        step = math.floor(exact_share(path, progress) * phase.num_steps + Fraction(1, 2))
        if step <= before:
            raise RecipeError(
                path,
                expected=f"a step after {before}",
                got=f"progress {progress} of {phase.num_steps} steps, which is step {step}",
                fix="Progress grows from point to point, by a step at least; the phase's own mixture is the one at 0.",
            )
        steps.append((step, mixture))
        before = step
    return steps


def _phases(phase: Phase, pieces: list[tuple[Mixture | MixtureRamp, int]]) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    for number, (data, num_steps) in enumerate((data, num_steps) for data, num_steps in pieces if num_steps):
        name = f"{phase.name} {number + 1}"
        piece = dataclasses.replace(phase, name=name, data=data, num_steps=num_steps)
        if phases:
            piece = dataclasses.replace(piece, schedule=None, optimizer_state="continue", data_positions="continue")
        phases.append(piece)
    return tuple(phases)
