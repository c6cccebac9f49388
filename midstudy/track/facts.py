"""What MLflow is told of each stage of a study: name, parameters, tags, metrics, curve. Pure; knows nothing of MLflow.

Every time stamp comes from the records, so telling it again tells the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.store.attempt import METRICS_FILE, read_metrics
from midstudy.store.record import Record
from midstudy.store.store import Store

STAGE_ID_TAG = "midstudy.stage_id"
PARENTS_TAG = "midstudy.parents"
CONTENT_TAG = "midstudy.content"
"""Digest of everything a run was told; a run whose digest is current needs nothing."""

CURVE_PREFIX = "train/"

FINISHED, FAILED = "FINISHED", "FAILED"

_ODD_IN_METRIC_NAME = re.compile(r"[^\w\-./ ]")
_TEXT_LENGTH = 5000


@dataclass(frozen=True)
class Point:
    """One value of one metric; `time_ms` is Unix time in milliseconds."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One stage as an MLflow run; times in Unix milliseconds."""

    stage_id: str
    name: str
    status: str
    started_ms: int
    ended_ms: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    curve: Path | None
    content: str

    def points(self) -> Iterator[Point]:
        """The final metrics, at step 0, since the UI draws bars of those and not lines of one point; then the curve.

        In that order because the page that compares runs begins with the metric that was written first.
        """
        for name, value in self.metrics.items():
            yield Point(name, value, self.ended_ms, 0)
        if self.curve is not None:
            yield from curve_points(self.curve)


def curve_points(path: Path) -> Iterator[Point]:
    """The numbers of a metrics file; of a step that was computed twice, the later line."""
    lines = {int(line["step"]): line for line in read_metrics(path) if "step" in line}
    for step, line in lines.items():
        for name, value in line.items():
            if name not in ("step", "time") and _is_number(value):
                yield Point(metric_name(CURVE_PREFIX + name), float(value), _milliseconds(line["time"]), step)


def study_facts(store: Store, manifest: Mapping[str, Any]) -> list[RunFacts]:
    """The finished and the failed stages of a study, in the manifest's order."""
    records = store.records(manifest["stages"])
    losses = sft_losses(manifest, records)
    facts = []
    for stage_id, stage in manifest["stages"].items():
        if stage_id in records:
            facts.append(_finished(store, stage, records[stage_id], losses.get(stage_id, {})))
        elif failure := store.failure(stage_id):
            facts.append(_failed(stage_id, stage, failure))
    return facts


def sft_losses(manifest: Mapping[str, Any], records: Mapping[str, Record]) -> dict[str, dict[str, float]]:
    """Of each state after fine-tuning, the losses of its evaluations, in nats per token, as far as they are finished.

    Names say what and on which split: `sft_loss_test`, `general_loss_test`; with `_before`, of the state that
    fine-tuning started from.
    """
    losses: dict[str, dict[str, float]] = {}
    for arm in manifest["arms"]:
        found = losses.setdefault(arm["final_state"], {})
        for name, evaluation, suffix in (
            ("sft_loss", arm["task_evaluation"], ""),
            ("general_loss", arm["general_evaluation"], ""),
            ("sft_loss", arm["task_evaluation_before"], "_before"),
            ("general_loss", arm["general_evaluation_before"], "_before"),
        ):
            if evaluation in records:
                split = manifest["stages"][evaluation]["factors"]["split"]
                found[f"{name}_{split}{suffix}"] = float(records[evaluation].metrics["loss_nats"])
    return losses


def _finished(store: Store, stage: Mapping[str, Any], record: Record, losses: Mapping[str, float]) -> RunFacts:
    metrics = dict(losses)
    metrics |= {name: value for name, value in _flat_numbers(record.metrics) if name not in stage["factors"]}
    metrics |= {"wall_s": record.timing["wall_s"], "cpu_s": record.timing["cpu_s"]}
    tags = {"midstudy.attempt": record.attempt, "midstudy.kind": record.kind}
    for name in ("host", "cpu", "python", "torch", "midstudy", "git_dirty"):
        if (value := record.environment.get(name)) is not None:
            tags[f"environment.{name}"] = str(value)
    for name, value in (record.environment.get("placement") or {}).items():
        tags[f"placement.{name}"] = str(value)
    if commit := record.environment.get("git_commit"):
        tags["mlflow.source.git.commit"] = commit
    curve = store.published_folder(record.id) / METRICS_FILE if METRICS_FILE in record.files else None
    return _facts(
        record.id,
        stage,
        status=FINISHED,
        started_ms=_milliseconds(record.timing["started_at"]),
        ended_ms=_milliseconds(record.timing["finished_at"]),
        tags=tags,
        metrics=metrics,
        curve=curve,
    )


def _failed(stage_id: str, stage: Mapping[str, Any], failure: Mapping[str, Any]) -> RunFacts:
    ended_ms = _milliseconds(failure["time"])
    log = "\n".join(failure["log"])[-_TEXT_LENGTH:]
    note = f"**{failure['cause']}**\n\nRetry with `{failure['retry']}`\n\n```\n{log}\n```"
    tags = {"midstudy.kind": stage["kind"], "mlflow.note.content": note}
    return _facts(stage_id, stage, status=FAILED, started_ms=ended_ms, ended_ms=ended_ms, tags=tags, metrics={}, curve=None)


def _facts(
    stage_id: str,
    stage: Mapping[str, Any],
    *,
    status: str,
    started_ms: int,
    ended_ms: int,
    tags: dict[str, str],
    metrics: dict[str, float],
    curve: Path | None,
) -> RunFacts:
    factors = dict(stage["factors"])
    tags |= {
        STAGE_ID_TAG: stage_id,
        PARENTS_TAG: ",".join(stage["parents"])[:_TEXT_LENGTH],
        "stage_kind": str(factors.pop("stage_kind")),
        "mlflow.source.name": "midstudy",
        "mlflow.source.type": "JOB",
    }
    params = {name: _text(value) for name, value in factors.items()}
    told = [stage["label"], status, started_ms, ended_ms, params, tags, metrics, str(curve is not None)]
    content = hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8")).hexdigest()[:16]
    return RunFacts(
        stage_id=stage_id,
        name=stage["label"],
        status=status,
        started_ms=started_ms,
        ended_ms=ended_ms,
        params=params,
        tags=tags,
        metrics=metrics,
        curve=curve,
        content=content,
    )


def metric_name(name: str) -> str:
    """`name` with the characters that MLflow refuses replaced by `_`."""
    return _ODD_IN_METRIC_NAME.sub("_", name)


def _flat_numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record's metrics; nested ones are named by their path, as in `epochs/code`."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat_numbers(value, f"{prefix}{name}/")
        elif _is_number(value):
            yield metric_name(prefix + name), float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _text(value: Any) -> str:
    """A parameter's value; 0.0 and 0 read the same, so that one factor has one column of values."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _milliseconds(time_s: float) -> int:
    return round(time_s * 1000)
