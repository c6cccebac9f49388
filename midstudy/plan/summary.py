"""Describe a plan as text and as JSON: what must run, what is finished, what it costs, and what sharing saves."""

from __future__ import annotations

from collections import Counter
from typing import Any

from midstudy.data.first_row import first_row
from midstudy.plan.parts import Divided
from midstudy.plan.planner import Plan
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import Source, Task, sources_of
from midstudy.recipe.packing import Packing
from midstudy.recipe.preparation import Prepared
from midstudy.recipe.stage import ROLES
from midstudy.recipe.start_weights import Release

_RATE_SOURCES = {
    "assumed": "assumed for {shapes}: {reason}",
    "calibrated": "calibrated on this machine for {shapes}{seconds}",
    "recorded": "as measured by the benchmark for {shapes}",
    "store": "measured on this store's finished stages for {shapes}",
}


def plan_facts(plan: Plan, *, forecast_s: float | None = None) -> dict[str, Any]:
    """Return the plan's numbers as JSON-serialisable data.

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
            {"name": comparison.name, "arms": len(comparison.arms), "references": len(comparison.references)}
            for comparison in plan.study.comparisons
        ],
        "claims": len(plan.study.claims),
        "choices": [
            {
                "id": choice.id,
                "name": choice.name,
                "values": list(choice.values),
                "rule": choice.rule,
                "metric": choice.metric,
                "judged_on": choice.judged_on,
                "is_made": choice.id in plan.published,
            }
            for choice in plan.study.choices
        ],
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
            f"{workload.model.name} {workload.precision}": round(times, 2)
            for workload in plan.workloads
            if (times := plan.throughput.times_fp32(workload)) is not None
        },
        "rate_assumed_for": list(plan.priced_by.get("assumed", ())),
        "rate_recorded_for": list(plan.priced_by.get("recorded", ())),
        "disk_bytes": sum(stage.disk_bytes for stage in plan.stages.values()),
        "disk_bytes_missing": plan.missing_bytes,
        "sources": {data.name: data.origin for data in plan.study.datasets()},
        "first_rows": _first_rows(plan),
        "releases": _releases(plan),
        "epochs": {
            packing_id: {"num_steps": counts.num_steps, "is_estimated": counts.is_estimated}
            for packing_id, counts in plan.epochs.items()
        },
        "notes": list(plan.study.notes),
        "left_out": plan.left_out.as_json(),
        "parts": [_parts_facts(one) for one in plan.divided],
    }


def _parts_facts(divided: Divided) -> dict[str, Any]:
    """Return the numbers of a token stage that is made in parts."""
    shown = (
        *("data", "num_files", "stored_bytes", "num_readings", "is_remote"),
        *("text_bytes", "token_bytes", "bytes_per_s", "rate_is_measured"),
    )
    steps = ("measuring_s", "layout_s", "tokenising_s", "joining_s", "cpu_s")
    return {
        **{name: getattr(divided, name) for name in (*shown, *steps)},
        "num_parts": len(divided.part_ids),
        "wall_s_all_at_a_time": divided.wall_s(len(divided.part_ids)),
    }


def _parts_lines(divided: Divided) -> list[str]:
    """Return what a token stage in parts reads, writes and costs."""
    is_known = "measured on finished parts" if divided.rate_is_measured else "assumed"
    at_once = len(divided.part_ids)
    stored = f"{divided.num_files:,} files of {divided.stored_bytes / 1e9:,.1f} GB"
    kept = f", read {divided.num_readings} times"
    if divided.is_remote:
        kept = f", streamed {divided.num_readings} times from the Hub; no download is kept on disk"
    steps = {
        "to tokenise": divided.tokenising_s,
        "to measure documents": divided.measuring_s,
        "to lay out shards": divided.layout_s,
        "to join": divided.joining_s,
    }
    return [
        f"  parts    {divided.data}: {at_once:,} jobs of about {divided.text_bytes / at_once / 1e9:.2f} GB of text, "
        f"{divided.text_bytes / 1e9:,.1f} GB in all, from {stored}{kept}",
        f"           price {hours(divided.cpu_s / 3600)} of one CPU core at {divided.bytes_per_s / 1e6:.1f} MB of text a "
        f"CPU second ({is_known}): {', '.join(f'{hours(step_s / 3600)} {what}' for what, step_s in steps.items())}",
        f"           time about {hours(divided.wall_s(at_once) / 3600)} with all parts at a time, "
        f"{hours(divided.wall_s(100) / 3600)} with 100; disk {divided.token_bytes / 1e9:,.1f} GB of tokens, shared by the "
        "parts and the join (hard links)",
    ]


def _num_trunks(plan: Plan) -> int:
    """Return the number of pretraining runs, which differ in their first step."""
    states = [stage.recipe for stage in plan.stages.values() if stage.role == "pretrain"]
    return len({state.curriculum.state_id(1) for state in states if isinstance(state, State)})


def _num_branches(plan: Plan) -> int:
    """Return the number of midtraining runs: midtrained states that no other midtraining stage starts from."""
    midtrained = [stage for stage in plan.stages.values() if stage.role == "midtrain"]
    return len({stage.id for stage in midtrained} - {stage.start_from for stage in midtrained})


def _flops(state: State, num_tokens: int) -> float:
    curriculum = state.curriculum
    if not curriculum.stretches:
        return 0.0
    return num_tokens * curriculum.stretches[-1].phase.flops_per_token(curriculum.start.model)


def _releases(plan: Plan) -> dict[str, str]:
    """Return the sources of the released checkpoints that the plan imports, by name; equal names show their revision."""
    starts = (stage.recipe.curriculum.start for stage in plan.stages.values() if isinstance(stage.recipe, State))
    releases = {start.id: start.weights for start in starts if isinstance(start.weights, Release)}
    times = Counter(str(release) for release in releases.values())
    return {
        str(release) if times[str(release)] == 1 else f"{release} ({release.source.revision[:12]})": str(release.source)
        for release in releases.values()
    }


def _first_rows(plan: Plan) -> dict[str, list[str]]:
    """Return the first row of each source of a corpus or task, by its name. Data sets with one source share their rows."""
    rows: dict[tuple[Source, bool], str] = {}
    shown = {}
    for data in plan.study.datasets():
        is_task = isinstance(data, Task)
        sources = sources_of(data.source)
        new = [source for source in sources if (source, is_task) not in rows]
        for source in new:
            rows[source, is_task] = first_row(source, is_task=is_task)
        if found := [rows[source, is_task] for source in new if rows[source, is_task]]:
            shown[data.name] = found
    return shown


def plan_text(plan: Plan, *, forecast_s: float | None = None) -> str:
    """Return the plan as text; a plan without arms has no lines about training."""
    facts = plan_facts(plan, forecast_s=forecast_s)
    roles = ", ".join(
        f"{role} {n['all']}" + (f" ({n['missing']} to run)" if 0 < n["missing"] < n["all"] else "")
        for role, n in facts["stages_by_role"].items()
    )
    by_source: dict[str, list[str]] = {}
    prepared = {data.name for data in plan.study.datasets() if isinstance(data.source, Prepared)}
    for name, source in facts["sources"].items():
        if name in prepared:  # by its steps, below
            continue
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
        *_preparation_lines(plan),
        *(line for divided in plan.divided for line in _parts_lines(divided)),
        *_epoch_lines(plan),
        *(f"  row      {name}: {row}" for name, rows in facts["first_rows"].items() for row in rows),
        *_seen_lines(plan),
        *(f"  release  {name}: {source}" for name, source in facts["releases"].items()),
        *(f"  note     {note}" for note in (*_bfloat16_notes(plan), *facts["notes"], *plan.left_out.sentences)),
    ]
    return "\n".join(lines)


def _arm_lines(facts: dict[str, Any]) -> list[str]:
    if not facts["arms"]:
        return []
    parts = [("trunk", "trunks"), ("branch", "branches")]
    runs = " and ".join(_counted(facts[plural], singular, plural) for singular, plural in parts if facts[plural])
    lines = [f"  arms     {facts['arms']}" + (f" from {runs}" if runs else "")]
    for comparison in facts["comparisons"]:
        arms, references = _counted(comparison["arms"], "arm"), _counted(comparison["references"], "reference")
        lines.append(f"  compare  {comparison['name']}: {arms} against {references}")
    alike = Counter((choice["name"], *choice["values"]) for choice in facts["choices"])
    for (name, *values), number in alike.items():
        made = sum(
            choice["is_made"] for choice in facts["choices"] if [choice["name"], *choice["values"]] == [name, *values]
        )
        among = ", ".join(f"{value:g}" for value in values)
        lines.append(f"  choose   {name} among {among}: {_counted(number, 'decision')}" + (f", {made} made" if made else ""))
    if facts["claims"]:
        lines.append(f"  claims   {facts['claims']}")
    return lines


def _preparation_lines(plan: Plan) -> list[str]:
    """Return what each preparation does, with the documents that its steps have kept if it is done."""
    lines = []
    for stage in plan.stages.values():
        if isinstance(stage.recipe, Prepared):
            found = plan.left_out.yields.get(stage.label, ())
            kept = "; ".join(f"{one['step']} {one['documents_in']:,} → {one['documents_out']:,}" for one in found)
            lines.append(f"  prepare  {stage.label}" + (f" (documents: {kept})" if kept else ""))
    return lines


def _epoch_lines(plan: Plan) -> list[str]:
    """Return the length of each packing, with where its number comes from."""
    unresolved = {packing.id: packing for packing in plan.unresolved}
    made = {stage.id: stage.recipe for stage in plan.stages.values() if isinstance(stage.recipe, Packing)}
    lines = []
    for packing_id, packing in (made | unresolved).items():
        counts = plan.epochs[packing_id]
        about = "about " if counts.is_estimated else ""
        how = ", estimated from the size of the text; resolved when the data stages are done" if counts.is_estimated else ""
        epochs = _counted(packing.mixture.num_epochs, "epoch")
        lines.append(
            f"  epochs   {packing.mixture}: {epochs} in {about}{_counted(counts.num_steps, 'step')} of "
            f"{packing.num_sequences} × {packing.seq_len} tokens{how}"
        )
    return list(dict.fromkeys(lines))  # the packings of other seeds are as long


def _seen_lines(plan: Plan) -> list[str]:
    """Return the share of each task's target tokens that training sees, by sequence length; none until it is tokenised."""
    seen = {
        f"{tally.data} {tally.percent_seen} within {tally.limit} tokens": None
        for tally in plan.left_out.tallies
        if tally.use in ("training", "packing") and tally.share_seen is not None
    }
    return [f"  seen     of the tasks' target tokens: {', '.join(seen)}"] if seen else []


def _bfloat16_notes(plan: Plan) -> list[str]:
    """Return notes on the cost of emulated bfloat16, one for each precision that the plan trains in."""
    if not plan.throughput.emulates_bfloat16:
        return []
    notes = []
    for precision in dict.fromkeys(load.precision for load in plan.workloads if load.precision != "fp32"):
        slowdowns = [(load, plan.throughput.times_fp32(load)) for load in plan.workloads if load.precision == precision]
        known = [f"{times:.1f} × the time of fp32 for {load.model.name} (measured)" for load, times in slowdowns if times]
        cost = ", ".join(known) or "it may take several times as long as fp32"
        notes.append(f"{precision} is emulated on this CPU: {cost}; --set precision=fp32 avoids it")
    return notes


def _counted(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def _training_lines(plan: Plan, facts: dict[str, Any], cost: str) -> list[str]:
    """Return the lines about steps, tokens, cost and disk."""
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
        f"  disk     {facts['disk_bytes_missing'] / 1e9:.2f} GB of checkpoints{' and tokens' if plan.divided else ''} "
        f"to write, {facts['disk_bytes'] / 1e9:.2f} GB in all",
    ]


def hours(value: float) -> str:
    """Return a number of hours as text in seconds, minutes or hours, whichever is the most readable."""
    if value < 1 / 60:
        return f"{3600 * value:.0f} s"
    if value < 2:
        return f"{60 * value:.1f} min"
    return f"{value:,.1f} h"
