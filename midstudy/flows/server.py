"""A local Prefect server, used if none is configured, with its database in the store.

Measured for prefect 3.8.8 on two cores: first start 6.5 CPU-seconds (3.5 of them create the database), later ones 3; idle
under 2 % of a core; 6 to 10 ms a task run (three states each) when the recorder writes in batches, 20 ms with its defaults
(one row at a time, events kept).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping

from midstudy.environment import of_child
from midstudy.track.local_server import LocalServer, serve

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


class PrefectServer(LocalServer):
    """`stop` loses what the server has not yet written: call `wait_until_recorded` first."""

    module = "midstudy.flows.server"
    health = "/api/health"
    stop_timeout_s = 1.5
    """Its services take 2 to 3 s to shut down; by then everything is written, and SQLite survives a kill."""

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"

    def wait_until_recorded(self, flow_run_id: str, num_task_runs: int, timeout_s: float) -> bool:
        """Return True if the server has written this many finished task runs of the flow run within `timeout_s`."""
        ended = {"type": {"any_": ["COMPLETED", "FAILED", "CANCELLED", "CRASHED"]}}
        wanted = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "task_runs": {"state": ended}}
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if int(self.request("/api/task_runs/count", wanted, timeout_s=timeout_s)) >= num_task_runs:
                    return True
            if not self.is_running:
                return False
            time.sleep(_POLL_S)
        return False

    def environment(self) -> Mapping[str, str]:
        """Return our environment without Prefect's settings, and without services that a view does not need."""
        database = f"sqlite+aiosqlite:///{self.folder / 'prefect.db'}"
        recorder = "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER"
        return {
            **of_child(without=("PREFECT_",), spare_home=self.folder),
            "DO_NOT_TRACK": "1",
            "PREFECT_HOME": str(self.folder),
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_UI_API_URL": self.api_url,
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            **{f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in _OFF},
            # The default is one row per transaction. The interval is truncated to whole seconds, and 0 would spin.
            f"{recorder}_BATCH_SIZE": "100",
            f"{recorder}_READ_BATCH_SIZE": "100",
            f"{recorder}_FLUSH_INTERVAL": "1",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "2",
        }


if __name__ == "__main__":
    from prefect.server.api.server import create_app

    serve(create_app(final=True), int(sys.argv[1]))
