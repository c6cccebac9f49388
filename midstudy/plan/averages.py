"""Averages in a plan: the runs whose states are averaged, and a name for the average."""

from __future__ import annotations

from collections.abc import Sequence

from midstudy.recipe.curriculum import Curriculum
from midstudy.recipe.start_weights import Average

_RUNS_SHOWN = 3


def averaged_runs(curriculum: Curriculum) -> list[Curriculum]:
    """Return the curricula whose states are averaged into this one's start, and recursively into theirs, each once."""
    runs: dict[str, Curriculum] = {}
    pending = [curriculum]
    for run in pending:
        if isinstance(run.start.weights, Average):
            for state in run.start.weights.states:
                if state.id not in runs:
                    runs[state.id] = state.curriculum
                    pending.append(state.curriculum)
    return list(runs.values())


def runs_alone(curriculum: Curriculum) -> list[Curriculum]:
    """Return what would be trained without sharing: the curriculum and its averaged runs, except runs that are the first
    part of another."""
    runs = averaged_runs(curriculum)
    return [curriculum, *(run for run in runs if not any(_is_part_of(run, other) for other in runs))]


def _is_part_of(run: Curriculum, other: Curriculum) -> bool:
    step = run.num_steps
    return step < other.num_steps and run.state_id(step) == other.state_id(step)


def name_of_average(states: Sequence[tuple[str, int]]) -> str:
    """Return a name such as `average of 3 states: pretrain nano seed 0 to step 6, 9, 12`.

    Args:
        states: (name of the state's run, its step); the step is 0 if the state is itself a release or an average.
    """
    steps: dict[str, list[int]] = {}
    for run, step in states:
        steps.setdefault(run, []).append(step)
    runs = [
        run + (f" to step {', '.join(str(step) for step in sorted(run_steps))}" if any(run_steps) else "")
        for run, run_steps in sorted(steps.items())
    ]
    if len(runs) > _RUNS_SHOWN:
        runs = [*runs[: _RUNS_SHOWN - 1], f"{len(runs) - _RUNS_SHOWN + 1} more runs"]
    return f"average of {len(states)} states: {'; '.join(runs)}"
