"""Three decisions on one trunk schedule: which mix, mixed in or alone, and from which start; arms, comparisons, claims.

A: which mix lowers a task's loss most, and by more than 1 %? B: at equal start and equal dose (Σ learning rate × share), is
a specialist better mixed in than alone? C: at equal dose, does the start matter by 0.5 % or more? The mixes start together
at one share, so that only their text differs. Margins are fixed here, before any run, and the claims form one family.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from midstudy.recipe import Arm, Claim, Comparison, where
from midstudy.studies.bridging.claims import OWN
from midstudy.studies.bridging.comparisons import MATCH, comparison_of
from midstudy.studies.bridging.grid import BLOCK_SHARE, MATCHED, Cell, Grid, Run
from midstudy.studies.bridging.text import PLACEBO, SPECIALISTS

START = 0.5
"""Start of the mixes, as a share of the training."""

STARTS = (0.10, 0.33, 0.65)
"""Starts of code at the dose that it has in the mix."""

MORE_THAN = 0.01
"""Relative change of a task's loss that a mix has to exceed to be worth its text."""

SAME = 0.005
"""Relative change of a loss below which the start counts as of no matter."""

STABLE, COSINE = "stable", "cosine"
"""Values of the factor `schedule`: a constant rate with a decay over the last tenth, and the paper's cosine."""

FAMILY = "decisions"


def mixed(grid: Grid, mix: str) -> Run:
    """Return the run of a mix, or of the placebo, from the common start."""
    return Run(mix, BLOCK_SHARE, round(START * grid.scale.total_steps))


def starts(grid: Grid) -> list[Run]:
    """Return the runs of code from the three starts, at the dose of the mix."""
    return [grid.from_step(mixed(grid, "code"), round(start * grid.scale.total_steps)) for start in STARTS]


def arms_of_decisions(grid: Grid, cosine: Grid, *, seeds: Sequence[int], sft_peak_lrs: tuple[float, ...]) -> list[Arm]:
    """Return the arms of all seeds; the first two also repeat decision C with the cosine schedule."""
    arms: list[Arm] = []
    for number, seed in enumerate(seeds):
        arms += grid.arms(cells_of_decisions(grid), seed=seed, sft_peak_lrs=sft_peak_lrs)
        if number < 2:
            arms += cosine.arms(cells_of_starts(cosine), seed=seed, sft_peak_lrs=sft_peak_lrs)
    return arms


def cells_of_decisions(grid: Grid) -> list[Cell]:
    """Return the cells of all three decisions: mixes, control and placebo on both tasks, the others on the matched task."""
    of_mixes = [Run(), *(mixed(grid, mix) for mix in (*SPECIALISTS, PLACEBO))]
    cells = [(run, task) for task in MATCHED.values() for run in of_mixes]
    cells += [(grid.block(mix, mixed(grid, mix).start_step), task) for mix, task in MATCHED.items()]
    return [*((run, task, grid.scale.sft_steps) for run, task in cells), *cells_of_starts(grid)[1:]]


def cells_of_starts(grid: Grid) -> list[Cell]:
    """Return the control and the cells of decision C alone, to be repeated with another schedule."""
    return [(run, MATCHED["code"], grid.scale.sft_steps) for run in (Run(), *starts(grid))]


def comparisons_of_decisions(arms: Sequence[Arm], grid: Grid, cosine: Grid) -> list[Comparison]:
    """Return the comparisons of the decisions, and those of decision C with the cosine schedule if there are such arms."""

    def of(*runs: Run, schedule: str = STABLE, on_its_task: bool = False) -> list[Arm]:
        found: list[Arm] = []
        for run in runs:
            one = where(arms, schedule=schedule, mix=run.mix, weight=run.weight, start_step=run.start_step)
            found += where(one, task=MATCHED[run.mix]) if on_its_task else one
        return found

    mixes, code_math = [mixed(grid, mix) for mix in SPECIALISTS], [mixed(grid, mix) for mix in MATCHED]
    placebo, by_mix = of(mixed(grid, PLACEBO)), ("size", "mix", "task", "sft_steps")
    blocks = [grid.block(run.mix, run.start_step) for run in code_math]
    wanted: list[tuple[str, str, Sequence[Arm], Sequence[Arm], tuple[str, ...]]] = [
        ("main", "Which mix helps which task", of(*mixes), of(Run()), MATCH),
        ("placebo", "A placebo: general text mixed in like the mixes", placebo, of(Run()), MATCH),
        ("against_placebo", "The matched mixes against the placebo", of(*code_math, on_its_task=True), placebo, MATCH),
        ("block", "Mixed in, or alone, at equal start and dose", of(*code_math, on_its_task=True), of(*blocks), MATCH),
    ]
    for one, schedule, suffix, words in ((grid, STABLE, "", ""), (cosine, COSINE, "_cosine", ", cosine schedule")):
        first, middle, last = starts(one)
        ends, reference = of(first, last, schedule=schedule), of(middle, schedule=schedule)
        early, late = of(first, schedule=schedule), of(last, schedule=schedule)
        wanted += [
            (f"starts{suffix}", f"Starts at equal dose, against the middle one{words}", ends, reference, by_mix),
            (f"equal_dose{suffix}", f"The first start against the last at equal dose{words}", early, late, by_mix),
        ]
    found = [comparison_of(*one, None) for one in wanted]
    return [comparison for comparison in found if comparison is not None]


def claims_of_decisions() -> list[Claim]:
    """Return the claims: four of A, four of B, four of C."""
    claim = partial(Claim, source=OWN, family=FAMILY)
    claims = []
    for mix, task in MATCHED.items():
        of_mix = partial(claim, comparison="main", column="sft_loss", arms={"mix": mix, "task": task})
        most = f"A: {mix} lowers {task} loss more than every other mix"
        by = f"A: {mix} lowers {task} loss by more than {100 * MORE_THAN:g} %"
        claims += [of_mix(text=most, estimator="best_of"), of_mix(text=by, estimator="paired_effect", margin=MORE_THAN)]
    for mix, task in MATCHED.items():
        for words, column in ((task, "sft_loss"), ("general", "general_loss")):
            text = f"B: {mix} mixed in lowers {words} loss more than {mix} alone, at equal start and dose"
            arms = {"mix": mix, "task": task}
            claims.append(claim(text=text, estimator="paired_effect", comparison="block", column=column, arms=arms))
    for words, column in ((MATCHED["code"], "sft_loss"), ("general", "general_loss")):
        of_code = partial(claim, column=column, arms={"mix": "code"}, holds="within", margin=SAME)
        for pair, estimator, comparison in (
            ("10 or 65 % instead of 33 %", "all_within", "starts"),
            ("10 % instead of 65 %", "paired_effect", "equal_dose"),
        ):
            text = f"C: a start of code at {pair} matters by less than {100 * SAME:g} % in {words} loss, at equal dose"
            claims.append(of_code(text=text, estimator=estimator, comparison=comparison))
    return claims
