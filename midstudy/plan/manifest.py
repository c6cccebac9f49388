"""A study's manifest: what `run` freezes in the store, and what every command after it reads instead of the experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from midstudy.data.slots import drawn_tokens
from midstudy.plan.left_out import uses_json
from midstudy.plan.planner import ArmStages, Plan
from midstudy.plan.shares import specialist_shares, trained_before
from midstudy.recipe.data import Corpus, Task
from midstudy.recipe.decode import decode
from midstudy.recipe.stage import Stage, stage_id
from midstudy.recipe.study import CONTROL

_EXECUTION = (
    "start_from",
    "continues_trunk",
    "keeps_optimizer",
    "num_steps",
    "num_tokens",
    "cost_s",
    "disk_bytes",
    "factors",
)
"""Fields of a stage that are written down as they are."""


def manifest_of(plan: Plan, *, command: str) -> dict[str, Any]:
    """The plan as plain JSON: arms with the stages behind each, stages with their place in the graph, and the numbers
    that the report puts beside what was spent."""
    study = plan.study
    return {
        "name": study.name,
        "question": study.question,
        "notes": list(study.notes),
        "command": command,
        "arms": _arm_rows(plan),
        "stages": {stage.id: stage_entry(stage) for stage in plan.stages.values()},
        "counts": [
            {
                "data": recipe.data.name,
                "kind": "task" if isinstance(recipe.data, Task) else "corpus",
                "stage": stage_id(recipe),
            }
            for recipe in study.token_counts
        ],
        "general": study.arms[0].general_evaluation.data.name,
        "uses": uses_json(plan.stages),
        "sources": {data.name: str(data.source) for data in study.datasets()},
        "steps": {
            "planned": plan.total_steps,
            "lower_bound": plan.lower_bound_steps,
            "without_sharing": plan.unshared_steps,
        },
    }


def stage_entry(stage: Stage) -> dict[str, Any]:
    """What a manifest says of a stage; its recipe is in the store."""
    return {
        "kind": stage.kind,
        "label": stage.label,
        "parents": list(stage.parents),
        **{name: getattr(stage, name) for name in _EXECUTION},
    }


def stages_of(manifest: dict[str, Any], recipes: Callable[[str], Any]) -> dict[str, Stage]:
    """The stages of a frozen study again, without its experiment file.

    Args:
        recipes: the expanded recipe of a stage, as the store holds it.
    """
    return {
        identity: Stage(
            id=identity,
            label=entry["label"],
            recipe=decode(recipes(identity), f"stages.{identity}.recipe"),
            parents=tuple(entry["parents"]),
            **{name: entry[name] for name in _EXECUTION},
        )
        for identity, entry in manifest["stages"].items()
    }


def _arm_rows(plan: Plan) -> list[dict[str, Any]]:
    drawn: dict[str, dict[Corpus, int]] = {}
    return [_arm_row(plan, entry, drawn) for entry in plan.arms]


def _arm_row(plan: Plan, entry: ArmStages, drawn: dict[str, dict[Corpus, int]]) -> dict[str, Any]:
    arm = entry.arm
    trained = trained_before(arm.curriculum.until(arm.pretrain_steps))
    if entry.start_state not in drawn:
        drawn[entry.start_state] = drawn_tokens(trained)
    tokens = drawn[entry.start_state]
    specialists = specialist_shares(arm.curriculum.until(arm.pretrain_steps), arm.start_step)
    return {
        "size": arm.size,
        "mix": arm.mix,
        "weight": 0.0 if arm.mix == CONTROL else float(sum(specialists.values())),  # the arm's own, to the last digit
        "start_step": arm.start_step,
        "start_fraction": arm.start_step / trained.num_steps if trained.num_steps else 0.0,
        "task": arm.task,
        "trunk_seed": arm.trunk_seed,
        "sft_seed": arm.sft_seed,
        "groups": ",".join(arm.groups),
        "specialists": {corpus.name: float(share) for corpus, share in specialists.items()},
        "pretrain_tokens": sum(tokens.values()),
        "specialist_tokens": sum(count for corpus, count in tokens.items() if corpus in specialists),
        "start_state": entry.start_state,
        "final_state": entry.final_state,
        "task_evaluation": entry.task_evaluation,
        "general_evaluation": entry.general_evaluation,
        "task_evaluation_before": entry.task_evaluation_before,
        "general_evaluation_before": entry.general_evaluation_before,
    }
