"""Averages as a plan sees them: the runs whose states are averaged, and a name for the average."""

from __future__ import annotations

from collections.abc import Sequence

from midstudy.recipe.curriculum import Curriculum
from midstudy.recipe.start_weights import Average

_RUNS_SHOWN = 3


def averaged_runs(curriculum: Curriculum) -> list[Curriculum]:
    """The curricula whose states are averaged to begin this one, each once, and those behind them in turn."""
    found: dict[str, Curriculum] = {}
    pending = [curriculum]
    for one in pending:
        if isinstance(one.start.weights, Average):
            for state in one.start.weights.states:
                if state.id not in found:
                    found[state.id] = state.curriculum
                    pending.append(state.curriculum)
    return list(found.values())


def runs_alone(curriculum: Curriculum) -> list[Curriculum]:
    """What would be trained if nothing were shared: the curriculum and the averaged runs, except those that lie on the path
    of another."""
    runs = averaged_runs(curriculum)
    return [curriculum, *(run for run in runs if not any(_on_path(run, other) for other in runs))]


def _on_path(run: Curriculum, other: Curriculum) -> bool:
    step = run.num_steps
    return step < other.num_steps and run.state_id(step) == other.state_id(step)


def name_of_average(states: Sequence[tuple[str, int]]) -> str:
    """`average of 3 states: pretrain nano seed 0 to step 6, 9, 12`, from the name of each state's run and its step, 0 where
    the state is itself a release or an average."""
    steps: dict[str, list[int]] = {}
    for run, step in states:
        steps.setdefault(run, []).append(step)
    runs = [
        run + (f" to step {', '.join(str(step) for step in sorted(found))}" if any(found) else "")
        for run, found in sorted(steps.items())
    ]
    if len(runs) > _RUNS_SHOWN:
        runs = [*runs[: _RUNS_SHOWN - 1], f"{len(runs) - _RUNS_SHOWN + 1} more runs"]
    return f"average of {len(states)} states: {'; '.join(runs)}"
