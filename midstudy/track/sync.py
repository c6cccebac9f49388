"""Brings MLflow up to what the store says: idempotent, in few batched calls, under a lock per study.

Which runs are current is read from MLflow itself (a digest in a tag of each run), not from a cursor of our own: a
database of MLflow's that was emptied, or is another one, is simply filled.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midstudy.store.errors import unwritable
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.track.facts import CONTENT_TAG, STAGE_ID_TAG, RunFacts, study_facts

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

BATCH_SIZE = 1000
"""Metrics that MLflow takes in one call (its REST API's limit)."""
_PAGE_SIZE = 1000
_LOCK_POLL_S = 0.1


class TrackingError(ValueError):
    """MLflow cannot be brought up to date; the store and its results are untouched."""


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What one sync did: runs created, updated, already current; how many are failed stages; metric points sent."""

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


def default_tracking_uri(store: Store) -> str:
    """MLflow's SQLite file inside the store."""
    return f"sqlite:///{store.paths.mlflow / 'mlflow.db'}"


def sync(store: Store, study_name: str, *, tracking_uri: str, lock_timeout_s: float = 300.0) -> SyncReport:
    """Make the runs of a study's finished and failed stages in MLflow, and complete those that are behind.

    Args:
        tracking_uri: MLflow's address; `default_tracking_uri` for the store's own.
        lock_timeout_s: how long to wait for another sync of the same study.

    Raises:
        StoreError: there is no such study, or a record was damaged.
        TrackingError: MLflow refused, could not be reached, or another sync holds the study.
    """
    began = time.perf_counter()
    manifest = load(store, study_name)
    with _study_lock(store, manifest["name"], timeout_s=lock_timeout_s):
        facts = study_facts(store, manifest)
        client = _client(tracking_uri)
        from mlflow.exceptions import MlflowException

        try:
            experiment_id = _experiment(client, store, manifest, tracking_uri)
            known = _runs_by_stage(client, experiment_id)
            created = updated = points = 0
            for one in facts:
                run = known.get(one.stage_id)
                if run is not None and run.data.tags.get(CONTENT_TAG) == one.content and run.info.status == one.status:
                    continue
                if run is not None and _is_another(run, one):
                    client.delete_run(run.info.run_id)
                    run = None
                created, updated = created + (run is None), updated + (run is not None)
                points += _tell(client, experiment_id, run, one)
        except MlflowException as error:
            raise TrackingError(
                f"MLflow at {tracking_uri}: {error}. The results are in {store.root}; sync again."
            ) from error
    return SyncReport(
        tracking_uri=tracking_uri,
        experiment_id=experiment_id,
        created=created,
        updated=updated,
        unchanged=len(facts) - created - updated,
        failed_stages=sum(one.status == "FAILED" for one in facts),
        points=points,
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


def _client(tracking_uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # a server that is down is told of in seconds
    from mlflow.tracking import MlflowClient

    if tracking_uri.startswith("sqlite:///"):
        Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri)


def _experiment(client: MlflowClient, store: Store, manifest: dict[str, Any], tracking_uri: str) -> str:
    """The study's experiment; one that was deleted in MLflow is restored, because the study is still in the store."""
    name = manifest["name"]
    found = client.get_experiment_by_name(name)
    if found is None:
        own = tracking_uri == default_tracking_uri(store)
        location = (store.paths.mlflow / "artifacts" / name).as_uri() if own else None
        tags = {
            "midstudy.store": str(store.root),
            "mlflow.note.content": manifest["question"],
            "mlflow.experimentKind": "custom_model_development",  # else the UI opens as for prompts and traces
        }
        return client.create_experiment(name, artifact_location=location, tags=tags)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _runs_by_stage(client: MlflowClient, experiment_id: str) -> dict[str, Run]:
    found: dict[str, Run] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=_PAGE_SIZE, page_token=token)
        found |= {run.data.tags[STAGE_ID_TAG]: run for run in page if STAGE_ID_TAG in run.data.tags}
        token = page.token
        if not token:
            return found


def _is_another(run: Run, facts: RunFacts) -> bool:
    """Whether the run cannot be completed but must be made anew: MLflow changes neither parameters nor start times."""
    renamed = any(run.data.params.get(name, value) != value for name, value in facts.params.items())
    return renamed or run.info.start_time != facts.started_ms


def _tell(client: MlflowClient, experiment_id: str, run: Run | None, facts: RunFacts) -> int:
    """Create or complete one run; returns the number of points sent. The digest is set with the last batch."""
    from mlflow.entities import Metric, Param, RunTag

    tags: Sequence[Any] = ()
    if run is None:
        run = client.create_run(experiment_id, start_time=facts.started_ms, tags=dict(facts.tags), run_name=facts.name)
    else:
        tags = [RunTag(name, value) for name, value in (*facts.tags.items(), ("mlflow.runName", facts.name))]
    run_id = run.info.run_id
    params: Sequence[Any] = [Param(name, value) for name, value in facts.params.items()]
    metrics = (Metric(p.name, p.value, p.time_ms, p.step) for p in facts.points())
    sent = 0
    batch = list(islice(metrics, BATCH_SIZE))
    while True:
        following = list(islice(metrics, BATCH_SIZE))
        if not following:
            tags = [*tags, RunTag(CONTENT_TAG, facts.content)]
        client.log_batch(run_id, metrics=batch, params=params, tags=tags)
        sent += len(batch)
        tags = params = ()
        if not following:
            break
        batch = following
    client.set_terminated(run_id, status=facts.status, end_time=facts.ended_ms)
    return sent
