"""The paper's grid: its mixes with their weights and start steps, its tasks, and the arms per pair of seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from midstudy.recipe import Arm, Comparison, Corpus, Curriculum, Task, where
from midstudy.recipe.factors import Value
from midstudy.studies.bridging.scale import COLUMNS, CONTROL, PAPER_STEPS, Scale


@dataclass(frozen=True)
class Midtraining:
    """A mix with its weight and start step; in the paper the start step depends on the domain (Table 1)."""

    mix: str
    weight: float
    paper_start_step: int

    def start_step(self, total_steps: int) -> int:
        """Return the start step scaled to a training of `total_steps` steps."""
        return round(self.paper_start_step * total_steps / PAPER_STEPS)


MIXES = (
    Midtraining("code", 0.20, 6_000),
    Midtraining("math", 0.12, 20_000),
    Midtraining("instruction", 0.05, 40_000),
    Midtraining("qa", 0.20, 40_000),
    Midtraining("hqweb", 0.20, 40_000),
)
CONTINUED = (Midtraining("code", 1.0, 40_000), Midtraining("math", 1.0, 56_000))
TIMING = tuple(Midtraining("code", MIXES[0].weight, start) for start in (6_000, 20_000, 40_000, 50_000))
WEIGHTS = tuple(Midtraining("code", weight, 40_000) for weight in (0.10, 0.20, 0.50, 0.80, 1.0))
"""The ablation of weights; its last arm, at weight 1, is continued pretraining."""

TASKS = {  # name: folder of a directory source
    "pycode": "sft/pycode",
    "word_problems": "sft/gsm8k",
    "science_qa": "sft/sciqa",
    "long_form": "sft/dialogue",
}
MATCHED = {"code": "pycode", "math": "word_problems"}
"""Matched task of each mix that has one: the authors' perfect matches, StarCoder → PyCode and Math → GSM8K."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """All arms of one model size."""

    scale: Scale
    corpora: Mapping[str, Corpus]
    tasks: Mapping[str, Task]
    _runs: dict[tuple[Midtraining | None, int], Curriculum] = field(default_factory=dict)

    def everything(self, *, trunk_seed: int, sft_seed: int) -> list[Arm]:
        """Return every mix on every task, continued pretraining, and the ablations of start step and weight."""
        cells: list[tuple[Midtraining | None, str]] = [(mix, task) for task in TASKS for mix in (None, *MIXES)]
        cells += [(mix, MATCHED[mix.mix]) for mix in CONTINUED]
        cells += [(mix, MATCHED[mix.mix]) for mix in (*TIMING, *WEIGHTS)]
        return self._arms(cells, trunk_seed, sft_seed)

    def matched_tasks(self, *, trunk_seed: int, sft_seed: int) -> list[Arm]:
        """Return every mix on the two matched tasks, so that claims on the best mix have an interval over trunks."""
        return self._arms([(mix, task) for task in MATCHED.values() for mix in (None, *MIXES)], trunk_seed, sft_seed)

    def main_contrasts(self, *, trunk_seed: int, sft_seed: int) -> list[Arm]:
        """Return the two matched mixes and their controls."""
        cells = [(mix, MATCHED[matched.mix]) for matched in MIXES if matched.mix in MATCHED for mix in (None, matched)]
        return self._arms(cells, trunk_seed, sft_seed)

    def _arms(self, cells: Sequence[tuple[Midtraining | None, str]], trunk_seed: int, sft_seed: int) -> list[Arm]:
        return [self._arm(mix, task, trunk_seed, sft_seed) for mix, task in dict.fromkeys(cells)]

    def _arm(self, mix: Midtraining | None, task: str, trunk_seed: int, sft_seed: int) -> Arm:
        return self.scale.finetune(self._run(mix, trunk_seed), self.tasks[task], seed=sft_seed)

    def _run(self, mix: Midtraining | None, trunk_seed: int) -> Curriculum:
        """Return the run of a mix on a trunk (None for the control); arms share it, and with it its stage ids."""
        if (mix, trunk_seed) not in self._runs:
            if mix is None:
                run = self.scale.pretrain(self.corpora["general"], seed=trunk_seed)
            else:
                specialists = {self.corpora[mix.mix]: mix.weight}
                start_step = mix.start_step(self.scale.total_steps)
                run = self.scale.midtrain(self._run(None, trunk_seed), specialists, start_step=start_step)
            self._runs[mix, trunk_seed] = run
        return self._runs[mix, trunk_seed]


def comparisons_of(arms: Sequence[Arm], *, total_steps: int) -> list[Comparison]:
    """Return the paper's comparisons between arms of the grid; comparisons without arms are omitted.

    The arms of an ablation are restricted to the seeds that all of its points have.
    """

    def of(cell: Midtraining, **more: str) -> tuple[Arm, ...]:
        return where(arms, mix=cell.mix, weight=cell.weight, start_step=cell.start_step(total_steps), **more)

    def common(cells: Sequence[Midtraining]) -> list[Arm]:
        arms_of_cells = [of(cell, task=MATCHED[cell.mix]) for cell in cells]
        shared = set.intersection(*({_seeds_and_task(arm) for arm in cell_arms} for cell_arms in arms_of_cells))
        return [arm for cell_arms in arms_of_cells for arm in cell_arms if _seeds_and_task(arm) in shared]

    control, match = where(arms, mix=CONTROL), ("size", "task")
    alone = [arm for cell in CONTINUED for arm in of(cell, task=MATCHED[cell.mix])]
    keys = {(arm.factors["mix"], *_seeds_and_task(arm)) for arm in alone}
    mixed = [arm for cell in MIXES for arm in of(cell) if (arm.factors["mix"], *_seeds_and_task(arm)) in keys]
    timing = common(TIMING)
    comparisons = [
        _comparison("main", "Which mix helps which task", [arm for cell in MIXES for arm in of(cell)], control, match),
        _comparison("continued", "Mixed into general text, or alone", mixed, alone, ("size", "mix", "task")),
        _comparison("timing", "When to start", timing, control, match, along="start_step"),
        _comparison("weight", "How much", common(WEIGHTS), control, match, along="weight"),
        earliest_latest(timing),
    ]
    return [comparison for comparison in comparisons if comparison is not None]


def earliest_latest(arms: Sequence[Arm]) -> Comparison | None:
    """Return the comparison of the earliest start step with the latest; None if there is only one start step."""
    steps = sorted({float(arm.factors["start_step"]) for arm in arms})
    if len(steps) < 2:
        return None
    first, last = ([arm for arm in arms if arm.factors["start_step"] == step] for step in (steps[0], steps[-1]))
    return _comparison("earliest_latest", "Earliest against latest", first, last, ("size", "mix", "weight", "task"))


def _comparison(
    name: str,
    title: str,
    arms: Sequence[Arm],
    references: Sequence[Arm],
    match: tuple[str, ...],
    *,
    along: str | None = None,
) -> Comparison | None:
    if not arms or not references:
        return None
    return Comparison(name=name, title=title, arms=arms, references=references, columns=COLUMNS, match=match, along=along)


def _seeds_and_task(arm: Arm) -> tuple[Value, ...]:
    return tuple(arm.factors[name] for name in ("size", "task", "trunk_seed", "sft_seed"))
