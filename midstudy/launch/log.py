"""Read and mark the part of a job's log that belongs to one stage."""

from __future__ import annotations

import time
from collections.abc import Sequence

from midstudy.launch.job_file import job_log
from midstudy.store.store import Store

LAST_LINES = 40
"""Number of log lines kept in a failure."""

_MARK = "=== stage "
_TRACE = "Traceback (most recent call last)"
_NOISE = (
    " ",
    "\t",
    "During handling of",
    "The above exception was",
    "submitit ",
    "srun: ",
)
_MAX_LAST_LINES = 3
_MAX_LINE_LENGTH = 300


def begin_stage(stage_id: str, label: str) -> None:
    """Print the line that starts this stage's part of the job's log."""
    print(f"{_MARK}{stage_id} {label} {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}", flush=True)


def log_tail(store: Store, stage_id: str, job_name: str) -> str:
    """Return the last lines of a job's log, joined: why it ended, if it did not report it. Empty if there is no log.

    A traceback is reduced to its exception line, followed by at most two of the lines after it (the last ones).
    """
    try:
        lines = stage_log(store, stage_id, job_name)[-LAST_LINES:]
    except OSError:
        return ""
    traces = [number for number, line in enumerate(lines) if line.startswith(_TRACE)]
    last = _without_noise(lines[traces[-1] :]) if traces else []
    if len(last) > _MAX_LAST_LINES:
        last = [last[0], *last[-_MAX_LAST_LINES + 1 :]]
    else:
        last = _without_noise(lines)[-_MAX_LAST_LINES:]
    return " | ".join(dict.fromkeys(last))


def _without_noise(lines: Sequence[str]) -> list[str]:
    kept = [line.rstrip() for line in lines if line.strip() and not line.startswith((_MARK, _TRACE, *_NOISE))]
    return [line if len(line) <= _MAX_LINE_LENGTH else f"{line[:_MAX_LINE_LENGTH]}…" for line in kept]


def stage_log(store: Store, stage_id: str, job_name: str) -> list[str]:
    """Return the lines a job logged during a stage, oldest first; all of its lines if it never reached the stage."""
    path = job_log(store, job_name)
    if path is None:
        return []
    lines = path.read_text("utf-8", errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(_MARK)]
    ends = [*starts[1:], len(lines)]
    for start, end in zip(reversed(starts), reversed(ends), strict=False):  # a restarted job logs the stage again
        if lines[start].startswith(f"{_MARK}{stage_id} "):
            return lines[start:end]
    return lines
