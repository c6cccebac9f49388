"""The part of a job's log that belongs to one stage."""

from __future__ import annotations

import time
from collections.abc import Sequence

from midstudy.launch.job_file import job_log
from midstudy.store.store import Store

LAST_LINES = 40
"""How much of a log a failure keeps."""

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
_WORDS = 3
_LONGEST_WORD = 300


def begin_stage(stage_id: str, label: str) -> None:
    """Write the line into the job's log that a stage's part begins with."""
    print(f"{_MARK}{stage_id} {label} {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}", flush=True)


def last_words(store: Store, stage_id: str, job_name: str) -> str:
    """The last lines of a job's log, joined: the cause of an end the job did not report. Empty if there are none.

    Of a traceback, only the line of its exception; of many lines of advice after it, the last two.
    """
    try:
        lines = stage_log(store, stage_id, job_name)[-LAST_LINES:]
    except OSError:
        return ""
    traces = [number for number, line in enumerate(lines) if line.startswith(_TRACE)]
    said = _said(lines[traces[-1] :]) if traces else []
    said = [said[0], *said[-_WORDS + 1 :]] if len(said) > _WORDS else _said(lines)[-_WORDS:]
    return " | ".join(dict.fromkeys(said))


def _said(lines: Sequence[str]) -> list[str]:
    said = [line.rstrip() for line in lines if line.strip() and not line.startswith((_MARK, _TRACE, *_NOISE))]
    return [one if len(one) <= _LONGEST_WORD else f"{one[:_LONGEST_WORD]}…" for one in said]


def stage_log(store: Store, stage_id: str, job_name: str) -> list[str]:
    """The lines a job logged while it made a stage, the newest last; of a job that never came to it, all of its lines."""
    path = job_log(store, job_name)
    if path is None:
        return []
    lines = path.read_text("utf-8", errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(_MARK)]
    ends = [*starts[1:], len(lines)]
    for start, end in zip(reversed(starts), reversed(ends), strict=False):  # a job that starts again comes to it again
        if lines[start].startswith(f"{_MARK}{stage_id} "):
            return lines[start:end]
    return lines
