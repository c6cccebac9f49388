"""Build the manifest of a plan, which `run` freezes, and restore stages from a manifest, as `retry` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from midstudy.plan.dose import dose, items_drawn, tokens_drawn, whole_run
from midstudy.plan.left_out import uses_by, uses_of
from midstudy.plan.phases import phases_of
from midstudy.plan.planner import ArmStages, Plan
from midstudy.recipe.curriculum import Curriculum
from midstudy.recipe.data import Task
from midstudy.recipe.decode import decode
from midstudy.recipe.manifest import (
    SCHEMA,
    ArmEntry,
    ColumnEntry,
    ComparisonEntry,
    CountsEntry,
    Manifest,
    MixEntry,
    StageEntry,
    StepsEntry,
    Use,
)
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.stage import Stage, stage_id
from midstudy.recipe.study import Arm, Comparison, Mix, Study

_OWN_FIELDS = {"kind", "factors"}
"""Fields of a stage's entry that are not copied from the stage unchanged."""


def manifest_of(plan: Plan, *, command: str) -> Manifest:
    """Return the plan as a manifest: arms with their stages, the graph of stages, comparisons, claims, and the planned
    numbers that the report compares with the actual cost."""
    study, uses = plan.study, uses_of(plan.stages)
    return Manifest(
        schema=SCHEMA,
        name=study.name,
        question=study.question,
        notes=tuple(study.notes),
        report=study.report,
        command=command,
        seeds=study.seeds,
        columns={name: _column(study, name) for name in study.columns},
        arms=tuple(_arm_entries(plan, uses)),
        comparisons=tuple(_comparison(study, comparison) for comparison in study.comparisons),
        claims=tuple(study.claims),
        stages={stage.id: stage_entry(stage) for stage in plan.stages.values()},
        counts=tuple(
            CountsEntry(data=counts.data.name, is_task=isinstance(counts.data, Task), stage=stage_id(counts))
            for counts in study.counts
        ),
        mixes=tuple(_mix(mix) for mix in study.mixes),
        uses=uses,
        sources={data.name: data.origin for data in study.datasets()},
        looks=study.looks,
        steps=StepsEntry(planned=plan.total_steps, lower_bound=plan.lower_bound_steps, without_sharing=plan.unshared_steps),
    )


def stage_entry(stage: Stage) -> StageEntry:
    """Return the manifest's entry for a stage; the store holds the stage's recipe."""
    copied = {field.name: getattr(stage, field.name) for field in fields(StageEntry) if field.name not in _OWN_FIELDS}
    return StageEntry(kind=stage.kind, factors=dict(stage.factors), **copied)


def stages_of(manifest: Manifest, recipes: Callable[[str], Any]) -> dict[str, Stage]:
    """Return the stages of a frozen study, without its experiment file.

    Args:
        recipes: returns the expanded recipe of a stage id, as the store holds it.

    Raises:
        RecipeError: a recipe cannot be decoded.
    """
    stages = {}
    for entry_id, entry in manifest.stages.items():
        copied = {name: value for name, value in asdict(entry).items() if name != "kind"}
        recipe = decode(recipes(entry_id), f"stages.{entry_id}.recipe")
        stages[entry_id] = Stage(id=entry_id, recipe=recipe, **copied)
    return stages


def _column(study: Study, name: str) -> ColumnEntry:
    measure = study.columns[name]
    data = {arm.measures[name].evaluation.data.name for arm in study.arms if name in arm.measures}
    return ColumnEntry(
        metric=measure.metric,
        better=measure.better,
        is_curve=measure.is_curve,
        data=data.pop() if len(data) == 1 else "",
        split=measure.evaluation.split,
        title=measure.title,
    )


def _arm_entries(plan: Plan, uses: Sequence[Use]) -> list[ArmEntry]:
    memo: dict[str, Mapping[str, int]] = {}
    rows = {use: row for row, use in enumerate(uses)}
    return [_arm(entry, plan, memo, _tasks_read(entry.state, plan, rows)) for entry in plan.arms]


def _tasks_read(state: str, plan: Plan, rows: Mapping[Use, int]) -> dict[str, int]:
    """Return the row of the use by which training reads each task on the way to a state, the latest use of each."""
    found: dict[str, int] = {}
    pending = {state: None}
    while pending:
        one = next(iter(pending))
        del pending[one]
        stage = plan.stages.get(one)
        if stage is None or stage.kind != "state":
            continue
        for use in uses_by(stage, plan.stages):
            if use.is_task and use.use == "training":
                found.setdefault(use.data, rows[use])
        pending |= dict.fromkeys(stage.parents)
    return found


def _arm(entry: ArmStages, plan: Plan, memo: dict[str, Mapping[str, int]], reads: Mapping[str, int]) -> ArmEntry:
    arm: Arm = entry.arm
    curriculum = arm.curriculum
    before_last_phase = curriculum.state_id(curriculum.stretches[-1].start_step if curriculum.stretches else 0)
    is_tuned = bool(curriculum.stretches) and isinstance(curriculum.stretches[-1].phase.data, Task | Rollouts)
    key = before_last_phase if is_tuned else entry.state  # fine-tuning draws no tokens from corpora
    if key not in memo:
        memo[key] = tokens_drawn(curriculum, plan.counts_of)
    return ArmEntry(
        factors=dict(arm.factors),
        state=entry.state,
        measures=entry.measures,
        num_steps=sum(part.num_steps for part in whole_run(curriculum)),
        tokens=memo[key],
        items=items_drawn(curriculum, plan.counts_of),
        dose=dose(curriculum, plan.counts_of),
        flops=sum(_flops(part) for part in whole_run(curriculum)),
        choices={name: choice.id for name, choice in arm.choices.items()},
        reads=reads,
        phases=phases_of(curriculum, plan.counts_of),
    )


def _flops(curriculum: Curriculum) -> float:
    model = curriculum.start.model
    return sum(
        (placed.stop_step - placed.start_step) * placed.phase.tokens_per_step * placed.phase.flops_per_token(model)
        for placed in curriculum.stretches
    )


def _comparison(study: Study, comparison: Comparison) -> ComparisonEntry:
    def rows(arms: Any) -> tuple[int, ...]:
        return tuple(row for arm in arms if (row := study.index(arm)) is not None)

    return ComparisonEntry(
        name=comparison.name,
        title=comparison.title or comparison.name,
        arms=rows(comparison.arms),
        references=rows(comparison.references),
        columns=comparison.columns,
        match=comparison.match,
        along=comparison.along,
    )


def _mix(mix: Mix) -> MixEntry:
    return MixEntry(
        name=mix.name,
        shares={part.corpus.name: float(part.share) for part in mix.mixture.parts},
        reference=mix.reference.name,
        factors=dict(mix.factors),
    )
