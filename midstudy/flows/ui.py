"""`midstudy ui`: serves MLflow's and Prefect's pages of a store on this machine only, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from types import FrameType

from midstudy.flows.server import PrefectServer
from midstudy.store.store import Store
from midstudy.track.client import as_tracking_errors, connect, tracking_uri_of
from midstudy.track.server import MlflowServer
from midstudy.track.shared_view import VIEW_TAG, arms_page

_POLL_S = 0.5


def serve(store: Store, *, tracking_uri: str | None) -> int:
    """Start the servers, print their addresses, stop them at Ctrl-C or SIGTERM, and return the exit status.

    A configured server (MLflow's by `tracking_uri` or MLFLOW_TRACKING_URI, Prefect's by PREFECT_API_URL) is not started;
    its address is printed.

    Raises:
        TrackingError: MLflow's database has another schema or is unusable, or its server is unreachable.
        OSError: a server did not start, or exited; the message names its log.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # background jobs of a shell start with SIGINT ignored
        signal.signal(number, _interrupt)
    uri = tracking_uri_of(store, tracking_uri)
    prefect_url = os.environ.get("PREFECT_API_URL") or None
    with contextlib.ExitStack() as servers, contextlib.suppress(KeyboardInterrupt):
        mlflow = prefect = None
        pages = _experiments(store, uri)
        if not uri.startswith(("http://", "https://")):
            mlflow = MlflowServer(uri, store.paths.mlflow)
            servers.callback(mlflow.stop)
            mlflow.start()
        if prefect_url is None:
            prefect = PrefectServer(store.paths.prefect)
            servers.callback(prefect.stop)
            prefect.start()
        mlflow_url = uri if mlflow is None else mlflow.url
        if mlflow is not None:
            mlflow.wait_until_healthy()
        print(f"MLflow   {mlflow_url}")
        for name in store.studies():
            if experiment_id := pages[name]:
                print(f"         {name}: {arms_page(mlflow_url, experiment_id)}")
            else:
                command = f"midstudy track sync {name} --store {shlex.quote(str(store.root))}"
                print(f"         {name} is not in MLflow yet: {command}")
        if prefect is not None:
            prefect.wait_until_healthy()
            prefect_url = prefect.api_url
        assert prefect_url is not None
        print(f"Prefect  {prefect_url.removesuffix('/api')}")
        print("Ctrl-C stops both.", file=sys.stderr, flush=True)
        sys.stdout.flush()
        while mlflow is None or mlflow.is_running:
            time.sleep(_POLL_S)
        raise OSError(f"MLflow's server exited; its log is {mlflow.log}")
    return 0


def _experiments(store: Store, uri: str) -> dict[str, str | None]:
    """Return MLflow's experiment id of each study; None for a study of whose arms MLflow has no view."""
    pages: dict[str, str | None] = {}
    with as_tracking_errors(store, uri):
        if not uri.startswith(("http://", "https://")):
            connect(uri).search_experiments(max_results=1)  # raises here; the server would exit without a message
        for name in store.studies():
            experiment = connect(uri).get_experiment_by_name(name)
            pages[name] = experiment.experiment_id if experiment and VIEW_TAG in experiment.tags else None
    return pages


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
