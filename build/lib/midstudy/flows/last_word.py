"""Says of a flow run whose process was killed that it waits for a worker, so that the next one goes on with it.

A worker that is told to stop kills its flow runs' processes at once (prefect 3.8: by SIGKILL, the moment its own loop is
cancelled), and the server would show them as running for ever. The jobs go on meanwhile. A small process beside the flow
run's holds the other end of a pipe, and speaks when that closes without a word.
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

WAITING = "told to leave, as by a worker that ends; the jobs go on, and the next worker follows them"
_WORKER_FIRST_S = 5.0
"""A worker that is there says itself that a process of its crashed; begun again, that would crash again."""
_TRY_EVERY_S = 5.0
_GIVE_UP_AFTER_S = 600.0


class LastWord:
    """While it is entered, a process waits that speaks for this one if it is killed."""

    def __init__(self, flow_run_id: str) -> None:
        self._flow_run_id = flow_run_id

    def __enter__(self) -> LastWord:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "midstudy.flows.last_word", self._flow_run_id],
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


def _speak(flow_run_id: str) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # meant for a whole service or terminal
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read():
        return
    time.sleep(_WORKER_FIRST_S)
    deadline = time.monotonic() + _GIVE_UP_AFTER_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):  # a server that is away
            _wait_for_worker(UUID(flow_run_id))
            return
        time.sleep(_TRY_EVERY_S)


def _wait_for_worker(flow_run_id: UUID) -> None:
    """Set a flow run that nobody has ended to AwaitingRetry; its open task runs, of which nobody tells more, to Detached."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.states import AwaitingRetry, Cancelled

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run_id)
        if run.state is None or not run.state.is_running():
            return
        of_run = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
        open_ones = TaskRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
        for one in client.read_task_runs(flow_run_filter=of_run, task_run_filter=open_ones):
            client.set_task_run_state(one.id, Cancelled(name="Detached", message=NOT_DONE[DETACHED]), force=True)
        client.set_flow_run_state(flow_run_id, AwaitingRetry(message=WAITING), force=True)


if __name__ == "__main__":
    _speak(sys.argv[1])
