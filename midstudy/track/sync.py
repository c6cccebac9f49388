"""Update MLflow from the store: idempotent, in few batched calls, under a lock per study.

A digest in a tag of each run says whether that run is current. No cursor is kept elsewhere, so an empty or different
MLflow database is filled from scratch.
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
from midstudy.track.client import TrackingError, as_tracking_errors, connect, default_tracking_uri
from midstudy.track.facts import CONTENT_TAG, FAILED, STAGE_ID_TAG, STUDY, STUDY_TAG, RunFacts, study_facts
from midstudy.track.shared_view import VIEW_TAG, view_tag
from midstudy.track.write import PARENT_RUN_TAG, RunWriter, must_be_recreated

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_NOTE_TAG = "mlflow.note.content"
_QUESTION_TAG = "midstudy.question"
"""What the last sync wrote above the list of runs."""
_PAGE_SIZE = 1000
_LOCK_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """Counts of one sync: runs created, updated and already current, failed stages, metric points sent.

    The study's own run is counted.
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
    """Create the runs of a study and of its finished, failed and running stages in MLflow, and update those that are behind.

    Args:
        tracking_uri: MLflow's address, as `midstudy.track.client.tracking_uri_of` returns it.
        lock_timeout_s: how long to wait while another process syncs the same study.

    Raises:
        StoreError: there is no such study, or a record is damaged.
        TrackingError: MLflow failed or could not be reached, or another sync held the lock for too long.
    """
    started = time.perf_counter()
    manifest = load(store, study_name)
    with _study_lock(store, manifest.name, timeout_s=lock_timeout_s), as_tracking_errors(store, tracking_uri):
        facts = study_facts(store, manifest)
        client = connect(tracking_uri)
        experiment_id = _experiment(client, store, manifest, tracking_uri)
        _describe(client, experiment_id, manifest)
        _keep_view(client, experiment_id, manifest, facts)
        known = _known_runs(client, experiment_id)
        writer = RunWriter(client, experiment_id)
        created = updated = 0
        for wanted in facts:
            run = known.get(wanted.key)
            parent = None if wanted.under is None else known[wanted.under].info.run_id
            if run is not None and _is_current(run, wanted, parent):
                continue
            if run is not None and must_be_recreated(run, wanted):
                client.delete_run(run.info.run_id)
                run = None
            created, updated = created + (run is None), updated + (run is not None)
            known[wanted.key] = writer.write(wanted, run, parent)
    return SyncReport(
        tracking_uri=tracking_uri,
        experiment_id=experiment_id,
        created=created,
        updated=updated,
        unchanged=len(facts) - created - updated,
        failed_stages=sum(run.status == FAILED and run.key != STUDY for run in facts),
        points=writer.num_points,
        wall_s=time.perf_counter() - started,
    )


@contextmanager
def _study_lock(store: Store, study: str, *, timeout_s: float) -> Iterator[None]:
    """Allow one sync of a study at a time: two could create two runs of one stage. The system releases it if we die."""
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
                        f"{path}: another sync of study {study} has held this lock for {timeout_s:g} s or more. Wait for "
                        "it, or stop it."
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield


def _experiment(client: MlflowClient, store: Store, manifest: Manifest, tracking_uri: str) -> str:
    """Return the id of the study's experiment; create it, or restore it if it was deleted in MLflow."""
    name, root = manifest.name, str(store.root)
    own = tracking_uri == default_tracking_uri(store)
    experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.tags.get("midstudy.store", root) != root:
        if not own:
            raise TrackingError(
                f"MLflow at {tracking_uri}: the experiment {name} belongs to the study of that name in "
                f"{experiment.tags['midstudy.store']}, not in {root}. Give the study another name; or, if the store was "
                f"moved, set the experiment's tag midstudy.store to {root}."
            )
        # The store was moved. MLflow cannot change the folder of an experiment's artifacts, so make another experiment.
        client.rename_experiment(experiment.experiment_id, f"{name} in {experiment.tags['midstudy.store']}"[:500])
        client.delete_experiment(experiment.experiment_id)
        experiment = None
    if experiment is None:
        # A server knows where it keeps artifacts; without a server MLflow would use the current folder.
        served = tracking_uri.startswith(("http://", "https://"))
        location = None if served else (store.paths.mlflow / "artifacts" / name).as_uri()
        tags = {
            "midstudy.store": root,
            "mlflow.experimentKind": "custom_model_development",  # otherwise the UI shows pages for prompts and traces
        }
        return client.create_experiment(name, artifact_location=location, tags=tags)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _keep_view(client: MlflowClient, experiment_id: str, manifest: Manifest, facts: list[RunFacts]) -> None:
    """Write the view of the arms that the study's link opens, unless it is current. Other saved views are not touched."""
    if not facts:
        return
    wanted = view_tag(manifest, created_ms=facts[0].started_ms)
    if client.get_experiment(experiment_id).tags.get(VIEW_TAG) != wanted:
        client.set_experiment_tag(experiment_id, VIEW_TAG, wanted)


def _describe(client: MlflowClient, experiment_id: str, manifest: Manifest) -> None:
    """Write the study's question above the list of runs; a person's own text there is kept.

    The question changes: before a study's lengths are known, the data that they follow from are made under its name.
    """
    tags = client.get_experiment(experiment_id).tags
    if tags.get(_NOTE_TAG) == tags.get(_QUESTION_TAG) != manifest.question:
        for tag in (_NOTE_TAG, _QUESTION_TAG):
            client.set_experiment_tag(experiment_id, tag, manifest.question)


def _known_runs(client: MlflowClient, experiment_id: str) -> dict[str, Run]:
    """Return the runs that earlier syncs created, by stage id; the study's own under `STUDY`.

    Where locks do not work (two hosts, some file systems) two syncs may have created a run twice: the first is kept.
    """
    runs: dict[str, Run] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=_PAGE_SIZE, page_token=token)
        for run in page:
            key = STUDY if STUDY_TAG in run.data.tags else run.data.tags.get(STAGE_ID_TAG)
            if key in runs:
                first, double = sorted((runs[key], run), key=lambda run: run.info.run_id)
                client.delete_run(double.info.run_id)
                runs[key] = first
            elif key is not None:
                runs[key] = run
        token = page.token
        if not token:
            return runs


def _is_current(run: Run, facts: RunFacts, parent_run_id: str | None) -> bool:
    tags = run.data.tags
    return (tags.get(CONTENT_TAG), run.info.status, tags.get(PARENT_RUN_TAG)) == (
        facts.content,
        facts.status,
        parent_run_id,
    )
