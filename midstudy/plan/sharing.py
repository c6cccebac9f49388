"""Lower bound on the training steps of a set of curricula: the number of distinct (state, next state) pairs.

Two curricula share the update from s to s + 1 exactly if their states at s + 1 have the same id. Within a placed phase that
holds as long as the learning-rate segments so far are equal, so the count has a closed form that needs no state ids inside
the phase.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from midstudy.recipe.curriculum import Curriculum


def distinct_steps(curricula: Iterable[Curriculum]) -> int:
    """Return the number of distinct updates in the curricula: a lower bound for every plan that trains them all."""
    longest: dict[tuple[Any, ...], int] = {}
    for curriculum in curricula:
        for placed in curriculum.stretches:
            # The id of the first state covers everything before the phase; the curve is added segment by segment.
            phase_key = (curriculum.state_id(placed.start_step), placed.start_step, curriculum.phase_id(placed))
            segments = curriculum.curve.window(placed.start_step, placed.stop_step).segments
            for index, segment in enumerate(segments):
                first = max(segment.start_step, placed.start_step)
                last = segments[index + 1].start_step if index + 1 < len(segments) else placed.stop_step
                key = (*phase_key, segments[: index + 1])
                longest[key] = max(longest.get(key, 0), last - first)
    return sum(longest.values())
