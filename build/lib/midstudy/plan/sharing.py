"""How few training steps a set of curricula needs: the number of distinct (state, next state) pairs.

Two curricula share the update from s to s + 1 exactly when their states at s + 1 have one id. Within a stretch that is so
as long as the learning-rate segments so far agree, which gives the count in closed form, without naming any state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from midstudy.recipe.curriculum import Curriculum


def distinct_steps(curricula: Iterable[Curriculum]) -> int:
    """Distinct updates in the union of the curricula: the lower bound of any plan that trains them all."""
    longest: dict[tuple[Any, ...], int] = {}
    for curriculum in curricula:
        for stretch in curriculum.stretches:
            # Everything before the stretch and its phase are in the id of its first state; the curve is added piecewise.
            line = (curriculum.state_id(stretch.start_step), stretch.start_step, curriculum.phase_id(stretch))
            segments = curriculum.curve.window(stretch.start_step, stretch.stop_step).segments
            for index, segment in enumerate(segments):
                first = max(segment.start_step, stretch.start_step)
                last = segments[index + 1].start_step if index + 1 < len(segments) else stretch.stop_step
                key = (*line, segments[: index + 1])
                longest[key] = max(longest.get(key, 0), last - first)
    return sum(longest.values())
