"""Metric points for MLflow: the final metrics of a record, and the curve in a metrics file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.store.attempt import read_metrics

CURVE_PREFIX = "train/"

# MLflow draws one section of charts per prefix and sorts both sections and metrics alphabetically: results come first,
# costs last.
_SECTIONS = {
    "train_loss_nats": "loss/train",
    "token_shares": "mix/token_shares",
    "epochs": "mix/epochs",
    "tokens_per_s": "work/median_tokens_per_s",
    **{
        name: f"work/{name}"
        for name in ("wall_s", "cpu_s", "num_steps", "num_tokens", "recomputed_steps", "resumed_at_step", "data_wait_share")
    },
}
_CURVE_SECTIONS = {name: f"work/{name}" for name in ("tokens_per_s", "data_wait_s", "tokens_seen")}

_ODD_IN_NAME = re.compile(r"[^\w\-./ ]")


@dataclass(frozen=True)
class Point:
    """One value of one metric; `time_ms` is Unix time in milliseconds."""

    name: str
    value: float
    time_ms: int
    step: int


def curve_points(path: Path, *, after_step: int = -1) -> Iterator[Point]:
    """Yield the numbers of a metrics file for steps after `after_step`; the last line counts if a step was repeated."""
    lines = {int(line["step"]): line for line in read_metrics(path) if int(line.get("step", -1)) > after_step}
    for step, line in lines.items():
        for name, value in line.items():
            if name not in ("step", "time") and _is_number(value):
                shown_as = _CURVE_SECTIONS.get(name, CURVE_PREFIX + name)
                yield Point(metric_name(shown_as), float(value), round(1000 * line["time"]), step)


def final_metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record's metrics; nested ones are named by their path, as in `mix/epochs/code`."""
    for name, value in metrics.items():
        shown_as = _SECTIONS.get(name, name)
        if name == "yields":  # of a preparation: the documents after each of its steps
            yield from ((f"documents after/{metric_name(one['step'])}", float(one["documents_out"])) for one in value)
        elif isinstance(value, Mapping):
            yield from ((f"{metric_name(shown_as)}/{inner}", number) for inner, number in final_metrics(value))
        elif _is_number(value):
            yield metric_name(shown_as), float(value)


def metric_name(name: str) -> str:
    """Replace the characters that MLflow refuses by `_`."""
    return _ODD_IN_NAME.sub("_", name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
