"""What each verb of the `midstudy` command does, in terms of the parts that do it."""

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midstudy.files.errors import StoreError
from midstudy.store.paths import is_name
from midstudy.store.store import Store

if TYPE_CHECKING:
    from midstudy.plan.planner import Plan
    from midstudy.recipe.manifest import Manifest, StageEntry
    from midstudy.recipe.stage import Stage
    from midstudy.run.study import Place
    from midstudy.store.retention import Item

# -- plan and run -----------------------------------------------------------------------------------------------------


def plan(options: Namespace) -> int:
    """Show what a study would run."""
    from midstudy.plan.summary import plan_facts, plan_text
    from midstudy.run.study import forecast_s

    root = Path(options.store)
    planned = _plan(options, Store.open(root) if os.path.lexists(root / "store.json") else None)
    wall_s = forecast_s(planned)
    print(
        json.dumps(plan_facts(planned, forecast_s=wall_s), indent=1)
        if options.json
        else plan_text(planned, forecast_s=wall_s)
    )
    return 0


def run(options: Namespace) -> int:
    """Run a study: its stages, its tables, its report."""
    from midstudy.plan.summary import plan_text
    from midstudy.run.study import begin, command_line, forecast_s

    where = _place(options)
    root = Path(options.store)
    known = Store.open_existing(root)  # not created until the study begins, so that a rejected one leaves nothing behind
    where.require(root)
    planned = _plan(options, known, where)
    command = command_line(options.experiment, data=options.data, settings=options.settings)
    store = begin(root, planned, where, command=command, max_gpu_hours=options.max_gpu_hours)
    print(plan_text(planned, forecast_s=forecast_s(planned, where)), flush=True)
    if options.detach:
        return _detach(store, planned.study.name, where, options)
    return _run_stages(store, planned.study.name, planned.stages, where, options.tracking_uri)


def retry(options: Namespace) -> int:
    """Forget the failures of a study and run what is missing, from the frozen study."""
    from midstudy.plan.manifest import stages_of

    store = _open_to_write(options)
    manifest = _manifest(store, options.study)
    kept = store.paths.placement_file(manifest.name) if options.backend == "slurm" else None
    where = _place(options, placement_file=kept)
    where.require(store.root)
    failed = [one for one in manifest.stages if not store.has(one) and store.failure(one) is not None]
    chosen = [_own_stage(store, manifest, name) for name in options.stages] or failed
    for identity in chosen:
        if identity not in failed:
            raise ValueError(f"stage {identity}: has not failed; failed are: {', '.join(failed) or 'none'}.")
        store.write_interruptions(identity, [])  # it has all its runs again
        store.clear_failure(identity)
    if options.detach:
        return _detach(store, manifest.name, where, options)
    stages = stages_of(manifest, lambda one: store.requested(one)["recipe"])
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
    """Where and how stages are computed; `placement_file` is that of an earlier run, for where none is named."""
    from midstudy.run.study import place

    if options.backend == "debug" and options.detach:
        raise ValueError(
            "--detach: found with --backend debug, which runs stages in this very process; use --backend local."
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
        chunked_loss=options.chunked_loss,
        jobs_per_gpu=options.jobs_per_gpu,
    )


def _detach(store: Store, name: str, where: Place, options: Namespace) -> int:
    """Let the same command run without `--detach`, and say how to follow it."""
    from midstudy.launch.detach import detach_here, detach_to_slurm
    from midstudy.launch.slurm.commands import SlurmAwayError, SlurmRefusedError

    arguments = [one for one in options.arguments if not (one.startswith("--det") and "--detach".startswith(one))]
    if where.placements is not None:
        try:
            driver = detach_to_slurm(store, name, arguments, where.placements.driver)
        except (SlurmAwayError, SlurmRefusedError) as error:
            raise ValueError(
                f"--detach: the driver was not submitted ({error}). The placement file's [driver]: see there."
            ) from None
    else:
        driver = detach_here(store, name, arguments)
    at = shlex.join([name, "--store", str(store.root)])
    print(f"{name}: its driver is {driver}, and prints to {store.paths.detached_log(name)}")
    print(f"  midstudy status {at}     how far it is\n  midstudy cancel {at}     ends it and its jobs")
    return 0


def _run_stages(store: Store, name: str, stages: Mapping[str, Stage], where: Place, tracking_uri: str | None) -> int:
    """Make what is missing, write the report, print how it went; returns the exit status."""
    from midstudy.run.study import answer, write_report
    from midstudy.track.client import tracking_uri_of

    began = time.perf_counter()
    tracking_uri = tracking_uri_of(store, tracking_uri)
    manifest = _manifest(store, name)
    missing = len(stages) - len(store.published(stages))
    if missing:
        failed, skipped, warnings, page = _conduct(store, manifest, stages, where, tracking_uri)
    else:  # nothing to show Prefect: a flow of cached tasks would cost more than all the rest
        for stage in stages.values():
            store.verify(stage)
        page = write_report(store, manifest)
        failed, skipped, warnings = {}, {}, _sync(store, name, tracking_uri)
    for identity, cause in failed.items():
        print(f"failed: {manifest.stages[identity].label} ({identity}): {cause}", file=sys.stderr)
        print(f"        midstudy logs {identity} --store {shlex.quote(str(store.root))}", file=sys.stderr)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{missing - len(failed) - len(skipped)} stages run, {len(stages) - missing} reused, {len(failed)} failed, "
        f"{len(skipped)} skipped in {time.perf_counter() - began:.0f} s ({_cpu_s():.0f} CPU seconds in all processes)"
    )
    print(answer(store, manifest))
    print(f"report: {page}")
    print(f"MLflow and Prefect: {_python_tool('midstudy')} ui --store {shlex.quote(_nearby(store.root))}")
    return 1 if failed else 0


def _conduct(
    store: Store, manifest: Manifest, stages: Mapping[str, Stage], where: Place, tracking_uri: str
) -> tuple[Mapping[str, str], Mapping[str, str], Sequence[str], Path]:
    """Run the flow; returns failed and skipped stages with their causes, warnings, and the report."""
    from flows.view import PrefectView
    from midstudy.cli.progress import ProgressLine
    from midstudy.run.conduct import DetachedError, run_study
    from midstudy.run.study import write_report

    pages: list[Path] = []
    line = ProgressLine()
    try:
        summary = run_study(
            store,
            stages,
            manifest.name,
            backend=where.backend,
            max_jobs=where.max_jobs,
            placement=where.placement,
            gpus=where.gpus,
            placements=where.placements,
            on_progress=line,
            on_notice=line.notice,
            when_done=lambda: pages.append(write_report(store, manifest)),
            tracking_uri=tracking_uri,
            view_of=PrefectView,
        )
    except DetachedError as error:
        print(f"midstudy: {error}", file=sys.stderr)
        raise SystemExit(128 + error.signal) from None
    finally:
        line.close()
    return summary.failed, summary.skipped, summary.warnings, pages[0]


def _sync(store: Store, name: str, tracking_uri: str) -> list[str]:
    """Bring MLflow up to date; returns what went wrong, which costs no result."""
    from midstudy.track.client import TrackingError
    from midstudy.track.sync import sync

    try:
        sync(store, name, tracking_uri=tracking_uri)
    except TrackingError as error:
        return [str(error)]
    return []


def _cpu_s() -> float:
    """CPU seconds of this process and of those it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _python_tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return _nearby(beside) if beside.exists() else name


def _nearby(path: Path) -> str:
    """The path relative to the current folder; absolute if that folder was removed."""
    try:
        return os.path.relpath(path)
    except OSError:
        return str(path)


# -- tables and report ------------------------------------------------------------------------------------------------


def report(options: Namespace) -> int:
    """Write the tables and the report of a study from what is finished."""
    from midstudy.run.study import answer, write_report

    store = _open_to_write(options)
    manifest = _manifest(store, options.study)
    page = write_report(store, manifest)
    if options.json:
        print(json.dumps({"study": manifest.name, "report": str(page), "answer": answer(store, manifest)}))
    else:
        print(answer(store, manifest))
        print(f"report: {page}")
    return 0


# -- looking ----------------------------------------------------------------------------------------------------------


def status(options: Namespace) -> int:
    """Show how far a study is."""
    from midstudy.launch.backends import live_jobs, slurm_places
    from midstudy.plan.left_out import left_out_in

    store = Store.open(Path(options.store))
    manifest = _manifest(store, options.study)
    stages = manifest.stages
    finished = store.published(stages)
    failures = {one: failure for one in stages if one not in finished and (failure := store.failure(one))}
    jobs = live_jobs(store, stages)
    running = [one for job in jobs for one in job.stage_ids if one not in finished and store.paths.attempts(one).exists()]
    skipped = _descendants(stages, failures) - finished - failures.keys()
    waiting = stages.keys() - finished - failures.keys() - {*running} - skipped
    said = {"finished": finished, "running": running, "failed": failures, "skipped": skipped, "waiting": waiting}
    of_stage = {one: word for word, some in said.items() for one in some}
    data_left_out = left_out_in(store, manifest)
    facts: dict[str, Any] = {
        "study": manifest.name,
        "stages": len(stages),
        "finished": len(finished),
        "running": [{"id": one, "label": stages[one].label} for one in running],
        "failed": [{"id": one, "label": stages[one].label, "cause": f["cause"]} for one, f in failures.items()],
        "skipped": len(skipped),
        "interrupted": {one: known for one in stages if one not in finished and (known := store.interruptions(one))},
        "waiting": len(waiting),
        "jobs": [job.name for job in jobs],
        "slurm": slurm_places(store, jobs),
        "left_out": data_left_out.as_json(),
        "by_stage": [{"id": one, "label": stage.label, "is": of_stage[one]} for one, stage in stages.items()],
    }
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    print(
        f"{facts['study']}: {len(finished)} of {len(stages)} stages finished, {len(running)} running in {len(jobs)} jobs, "
        f"{len(failures)} failed, {len(skipped)} skipped, {facts['waiting']} waiting"
    )
    roles = Counter(stage.role for stage in stages.values())
    done = Counter(stages[one].role for one in finished)
    for role, number in roles.items():
        print(f"  {role:12} {done[role]:>5} of {number}")
    for name, place in facts["slurm"].items():
        print(f"  job      {name}  {place}")
    for one in running:
        print(f"  running  {one}  {stages[one].label}")
    for sentence in data_left_out.sentences:
        print(f"  note     {sentence}")
    for one, known in facts["interrupted"].items():
        print(f"  run again {one}  {stages[one].label}: {'; '.join(run['text'] for run in known)}")
    for one, failure in failures.items():
        print(f"  failed   {one}  {stages[one].label}: {failure['cause']}\n           {failure.get('retry', '')}")
    return 0


def _descendants(stages: Mapping[str, StageEntry], roots: Mapping[str, Any]) -> set[str]:
    """Every stage that needs one of `roots`; parents come before their children in a manifest."""
    found: set[str] = set()
    for identity, stage in stages.items():
        if any(parent in roots or parent in found for parent in stage.parents):
            found.add(identity)
    return found


def logs(options: Namespace) -> int:
    """Print the last lines that the newest job logged while it made a stage."""
    from midstudy.launch.claim import claimed_by
    from midstudy.launch.log import stage_log

    store = Store.open(Path(options.store))
    identity = _named_stage(store, options.study, options.stage)
    failure = store.failure(identity)
    job = claimed_by(store, identity)
    if job is None:
        raise ValueError(f"stage {identity}: no job has carried it yet, so there is no log.")
    lines = stage_log(store, identity, job)[-options.lines :]
    if options.json:
        print(json.dumps({"stage": identity, "job": job, "lines": lines, "failure": failure}, indent=1))
    else:
        print("\n".join(lines))
        if failure:
            where = f" ({failure['where']})" if failure.get("where") else ""
            print(f"failed{where}: {failure['cause']}\nretry with: {failure.get('retry', '')}")
    return 0


def explain(options: Namespace) -> int:
    """Print the fields in which the recipes of two stages differ."""
    from midstudy.recipe.explain import differences

    store = Store.open(Path(options.store))
    known = {one: store.requested(one) for one in store.stage_ids() if os.path.lexists(store.paths.recipe(one))}
    labels = {one: requested["label"] for one, requested in known.items()}
    left, right = (known[_find_stage(store, labels, name)] for name in (options.left, options.right))
    found = differences(left["canonical"], right["canonical"])
    if options.json:
        sides = {side: {"id": one["id"], "label": one["label"]} for side, one in (("a", left), ("b", right))}
        fields = [{"path": one.path, "a": one.left, "b": one.right} for one in found]
        print(json.dumps({**sides, "differences": fields}, indent=1))
        return 0
    print(f"A  {left['id']}  {left['label']}\nB  {right['id']}  {right['label']}")
    for one in found:
        print(f"  {one.path}\n    A  {_short(one.left)}\n    B  {_short(one.right)}")
    if not found:
        print("  no field differs: one recipe, one id")
    return 0


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} … ({len(text)} characters)"


# -- passing on -------------------------------------------------------------------------------------------------------


def export(options: Namespace) -> int:
    """Write a state as a folder that transformers loads."""
    from midstudy.export import export_huggingface

    store = Store.open(Path(options.store))
    manifest = _manifest_with(store, options.study, options.stage)
    stages = manifest.stages
    states = {one: stage for one, stage in stages.items() if stage.kind == "state"}
    known = [one for one in stages if one.startswith(options.stage)]
    if known and not any(one in states for one in known):
        raise ValueError(f"{known[0]}: {stages[known[0]].label}; allowed: a state, such as an arm's last.")
    identity = _find_stage(store, _labels(states), options.stage)
    if not store.has(identity):
        raise ValueError(f"{identity}: {states[identity].label} is not finished; run the study first.")
    name = re.sub(r"[^A-Za-z0-9.@]+", "-", states[identity].label)[:100].strip("-.")
    folder = Path(options.output) if options.output else Path(f"{name}-{identity[:8]}")
    command = shlex.join(["midstudy", "export", identity, "--to", "hf", "--study", manifest.name])
    losses: dict[str, float] = {}
    for one, stage in stages.items():
        if stage.kind == "evaluation" and identity in stage.parents and store.has(one):
            what = f"{stage.data} {stage.split}"
            # A split may be measured twice, with other tokens counted or documents masked: the id tells which.
            losses[f"{what} ({one[:8]})" if what in losses else what] = store.record(one).metrics["loss_nats"]
    export_huggingface(store, identity, folder, commands=(manifest.command, command), losses=losses)
    if options.json:
        print(json.dumps({"stage": identity, "label": states[identity].label, "folder": str(folder)}))
    else:
        print(f"{folder}: {states[identity].label}; AutoModelForCausalLM and AutoTokenizer load it")
    return 0


# -- views ------------------------------------------------------------------------------------------------------------


def track(options: Namespace) -> int:
    """Bring MLflow up to what the store says of a study."""
    from midstudy.track.client import tracking_uri_of
    from midstudy.track.sync import sync

    store = Store.open(Path(options.store))
    name = _manifest(store, options.study).name
    report = sync(store, name, tracking_uri=tracking_uri_of(store, options.tracking_uri))
    if options.json:
        print(json.dumps(report.as_json()))
    else:
        print(
            f"{name}: {report.created} runs made, {report.updated} completed, {report.unchanged} were current, in "
            f"{report.wall_s:.1f} s; MLflow at {report.tracking_uri}"
        )
    return 0


def ui(options: Namespace) -> int:
    """Serve MLflow and Prefect on the store until interrupted."""
    from flows.ui import serve

    return serve(Store.open(Path(options.store)), tracking_uri=options.tracking_uri)


# -- ending -----------------------------------------------------------------------------------------------------------


def cancel(options: Namespace) -> int:
    """Cancel the running jobs of a study."""
    from midstudy.launch.cancel import cancel_study
    from midstudy.launch.detach import end_detached

    store = _open_to_write(options)
    name = _manifest(store, options.study).name
    if driver := end_detached(store, name):
        print(f"{name}: its driver, {driver}, is ended")
    jobs = cancel_study(store, name)
    print(f"{name}: {len(jobs)} jobs cancelled; finished stages stay, the others go on when the study is run again")
    return 0


# -- freeing ----------------------------------------------------------------------------------------------------------


def clean(options: Namespace) -> int:
    """Show, or with --yes free, what no stage of a study needs, and say why the rest stays."""
    from midstudy.launch.backends import live_jobs
    from midstudy.plan.summary import hours
    from midstudy.store.retention import free, survey

    def live_stages() -> set[str]:
        return {stage for job in live_jobs(store) for stage in job.stage_ids}

    store = _open_to_write(options) if options.yes else Store.open(Path(options.store))
    found = survey(store, live_stages=live_stages(), resume_point=_resume_point, unreferenced=options.unreferenced)
    freed = free(store, found.free, live_stages=live_stages) if options.yes else []
    if options.json:
        groups = {"can_be_freed": found.free, "freed": freed, "stays": found.kept}
        facts = {name: [dataclasses.asdict(item) for item in items] for name, items in groups.items()}
        print(json.dumps(facts, indent=1, default=str))
        return 0
    print(_items_table("freed" if options.yes else "can be freed", freed if options.yes else found.free))
    print(_items_table("stays", found.kept))
    if not options.yes and found.free:
        print("nothing was removed: add --yes to free it")
    unreferenced = [item for item in (*found.free, *found.kept) if item.remake_s is not None]
    if unreferenced:
        took = hours(sum(item.remake_s or 0.0 for item in unreferenced) / 3600)
        verb = "stay without" if not options.unreferenced else "went with" if options.yes else "go with"
        print(
            f"{len(unreferenced)} finished stages that no study asks for any more {verb} --unreferenced; "
            f"they took {took} to make, and a study that asks for them again has to make them again"
        )
    return 0


def _items_table(title: str, items: Sequence[Item]) -> str:
    """Items by reason, with their number and size; the largest first."""
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
    """A store that is there, in which the command writes."""
    store = Store.open(Path(options.store))
    store.require_writable()
    return store


_SHOWN = 20


# -- finding ----------------------------------------------------------------------------------------------------------


def _manifest(store: Store, name: str | None) -> Manifest:
    from midstudy.store.study_manifest import load

    return load(store, name)


def _labels(stages: Mapping[str, StageEntry]) -> dict[str, str]:
    return {one: stage.label for one, stage in stages.items()}


def _find_stage(store: Store, labels: Mapping[str, str], name: str) -> str:
    """The stage whose id begins with `name`, or whose label is `name` or, alone, contains it; `labels` are those of the
    stages by id."""
    matches = [one for one in labels if one.startswith(name)] if name else []
    matches = matches or [one for one, label in labels.items() if label == name]
    matches = matches or [one for one, label in labels.items() if name in label]
    if len(matches) == 1:
        return matches[0]
    if not matches and is_name(name) and store.paths.stage(name).is_dir():
        raise StoreError(
            f"stage {name}: not one of a study as it was run last; the former manifests, with the commands that made them, "
            f"are in {store.paths.study('STUDY') / 'history'}."
        )
    if not matches:
        raise StoreError(f"{store.root}: no stage {name!r}; `midstudy status --json` names them all.")
    shown = "\n".join(f"  {one}  {labels[one]}" for one in matches[:_SHOWN])
    shown += f"\n  and {len(matches) - _SHOWN} more" * (len(matches) > _SHOWN)
    raise StoreError(f"{name!r} names {len(matches)} stages; give more of its id or name:\n{shown}")


def _named_stage(store: Store, study: str | None, name: str) -> str:
    """The stage that `name` identifies: by full id, even if no current study has it; else by `_find_stage` in the study or
    in all studies; else by id prefix among all stages ever requested.
    """
    if study is not None:
        _manifest(store, study)  # raises if there is no such study
    if is_name(name) and store.paths.stage(name).is_dir():
        return name
    studies = [study] if study is not None else store.studies()
    labels = {one: label for study in studies for one, label in _labels(_manifest(store, study).stages).items()}
    try:
        return _find_stage(store, labels, name)
    except StoreError:
        former = [one for one in store.stage_ids() if name and one.startswith(name) and one not in labels]
        if len(former) != 1 or any(one.startswith(name) for one in labels):
            raise
        return former[0]


def _manifest_with(store: Store, study: str | None, name: str) -> Manifest:
    """The study's manifest. If no study is named and there are several, that of a study with the stage `name`."""
    if study is None and len(names := store.studies()) > 1:
        manifests = [_manifest(store, one) for one in names]
        labels = {one: label for each in manifests for one, label in _labels(each.stages).items()}
        identity = _find_stage(store, labels, name)
        return next(one for one in manifests if identity in one.stages)
    return _manifest(store, study)


def _own_stage(store: Store, manifest: Manifest, name: str) -> str:
    """The stage of this study that `name` identifies."""
    if name not in manifest.stages and is_name(name) and store.paths.stage(name).is_dir():
        raise StoreError(
            f"stage {name}: not one of study {manifest.name!r} as it was run last; its former manifests, with the "
            f"commands that made them, are in {store.paths.study(manifest.name) / 'history'}."
        )
    return _find_stage(store, _labels(manifest.stages), name)
