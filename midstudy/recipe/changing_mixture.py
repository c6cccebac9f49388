"""Build phases whose mixture changes with progress, from points (progress, mixture) instead of step numbers.

Progress is the completed share of a phase's steps, in [0, 1]; each point is rounded to the nearest step. The phase's own
mixture applies at progress 0. The phase's `schedule`, `optimizer_state` and `data_positions` apply to the first piece; the
other pieces continue from the one before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

from midstudy.recipe.errors import RecipeError, inside, require_kind
from midstudy.recipe.exact_share import exact_share
from midstudy.recipe.mixture import Mixture, MixtureRamp
from midstudy.recipe.phase import Phase

Points = Sequence[tuple[float | str | Fraction, Mixture]]


def piecewise(phase: Phase, points: Points) -> tuple[Phase, ...]:
    """Split `phase` so that each point's mixture applies from that point on. YuLan-Mini's 27 phases are 26 points.

    Raises:
        RecipeError: the points are not in increasing order, at least one step apart, inside the phase.
    """
    pieces: list[tuple[Mixture | MixtureRamp, int]] = []
    mixture, begin = _first_mixture(phase), 0
    for step, following in _on_steps(phase, points):
        pieces.append((mixture, step - begin))
        mixture, begin = following, step
    return _phases(phase, [*pieces, (mixture, phase.num_steps - begin)])


def interpolated(phase: Phase, points: Points) -> tuple[Phase, ...]:
    """Split `phase` so that shares change linearly from point to point and stay constant after the last one.

    Raises:
        RecipeError: the points are not in increasing order, at least one step apart, inside the phase, or no ramp is
            possible between two neighbouring mixtures.
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
        got = f"a value of type {type(phase.data).__name__}"
        raise RecipeError(f"phases.{phase.name}.data", expected="the Mixture at progress 0", got=got)
    return phase.data


def _on_steps(phase: Phase, points: Points) -> list[tuple[int, Mixture]]:
    steps: list[tuple[int, Mixture]] = []
    last_step = 0
    require_kind("points", points, tuple | list, expected="a list of (progress, Mixture)")
    for index, point in enumerate(points):
        path = f"points[{index}]"
        if not isinstance(point, tuple | list) or len(point) != 2 or not isinstance(point[1], Mixture):
            raise RecipeError(path, expected="(progress, Mixture)", got=f"a value of type {type(point).__name__}")
        progress, mixture = point
        step = math.floor(exact_share(path, progress) * phase.num_steps + Fraction(1, 2))
        if step <= last_step:
            raise RecipeError(
                path,
                expected=f"a step after {last_step}",
                got=f"progress {progress} of {phase.num_steps} steps, which is step {step}",
                fix="Points must increase by at least one step; the phase's own mixture is the one at progress 0.",
            )
        steps.append((step, mixture))
        last_step = step
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
