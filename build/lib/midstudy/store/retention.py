"""What of a store can be freed, and why the rest stays: retention knows the graph of the studies.

A published stage stays as long as the manifest of a study asks for it or for something made from it. Rolling checkpoints and
what killed jobs left half-written go, but for the newest whole checkpoint of each unfinished stage, where its next attempt
goes on. What a running job works on is not looked at. Nothing here depends on being alone: two cleanings, or one beside a
running study, each remove what is there, by a rename that one of them wins.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
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
from midstudy.store.study_manifest import load

STALE_AFTER_S = 3600.0
"""Files under a temporary name are written within seconds; one that is older was left by a killed process."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file or folder, and why it stays or goes.

    `reason` is the same for all of its kind; `detail` says more of this one. `attempt` is the attempt it belongs to, and
    `remake_s` how long it took to make, where it is finished work.
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
    """Everything in a store, once: what can be freed and what stays."""

    free: list[Item] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)


def survey(
    store: Store,
    *,
    live_stages: Collection[str],
    resume_point: Callable[[list[Path]], Path | None],
    unreferenced: bool,
) -> Retention:
    """Look through a store; nothing is changed.

    Args:
        live_stages: stages that a running job carries.
        resume_point: of these attempts' folders, the rolling checkpoint that the next attempt goes on from.
        unreferenced: free finished stages, too, that no study asks for any more.

    Raises:
        StoreError: a manifest or a record is damaged, or a manifest is of another version: what it asks for is unknown.
    """
    found = Retention()
    uses = _uses(store)
    needed = _needed(store, uses, live_stages)
    for identity in store.stage_ids():
        folder = store.paths.stage(identity)
        if identity in live_stages:
            found.kept.append(_item("in use by a running job", folder, stage=identity))
            continue
        for place in (folder, store.paths.attempts(identity)):
            found.free.extend(_left_by_killed(place, stage=identity))
        attempts = store.former_attempts(identity)
        live = [one for one in attempts if is_alive(one)]
        found.kept.extend(_item("in use by a running attempt", one, stage=identity, attempt=one) for one in live)
        dead = [one for one in attempts if one not in live]
        if store.has(identity):
            found.free.extend(
                _item("attempts at stages that are finished", one, stage=identity, attempt=one) for one in dead
            )
            _look_at_finished(store, identity, uses.get(identity), identity in needed, unreferenced, found)
        elif identity not in needed and unreferenced:
            reason = "attempts at stages that no study asks for any more"
            found.free.extend(_item(reason, one, stage=identity, attempt=one) for one in dead)
        else:
            _look_at_unfinished(store, identity, dead, resume_point, found)
    for folder in (store.root, *entries(store.paths.studies), *entries(store.paths.jobs)):
        found.free.extend(_left_by_killed(folder))
    views = [path for path in (store.paths.mlflow, store.paths.prefect) if path.exists()]
    found.kept.extend(_item("views of the store: MLflow, Prefect", path) for path in views)
    rest = _num_bytes(store.root) - sum(item.num_bytes for item in (*found.free, *found.kept))
    reason = "recipes, manifests, tables, reports, and logs of jobs (`midstudy logs`)"
    found.kept.append(Item(reason=reason, path=store.root, num_bytes=max(0, rest)))
    return found


def free(store: Store, items: Iterable[Item], *, live_stages: Callable[[], Collection[str]]) -> list[Item]:
    """Remove these items, and return those that were there to be removed.

    Whatever a job or an attempt has taken up since the survey is left alone, and so is a finished stage that a study has
    begun to ask for.
    """
    in_use = live_stages()
    needed = _needed(store, _uses(store), in_use)
    freed = []
    for item in items:
        if item.stage in in_use or (item.attempt is not None and is_alive(item.attempt)):
            continue
        if item.remake_s is not None and item.stage in needed:
            continue
        if remove(item.path):
            freed.append(item)
    return freed


# -- one stage --------------------------------------------------------------------------------------------------------


def _look_at_unfinished(
    store: Store, identity: str, dead: list[Path], resume_point: Callable[[list[Path]], Path | None], found: Retention
) -> None:
    for attempt in dead:
        reason = "half-written by killed jobs"
        found.free.extend(_item(reason, path, stage=identity, attempt=attempt) for path in half_written(attempt))
    rolling = rolling_checkpoints(dead)
    point = resume_point(dead) if rolling else None
    for path in rolling:
        item: dict[str, Any] = {"stage": identity, "attempt": path.parent.parent}
        if path == point:
            label = store.requested(identity)["label"]
            found.kept.append(_item("resume points of unfinished stages", path, detail=f"{label}, {path.name}", **item))
        else:
            found.free.append(_item("rolling checkpoints that nothing goes on from", path, detail=path.name, **item))


def _look_at_finished(
    store: Store, identity: str, uses: _Uses | None, is_needed: bool, unreferenced: bool, found: Retention
) -> None:
    record, folder = _record(store, identity), store.published_folder(identity)
    if record is None:
        return
    if is_needed:
        reasons = _why(record, uses or _Uses())
        detail = "; ".join([record.label, *reasons[1:]])
        found.kept.append(_item(reasons[0], folder, stage=identity, detail=detail))
        return
    item = _item(
        "finished, but no study asks for it any more",
        folder,
        stage=identity,
        detail=record.label,
        remake_s=record.timing["wall_s"],
    )
    (found.free if unreferenced else found.kept).append(item)


def _why(record: Record, uses: _Uses) -> list[str]:
    """Why a finished stage stays, the strongest reason first."""
    if record.kind != "state":
        return [f"{record.kind}: {'read by training and evaluation' if uses.is_parent else 'read by the tables'}"]
    branches = [stage for stage in uses.leave_here if stage.role == "midtrain" and not stage.continues_trunk]
    tuned = [stage for stage in uses.leave_here if stage.role == "sft" and not stage.continues_trunk]
    reasons = []
    if branches:
        reasons.append(f"branch point of {_number(len(branches), 'branch', 'branches')}")
    if tuned:
        reasons.append(f"start of {_number(len(tuned), 'fine-tuning run')}")
    if uses.num_arms:
        reasons.append(f"final state of {_number(uses.num_arms, 'arm')}")
    if record.metrics["has_optimizer"] and _is_held(record):
        reasons.append("end of a held learning rate: longer runs leave here")
    if any(stage.continues_trunk for stage in uses.leave_here):
        reasons.append("on the way: training goes on from here")
    if uses.num_evaluations:
        reasons.append(f"evaluated {_number(uses.num_evaluations, 'time')}")
    return reasons or ["parent of a stage that a study asks for"]


def _is_held(record: Record) -> bool:
    """Whether the learning rate is held up to this state: the curve in its recipe ends where it does."""
    state: State = decode(record.recipe)
    return isinstance(state.curriculum.curve.segments[-1], Hold)


# -- the graph --------------------------------------------------------------------------------------------------------


@dataclass
class _Uses:
    """What the manifests of all studies do with a stage; `leave_here` are the states trained from it."""

    parents: tuple[str, ...] = ()
    leave_here: list[StageEntry] = field(default_factory=list)
    is_parent: bool = False
    num_arms: int = 0
    num_evaluations: int = 0


def _uses(store: Store) -> dict[str, _Uses]:
    """The stages that the studies ask for, each once, whichever of them ask for it."""
    found: dict[str, _Uses] = {}
    stages: dict[str, StageEntry] = {}
    finals: dict[str, set[str]] = {}
    for name in store.studies():
        manifest = load(store, name)
        stages |= manifest.stages
        for row, arm in enumerate(manifest.arms):
            finals.setdefault(arm.state, set()).add(f"{name} {row}")
    for identity, stage in stages.items():
        found.setdefault(identity, _Uses()).parents = stage.parents
        found[identity].num_arms = len(finals.get(identity, ()))
        if stage.start_from is not None:
            found.setdefault(stage.start_from, _Uses()).leave_here.append(stage)
        for parent in stage.parents:
            known = found.setdefault(parent, _Uses())
            known.is_parent = True
            known.num_evaluations += stage.kind == "evaluation"
    return found


def _needed(store: Store, uses: dict[str, _Uses], live_stages: Collection[str]) -> set[str]:
    """What the studies ask for and what running jobs make, with all that it is made from, whoever made that."""
    needed: set[str] = set()
    waiting = [*uses, *live_stages]
    while waiting:
        identity = waiting.pop()
        if identity in needed:
            continue
        needed.add(identity)
        if identity in uses and uses[identity].parents:
            waiting.extend(uses[identity].parents)
        elif (record := _record(store, identity)) is not None:
            waiting.extend(record.parents)
        elif identity in live_stages:
            waiting.extend(store.requested(identity)["parents"])
    return needed


def _record(store: Store, identity: str) -> Record | None:
    """The record of a stage; none where it is not finished, or another cleaning takes it away just now."""
    if not store.has(identity):
        return None
    try:
        return store.record(identity)
    except StoreError:
        if store.has(identity):
            raise
        return None


# -- files ------------------------------------------------------------------------------------------------------------


def _left_by_killed(folder: Path, *, stage: str | None = None) -> Iterator[Item]:
    """What killed processes left in `folder` under a temporary name; removed trees at once, files once they are old."""
    for path in entries(folder):
        if not is_temporary(path):
            continue
        with contextlib.suppress(OSError):
            if path.is_dir() or time.time() - path.stat().st_mtime > STALE_AFTER_S:
                yield _item("half-written by killed jobs", path, stage=stage)


def _item(reason: str, path: Path, **details: Any) -> Item:
    return Item(reason=reason, path=path, num_bytes=_num_bytes(path), **details)


def _num_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _number(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
