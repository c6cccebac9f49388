"""What MLflow is told of a study and of each of its stages: name, parameters, tags, metrics, curve, data, checkpoint.

Pure; knows nothing of MLflow. Every time stamp comes from the store, so telling it again tells the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from midstudy.recipe.manifest import Manifest, StageEntry
from midstudy.store.attempt import METRICS_FILE, RESULT_FOLDER
from midstudy.store.leftovers import is_alive
from midstudy.store.record import Record
from midstudy.store.store import Store
from midstudy.track.lineage import DataFacts, data_facts, environment_tags, state_behind
from midstudy.track.points import Point, curve_points, final_metrics

STAGE_ID_TAG = "midstudy.stage_id"
STUDY_TAG = "midstudy.study"
PARENTS_TAG = "midstudy.parents"
ATTEMPT_TAG = "midstudy.attempt"
CONTENT_TAG = "midstudy.content"
"""Digest of everything a run was told; a run whose digest is current needs nothing."""
CURVE_STEP_TAG = "midstudy.curve_step"
"""The last step of the curve that a run was told: what is told later goes on from there."""
LAYOUT_TAG = "midstudy.layout"
_LAYOUT = "2"
"""Version of the names of parameters and metrics; runs with another are made again."""

FINISHED, FAILED, RUNNING, WAITING = "FINISHED", "FAILED", "RUNNING", "SCHEDULED"

STUDY = ""
"""Key of the study's own run, where the keys of the others are stage ids."""

CHECKPOINT_FOLDER = "checkpoint"
"""Where a state's published folder has its weights."""

_TEXT_LENGTH = 5000


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A study or one of its stages as an MLflow run; times in Unix milliseconds.

    `key` is the stage's id, or `STUDY`; `under` the key of the run it is nested below, none for the study's own.
    `checkpoint` is the folder of a state that is an arm's last, `artifacts` what the study's run keeps of its report, by
    the folder it is shown in.
    """

    key: str
    under: str | None
    name: str
    status: str
    started_ms: int
    ended_ms: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    curve: Path | None = None
    measured: tuple[Point, ...] = ()
    """Curves that the study measures of this state's run, by the step of each state."""
    data: tuple[DataFacts, ...] = ()
    checkpoint: Path | None = None
    artifacts: Mapping[Path, str | None] | None = None
    content: str = ""

    def points(self, *, after_step: int = -1) -> Iterator[Point]:
        """The final metrics, at step 0, since the UI draws bars of those and not lines of one point; then the curve.

        In that order because the page that compares runs begins with the metric that was written first.
        """
        for name, value in self.metrics.items():
            yield Point(name, value, self.ended_ms or self.started_ms, 0)
        yield from self.measured
        if self.curve is not None:
            yield from curve_points(self.curve, after_step=after_step)

    def digested(self) -> RunFacts:
        """With `content`, which changes whenever anything of it does."""
        told: list[Any] = [self.name, self.status, self.started_ms, self.ended_ms, self.params, self.tags, self.metrics]
        told += [[one.as_json() for one in self.data], str(self.checkpoint), [astuple(one) for one in self.measured]]
        told += [self.curve.stat().st_size if self.curve is not None and self.curve.exists() else None]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8"))
        for path in self.artifacts or ():
            digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
        return replace(self, content=digest.hexdigest()[:16])


def study_facts(store: Store, manifest: Manifest) -> list[RunFacts]:
    """The study's run, then those of its stages that are finished, failed or begun; parents before their children.

    Nothing while no stage is begun.
    """
    records = store.records(manifest.stages)
    values, names = measured_values(manifest, records), run_names(manifest)
    finals = {arm.state for arm in manifest.arms}
    facts = []
    for stage_id, stage in manifest.stages.items():
        told = StageRun(store, manifest, records, stage_id, stage, names[stage_id])
        if stage_id in records:
            facts.append(told.finished(values.get(stage_id, {}), is_final=stage_id in finals))
        elif failure := store.failure(stage_id):
            facts.append(told.failed(failure))
        elif begun := told.begun():
            facts.append(begun)
    if not facts:
        return []
    return [one.digested() for one in (_study(store, manifest, facts), *facts)]


def measured_values(manifest: Manifest, records: Mapping[str, Record]) -> dict[str, dict[str, float]]:
    """Measured columns of each arm's last state, as far as they are finished; curves apart."""
    found: dict[str, dict[str, float]] = {}
    for arm in manifest.arms:
        values = found.setdefault(arm.state, {})
        for column, evaluations in arm.measures.items():
            about = manifest.columns[column]
            if not about.is_curve and evaluations[0] in records and about.metric in records[evaluations[0]].metrics:
                values[column] = float(records[evaluations[0]].metrics[about.metric])
    return found


def measured_curves(manifest: Manifest, records: Mapping[str, Record], state: str) -> tuple[Point, ...]:
    """The curves of the arms that end in a state, a point for each finished evaluation."""
    points = []
    for arm in manifest.arms:
        for column, evaluations in arm.measures.items() if arm.state == state else ():
            about = manifest.columns[column]
            for one in evaluations if about.is_curve else ():
                if one in records and about.metric in records[one].metrics:
                    value, step = float(records[one].metrics[about.metric]), manifest.stages[one].step or 0
                    finished_ms = milliseconds(records[one].timing["finished_at"])
                    points.append(Point(result_name(column), value, finished_ms, step))
    return tuple(points)


def result_name(column: str) -> str:
    """A measured column as a metric, in the first section of charts: `arm/sft_loss`."""
    return f"arm/{column}"


@dataclass(frozen=True)
class StageRun:
    """Builds the MLflow facts of a finished, failed or running stage."""

    store: Store
    manifest: Manifest
    records: Mapping[str, Record]
    stage_id: str
    stage: StageEntry
    name: str

    def finished(self, values: Mapping[str, float], *, is_final: bool) -> RunFacts:
        record, folder = self.records[self.stage_id], self.store.published_folder(self.stage_id)
        of_record = {name: value for name, value in record.metrics.items() if name not in self._params}
        spent = {name: record.timing[name] for name in ("wall_s", "cpu_s")}
        metrics = {result_name(column): value for column, value in values.items()}
        metrics |= dict(final_metrics({**of_record, **spent}))
        tags = {ATTEMPT_TAG: record.attempt, "midstudy.folder": str(folder), **environment_tags(record.environment)}
        return self._facts(
            status=FINISHED,
            started_ms=milliseconds(record.timing["started_at"]),
            ended_ms=milliseconds(record.timing["finished_at"]),
            tags=tags,
            metrics=metrics,
            curve=folder / METRICS_FILE if METRICS_FILE in record.files else None,
            measured=measured_curves(self.manifest, self.records, self.stage_id) if is_final else (),
            checkpoint=folder / CHECKPOINT_FOLDER if is_final else None,
        )

    def failed(self, failure: Mapping[str, Any]) -> RunFacts:
        ended_ms = milliseconds(failure["time"])
        log = "\n".join(failure["log"])[-_TEXT_LENGTH:]
        note = f"**{failure['cause']}**\n\nRetry with `{failure['retry']}`\n\n```\n{log}\n```"
        return self._facts(status=FAILED, started_ms=ended_ms, ended_ms=ended_ms, tags={"mlflow.note.content": note})

    def begun(self) -> RunFacts | None:
        """Of the newest attempt, its curve so far; none where there is none, or it goes away just now."""
        attempt = next(iter(self.store.previous_attempts(self.stage_id)), None)
        if attempt is None or not (attempt / RESULT_FOLDER).exists():
            return None
        return self._facts(
            status=RUNNING if is_alive(attempt) else WAITING,
            started_ms=_began_ms(attempt.name),
            tags={ATTEMPT_TAG: attempt.name},
            curve=attempt / RESULT_FOLDER / METRICS_FILE,
        )

    @property
    def _params(self) -> dict[str, Any]:
        """The study's factors, and what the stage is about."""
        stage = self.stage
        own = {"model": stage.model or None, "step": stage.step, "data": stage.data or None, "split": stage.split or None}
        return {**stage.factors, **{name: value for name, value in own.items() if value is not None}}

    def _facts(self, *, tags: Mapping[str, str], metrics: Mapping[str, float] | None = None, **facts: Any) -> RunFacts:
        state = state_behind(self.manifest, self.stage)
        data = data_facts(self.store, self.manifest, self.records, self.stage)
        told = {
            STAGE_ID_TAG: self.stage_id,
            LAYOUT_TAG: _LAYOUT,
            PARENTS_TAG: ",".join(self.stage.parents)[:_TEXT_LENGTH],
            "midstudy.kind": self.stage.kind,
            "stage_kind": self.stage.role,
            "mlflow.source.name": "midstudy",
            "mlflow.source.type": "JOB",
            **{f"midstudy.data.{one.name}": one.digest for one in data},
            **tags,
        }
        if state is not None:
            told["midstudy.parent_state"] = state
        nested = self.stage.kind == "evaluation" and state in self.records
        return RunFacts(
            key=self.stage_id,
            under=state if nested else STUDY,
            name=self.name,
            ended_ms=facts.pop("ended_ms", None),
            params={name: _text(value) for name, value in self._params.items()},
            tags=told,
            metrics=metrics or {},
            data=data,
            **facts,
        )


def run_names(manifest: Manifest) -> dict[str, str]:
    """What MLflow calls each stage: its label without the words that all labels of its role begin with, since columns and
    legends show some twenty letters: `code20@24 → pycode, trunk 0, SFT 1337`. An evaluation is called by the name of its
    state. A name is a substring of its label, so `midstudy logs` finds the stage."""
    words: dict[str, list[list[str]]] = {}
    for stage in manifest.stages.values():
        words.setdefault(stage.role, []).append(stage.label.split(" ")[:-1])  # the last word of a label always stays
    shared = {role: _num_shared(labels) if len(labels) > 1 else 0 for role, labels in words.items()}
    names: dict[str, str] = {}
    for identity, stage in manifest.stages.items():  # parents come first
        names[identity] = stage.label.split(" ", shared[stage.role])[shared[stage.role]]
        state = state_behind(manifest, stage) if stage.kind == "evaluation" else None
        if state is not None:
            names[identity] = f"{names[state]}{stage.label.partition(manifest.stages[state].label)[2]}"
    return names


def _num_shared(rows: list[list[str]]) -> int:
    """How many leading words all rows share."""
    return next(
        (place for place, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), min(map(len, rows))
    )


def _study(store: Store, manifest: Manifest, stages: list[RunFacts]) -> RunFacts:
    """The study's run: what it asks, how far it is, and its report, if there is one."""
    folder = store.paths.study(manifest.name)
    statuses = [one.status for one in stages]
    num_finished, num_failed = statuses.count(FINISHED), statuses.count(FAILED)
    if num_finished == len(manifest.stages):
        status = FINISHED
    else:
        status = RUNNING if RUNNING in statuses else FAILED if num_failed else WAITING
    where = f"Its report is among the artifacts, and in `{folder / 'report'}`."
    tags = {
        STUDY_TAG: manifest.name,
        LAYOUT_TAG: _LAYOUT,
        "stage_kind": "study",
        "midstudy.stages": f"{num_finished} of {len(manifest.stages)} finished, {num_failed} failed",
        "mlflow.note.content": f"{manifest.question}\n\n`{manifest.command}`\n\n{where}",
        "mlflow.source.name": "midstudy",
        "mlflow.source.type": "JOB",
    }
    report = folder / "report"
    kept = {folder / "arms.csv": None, report / "report.html": "report", report / "report.ipynb": "report"}
    kept |= dict.fromkeys(sorted((report / "figures").glob("*.png")), "report/figures")
    return RunFacts(
        key=STUDY,
        under=None,
        name=manifest.name,
        status=status,
        started_ms=min(one.started_ms for one in stages),
        ended_ms=max((one.ended_ms for one in stages if one.ended_ms is not None), default=None),
        params={},
        tags=tags,
        metrics={},
        artifacts={path: shown_in for path, shown_in in kept.items() if path.exists()},
    )


def _began_ms(attempt: str) -> int:
    """When an attempt began, from its name: to the microsecond what its record will say."""
    began = datetime.strptime(attempt.partition("-")[0], "%Y%m%dT%H%M%S.%f")
    return milliseconds(began.replace(tzinfo=UTC).timestamp())


def _text(value: Any) -> str:
    """A parameter's value; 0.0 and 0 read the same, so that one factor has one column of values."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def milliseconds(time_s: float) -> int:
    """Unix time as MLflow takes it."""
    return round(time_s * 1000)
