"""Read published states for the planner: which ones training can resume from, and how fast they were trained."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from statistics import median

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
    """States with an optimizer, which training can resume from, and measured rates by device.

    `rates` maps the name of a device of `plan/device.py` to (shape, precision, FLOP/s) of the states that were trained on a
    single such device; for CPUs, only on the requested processor. `tokenising` holds the bytes of text that a CPU
    second tokenised, of each uninterrupted part of a large source, on the requested processor.
    """

    kept: list[KeptState] = field(default_factory=list)
    rates: dict[str, list[tuple[str, str, float]]] = field(default_factory=dict)
    tokenising: list[float] = field(default_factory=list)

    @property
    def tokenising_bytes_per_s(self) -> float | None:
        """The median of `tokenising`; `None` without any."""
        return median(self.tokenising) if self.tokenising else None


def published_states(store: Store, *, processor: Processor | None = None, num_threads: int = 1) -> PublishedStates:
    """Scan the records of all finished states in the store, of any study.

    States with damaged files are skipped with a warning, so that plans resume from an earlier state. A study that requests
    the damaged state itself does not start.

    Args:
        processor: use CPU rates of this processor only, since a store may come from another machine; `None` uses all.
        num_threads: use CPU rates of this number of threads only.

    Raises:
        StoreError: a record is damaged, or its stage lies outside the store.
    """
    states = PublishedStates()
    for stage_id in store.stage_ids():
        if not store.has(stage_id):
            continue
        try:
            record = store.record(stage_id)
        except DamagedFileError as error:
            _logger.warning("skipping a damaged stage: %s", error)
            continue
        metrics = record.metrics
        is_whole_part = record.kind == "tokens part" and metrics["text_bytes"] and not metrics["shards_taken_over"]
        if is_whole_part and _device_of(record, processor, num_threads) is not None:
            states.tokenising.append(metrics["text_bytes"] / max(record.timing["cpu_s"], 1e-3))
        if record.kind != "state":
            continue
        if metrics["has_optimizer"]:
            states.kept.append(KeptState(stretch_from=metrics["stretch_from"], step=metrics["step"], id=stage_id))
            # The rate of rollouts counts answers alone, and the time in which they were generated.
            measures_training = {"tokens_per_s", "flops_per_token"} <= metrics.keys() and "generated_tokens" not in metrics
            if measures_training and (device := _device_of(record, processor, num_threads)) is not None:
                flops_per_s = metrics["tokens_per_s"] * metrics["flops_per_token"]
                sample = (metrics["size"], metrics["precision"], flops_per_s)
                states.rates.setdefault(device, []).append(sample)
    return states


def states_before(store: Store, curriculum: Curriculum, step: int) -> list[Record]:
    """Return the records of finished states of any study that lie on a curriculum before `step`, nearest first.

    Their files are not checked. Damaged records are skipped.
    """
    records = []
    for stage_id in store.stage_ids():
        if not store.has(stage_id):
            continue
        try:
            record = store.record(stage_id, check_files=False)
        except StoreError:
            continue
        if record.kind == "state" and (at := record.metrics["step"]) < step and curriculum.state_id(at) == stage_id:
            records.append(record)
    return sorted(records, key=lambda record: record.metrics["step"], reverse=True)


def _device_of(record: Record, processor: Processor | None, num_threads: int) -> str | None:
    """Return the name in `DEVICES` of the device that trained a state; `None` for several devices or an unknown one."""
    environment = record.environment
    placement = environment.get("placement") or {}
    if placement.get("num_ranks", 1) != 1:
        return None
    product = record.metrics.get("device", "cpu").lower()
    if product == "cpu":
        recorded = environment.get("cpu"), environment.get("cpu_has_bfloat16")
        is_requested = processor is None or recorded == (processor.name, processor.has_bfloat16)
        return CPU_CORE.name if is_requested and placement.get("num_threads", 1) == num_threads else None
    return next((device.name for device in DEVICES.values() if device.title.lower() in product), None)
