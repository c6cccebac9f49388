"""What the jobs of `orchestration.py` do: so many CPU-seconds, as a stage of midstudy or as a function for submitit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from midstudy.store.store import Store
from midstudy.train.placement import Placement


def burn(cpu_s: float) -> float:
    """Compute for `cpu_s` seconds of this process's time; returns how many it took."""
    began = time.process_time()
    while (spent := time.process_time() - began) < cpu_s:
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
    """A stage whose label ends with the seconds that it is to take; its record is published like any other."""
    wanted = store.requested(stage_id)
    attempt = store.attempt(stage_id)
    spent = burn(float(wanted["label"].split()[-1]))
    attempt.publish(
        kind=wanted["kind"],
        label=wanted["label"],
        recipe=wanted["recipe"],
        canonical=wanted["canonical"],
        parents=tuple(wanted["parents"]),
        metrics={"spent_s": spent},
        placement=dataclasses.asdict(placement),
    )
