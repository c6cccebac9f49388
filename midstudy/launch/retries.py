"""Interruptions of a stage: jobs that ended while running it. Kept with the stage, so that all drivers share one count."""

from __future__ import annotations

from midstudy.launch import clock
from midstudy.launch.claim import lock
from midstudy.launch.launcher import Exit
from midstudy.store.store import Store


def note_interruption(store: Store, stage_id: str, job_name: str, ended: Exit) -> int:
    """Record how a job ended while it ran a stage; return how many of the stage's jobs ended with that cause.

    A job is counted once, even if several drivers record it.

    Raises:
        StoreError: the store cannot be written.
    """
    with lock(store):
        known = store.interruptions(stage_id)
        if not any(interruption["job"] == job_name for interruption in known):
            known.append({"job": job_name, "cause": ended.cause, "text": ended.text, "time": clock.now()})
            store.write_interruptions(stage_id, known)
    return sum(interruption["cause"] == ended.cause for interruption in known)


def forget_interruptions(store: Store, stage_id: str) -> None:
    """Clear a stage's interruptions, which restores its full number of retries.

    Raises:
        StoreError: the store cannot be written.
    """
    with lock(store):
        store.write_interruptions(stage_id, [])
