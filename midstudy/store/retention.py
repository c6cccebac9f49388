"""Decide which files of a store can be removed and why the others are kept, from the graph of all studies.

A published stage is kept as long as a study's manifest contains it or a stage made from it. The exception is a candidate
that only served a finished decision: it may be freed, and its studies then do without it. Rolling checkpoints and
half-written files of killed jobs are removed, except for the newest complete checkpoint of each unfinished stage, from
which its next attempt resumes. Files of running jobs are not touched. Several cleanings may run at once, and beside running
studies: every removal starts with a rename, which succeeds for one process only.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from midstudy.files.errors import StoreError
from midstudy.recipe.curriculum import State
from midstudy.recipe.decode import decode
from midstudy.recipe.manifest import StageEntry
from midstudy.recipe.schedule import Hold
from midstudy.store.leftovers import entries, half_written, is_alive, is_temporary, remove, rolling_checkpoints
from midstudy.store.record import Record
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze, load

_UNUSED = "finished, but no study uses it any more"
_JUDGED = "candidates of finished decisions"

STALE_AFTER_S = 3600.0
"""A temporary file is written within seconds; one that is older than this was left by a killed process."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file or folder, and why it is kept or removed.

    `reason` groups items; `detail` describes this one. `attempt` is the attempt it belongs to. `remake_s` is how many
    seconds a finished stage took to make.
    """

    reason: str
    path: Path
    num_bytes: int
    stage: str | None = None
    detail: str = ""
    attempt: Path | None = None
    remake_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Everything in a store, each file once: what can be freed and what is kept."""

    free: list[Item] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)


def survey(
    store: Store,
    *,
    live_stages: Collection[str],
    resume_point: Callable[[list[Path]], Path | None],
    unreferenced: bool,
) -> Retention:
    """Survey a store without changing it.

    Args:
        live_stages: stages of running jobs.
        resume_point: given folders of attempts, returns the rolling checkpoint that the next attempt would resume from.
        unreferenced: also free finished stages that no study uses any more.

    Raises:
        StoreError: a manifest or a record is damaged, or a manifest has another schema, so its stages are unknown.
    """
    retention = Retention()
    uses = _uses(store)
    judged = _judged(store)
    needed = _needed(store, uses, live_stages) - judged
    for stage_id in store.stage_ids():
        folder = store.paths.stage(stage_id)
        if stage_id in live_stages:
            retention.kept.append(_item("in use by a running job", folder, stage=stage_id))
            continue
        for parent in (folder, store.paths.attempts(stage_id)):
            retention.free.extend(_left_by_killed(parent, stage=stage_id))
        attempts = store.previous_attempts(stage_id)
        live = [attempt for attempt in attempts if is_alive(attempt)]
        reason = "in use by a running attempt"
        retention.kept.extend(_item(reason, attempt, stage=stage_id, attempt=attempt) for attempt in live)
        dead = [attempt for attempt in attempts if attempt not in live]
        if store.has(stage_id):
            reason = "attempts at finished stages"
            retention.free.extend(_item(reason, attempt, stage=stage_id, attempt=attempt) for attempt in dead)
            why = _JUDGED if stage_id in judged else _UNUSED
            _sort_finished(store, stage_id, uses.get(stage_id), None if stage_id in needed else why, unreferenced, retention)
        elif stage_id not in needed and unreferenced:
            reason = "attempts at stages that no study uses any more"
            retention.free.extend(_item(reason, attempt, stage=stage_id, attempt=attempt) for attempt in dead)
        else:
            _sort_unfinished(store, stage_id, dead, resume_point, retention)
    for folder in (store.root, *entries(store.paths.studies), *entries(store.paths.jobs)):
        retention.free.extend(_left_by_killed(folder))
    views = [path for path in (store.paths.mlflow, store.paths.prefect) if path.exists()]
    retention.kept.extend(_item("views of the store: MLflow, Prefect", path) for path in views)
    rest = _num_bytes(store.root) - sum(item.num_bytes for item in (*retention.free, *retention.kept))
    reason = "recipes, manifests, tables, reports, and logs of jobs (`midstudy logs`)"
    retention.kept.append(Item(reason=reason, path=store.root, num_bytes=max(0, rest)))
    return retention


def free(store: Store, items: Iterable[Item], *, live_stages: Callable[[], Collection[str]]) -> list[Item]:
    """Remove these items; return those that this call removed.

    Items that a job or an attempt has started to use since the survey are kept, and so are finished stages that a study has
    started to use. The manifests of studies no longer list candidates that were removed.
    """
    in_use = live_stages()
    judged = _judged(store)
    needed = _needed(store, _uses(store), in_use) - judged
    freed = []
    for item in items:
        if item.stage in in_use or (item.attempt is not None and is_alive(item.attempt)):
            continue
        if item.remake_s is not None and item.stage in needed:
            continue
        if remove(item.path):
            freed.append(item)
    _leave_out(store, {item.stage for item in freed if item.stage in judged and item.remake_s is not None})
    return freed


# -- one stage --------------------------------------------------------------------------------------------------------


def _sort_unfinished(
    store: Store, stage_id: str, dead: list[Path], resume_point: Callable[[list[Path]], Path | None], retention: Retention
) -> None:
    """Add the leftovers of an unfinished stage to `retention`; `dead` are its attempts that are not running."""
    for attempt in dead:
        reason = "half-written by killed jobs"
        retention.free.extend(_item(reason, path, stage=stage_id, attempt=attempt) for path in half_written(attempt))
    rolling = rolling_checkpoints(dead)
    resumed = resume_point(dead) if rolling else None
    for path in rolling:
        item: dict[str, Any] = {"stage": stage_id, "attempt": path.parent.parent}
        if path == resumed:
            detail = f"{store.requested(stage_id)['label']}, {path.name}"
            retention.kept.append(_item("resume points of unfinished stages", path, detail=detail, **item))
        else:
            retention.free.append(_item("rolling checkpoints that are not resumed from", path, detail=path.name, **item))


def _sort_finished(
    store: Store, stage_id: str, uses: _Uses | None, unneeded: str | None, unreferenced: bool, retention: Retention
) -> None:
    """Add a finished stage to `retention`; `unneeded` says why it is not needed, `None` if it is."""
    record, folder = _record(store, stage_id), store.published_folder(stage_id)
    if record is None:
        return
    if unneeded is None:
        reasons = _why(record, uses or _Uses())
        detail = "; ".join([record.label, *reasons[1:]])
        retention.kept.append(_item(reasons[0], folder, stage=stage_id, detail=detail))
        return
    item = _item(
        unneeded,
        folder,
        stage=stage_id,
        detail=record.label,
        remake_s=record.timing["wall_s"],
    )
    (retention.free if unreferenced else retention.kept).append(item)


def _why(record: Record, uses: _Uses) -> list[str]:
    """Return why a finished stage is kept, the strongest reason first."""
    if record.kind == "decision":
        return ["decision: the outcome of a choice"]
    if record.kind == "evaluation" and uses.is_parent:
        return ["evaluation: read by a decision"]
    if record.kind != "state":
        return [f"{record.kind}: {'read by training and evaluation' if uses.is_parent else 'read by the tables'}"]
    branches = [stage for stage in uses.started_here if stage.role == "midtrain" and not stage.continues_trunk]
    tuned = [stage for stage in uses.started_here if stage.role in ("sft", "rl") and not stage.continues_trunk]
    reasons = []
    if branches:
        reasons.append(f"branch point of {_number(len(branches), 'branch', 'branches')}")
    if tuned:
        reasons.append(f"start of {_number(len(tuned), 'fine-tuning run')}")
    if uses.num_arms:
        reasons.append(f"final state of {_number(uses.num_arms, 'arm')}")
    if record.metrics["has_optimizer"] and _is_held(record):
        reasons.append("end of a constant learning rate: longer runs start here")
    if any(stage.continues_trunk for stage in uses.started_here):
        reasons.append("milestone: training continues from here")
    if uses.num_evaluations:
        reasons.append(f"evaluated {_number(uses.num_evaluations, 'time')}")
    return reasons or ["parent of a stage that a study uses"]


def _is_held(record: Record) -> bool:
    """Return whether the learning rate is constant just before this state; the curve in its recipe ends there."""
    state: State = decode(record.recipe)
    return isinstance(state.curriculum.curve.segments[-1], Hold)


# -- the graph --------------------------------------------------------------------------------------------------------


@dataclass
class _Uses:
    """How the manifests of all studies use a stage; `started_here` are the states that are trained from it."""

    parents: tuple[str, ...] = ()
    started_here: list[StageEntry] = field(default_factory=list)
    is_parent: bool = False
    num_arms: int = 0
    num_evaluations: int = 0


def _uses(store: Store) -> dict[str, _Uses]:
    """Return how all studies together use each stage, by stage id."""
    uses: dict[str, _Uses] = {}
    stages: dict[str, StageEntry] = {}
    finals: dict[str, set[str]] = {}
    for name in store.studies():
        manifest = load(store, name)
        stages |= manifest.stages
        for row, arm in enumerate(manifest.arms):
            finals.setdefault(arm.state, set()).add(f"{name} {row}")
    for stage_id, stage in stages.items():
        uses.setdefault(stage_id, _Uses()).parents = stage.parents
        uses[stage_id].num_arms = len(finals.get(stage_id, ()))
        if stage.start_from is not None:
            uses.setdefault(stage.start_from, _Uses()).started_here.append(stage)
        for parent in stage.parents:
            parent_uses = uses.setdefault(parent, _Uses())
            parent_uses.is_parent = True
            parent_uses.num_evaluations += stage.kind == "evaluation"
    return uses


def _judged(store: Store) -> set[str]:
    """Return the candidates that no study needs, since the decisions that their evaluations served are finished."""
    judged: set[str] = set()
    needed: set[str] = set()
    for name in store.studies():
        manifest = load(store, name)
        stages = manifest.stages
        children: dict[str, list[str]] = {}
        for stage_id, stage in stages.items():
            for parent in stage.parents:
                children.setdefault(parent, []).append(stage_id)
        outputs = {arm.state for arm in manifest.arms}
        outputs |= {one for arm in manifest.arms for evaluations in arm.measures.values() for one in evaluations}
        made = {stage_id for stage_id, stage in stages.items() if stage.kind == "decision" and store.has(stage_id)}
        spent = _only_serving(made, [one for one, stage in stages.items() if stage.kind == "evaluation"], children) - outputs
        states = [one for one, stage in stages.items() if stage.kind == "state"]
        candidates = _only_serving(spent, states, children) - outputs
        judged |= candidates
        needed |= stages.keys() - candidates
    return judged - needed


def _only_serving(ends: Collection[str], stage_ids: Iterable[str], children: Mapping[str, list[str]]) -> set[str]:
    """Return those of these stages that have children, all of which are among `ends`."""
    return {one for one in stage_ids if children.get(one) and all(child in ends for child in children[one])}


def _leave_out(store: Store, removed: Collection[str | None]) -> None:
    """Freeze the studies that list these candidates again, without them and the steps that they took."""
    for name in store.studies():
        manifest = load(store, name)
        gone = [stage for stage_id, stage in manifest.stages.items() if stage_id in removed]
        if gone:
            steps, num_steps = manifest.steps, sum(stage.num_steps for stage in gone)
            fewer = replace(steps, planned=steps.planned - num_steps, lower_bound=steps.lower_bound - num_steps)
            stages = {stage_id: stage for stage_id, stage in manifest.stages.items() if stage_id not in removed}
            freeze(store, replace(manifest, stages=stages, steps=fewer))


def _needed(store: Store, uses: dict[str, _Uses], live_stages: Collection[str]) -> set[str]:
    """Return the stages of all studies and running jobs, with all their ancestors."""
    needed: set[str] = set()
    pending = [*uses, *live_stages]
    while pending:
        stage_id = pending.pop()
        if stage_id in needed:
            continue
        needed.add(stage_id)
        if stage_id in uses and uses[stage_id].parents:
            pending.extend(uses[stage_id].parents)
        elif (record := _record(store, stage_id)) is not None:
            pending.extend(record.parents)
        elif stage_id in live_stages:
            pending.extend(store.requested(stage_id)["parents"])
    return needed


def _record(store: Store, stage_id: str) -> Record | None:
    """Return the record of a stage; `None` if it is not finished, or if another cleaning is removing it."""
    if not store.has(stage_id):
        return None
    try:
        return store.record(stage_id)
    except StoreError:
        if store.has(stage_id):
            raise
        return None


# -- files ------------------------------------------------------------------------------------------------------------


def _left_by_killed(folder: Path, *, stage: str | None = None) -> Iterator[Item]:
    """Yield what killed processes left in `folder` under a temporary name: folders, and files older than `STALE_AFTER_S`."""
    for path in entries(folder):
        if not is_temporary(path):
            continue
        with contextlib.suppress(OSError):
            if path.is_dir() or time.time() - path.stat().st_mtime > STALE_AFTER_S:
                yield _item("half-written by killed jobs", path, stage=stage)


def _item(reason: str, path: Path, **details: Any) -> Item:
    return Item(reason=reason, path=path, num_bytes=_num_bytes(path), **details)


def _num_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _number(number: int, singular: str, plural: str = "") -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
