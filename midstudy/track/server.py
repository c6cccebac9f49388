"""MLflow's web pages for a local database: one server process. `mlflow server` would start four workers and a job queue."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from midstudy.environment import existing_folder, of_child
from midstudy.track.local_server import LocalServer, serve

_OF_OTHER_SERVERS = (
    *("AUTH_", "BACKEND_", "DEFAULT_ARTIFACT", "FLASK_", "HOST", "PORT", "REGISTRY_", "SERVER_", "STATIC_PREFIX"),
    *("TRACKING_", "WORKSPACE"),
)


class MlflowServer(LocalServer):
    """Its log, and artifacts that MLflow stores itself, are kept below `folder`."""

    module = "midstudy.track.server"
    stop_timeout_s = 3.0

    def __init__(self, tracking_uri: str, folder: Path) -> None:
        super().__init__(folder, tracking_uri, str(folder), cwd=existing_folder())  # the address may be relative to it

    def environment(self) -> Mapping[str, str]:
        """Return our environment without settings meant for other servers, such as allowed hosts and storage locations."""
        return of_child(
            without=("_MLFLOW_SERVER", *(f"MLFLOW_{name}" for name in _OF_OTHER_SERVERS)),
            MLFLOW_DISABLE_TELEMETRY="true",
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        )


def _serve(descriptor: int, tracking_uri: str, folder: str) -> None:
    from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR

    # The application reads these when it is imported.
    os.environ[BACKEND_STORE_URI_ENV_VAR] = tracking_uri
    os.environ[ARTIFACT_ROOT_ENV_VAR] = (Path(folder) / "artifacts").as_uri()
    from mlflow.server.fastapi_app import app

    serve(app, descriptor)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2], sys.argv[3])
