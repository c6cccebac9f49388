"""What each verb of the `midstudy` command does. Options are already parsed; other packages do the work."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import shlex
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midstudy.files.errors import StoreError
from midstudy.store.paths import is_name
from midstudy.store.store import Store

if TYPE_CHECKING:
    from midstudy.data.named_text import NamedText
    from midstudy.plan.planner import Plan
    from midstudy.recipe.manifest import Manifest, StageEntry
    from midstudy.recipe.stage import Stage
    from midstudy.recipe.study import Study
    from midstudy.run.conduct import RunSummary
    from midstudy.run.proxy import Proxy
    from midstudy.run.study import Place
    from midstudy.store.retention import Item

# -- plan and run -----------------------------------------------------------------------------------------------------


def new(options: Namespace) -> int:
    """Write a commented example, and say what to do with it."""
    from midstudy.cli.new import write_example

    path = Path(options.file)
    write_example(path)
    shown = shlex.quote(str(path))
    if path.suffix == ".py":
        print(f"{path} is written. What it would run and cost: midstudy plan {shown}")
    else:
        print(f"{path} is written. Put your cluster's names in; midstudy run EXPERIMENT --backend slurm --placement {shown}")
    return 0


def plan(options: Namespace) -> int:
    """Print what a study would run, what it would cost and, if asked, how long it would take or what a budget leaves."""
    from midstudy.launch.makespan import Cluster, makespan_of
    from midstudy.run.budget import choose
    from midstudy.run.described import plan_facts, plan_text
    from midstudy.run.study import forecast_s

    root = Path(options.store)
    store = Store.open(root) if os.path.lexists(root / "store.json") else None
    cluster = Cluster.parse(options.makespan) if options.makespan else None
    chosen = None
    if options.budget_gpu_hours is not None:
        options.price_on = options.price_on or "h100"
        chosen = choose(
            options.experiment,
            store,
            data=options.data,
            settings=options.settings,
            price_on=options.price_on,
            budget_hours=options.budget_gpu_hours,
        )
        options.settings = list(chosen.settings)
    planned = _plan(options, store)
    wall_s = forecast_s(planned)
    span = makespan_of(planned, cluster) if cluster is not None else None
    if options.json:
        facts = plan_facts(planned, store, forecast_s=wall_s)
        more = {"makespan": span.as_json() if span else None, "budget": chosen.as_json() if chosen else None}
        print(json.dumps({**facts, **{name: value for name, value in more.items() if value is not None}}, indent=1))
        return 0
    print(plan_text(planned, store, forecast_s=wall_s))
    if span is not None:
        print(f"  makespan {span.as_text(planned.throughput.device.title)}")
    if chosen is not None:
        print("\n".join(chosen.lines()))
    return 0


def allocate(options: Namespace) -> int:
    """Print which claims the next seeds would decide, what they cost, and the command that trains them."""
    from midstudy.run.allocate import allocation_of

    found = allocation_of(
        options.experiment,
        Store.open(Path(options.store)),
        data=options.data,
        settings=options.settings,
        price_on=options.price_on,
        budget_hours=options.budget,
    )
    print(json.dumps(found.as_json(), indent=1) if options.json else found.as_text())
    return 0


def run(options: Namespace) -> int:
    """Run a study: its stages, its tables and its report."""
    from midstudy.run.described import plan_text
    from midstudy.run.study import begin, command_line, forecast_s
    from midstudy.run.whole_epochs import begin_data, with_whole_epochs
    from midstudy.track.client import tracking_uri_of

    where = _place(options)
    root = Path(options.store)
    # A new store is created only when the study begins, so that a rejected study leaves nothing behind.
    existing = Store.open_existing(root)
    where.require(root)
    planned = _plan(options, existing, where)
    command = command_line(options.experiment, data=options.data, settings=options.settings)
    if planned.unresolved and options.detach:  # the detached process makes the data and freezes the study
        store, data_plan = begin_data(planned, root, where, command=command)
        return _detach(store, data_plan.study.name, where, options)

    def make(store: Store, data_plan: Plan) -> Mapping[str, str]:
        print(plan_text(data_plan, store), flush=True)
        tracking_uri = tracking_uri_of(store, options.tracking_uri)
        return _conduct(store, data_plan.study.name, data_plan.stages, where, tracking_uri, lambda: None).failed

    planned = with_whole_epochs(
        planned, root, where, command=command, make=make, plan_again=lambda store: _plan(options, store, where)
    )
    store = begin(root, planned, where, command=command, max_gpu_hours=options.max_gpu_hours)
    print(plan_text(planned, store, forecast_s=forecast_s(planned, where)), flush=True)
    if options.detach:
        return _detach(store, planned.study.name, where, options)
    return _run_stages(store, planned.study.name, planned.stages, where, options.tracking_uri)


def retry(options: Namespace) -> int:
    """Clear the failures of a study and run its missing stages from the frozen manifest."""
    from midstudy.plan.manifest import stages_of

    store = _open_to_write(options)
    manifest = _manifest(store, options.study)
    kept_file = store.paths.placement_file(manifest.name) if options.backend == "slurm" else None
    where = _place(options, placement_file=kept_file)
    where.require(store.root)
    failed = [stage for stage in manifest.stages if not store.has(stage) and store.failure(stage) is not None]
    chosen = [_own_stage(store, manifest, name) for name in options.stages] or failed
    for stage_id in chosen:
        if stage_id not in failed:
            raise ValueError(f"stage {stage_id}: has not failed; failed stages: {', '.join(failed) or 'none'}.")
        store.write_interruptions(stage_id, [])  # reset its retry counter
        store.clear_failure(stage_id)
    if options.detach:
        return _detach(store, manifest.name, where, options)
    stages = stages_of(manifest, lambda stage_id: store.requested(stage_id)["recipe"])
    return _run_stages(store, manifest.name, stages, where, options.tracking_uri)


def _plan(options: Namespace, store: Store | None, where: Place | None = None) -> Plan:
    from midstudy.run.study import plan_experiment

    return plan_experiment(
        options.experiment,
        store,
        data=options.data,
        settings=options.settings,
        where=where,
        price_on=options.price_on,
    )


def _place(options: Namespace, *, placement_file: Path | None = None) -> Place:
    """Return where and how stages are computed.

    `placement_file` is the one of an earlier run, used unless the options name another.
    """
    from midstudy.run.study import place

    if options.backend == "debug" and options.detach:
        raise ValueError(
            "--detach: not possible with --backend debug, which runs stages in this process; use --backend local."
        )
    return place(
        backend=options.backend,
        placement_file=Path(options.placement) if options.placement else placement_file,
        device=options.device,
        jobs=options.jobs,
        threads=options.threads,
        ranks=options.ranks,
        micro_batch=options.micro_batch,
        compiled=options.compiled,
    )


def _detach(store: Store, name: str, where: Place, options: Namespace) -> int:
    """Start the same command, without `--detach`, as a detached driver; print how to follow and cancel it.

    Raises:
        ValueError: Slurm cannot be reached or rejected the driver's job.
    """
    from midstudy.launch.detach import detach_here, detach_to_slurm
    from midstudy.launch.slurm.commands import SlurmAwayError, SlurmRefusedError

    arguments = [
        argument
        for argument in options.arguments
        if not (argument.startswith("--det") and "--detach".startswith(argument))  # argparse accepts prefixes
    ]
    if where.placements is not None:
        try:
            driver = detach_to_slurm(store, name, arguments, where.placements.driver)
        except (SlurmAwayError, SlurmRefusedError) as error:
            raise ValueError(
                f"--detach: the driver was not submitted ({error}). Check the placement file's [driver] section."
            ) from None
    else:
        driver = detach_here(store, name, arguments)
    at = shlex.join([name, "--store", str(store.root)])
    print(f"{name}: driver {driver}, log: {store.paths.detached_log(name)}")
    print(f"  midstudy status {at}     show its progress\n  midstudy cancel {at}     cancel it and its jobs")
    return 0


def _run_stages(store: Store, name: str, stages: Mapping[str, Stage], where: Place, tracking_uri: str | None) -> int:
    """Run the missing stages, write the report and print a summary. Return the exit status."""
    from midstudy.run.study import answer, verdict_lines, verdicts, write_report
    from midstudy.track.client import tracking_uri_of

    began = time.perf_counter()
    tracking_uri = tracking_uri_of(store, tracking_uri)
    manifest = _manifest(store, name)
    missing = len(stages) - len(store.published(stages))
    pages: list[Path] = []
    if missing:
        made = _conduct(store, name, stages, where, tracking_uri, lambda: pages.append(write_report(store, manifest)))
        failed, skipped, warnings = made.failed, made.skipped, made.warnings
    else:  # skip Prefect: a flow of cached tasks would take longer than everything else
        for stage in stages.values():
            store.verify(stage)
        pages.append(write_report(store, manifest))
        failed, skipped, warnings = {}, {}, tuple(_sync(store, name, tracking_uri))
    for stage_id, cause in failed.items():
        print(f"failed: {manifest.stages[stage_id].label} ({stage_id}): {cause}", file=sys.stderr)
        print(f"        midstudy logs {stage_id} --store {shlex.quote(str(store.root))}", file=sys.stderr)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{missing - len(failed) - len(skipped)} stages run, {len(stages) - missing} reused, {len(failed)} failed, "
        f"{len(skipped)} skipped in {time.perf_counter() - began:.0f} s ({_cpu_s():.0f} CPU seconds in all processes)"
    )
    print("\n".join([answer(store, manifest), *verdict_lines(verdicts(store, manifest))]))
    print(f"report: {pages[0]}")
    print(f"MLflow and Prefect: {_python_tool('midstudy')} ui --store {shlex.quote(_relative_path(store.root))}")
    return 1 if failed else 0


def _conduct(
    store: Store,
    name: str,
    stages: Mapping[str, Stage],
    where: Place,
    tracking_uri: str,
    when_done: Callable[[], object],
) -> RunSummary:
    """Run the missing stages of a study under a Prefect view; `when_done` writes the report.

    Raises:
        SystemExit: the driver received SIGTERM or SIGHUP; its jobs keep running.
    """
    from midstudy.cli.progress import ProgressLine
    from midstudy.flows.view import PrefectView
    from midstudy.run.conduct import DetachedError, run_study

    line = ProgressLine()
    try:
        return run_study(
            store,
            stages,
            name,
            backend=where.backend,
            max_jobs=where.max_jobs,
            placement=where.placement,
            gpus=where.gpus,
            placements=where.placements,
            on_progress=line,
            on_notice=line.notice,
            when_done=when_done,
            tracking_uri=tracking_uri,
            view_of=PrefectView,
        )
    except DetachedError as error:
        print(f"midstudy: {error}", file=sys.stderr)
        raise SystemExit(128 + error.signal) from None
    finally:
        line.close()


def _sync(store: Store, name: str, tracking_uri: str) -> list[str]:
    """Update MLflow. Return the problems as warnings: results do not depend on MLflow."""
    from midstudy.track.client import TrackingError
    from midstudy.track.sync import sync

    try:
        sync(store, name, tracking_uri=tracking_uri)
    except TrackingError as error:
        return [str(error)]
    return []


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of its finished children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _python_tool(name: str) -> str:
    """Return the path of a command beside this interpreter; its bare name if it is not there."""
    beside = Path(sys.executable).parent / name
    return _relative_path(beside) if beside.exists() else name


def _relative_path(path: Path) -> str:
    """Return the path relative to the current folder; the absolute path if that folder was removed."""
    try:
        return os.path.relpath(path)
    except OSError:
        return str(path)


# -- tables and report ------------------------------------------------------------------------------------------------


def report(options: Namespace) -> int:
    """Write the tables and the report of a study from its finished stages."""
    from midstudy.run.study import answer, verdict_lines, verdicts, write_report
    from midstudy.store.registration import registration

    store = _open_to_write(options)
    manifest = _manifest(store, options.study)
    page = write_report(store, manifest)
    registered = registration(store, manifest.name)
    if options.json:
        facts = {"study": manifest.name, "report": str(page), "answer": answer(store, manifest)}
        print(json.dumps({**facts, "claims": verdicts(store, manifest), "registration": registered.as_json()}))
    else:
        print("\n".join([answer(store, manifest), *verdict_lines(verdicts(store, manifest))]))
        if manifest.claims:
            print(f"claims: {registered.sentence}{f', {len(registered.later)} later changes' if registered.later else ''}")
        print(f"report: {page}")
    return 0


# -- status and logs --------------------------------------------------------------------------------------------------


def status(options: Namespace) -> int:
    """Print the progress of a study."""
    from midstudy.launch.backends import live_jobs, slurm_places
    from midstudy.plan.left_out import left_out_in
    from midstudy.store.decisions import Decision
    from midstudy.store.registration import registration

    store = Store.open(Path(options.store))
    manifest = _manifest(store, options.study)
    stages = manifest.stages
    finished = store.published(stages)
    unfinished = [stage_id for stage_id in stages if stage_id not in finished]
    failures = {stage_id: failure for stage_id in unfinished if (failure := store.failure(stage_id))}
    jobs = live_jobs(store, stages)
    running = [
        stage_id
        for job in jobs
        for stage_id in job.stage_ids
        if stage_id not in finished and store.paths.attempts(stage_id).exists()
    ]
    skipped = _descendants(stages, failures) - finished - failures.keys()
    waiting = stages.keys() - finished - failures.keys() - {*running} - skipped
    by_status = {"finished": finished, "running": running, "failed": failures, "skipped": skipped, "waiting": waiting}
    status_of = {stage_id: status for status, stage_ids in by_status.items() for stage_id in stage_ids}
    data_left_out = left_out_in(store, manifest)
    decisions = [
        Decision.of(store.record(stage_id))
        for stage_id in stages
        if stages[stage_id].kind == "decision" and stage_id in finished
    ]
    registered = registration(store, manifest.name)
    facts: dict[str, Any] = {
        "study": manifest.name,
        "stages": len(stages),
        "finished": len(finished),
        "running": [{"id": stage_id, "label": stages[stage_id].label} for stage_id in running],
        "failed": [
            {"id": stage_id, "label": stages[stage_id].label, "cause": failure["cause"]}
            for stage_id, failure in failures.items()
        ],
        "skipped": len(skipped),
        "interrupted": {stage_id: runs for stage_id in unfinished if (runs := store.interruptions(stage_id))},
        "waiting": len(waiting),
        "jobs": [job.name for job in jobs],
        "slurm": slurm_places(store, jobs),
        "left_out": data_left_out.as_json(),
        "decisions": [
            {
                "id": made.id,
                "label": stages[made.id].label,
                "name": made.name,
                "chosen": made.chosen,
                "outcome": made.sentence,
            }
            for made in decisions
        ],
        "registration": registered.as_json(),
        "by_stage": [
            {"id": stage_id, "label": stage.label, "is": status_of[stage_id]} for stage_id, stage in stages.items()
        ],
    }
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    print(
        f"{facts['study']}: {len(finished)} of {len(stages)} stages finished, {len(running)} running in {len(jobs)} jobs, "
        f"{len(failures)} failed, {len(skipped)} skipped, {facts['waiting']} waiting"
    )
    roles = Counter(stage.role for stage in stages.values())
    done = Counter(stages[stage_id].role for stage_id in finished)
    for role, number in roles.items():
        print(f"  {role:12} {done[role]:>5} of {number}")
    for (name, value), number in Counter((made.name, made.chosen) for made in decisions).items():
        print(f"  chosen   {name} {value:g} in {number} of {sum(made.name == name for made in decisions)} decisions")
    for name, place in facts["slurm"].items():
        print(f"  job      {name}  {place}")
    for stage_id in running:
        print(f"  running  {stage_id}  {stages[stage_id].label}")
    for sentence in data_left_out.sentences:
        print(f"  note     {sentence}")
    if manifest.claims:
        print(f"  claims   {registered.sentence}")
    for change in registered.later:
        print(f"  claims   {change}")
    for stage_id, runs in facts["interrupted"].items():
        print(f"  retried  {stage_id}  {stages[stage_id].label}: {'; '.join(run['text'] for run in runs)}")
    for stage_id, failure in failures.items():
        print(f"  failed   {stage_id}  {stages[stage_id].label}: {failure['cause']}\n           {failure.get('retry', '')}")
    return 0


def _descendants(stages: Mapping[str, StageEntry], roots: Mapping[str, Any]) -> set[str]:
    """Return the ids of all stages that cannot run without `roots`; a decision can, while it has another candidate.

    Relies on the order of a manifest: parents come before their children.
    """
    descendants: set[str] = set()
    for stage_id, stage in stages.items():
        lost = [parent in roots or parent in descendants for parent in stage.parents]
        if all(lost) if stage.kind == "decision" and lost else any(lost):
            descendants.add(stage_id)
    return descendants


def logs(options: Namespace) -> int:
    """Print the last lines that the latest job logged while it ran a stage."""
    from midstudy.launch.claim import claimed_by
    from midstudy.launch.log import stage_log

    store = Store.open(Path(options.store))
    stage_id = _named_stage(store, options.study, options.stage)
    failure = store.failure(stage_id)
    job = claimed_by(store, stage_id)
    if job is None:
        raise ValueError(f"stage {stage_id}: no job has run it yet, so there is no log.")
    lines = stage_log(store, stage_id, job)[-options.lines :]
    if options.json:
        print(json.dumps({"stage": stage_id, "job": job, "lines": lines, "failure": failure}, indent=1))
    else:
        print("\n".join(lines))
        if failure:
            where = f" ({failure['where']})" if failure.get("where") else ""
            print(f"failed{where}: {failure['cause']}\nretry with: {failure.get('retry', '')}")
    return 0


def explain(options: Namespace) -> int:
    """Print the fields in which the recipes of two stages differ."""
    from midstudy.recipe.explain import differences, shown

    store = Store.open(Path(options.store))
    requests = {
        stage_id: store.requested(stage_id)
        for stage_id in store.stage_ids()
        if os.path.lexists(store.paths.recipe(stage_id))
    }
    labels = {stage_id: request["label"] for stage_id, request in requests.items()}
    left, right = (requests[_find_stage(store, labels, name)] for name in (options.left, options.right))
    differing = differences(left["canonical"], right["canonical"])
    if options.json:
        sides = {side: {"id": request["id"], "label": request["label"]} for side, request in (("a", left), ("b", right))}
        fields = [{"path": field.path, "a": field.left, "b": field.right} for field in differing]
        print(json.dumps({**sides, "differences": fields}, indent=1))
        return 0
    print(f"A  {left['id']}  {left['label']}\nB  {right['id']}  {right['label']}")
    for field in differing:
        print(f"  {field.path}\n    A  {shown(field.left)}\n    B  {shown(field.right)}")
    if not differing:
        print("  no field differs: same recipe, same id")
    return 0


def compare_studies(options: Namespace) -> int:
    """Print two studies side by side: arms, effects, claims and recipes."""
    from midstudy.analysis.two_studies import compare, measured_tables
    from midstudy.cli.two_studies import as_json, as_text

    store_a = Store.open(Path(options.store))
    store_b = Store.open(Path(options.other_store)) if options.other_store else store_a
    a, b = _manifest(store_a, options.left), _manifest(store_b, options.right)
    if (store_a.root, a.name) == (store_b.root, b.name):
        raise ValueError(f"expected two studies, got {a.name!r} twice; for a study of another store, add --other-store.")
    two = compare(
        measured_tables(store_a, a),
        measured_tables(store_b, b),
        canonical_a=lambda stage_id: store_a.requested(stage_id)["canonical"],
        canonical_b=lambda stage_id: store_b.requested(stage_id)["canonical"],
    )
    places = (str(store_a.root), str(store_b.root))
    print(as_json(two, a, b) if options.json else as_text(two, a, b, places=places))
    return 0


def compare(options: Namespace) -> int:
    """Print the similarity of every pair of corpora; plot it on request."""
    from midstudy.cli.compared import Progress, as_text, require_plot, write_plot
    from midstudy.data.named_text import named_texts
    from midstudy.run.compare import compare as compare_texts

    plot = require_plot(options.plot) if options.plot else None
    progress = Progress()
    try:
        found = compare_texts(
            named_texts(options.texts, where="compare"),
            over=options.over,
            tokenizer=options.tokenizer,
            equal=options.equal,
            authors=options.authors,
            store=Path(options.store),
            on_progress=progress,
        )
    finally:
        progress.close()
    if plot is not None:
        write_plot(found, options.measure, plot)
    print(found.as_json() if options.json else as_text(found, options.measure))
    return 0


def recommend(options: Namespace) -> int:
    """Print a ranking of candidate corpora for a target; plot it on request."""
    from midstudy.cli.compared import Progress, require_plot
    from midstudy.cli.recommended import as_text, write_plot
    from midstudy.data.named_text import named_text, named_texts
    from midstudy.run.recommend import recommend as rank_candidates

    plot = require_plot(options.plot) if options.plot else None
    target = named_text(options.target, where="--target")
    general = named_text(*options.general, where="--general")
    candidates = named_texts(options.candidates, where="--candidates")
    progress = Progress()
    try:
        found = rank_candidates(
            target=target,
            general=general,
            candidates=candidates,
            share=options.share,
            store=Path(options.store),
            on_progress=progress,
        )
    finally:
        progress.close()
    if options.proxy:
        proxy = _proxy(options, target, general, candidates, smallest_bytes=found.smallest_bytes)
        found = dataclasses.replace(found, proxy=proxy)
    if plot is not None:
        write_plot(found, plot)
    print(found.as_json() if options.json else as_text(found))
    return 0


def _proxy(
    options: Namespace,
    target: NamedText,
    general: NamedText,
    candidates: Sequence[NamedText],
    *,
    smallest_bytes: int,
) -> Proxy:
    """Train small models with each candidate, or go on with them, and return what they say.

    Raises:
        RecipeError: the duration is too short.
        ValueError: a stage failed.
    """
    from midstudy.plan.manifest import stages_of
    from midstudy.run.proxy import fitted_plan, proxy_name, read_proxy, study_for
    from midstudy.run.study import begin, forecast_s, place, plan_study, write_report
    from midstudy.track.client import tracking_uri_of

    root = Path(options.store)
    where = place(
        backend="local", placement_file=None, device="cpu", jobs=None, threads=1, ranks=1, micro_batch=None, compiled=False
    )
    texts: dict[str, Any] = {"target": target, "general": general, "candidates": candidates, "share": options.share}
    texts["duration_s"] = options.proxy
    store, name = Store.open_existing(root), proxy_name(**texts)
    if store is None or name not in store.studies():

        def plan_of(study: Study) -> tuple[Plan, float]:
            planned = plan_study(study, store, where=where)
            return planned, forecast_s(planned, where) or 0.0

        planned = fitted_plan(
            lambda num_steps: study_for(num_steps, **texts, smallest_bytes=smallest_bytes), plan_of, options.proxy
        )
        store = begin(root, planned, where, command=shlex.join(["midstudy", *options.arguments]), max_gpu_hours=None)
    manifest = _manifest(store, name)
    recipes = store.requested
    stages = stages_of(manifest, lambda stage_id: recipes(stage_id)["recipe"])
    if len(store.published(stages)) < len(stages):
        with_report = partial(write_report, store, manifest)
        made = _conduct(store, name, stages, where, tracking_uri_of(store, None), with_report)
        for warning in made.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if made.failed:
            stage, cause = next(iter(made.failed.items()))
            raise ValueError(
                f"--proxy: {manifest.stages[stage].label} failed: {cause}. midstudy logs {stage} --study {name}"
            )
    return read_proxy(store, manifest)


# -- export -----------------------------------------------------------------------------------------------------------


def _state_named(store: Store, options: Namespace) -> tuple[Manifest, str]:
    """Return the manifest and the id of the finished state that the command names.

    Raises:
        ValueError: none or several match, or it is something else or not finished.
    """
    manifest = _manifest_with(store, options.study, options.stage)
    stages = manifest.stages
    states = {stage_id: stage for stage_id, stage in stages.items() if stage.kind == "state"}
    matches = [stage_id for stage_id in stages if stage_id.startswith(options.stage)]
    if matches and not any(stage_id in states for stage_id in matches):
        raise ValueError(f"{matches[0]}: expected a state, such as an arm's last one, got {stages[matches[0]].label}.")
    state = _find_stage(store, _labels(states), options.stage)
    if not store.has(state):
        raise ValueError(f"{state}: {states[state].label} is not finished; run the study first.")
    return manifest, state


def sample(options: Namespace) -> int:
    """Let a state continue prompts."""
    from midstudy.cli import sampled

    store = Store.open(Path(options.store))
    return sampled.sample(store, _state_named(store, options)[1], options)


def chat(options: Namespace) -> int:
    """Talk with a state that was trained on conversations."""
    from midstudy.cli import sampled

    store = Store.open(Path(options.store))
    return sampled.chat(store, _state_named(store, options)[1], options)


def verify(options: Namespace) -> int:
    """Make a finished evaluation again and compare it with the published one, byte for byte."""
    from midstudy.run.verify import verify_evaluation

    store = Store.open(Path(options.store))
    manifest = _manifest_with(store, options.study, options.stage)
    stage = _find_stage(store, _labels(manifest.stages), options.stage)
    differences = verify_evaluation(store, stage)
    label = manifest.stages[stage].label
    if options.json:
        print(json.dumps({"stage": stage, "label": label, "is_equal": not differences, "differences": list(differences)}))
    else:
        print("\n".join((f"{label}: {'differs' if differences else 'made again, byte for byte'}", *differences)))
    return 1 if differences else 0


def export(options: Namespace) -> int:
    """Write a state as a folder that Hugging Face transformers loads."""
    from midstudy.export import export_huggingface

    store = Store.open(Path(options.store))
    manifest, state = _state_named(store, options)
    stages = manifest.stages
    name = re.sub(r"[^A-Za-z0-9.@]+", "-", stages[state].label)[:100].strip("-.")
    folder = Path(options.output) if options.output else Path(f"{name}-{state[:8]}")
    command = shlex.join(["midstudy", "export", state, "--to", "hf", "--study", manifest.name])
    losses: dict[str, float] = {}
    for stage_id, stage in stages.items():
        if stage.kind == "evaluation" and state in stage.parents and store.has(stage_id):
            if (loss_nats := store.record(stage_id).metrics.get("loss_nats")) is None:
                continue  # an evaluation of something else
            split = f"{stage.data} {stage.split}"
            # Two evaluations may share a split and differ in loss or masking: the id tells them apart.
            losses[f"{split} ({stage_id[:8]})" if split in losses else split] = loss_nats
    export_huggingface(store, state, folder, commands=(manifest.command, command), losses=losses)
    if options.json:
        print(json.dumps({"stage": state, "label": stages[state].label, "folder": str(folder)}))
    else:
        print(f"{folder}: {stages[state].label}; AutoModelForCausalLM and AutoTokenizer load it")
    return 0


# -- MLflow and Prefect -----------------------------------------------------------------------------------------------


def track(options: Namespace) -> int:
    """Update MLflow from the store for a study."""
    from midstudy.track.client import tracking_uri_of
    from midstudy.track.sync import sync

    store = Store.open(Path(options.store))
    name = _manifest(store, options.study).name
    report = sync(store, name, tracking_uri=tracking_uri_of(store, options.tracking_uri))
    if options.json:
        print(json.dumps(report.as_json()))
    else:
        print(
            f"{name}: {report.created} runs created, {report.updated} completed, {report.unchanged} already up to date, in "
            f"{report.wall_s:.1f} s; MLflow at {report.tracking_uri}"
        )
    return 0


def ui(options: Namespace) -> int:
    """Serve the MLflow and Prefect pages of the store until interrupted."""
    from midstudy.flows.ui import serve

    return serve(Store.open(Path(options.store)), tracking_uri=options.tracking_uri)


# -- cancel -----------------------------------------------------------------------------------------------------------


def cancel(options: Namespace) -> int:
    """Cancel the running jobs of a study."""
    from midstudy.launch.cancel import cancel_study
    from midstudy.launch.detach import end_detached

    store = _open_to_write(options)
    name = _manifest(store, options.study).name
    if driver := end_detached(store, name):
        print(f"{name}: driver {driver} stopped")
    jobs = cancel_study(store, name)
    print(f"{name}: {len(jobs)} jobs cancelled; finished stages are kept, the others resume when the study is run again")
    return 0


# -- clean ------------------------------------------------------------------------------------------------------------


def clean(options: Namespace) -> int:
    """Print, or with `--yes` free, what no stage of a study needs; print why the rest is kept."""
    from midstudy.launch.backends import live_jobs
    from midstudy.plan.summary import hours
    from midstudy.store.retention import free, survey

    def live_stages() -> set[str]:
        return {stage for job in live_jobs(store) for stage in job.stage_ids}

    store = _open_to_write(options) if options.yes else Store.open(Path(options.store))
    items = survey(store, live_stages=live_stages(), resume_point=_resume_point, unreferenced=options.unreferenced)
    freed = free(store, items.free, live_stages=live_stages) if options.yes else []
    if options.json:
        groups = {"can_be_freed": items.free, "freed": freed, "stays": items.kept}
        facts = {group: [dataclasses.asdict(item) for item in members] for group, members in groups.items()}
        print(json.dumps(facts, indent=1, default=str))
        return 0
    print(_items_table("freed" if options.yes else "can be freed", freed if options.yes else items.free))
    print(_items_table("kept", items.kept))
    if not options.yes and items.free:
        print("nothing was removed: add --yes to free it")
    unreferenced = [item for item in (*items.free, *items.kept) if item.remake_s is not None]
    if unreferenced:
        took = hours(sum(item.remake_s or 0.0 for item in unreferenced) / 3600)
        verb = "are kept without" if not options.unreferenced else "were freed by" if options.yes else "would be freed by"
        print(
            f"{len(unreferenced)} finished stages that no study requests any more {verb} --unreferenced; "
            f"they took {took} to make, and a study that requests them again has to make them again"
        )
    return 0


def _items_table(title: str, items: Sequence[Item]) -> str:
    """Return a table of the items grouped by reason, with number and size, the largest group first."""
    numbers = Counter(item.reason for item in items)
    sizes: Counter[str] = Counter()
    for item in items:
        sizes[item.reason] += item.num_bytes
    lines = [f"{title}: {_size(sizes.total())}"]
    for reason, num_bytes in sizes.most_common():
        lines.append(f"  {_size(num_bytes):>12}  {numbers[reason]:>6,}  {reason}")
    return "\n".join(lines)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _resume_point(attempts: Sequence[Path]) -> Path | None:
    from midstudy.store.attempt import CHECKPOINTS_FOLDER
    from midstudy.train.rolling import latest_valid

    return latest_valid(*(attempt / CHECKPOINTS_FOLDER for attempt in attempts))


def _open_to_write(options: Namespace) -> Store:
    """Open an existing store and check that it can be written."""
    store = Store.open(Path(options.store))
    store.require_writable()
    return store


# -- finding studies and stages ---------------------------------------------------------------------------------------

_SHOWN = 20  # matches listed for an ambiguous name


def _manifest(store: Store, name: str | None) -> Manifest:
    from midstudy.store.study_manifest import load

    return load(store, name)


def _labels(stages: Mapping[str, StageEntry]) -> dict[str, str]:
    return {stage_id: stage.label for stage_id, stage in stages.items()}


def _find_stage(store: Store, labels: Mapping[str, str], name: str) -> str:
    """Return the id of the one stage that matches `name`: by id prefix, else by equal label, else by part of the label.

    Args:
        labels: labels of the candidate stages by id.

    Raises:
        StoreError: no stage matches, or several do.
    """
    matches = [stage_id for stage_id in labels if stage_id.startswith(name)] if name else []
    matches = matches or [stage_id for stage_id, label in labels.items() if label == name]
    matches = matches or [stage_id for stage_id, label in labels.items() if name in label]
    if len(matches) == 1:
        return matches[0]
    if not matches and is_name(name) and store.paths.stage(name).is_dir():
        raise StoreError(
            f"stage {name}: not in the current manifest of any study; previous manifests, with the commands that made them, "
            f"are in {store.paths.study('STUDY') / 'history'}."
        )
    if not matches:
        raise StoreError(f"{store.root}: no stage {name!r}; `midstudy status --json` lists all stages.")
    shown = "\n".join(f"  {stage_id}  {labels[stage_id]}" for stage_id in matches[:_SHOWN])
    shown += f"\n  and {len(matches) - _SHOWN} more" * (len(matches) > _SHOWN)
    raise StoreError(f"{name!r} matches {len(matches)} stages; give more of its id or name:\n{shown}")


def _named_stage(store: Store, study: str | None, name: str) -> str:
    """Return the id of the stage that `name` identifies.

    A full id matches even if no current study contains it. Otherwise `_find_stage` searches the study, or all studies if
    none is named; if nothing matches, an id prefix is looked up among all stages ever requested.

    Raises:
        StoreError: there is no such study, no stage matches, or several do.
    """
    if study is not None:
        _manifest(store, study)  # raises if there is no such study
    if is_name(name) and store.paths.stage(name).is_dir():
        return name
    studies = [study] if study is not None else store.studies()
    labels = {stage_id: label for study in studies for stage_id, label in _labels(_manifest(store, study).stages).items()}
    try:
        return _find_stage(store, labels, name)
    except StoreError:
        previous = [
            stage_id for stage_id in store.stage_ids() if name and stage_id.startswith(name) and stage_id not in labels
        ]
        if len(previous) != 1 or any(stage_id.startswith(name) for stage_id in labels):
            raise
        return previous[0]


def _manifest_with(store: Store, study: str | None, name: str) -> Manifest:
    """Return the manifest of the study; if none is named and there are several, of one that contains the stage `name`."""
    if study is None and len(study_names := store.studies()) > 1:
        manifests = [_manifest(store, study_name) for study_name in study_names]
        labels = {stage_id: label for manifest in manifests for stage_id, label in _labels(manifest.stages).items()}
        stage_id = _find_stage(store, labels, name)
        return next(manifest for manifest in manifests if stage_id in manifest.stages)
    return _manifest(store, study)


def _own_stage(store: Store, manifest: Manifest, name: str) -> str:
    """Return the id of the stage of this study that `name` identifies.

    Raises:
        StoreError: no stage of the study matches, or several do.
    """
    if name not in manifest.stages and is_name(name) and store.paths.stage(name).is_dir():
        raise StoreError(
            f"stage {name}: not in the current manifest of study {manifest.name!r}; its previous manifests, with the "
            f"commands that made them, are in {store.paths.study(manifest.name) / 'history'}."
        )
    return _find_stage(store, _labels(manifest.stages), name)
