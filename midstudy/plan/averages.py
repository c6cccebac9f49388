"""A name for an average of states, from the runs that they belong to."""

from __future__ import annotations

from collections.abc import Sequence

_RUNS_SHOWN = 3


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
