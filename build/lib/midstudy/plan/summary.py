"""A plan in words and in JSON: what would run, what is there, what it costs, and what sharing saves."""

from __future__ import annotations

from collections import Counter
from typing import Any

from midstudy.plan.planner import Plan
from midstudy.recipe.curriculum import State
from midstudy.recipe.stage import ROLES
from midstudy.recipe.start_weights import Release

_RATE_SOURCES = {
    "assumed": "assumed for {shapes}: {reason}",
    "calibrated": "calibrated on this machine for {shapes}{seconds}",
    "recorded": "as measured by the benchmark for {shapes}",
    "store": "measured on this store's finished stages for {shapes}",
}


def plan_facts(plan: Plan, *, forecast_s: float | None = None) -> dict[str, Any]:
    """The plan's numbers as JSON-serialisable data.

    Args:
        forecast_s: expected wall-clock seconds of the run, if its jobs are known.
    """
    missing = plan.missing
    roles = Counter(stage.role for stage in plan.stages.values())
    left = Counter(stage.role for stage in missing)
    return {
        "study": plan.study.name,
        "question": plan.study.question,
        "arms": len(plan.arms),
        "trunks": _num_trunks(plan),
        "branches": _num_branches(plan),
        "comparisons": [
            {"name": one.name, "arms": len(one.arms), "references": len(one.references)} for one in plan.study.comparisons
        ],
        "claims": len(plan.study.claims),
        "stages": len(plan.stages),
        "stages_finished": len(plan.stages) - len(missing),
        "stages_missing": len(missing),
        "stages_by_role": {role: {"all": roles[role], "missing": left[role]} for role in ROLES if roles[role]},
        "steps": plan.total_steps,
        "steps_missing": plan.missing_steps,
        "steps_lower_bound": plan.lower_bound_steps,
        "steps_without_sharing": plan.unshared_steps,
        "tokens_missing": sum(stage.num_tokens for stage in missing),
        "flops_missing": sum(_flops(stage.recipe, stage.num_tokens) for stage in missing if isinstance(stage.recipe, State)),
        "device": plan.throughput.device.title,
        "device_hours_missing": plan.missing_s / 3600,
        "device_hours_without_sharing": plan.unshared_s / 3600,
        "forecast_s": forecast_s,
        "rate_measured_for": list(plan.priced_by.get("store", ())),
        "rate_calibrated_for": list(plan.priced_by.get("calibrated", ())),
        "calibration_s": plan.throughput.calibration_s,
        "bfloat16_is_emulated": plan.throughput.emulates_bfloat16,
        "times_fp32": {
            f"{one.model.name} {one.precision}": round(times, 2)
            for one in plan.workloads
            if (times := plan.throughput.times_fp32(one)) is not None
        },
        "rate_assumed_for": list(plan.priced_by.get("assumed", ())),
        "rate_recorded_for": list(plan.priced_by.get("recorded", ())),
        "disk_bytes": sum(stage.disk_bytes for stage in plan.stages.values()),
        "disk_bytes_missing": plan.missing_bytes,
        "sources": {data.name: str(data.source) for data in plan.study.datasets()},
        "releases": _releases(plan),
        "notes": list(plan.study.notes),
        "left_out": plan.left_out.as_json(),
    }


def _num_trunks(plan: Plan) -> int:
    """Runs of pretraining, told apart by their first step."""
    states = [stage.recipe for stage in plan.stages.values() if stage.role == "pretrain"]
    return len({state.curriculum.state_id(1) for state in states if isinstance(state, State)})


def _num_branches(plan: Plan) -> int:
    """Runs of midtraining: their last states, from which no midtraining goes on."""
    midtrained = [stage for stage in plan.stages.values() if stage.role == "midtrain"]
    return len({stage.id for stage in midtrained} - {stage.start_from for stage in midtrained})


def _flops(state: State, num_tokens: int) -> float:
    curriculum = state.curriculum
    if not curriculum.stretches:
        return 0.0
    return num_tokens * curriculum.start.model.flops_per_token(seq_len=curriculum.stretches[-1].phase.seq_len)


def _releases(plan: Plan) -> dict[str, str]:
    """The released checkpoints whose weights the plan imports, by name; two of one name are told by their revisions."""
    starts = (stage.recipe.curriculum.start for stage in plan.stages.values() if isinstance(stage.recipe, State))
    found = {start.id: start.weights for start in starts if isinstance(start.weights, Release)}
    times = Counter(str(one) for one in found.values())
    return {
        str(one) if times[str(one)] == 1 else f"{one} ({one.source.revision[:12]})": str(one.source)
        for one in found.values()
    }


def plan_text(plan: Plan, *, forecast_s: float | None = None) -> str:
    """The plan for a person; of a plan without arms, that is without training, only what it has."""
    facts = plan_facts(plan, forecast_s=forecast_s)
    roles = ", ".join(
        f"{role} {n['all']}" + (f" ({n['missing']} to run)" if 0 < n["missing"] < n["all"] else "")
        for role, n in facts["stages_by_role"].items()
    )
    by_source: dict[str, list[str]] = {}
    for name, source in facts["sources"].items():
        kind = source if source.startswith("/") else source.partition(":")[0]
        by_source.setdefault(kind, []).append(name)
    cost = f"  cost     {hours(facts['device_hours_missing'])} of one {facts['device']}"
    lines = [
        f"{facts['study']}: {facts['question']}",
        *_arm_lines(facts),
        f"  stages   {facts['stages']}: {facts['stages_finished']} finished, {facts['stages_missing']} to run",
        f"           {roles}",
        *(_training_lines(plan, facts, cost) if plan.arms else [cost]),
        *([f"  time     about {hours(forecast_s / 3600)} from start to report"] if forecast_s else []),
        *(f"  data     {', '.join(names)}: {kind}" for kind, names in by_source.items()),
        *(f"  release  {name}: {source}" for name, source in facts["releases"].items()),
        *(f"  note     {note}" for note in (*_bfloat16_notes(plan), *facts["notes"], *plan.left_out.sentences)),
    ]
    return "\n".join(lines)


def _arm_lines(facts: dict[str, Any]) -> list[str]:
    if not facts["arms"]:
        return []
    parts = [("trunk", "trunks"), ("branch", "branches")]
    runs = " and ".join(_counted(facts[several], one, several) for one, several in parts if facts[several])
    lines = [f"  arms     {facts['arms']}" + (f" from {runs}" if runs else "")]
    for one in facts["comparisons"]:
        arms, references = _counted(one["arms"], "arm"), _counted(one["references"], "reference")
        lines.append(f"  compare  {one['name']}: {arms} against {references}")
    if facts["claims"]:
        lines.append(f"  claims   {facts['claims']}")
    return lines


def _bfloat16_notes(plan: Plan) -> list[str]:
    """Notes on the cost of emulated bfloat16, one per precision the plan trains in."""
    if not plan.throughput.emulates_bfloat16:
        return []
    notes = []
    for precision in dict.fromkeys(one.precision for one in plan.workloads if one.precision != "fp32"):
        each = [(one, plan.throughput.times_fp32(one)) for one in plan.workloads if one.precision == precision]
        known = [f"{times:.1f} × the time of fp32 for {one.model.name} (measured)" for one, times in each if times]
        told = ", ".join(known) or "it may take several times as long as fp32"
        notes.append(f"{precision} is emulated on this CPU: {told}; --set precision=fp32 avoids it")
    return notes


def _counted(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _training_lines(plan: Plan, facts: dict[str, Any], cost: str) -> list[str]:
    """Steps, tokens, cost and disk."""
    saved = facts["steps_without_sharing"] / max(1, facts["steps_lower_bound"])
    rates = [
        _RATE_SOURCES[source].format(
            shapes=", ".join(shapes),
            reason=plan.throughput.device.reason,
            seconds=f" in {plan.throughput.calibration_s:.1f} s" if plan.throughput.calibration_s else "",
        )
        for source, shapes in sorted(plan.priced_by.items())
    ]
    return [
        f"  steps    {facts['steps_missing']:,} to train of {facts['steps']:,}; lower bound {facts['steps_lower_bound']:,}; "
        f"{facts['steps_without_sharing']:,} without sharing ({saved:.1f}×)",
        f"  tokens   {facts['tokens_missing']:,}, {facts['flops_missing']:.2g} FLOPs",
        f"{cost}; without sharing {hours(facts['device_hours_without_sharing'])} ({'; '.join(rates)})",
        f"  disk     {facts['disk_bytes_missing'] / 1e9:.2f} GB of checkpoints to write, "
        f"{facts['disk_bytes'] / 1e9:.2f} GB in all",
    ]


def hours(value: float) -> str:
    """Hours in the unit that reads best."""
    if value < 1 / 60:
        return f"{3600 * value:.0f} s"
    if value < 2:
        return f"{60 * value:.1f} min"
    return f"{value:,.1f} h"
