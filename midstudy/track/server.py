"""MLflow's web pages for a local database: one server process on a free loopback port.

The parent holds the listening socket, so no other process can take the port, and the pipe that is the server's standard
input, so the server exits when its parent is killed. `mlflow server` would start four workers and a job queue.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from midstudy.environment import existing_folder, of_child

_HEALTH_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 3.0
_POLL_S = 0.2
_OF_OTHER_SERVERS = (
    *("AUTH_", "BACKEND_", "DEFAULT_ARTIFACT", "FLASK_", "HOST", "PORT", "REGISTRY_", "SERVER_", "STATIC_PREFIX"),
    *("TRACKING_", "WORKSPACE"),
)


class MlflowServer:
    """One server process. Its log, and artifacts that MLflow stores itself, are kept below `folder`.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, tracking_uri: str, folder: Path) -> None:
        self.log = folder / "server.log"
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as listening, self.log.open("wb") as log:
            listening.bind(("127.0.0.1", 0))
            listening.listen(128)
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            self._process = subprocess.Popen(
                [sys.executable, "-m", "midstudy.track.server", str(listening.fileno()), tracking_uri, str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(listening.fileno(),),
                start_new_session=True,  # Ctrl-C must reach the parent alone, which stops the server
                # Drop settings meant for other servers, such as allowed hosts and storage locations.
                env=of_child(
                    without=("_MLFLOW_SERVER", *(f"MLFLOW_{name}" for name in _OF_OTHER_SERVERS)),
                    MLFLOW_DISABLE_TELEMETRY="true",
                    MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
                ),
                cwd=existing_folder(),
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_until_healthy(self, timeout_s: float = _HEALTH_TIMEOUT_S) -> None:
        """Wait until the server answers.

        Raises:
            OSError: the process exited, or did not answer within `timeout_s`.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: never through a proxy
        deadline = time.monotonic() + timeout_s
        while self.is_running and time.monotonic() < deadline:
            with contextlib.suppress(OSError), opener.open(f"{self.url}/health", timeout=_POLL_S * 10):
                return
            time.sleep(_POLL_S)
        raise OSError(f"expected an answer from MLflow's server within {timeout_s:g} s, got none; its log is {self.log}")

    def stop(self) -> None:
        """Stop the process; kill it if it does not exit in time."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _serve(descriptor: int, tracking_uri: str, folder: str) -> None:
    """Run the server on an inherited listening socket until standard input closes."""
    from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR

    # The application reads these when it is imported.
    os.environ[BACKEND_STORE_URI_ENV_VAR] = tracking_uri
    os.environ[ARTIFACT_ROOT_ENV_VAR] = (Path(folder) / "artifacts").as_uri()
    import uvicorn
    from mlflow.server.fastapi_app import app

    application: Any = app
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))

    def stop_at_end_of_input() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2], sys.argv[3])
