"""Jobs that ended in the middle of a stage, for which it is run again: kept with the stage, so that every driver counts."""

from __future__ import annotations

from midstudy.launch import clock
from midstudy.launch.claim import lock
from midstudy.launch.launcher import Exit
from midstudy.store.store import Store


def note_interruption(store: Store, stage_id: str, job_name: str, ended: Exit) -> int:
    """Write down how a job ended while it made a stage; returns how many of the stage's jobs ended of that cause.

    One job is counted once, whoever saw it end.

    Raises:
        StoreError: the store cannot be written.
    """
    with lock(store):
        known = store.interruptions(stage_id)
        if not any(one["job"] == job_name for one in known):
            known.append({"job": job_name, "cause": ended.cause, "text": ended.text, "time": clock.now()})
            store.write_interruptions(stage_id, known)
    return sum(one["cause"] == ended.cause for one in known)


def forget_interruptions(store: Store, stage_id: str) -> None:
    """Let a stage have all its runs again."""
    with lock(store):
        store.write_interruptions(stage_id, [])
