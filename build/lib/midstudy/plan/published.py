"""Published states as the planner needs them: where training can go on from, and how fast it went."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from midstudy.files.errors import DamagedFileError, StoreError
from midstudy.plan.device import CPU_CORE, DEVICES
from midstudy.plan.planner import KeptState
from midstudy.recipe.curriculum import Curriculum
from midstudy.store.processor import Processor
from midstudy.store.record import Record
from midstudy.store.store import Store

_logger = logging.getLogger(__name__)


@dataclass
class PublishedStates:
    """States with an optimizer, which training can continue from, and measured rates by device.

    `rates` maps a device that plans are priced on (`plan/device.py`) to (shape, precision, FLOP/s) of the states
    that one such device trained alone; of processors, only those that were asked for.
    """

    kept: list[KeptState] = field(default_factory=list)
    rates: dict[str, list[tuple[str, str, float]]] = field(default_factory=dict)


def published_states(store: Store, *, processor: Processor | None = None, num_threads: int = 1) -> PublishedStates:
    """Scan the records of all finished states in the store, whichever study requested them.

    States with damaged files are skipped with a warning that names them, so plans start from an earlier state. A study that
    requests the damaged state itself does not start.

    Args:
        processor: count CPU rates of this processor only, since a store may come from another machine. None: of all.
        num_threads: count CPU rates of this number of threads only.

    Raises:
        StoreError: a record is damaged, or its stage lies outside the store.
    """
    found = PublishedStates()
    for identity in store.stage_ids():
        if not store.has(identity):
            continue
        try:
            record = store.record(identity)
        except DamagedFileError as error:
            _logger.warning("passing over a damaged stage: %s", error)
            continue
        if record.kind != "state":
            continue
        metrics = record.metrics
        if metrics["has_optimizer"]:
            found.kept.append(KeptState(stretch_from=metrics["stretch_from"], step=metrics["step"], id=identity))
            if {"tokens_per_s", "flops_per_token"} <= metrics.keys() and (
                device := _device_of(record, processor, num_threads)
            ) is not None:
                flops_per_s = metrics["tokens_per_s"] * metrics["flops_per_token"]
                sample = (metrics["size"], metrics["precision"], flops_per_s)
                found.rates.setdefault(device, []).append(sample)
    return found


def states_before(store: Store, curriculum: Curriculum, step: int) -> list[Record]:
    """Finished states on a curriculum's path before `step`, of any study, nearest first.

    Does not check their files; skips damaged records.
    """
    found = []
    for identity in store.stage_ids():
        if not store.has(identity):
            continue
        try:
            record = store.record(identity, beside_files=False)
        except StoreError:
            continue
        if record.kind == "state" and (at := record.metrics["step"]) < step and curriculum.state_id(at) == identity:
            found.append(record)
    return sorted(found, key=lambda record: record.metrics["step"], reverse=True)


def _device_of(record: Record, processor: Processor | None, num_threads: int) -> str | None:
    """The device that trained a state, by the name that plans are priced under; none of several, or of an unknown one."""
    environment = record.environment
    placement = environment.get("placement") or {}
    if placement.get("num_ranks", 1) != 1 or placement.get("jobs_per_gpu", 1) != 1:
        return None
    product = record.metrics.get("device", "cpu").lower()
    if product == "cpu":
        found = environment.get("cpu"), environment.get("cpu_has_bfloat16")
        is_asked_for = processor is None or found == (processor.name, processor.has_bfloat16)
        return CPU_CORE.name if is_asked_for and placement.get("num_threads", 1) == num_threads else None
    return next((device.name for device in DEVICES.values() if device.title.lower() in product), None)
