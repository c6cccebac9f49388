"""Weights that are not drawn, as a plan sees them: the runs behind an average, and names for what imports and averages."""

from __future__ import annotations

from collections.abc import Sequence

from midstudy.recipe.curriculum import Curriculum, Start
from midstudy.recipe.data import Task
from midstudy.recipe.mixture import Mixture, MixtureRamp
from midstudy.recipe.start_weights import Average

_RUNS_SHOWN = 3


def runs_behind(curriculum: Curriculum) -> list[Curriculum]:
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
    """What would be trained, each run from its own beginning, if nothing were shared: the curriculum, and those behind it
    but for the ones that lie on the way of another."""
    runs = runs_behind(curriculum)
    return [curriculum, *(run for run in runs if not any(_on_the_way(run, other) for other in runs))]


def _on_the_way(run: Curriculum, other: Curriculum) -> bool:
    step = run.num_steps
    return step < other.num_steps and run.state_id(step) == other.state_id(step)


def behind_name(curriculum: Curriculum, index: int) -> tuple[str, str]:
    """Kind and name of a run that only an average needs, in the words of its own recipe: no arm describes it."""
    stretch = curriculum.stretches[index]
    data = stretch.phase.data
    kind = "sft" if isinstance(data, Task) else "midtrain" if data.specialist_corpora else "pretrain"
    since = f" from step {stretch.start_step}" if stretch.start_step else ""
    words = [stretch.phase.name, *_mix(data), _origin(curriculum.start), f"{_seeds(curriculum, index)}{since}"]
    return kind, " ".join(words)


def _mix(data: Mixture | MixtureRamp | Task) -> list[str]:
    """Specialists with their shares, as in `code 20 %` or `code 10 → 50 %`."""
    if isinstance(data, Task):
        return []
    ends = (data.from_mixture, data.to_mixture) if isinstance(data, MixtureRamp) else (data,)
    shares = {one.name: [f"{float(100 * end.mean_share(one, 0)):.4g}" for end in ends] for one in data.specialist_corpora}
    return [f"{name} {' → '.join(percents)} %" for name, percents in shares.items()]


def _origin(start: Start) -> str:
    if start.weights is None:
        return start.model.name
    return f"{start.model.name} average" if isinstance(start.weights, Average) else str(start.weights)


def _seeds(curriculum: Curriculum, index: int) -> str:
    """Seeds of the weights and of every data order that was reset, like `trunk 0, SFT 7`; repeated seeds are dropped, and
    a single one is shown as `seed 0`.
    """
    orders = [
        ("SFT" if isinstance(s.phase.data, Task) else s.phase.name, s.phase.seed)
        for s in curriculum.stretches[: index + 1]
        if s.phase.data_positions == "reset"
    ]
    seeds = [(name, seed) for name, seed in (("trunk", curriculum.start.seed), *orders) if seed is not None]
    told = [one for place, one in enumerate(seeds) if place == 0 or one[1] != seeds[place - 1][1]]
    return f"seed {told[0][1]}" if len(told) == 1 else ", ".join(f"{name} {seed}" for name, seed in told)


def average_name(states: Sequence[tuple[str, int]]) -> str:
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
