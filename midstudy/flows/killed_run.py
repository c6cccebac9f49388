"""Sets a flow run whose process was killed to AwaitingRetry, so that the next worker resumes it.

A Prefect worker that is asked to stop kills the processes of its flow runs at once (prefect 3.8: SIGKILL when its event
loop is cancelled), and the server would show them as running indefinitely while their jobs continue. A small process
beside the flow run's holds the other end of a pipe and acts when the pipe closes without a final message.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from types import TracebackType
from uuid import UUID

from midstudy.environment import of_child
from midstudy.run.watch import DETACHED, NOT_DONE

WAITING = "detached, as when a worker stops; the jobs keep running, and the next worker follows them"
_WORKER_FIRST_S = 5.0
"""Time for a living worker to report a crashed process first; a retry would crash again."""
_TRY_EVERY_S = 5.0
_GIVE_UP_AFTER_S = 600.0


class KilledRunGuard:
    """While the context is open, another process waits to act on this process being killed."""

    def __init__(self, flow_run_id: str) -> None:
        self._flow_run_id = flow_run_id

    def __enter__(self) -> KilledRunGuard:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "midstudy.flows.killed_run", self._flow_run_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=of_child(),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(b"ended")
            self._process.stdin.close()
        self._process.wait()


def _guard(flow_run_id: str) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # sent to a whole service or terminal
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read():
        return
    time.sleep(_WORKER_FIRST_S)
    deadline = time.monotonic() + _GIVE_UP_AFTER_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):  # the server is unreachable
            _wait_for_worker(UUID(flow_run_id))
            return
        time.sleep(_TRY_EVERY_S)


def _wait_for_worker(flow_run_id: UUID) -> None:
    """Set a flow run that is still running to AwaitingRetry, and its unfinished task runs to Detached."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.states import AwaitingRetry, Cancelled

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run_id)
        if run.state is None or not run.state.is_running():
            return
        of_run = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
        unfinished = TaskRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
        for task_run in client.read_task_runs(flow_run_filter=of_run, task_run_filter=unfinished):
            client.set_task_run_state(task_run.id, Cancelled(name="Detached", message=NOT_DONE[DETACHED]), force=True)
        client.set_flow_run_state(flow_run_id, AwaitingRetry(message=WAITING), force=True)


if __name__ == "__main__":
    _guard(sys.argv[1])
