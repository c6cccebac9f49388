"""The runs that a curriculum needs before it: those averaged into its start, and the candidates of its choices."""

from __future__ import annotations

from collections.abc import Collection

from midstudy.recipe.curriculum import Curriculum
from midstudy.recipe.start_weights import Average


def needed_runs(curriculum: Curriculum, *, judged: Collection[str] = ()) -> list[Curriculum]:
    """Return the curricula that this one needs, and recursively those that they need, each once.

    Args:
        judged: ids of candidates that are not needed, since their decision was made.
    """
    runs: dict[str, Curriculum] = {}
    pending = [curriculum]
    for run in pending:
        weights = run.start.weights
        averaged = weights.states if isinstance(weights, Average) else ()
        candidates = (state for choice in run.choices for state in choice.candidates if state.id not in judged)
        for state in (*averaged, *candidates):
            if state.id not in runs:
                runs[state.id] = state.curriculum
                pending.append(state.curriculum)
    return list(runs.values())


def runs_alone(curriculum: Curriculum) -> list[Curriculum]:
    """Return what would be trained without sharing: the curriculum and the runs that it needs, except runs that are the
    first part of another."""
    runs = needed_runs(curriculum)
    return [curriculum, *(run for run in runs if not any(_is_part_of(run, other) for other in runs))]


def _is_part_of(run: Curriculum, other: Curriculum) -> bool:
    step = run.num_steps
    return step < other.num_steps and run.state_id(step) == other.state_id(step)
