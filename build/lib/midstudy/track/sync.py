"""Brings MLflow up to what the store says: idempotent, in few batched calls, under a lock per study.

Which runs are current is read from MLflow itself (a digest in a tag of each run), not from a cursor of our own: a
database of MLflow's that was emptied, or is another one, is simply filled.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from midstudy.files.errors import unwritable
from midstudy.recipe.manifest import Manifest
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.track.client import TrackingError, connect, default_tracking_uri, told_as_tracking_errors
from midstudy.track.facts import CONTENT_TAG, FAILED, STAGE_ID_TAG, STUDY, STUDY_TAG, RunFacts, study_facts
from midstudy.track.tell import PARENT_RUN_TAG, Teller, is_another

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_PAGE_SIZE = 1000
_LOCK_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What one sync did: runs created, updated, already current; how many are failed stages; metric points sent.

    The study itself is one of the runs.
    """

    tracking_uri: str
    experiment_id: str
    created: int
    updated: int
    unchanged: int
    failed_stages: int
    points: int
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def sync(store: Store, study_name: str, *, tracking_uri: str, lock_timeout_s: float = 300.0) -> SyncReport:
    """Make the runs of a study and of its finished, failed and running stages in MLflow, and complete those that are behind.

    Args:
        tracking_uri: MLflow's address, as `midstudy.track.client.tracking_uri_of` gives it.
        lock_timeout_s: how long to wait for another sync of the same study.

    Raises:
        StoreError: there is no such study, or a record was damaged.
        TrackingError: MLflow refused, could not be reached, or another sync holds the study.
    """
    began = time.perf_counter()
    manifest = load(store, study_name)
    with _study_lock(store, manifest.name, timeout_s=lock_timeout_s), told_as_tracking_errors(store, tracking_uri):
        facts = study_facts(store, manifest)
        client = connect(tracking_uri)
        experiment_id = _experiment(client, store, manifest, tracking_uri)
        known = _known_runs(client, experiment_id)
        teller = Teller(client, experiment_id)
        created = updated = 0
        for one in facts:
            run = known.get(one.key)
            parent = None if one.under is None else known[one.under].info.run_id
            if run is not None and _is_current(run, one, parent):
                continue
            if run is not None and is_another(run, one):
                client.delete_run(run.info.run_id)
                run = None
            created, updated = created + (run is None), updated + (run is not None)
            known[one.key] = teller.tell(one, run, parent)
    return SyncReport(
        tracking_uri=tracking_uri,
        experiment_id=experiment_id,
        created=created,
        updated=updated,
        unchanged=len(facts) - created - updated,
        failed_stages=sum(one.status == FAILED and one.key != STUDY for one in facts),
        points=teller.num_points,
        wall_s=time.perf_counter() - began,
    )


@contextmanager
def _study_lock(store: Store, study: str, *, timeout_s: float) -> Iterator[None]:
    """One sync of a study at a time: two at once could make two runs of a stage. Freed by the system if we die."""
    path = store.paths.mlflow / f"{study}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise unwritable(path, error) from error
    deadline = time.monotonic() + timeout_s
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrackingError(
                        f"{path}: another sync of study {study} holds it since {timeout_s:g} s or more. Wait, or end it."
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield


def _experiment(client: MlflowClient, store: Store, manifest: Manifest, tracking_uri: str) -> str:
    """The study's experiment; one that was deleted in MLflow is restored, because the study is still in the store."""
    name, root = manifest.name, str(store.root)
    own = tracking_uri == default_tracking_uri(store)
    found = client.get_experiment_by_name(name)
    if found is not None and found.tags.get("midstudy.store", root) != root:
        if not own:
            raise TrackingError(
                f"MLflow at {tracking_uri}: its experiment {name} shows the study of that name in "
                f"{found.tags['midstudy.store']}, not in {root}. Give the study another name; or, if the store was moved, "
                f"set the experiment's tag midstudy.store to {root}."
            )
        # The store was moved, and the experiment's folder of artifacts is still the old one, which nothing can change.
        client.rename_experiment(found.experiment_id, f"{name} in {found.tags['midstudy.store']}"[:500])
        client.delete_experiment(found.experiment_id)
        found = None
    if found is None:
        # A server knows where it keeps artifacts; without one MLflow would take a folder where this process was started.
        served = tracking_uri.startswith(("http://", "https://"))
        location = None if served else (store.paths.mlflow / "artifacts" / name).as_uri()
        tags = {
            "midstudy.store": root,
            "mlflow.note.content": manifest.question,
            "mlflow.experimentKind": "custom_model_development",  # else the UI opens as for prompts and traces
        }
        return client.create_experiment(name, artifact_location=location, tags=tags)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _known_runs(client: MlflowClient, experiment_id: str) -> dict[str, Run]:
    """The runs that syncs made, by stage id; the study's own under `STUDY`.

    Where locks do not reach (two hosts, a file system without them) two syncs may have made one twice: the first stays.
    """
    found: dict[str, Run] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=_PAGE_SIZE, page_token=token)
        for run in page:
            key = STUDY if STUDY_TAG in run.data.tags else run.data.tags.get(STAGE_ID_TAG)
            if key in found:
                first, double = sorted((found[key], run), key=lambda one: one.info.run_id)
                client.delete_run(double.info.run_id)
                found[key] = first
            elif key is not None:
                found[key] = run
        token = page.token
        if not token:
            return found


def _is_current(run: Run, facts: RunFacts, parent_run_id: str | None) -> bool:
    tags = run.data.tags
    return (tags.get(CONTENT_TAG), run.info.status, tags.get(PARENT_RUN_TAG)) == (
        facts.content,
        facts.status,
        parent_run_id,
    )
