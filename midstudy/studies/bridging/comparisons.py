"""The comparisons of the bridging study: which arms stand beside which references, and what the two differ in."""

from __future__ import annotations

from collections.abc import Sequence

from midstudy.recipe import Arm, Comparison, where
from midstudy.recipe.factors import Value
from midstudy.studies.bridging.grid import ALONE, CROSSED, MATCHED, MIXES, TIMING, WEIGHTS, Grid, PaperMix, Run
from midstudy.studies.bridging.scale import COLUMNS

MATCH = ("size", "task", "sft_steps")


def comparisons_of(arms: Sequence[Arm], grid: Grid) -> list[Comparison]:
    """Return the comparisons of the arms of one grid or of grids of several sizes; those without arms are omitted.

    A reference without an arm on its seed, or an arm without its reference, is left out of a comparison.
    """
    scale = grid.scale

    def of(*runs: Run, steps: int | None = scale.sft_steps) -> list[Arm]:
        found = [where(arms, mix=run.mix, weight=run.weight, start_step=run.start_step) for run in dict.fromkeys(runs)]
        return [arm for group in found for arm in group if steps is None or arm.factors["sft_steps"] == steps]

    def paper(*mixes: PaperMix) -> list[Run]:
        return [mix.run(scale.total_steps) for mix in mixes]

    def on_its_task(found: Sequence[Arm]) -> list[Arm]:
        return [arm for arm in found if arm.factors["task"] == MATCHED.get(str(arm.factors["mix"]))]

    matched = [grid.paper(mix) for mix in MATCHED]
    on_matched = on_its_task(of(*matched))
    every_length = complete(on_its_task(of(*matched, steps=None)), "sft_steps")
    control, code = of(Run()), [grid.paper("code")]
    all_controls, by_mix = of(Run(), steps=None), ("size", "mix", "task", "sft_steps")
    timing = complete(on_its_task(of(*paper(*TIMING))), "start_step")
    weights = complete(on_its_task(of(*paper(*WEIGHTS))), "weight")
    crossed = complete(on_its_task(of(*paper(*CROSSED))), "start_step")
    wanted: list[tuple[str, str, Sequence[Arm], Sequence[Arm], tuple[str, ...], str | None]] = [
        ("main", "Which mix helps which task", of(*paper(*MIXES)), control, MATCH, None),
        ("placebo", "A placebo: general text mixed in like code", of(grid.placebo), control, MATCH, None),
        ("against_placebo", "The matched mixes against the placebo", on_matched, of(grid.placebo), MATCH, None),
        ("equal_dose", "An earlier start at equal dose", of(*code), of(grid.code_later), by_mix, None),
        (
            "equal_tokens",
            "An earlier start with equally many specialist tokens",
            of(*code),
            of(grid.code_tokens),
            by_mix,
            None,
        ),
        ("continued", "Mixed into general text, or alone", on_matched, of(*paper(*ALONE)), by_mix, None),
        (
            "alone_equal_dose",
            "Mixed into general text, or alone, at equal dose",
            of(*grid.code_like_alone[:1], grid.paper("math")),
            of(grid.code_alone, grid.math_alone),
            by_mix,
            None,
        ),
        ("timing", "When to start", timing, control, MATCH, "start_step"),
        ("weight", "Which share", weights, control, MATCH, "weight"),
        ("crossed", "When to start, at which share", crossed, control, MATCH, "start_step"),
        ("ramp", "A share that rises, or a constant one", of(grid.ramp), of(paper(TIMING[1])[0]), MATCH, None),
        ("cut", "Midtraining, or fine-tuning from the start step", on_matched, of(*(map(grid.cut, MATCHED))), MATCH, None),
        ("after", "The same text within pretraining, or after it", on_matched, of(*(map(grid.after, MATCHED))), MATCH, None),
        ("sft_length", "Over the length of fine-tuning", every_length, all_controls, MATCH, "sft_steps"),
    ]
    comparisons = [comparison_of(*one) for one in wanted]
    comparisons.append(earliest_latest(timing))
    return [comparison for comparison in comparisons if comparison is not None]


def earliest_latest(arms: Sequence[Arm]) -> Comparison | None:
    """Return the comparison of the earliest start step with the latest; None if there is only one start step."""
    steps = sorted({float(arm.factors["start_step"]) for arm in arms})
    if len(steps) < 2:
        return None
    first, last = ([arm for arm in arms if arm.factors["start_step"] == step] for step in (steps[0], steps[-1]))
    match = ("size", "mix", "weight", "task", "sft_steps")
    return comparison_of("earliest_latest", "Earliest against latest", first, last, match, None)


def complete(arms: Sequence[Arm], along: str) -> list[Arm]:
    """Return the arms of those sizes, tasks and seeds that every value of `along` has; none if there is one value."""
    values = {arm.factors[along] for arm in arms}
    groups: dict[tuple[Value, ...], list[Arm]] = {}
    for arm in arms:
        groups.setdefault(tuple(arm.factors[name] for name in ("size", "task", "trunk_seed")), []).append(arm)
    whole = [group for group in groups.values() if {arm.factors[along] for arm in group} == values]
    return [arm for group in whole for arm in group] if len(values) > 1 else []


def comparison_of(
    name: str,
    title: str,
    arms: Sequence[Arm],
    references: Sequence[Arm],
    match: tuple[str, ...],
    along: str | None,
) -> Comparison | None:
    """Return the comparison of the arms that have a reference, on their seeds."""

    def key(arm: Arm) -> tuple[object, ...]:
        return tuple(arm.factors[name] for name in (*match, "trunk_seed", "sft_seed"))

    known = {key(arm) for arm in references}
    arms = [arm for arm in arms if key(arm) in known]
    used = {key(arm) for arm in arms}
    references = [arm for arm in references if key(arm) in used]
    if not arms:
        return None
    return Comparison(name=name, title=title, arms=arms, references=references, columns=COLUMNS, match=match, along=along)
