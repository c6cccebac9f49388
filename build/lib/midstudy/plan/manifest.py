"""The manifest of a plan, which `run` freezes, and the stages of a manifest, which `retry` runs without the experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from midstudy.plan.dose import dose, items_drawn, tokens_drawn, whole_run
from midstudy.plan.left_out import uses_of
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
)
from midstudy.recipe.stage import Stage, stage_id
from midstudy.recipe.study import Arm, Comparison, Mix, Study

_OWN_FIELDS = {"kind", "factors"}
"""Fields of a stage's entry that are not written down as the stage has them."""


def manifest_of(plan: Plan, *, command: str) -> Manifest:
    """The plan as a manifest: arms with the stages behind each, stages with their place in the graph, comparisons and
    claims, and the numbers that the report puts beside what was spent."""
    study = plan.study
    return Manifest(
        schema=SCHEMA,
        name=study.name,
        question=study.question,
        notes=tuple(study.notes),
        report=study.report,
        command=command,
        seeds=study.seeds,
        columns={name: _column(study, name) for name in study.columns},
        arms=tuple(_arm_entries(plan.arms)),
        comparisons=tuple(_comparison(study, one) for one in study.comparisons),
        claims=tuple(study.claims),
        stages={stage.id: stage_entry(stage) for stage in plan.stages.values()},
        counts=tuple(
            CountsEntry(data=one.data.name, is_task=isinstance(one.data, Task), stage=stage_id(one)) for one in study.counts
        ),
        mixes=tuple(_mix(one) for one in study.mixes),
        uses=uses_of(plan.stages),
        sources={data.name: str(data.source) for data in study.datasets()},
        steps=StepsEntry(planned=plan.total_steps, lower_bound=plan.lower_bound_steps, without_sharing=plan.unshared_steps),
    )


def stage_entry(stage: Stage) -> StageEntry:
    """What a manifest says of a stage; its recipe is in the store."""
    as_they_are = {one.name: getattr(stage, one.name) for one in fields(StageEntry) if one.name not in _OWN_FIELDS}
    return StageEntry(kind=stage.kind, factors=dict(stage.factors), **as_they_are)


def stages_of(manifest: Manifest, recipes: Callable[[str], Any]) -> dict[str, Stage]:
    """The stages of a frozen study again, without its experiment file.

    Args:
        recipes: the expanded recipe of a stage, as the store holds it.
    """
    found = {}
    for identity, entry in manifest.stages.items():
        as_they_are = {name: value for name, value in asdict(entry).items() if name != "kind"}
        recipe = decode(recipes(identity), f"stages.{identity}.recipe")
        found[identity] = Stage(id=identity, recipe=recipe, **as_they_are)
    return found


def _column(study: Study, name: str) -> ColumnEntry:
    measure = study.columns[name]
    data = {arm.measures[name].evaluation.data.name for arm in study.arms if name in arm.measures}
    return ColumnEntry(
        metric=measure.metric,
        better=measure.better,
        is_curve=measure.is_curve,
        data=data.pop() if len(data) == 1 else "",
        split=measure.evaluation.split,
    )


def _arm_entries(arms: tuple[ArmStages, ...]) -> list[ArmEntry]:
    memo: dict[str, Mapping[str, int]] = {}
    return [_arm(entry, memo) for entry in arms]


def _arm(entry: ArmStages, memo: dict[str, Mapping[str, int]]) -> ArmEntry:
    arm: Arm = entry.arm
    curriculum = arm.curriculum
    behind_last = curriculum.state_id(curriculum.stretches[-1].start_step if curriculum.stretches else 0)
    is_tuned = bool(curriculum.stretches) and isinstance(curriculum.stretches[-1].phase.data, Task)
    key = behind_last if is_tuned else entry.state  # what was fine-tuned differently had drawn the same tokens
    if key not in memo:
        memo[key] = tokens_drawn(curriculum)
    return ArmEntry(
        factors=dict(arm.factors),
        state=entry.state,
        measures=entry.measures,
        num_steps=sum(part.num_steps for part in whole_run(curriculum)),
        tokens=memo[key],
        items=items_drawn(curriculum),
        dose=dose(curriculum),
        flops=sum(_flops(part) for part in whole_run(curriculum)),
    )


def _flops(curriculum: Curriculum) -> float:
    model = curriculum.start.model
    return sum(
        (stretch.stop_step - stretch.start_step)
        * stretch.phase.tokens_per_step
        * model.flops_per_token(seq_len=stretch.phase.seq_len)
        for stretch in curriculum.stretches
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
