"""The payload of the jobs of `orchestration.py`: a given CPU time, as a midstudy stage or as a function for submitit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from midstudy.store.store import Store
from midstudy.train.placement import Placement


def burn(cpu_s: float) -> float:
    """Use `cpu_s` seconds of CPU time; return the CPU time used."""
    started = time.process_time()
    while (spent := time.process_time() - started) < cpu_s:
        sum(range(10_000))
    return spent


def execute_stage(
    store: Store,
    stage_id: str,
    *,
    start_from: str | None,
    keeps_optimizer: bool,
    should_stop: Callable[[], bool],
    placement: Placement,
) -> None:
    """Make a stage whose label ends with its CPU time in seconds; its record is published like any other."""
    request = store.requested(stage_id)
    attempt = store.attempt(stage_id)
    spent = burn(float(request["label"].split()[-1]))
    attempt.publish(
        kind=request["kind"],
        label=request["label"],
        recipe=request["recipe"],
        canonical=request["canonical"],
        parents=tuple(request["parents"]),
        metrics={"spent_s": spent},
        placement=dataclasses.asdict(placement),
    )
