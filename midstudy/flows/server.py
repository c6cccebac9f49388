"""A local Prefect server, used if none is configured: on a free loopback port, with its database in the store.

The parent holds the listening socket, so no other process can take the port, and the pipe that is the server's standard
input, so the server exits when its parent is killed.

Measured for prefect 3.8.8 on two cores: first start 6.5 CPU-seconds (3.5 of them create the database), later ones 3; idle
under 2 % of a core; 6 to 10 ms a task run (three states each) when the recorder writes in batches, 20 ms with its defaults
(one row at a time, events kept).
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from midstudy.environment import of_child

HEALTH_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 1.5
"""Its services take 2 to 3 s to shut down; by then everything is written, and SQLite survives a kill."""
_POLL_S = 0.1
_OFF = (
    "EVENT_PERSISTER",
    "DB_VACUUM",
    "SCHEDULER",
    "LATE_RUNS",
    "CANCELLATION_CLEANUP",
    "PAUSE_EXPIRATIONS",
    "FOREMAN",
    "REPOSSESSOR",
    "TRIGGERS",
)


class ServerError(OSError):
    """The Prefect server could not be started or does not answer; the message names its log."""


class PrefectServer:
    """One server process.

    `start` returns at once; call `wait_until_healthy` before using it. `stop` loses what the server has not yet written:
    call `wait_until_recorded` first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and return at once.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as listening, self.log.open("wb") as log:
            listening.bind(("127.0.0.1", 0))
            listening.listen(128)
            self.port: int = listening.getsockname()[1]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "midstudy.flows.server", str(listening.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(listening.fileno(),),
                start_new_session=True,  # Ctrl-C must reach the study alone: the server stops last
                env=_environment(self.folder, self.port),
                cwd=self.folder,  # Prefect reads settings from the current folder
            )

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def wait_until_healthy(self, timeout_s: float = HEALTH_TIMEOUT_S) -> None:
        """Wait until the server answers.

        Raises:
            ServerError: the process exited, or did not answer within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise ServerError(f"the Prefect server exited while starting; its log is {self.log}")
            with contextlib.suppress(OSError):
                self._request("/health", timeout_s=min(2.0, timeout_s))
                return
            time.sleep(_POLL_S)
        raise ServerError(f"the Prefect server did not answer within {timeout_s:g} s; its log is {self.log}")

    def wait_until_recorded(self, flow_run_id: str, num_task_runs: int, timeout_s: float) -> bool:
        """Return True if the server has written this many finished task runs of the flow run within `timeout_s`."""
        ended = {"type": {"any_": ["COMPLETED", "FAILED", "CANCELLED", "CRASHED"]}}
        wanted = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "task_runs": {"state": ended}}
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self._request("/task_runs/count", wanted, timeout_s=timeout_s) >= num_task_runs:
                    return True
            if self._process is None or self._process.poll() is not None:
                return False
            time.sleep(_POLL_S)
        return False

    def stop(self) -> None:
        """Stop the process; kill it if it does not exit in time. Does nothing if it never started or has exited."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _request(self, path: str, body: Any = None, *, timeout_s: float) -> Any:
        data = None if body is None else json.dumps(body).encode("utf-8")
        request = urllib.request.Request(self.api_url + path, data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: never through a proxy
        with opener.open(request, timeout=timeout_s) as answer:
            return json.load(answer)


def _environment(folder: Path, port: int) -> dict[str, str]:
    """Return the server's environment: ours without Prefect's settings, and without services that a view does not need."""
    database = f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
    recorder = "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER"
    return {
        **of_child(without=("PREFECT_",), spare_home=folder),
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        **{f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in _OFF},
        # The default is one row per transaction. The interval is truncated to whole seconds, and 0 would spin.
        f"{recorder}_BATCH_SIZE": "100",
        f"{recorder}_READ_BATCH_SIZE": "100",
        f"{recorder}_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "2",
    }


def _serve(descriptor: int) -> None:
    """Run the server on an inherited listening socket until standard input closes."""
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(final=True), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)

    def stop_at_end_of_input() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
