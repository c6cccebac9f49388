"""The MLflow run of a study and of each stage as plain data: name, parameters, tags, metrics, curve, data, checkpoint.

Does not import MLflow. Every time stamp comes from the store, so the same store gives the same runs.
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
from midstudy.recipe.preparation import YIELDS_FILE
from midstudy.store.attempt import METRICS_FILE, RESULT_FOLDER
from midstudy.store.decisions import Decision
from midstudy.store.leftovers import is_alive
from midstudy.store.record import Record
from midstudy.store.store import Store
from midstudy.track.answer_table import TABLES, TABLES_TAG, AnswerTable, answer_table
from midstudy.track.lineage import DataFacts, data_facts, environment_tags, state_behind
from midstudy.track.points import Point, curve_points, final_metrics

STAGE_ID_TAG = "midstudy.stage_id"
STUDY_TAG = "midstudy.study"
PARENTS_TAG = "midstudy.parents"
ARM_TAG = "midstudy.arm"
"""On the runs of arms' last states: MLflow's filters have no "or", by which these could be told by kind and name."""
ATTEMPT_TAG = "midstudy.attempt"
CONTENT_TAG = "midstudy.content"
"""Digest of everything written to a run; a run whose digest is current is skipped."""
CURVE_STEP_TAG = "midstudy.curve_step"
"""The last step of the curve that was written to a run; the next sync continues from there."""
LAYOUT_TAG = "midstudy.layout"
_LAYOUT = "2"
"""Version of the names of parameters and metrics; runs of another version are recreated."""

FINISHED, FAILED, RUNNING, WAITING = "FINISHED", "FAILED", "RUNNING", "SCHEDULED"

STUDY = ""
"""Key of the study's own run; the keys of all others are stage ids."""

CHECKPOINT_FOLDER = "checkpoint"
"""Folder of the weights inside a state's published folder."""

_TEXT_LENGTH = 5000


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A study or one of its stages as an MLflow run; times in Unix milliseconds.

    `key` is the stage's id, or `STUDY`. `under` is the key of the run that it is nested below; None for the study's own.
    `checkpoint` is the folder of an arm's last state. `artifacts` maps the files of the study's report, or the yields of
    a preparation, to the folder that MLflow shows them in. `answers` is the table of an evaluation's answers.
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
    """Measures at several states of the arm that ends in this state, by the step of each state."""
    data: tuple[DataFacts, ...] = ()
    checkpoint: Path | None = None
    artifacts: Mapping[Path, str | None] | None = None
    answers: AnswerTable | None = None
    content: str = ""

    def points(self, *, after_step: int = -1) -> Iterator[Point]:
        """Yield the final metrics at step 0, which the UI draws as bars rather than as lines of one point, then the curve.

        The order matters: the page that compares runs starts with the metric that was written first.
        """
        for name, value in self.metrics.items():
            yield Point(name, value, self.ended_ms or self.started_ms, 0)
        yield from self.measured
        if self.curve is not None:
            yield from curve_points(self.curve, after_step=after_step)

    def digested(self) -> RunFacts:
        """Return a copy whose `content` is a digest of all other fields."""
        content: list[Any] = [self.name, self.status, self.started_ms, self.ended_ms, self.params, self.tags, self.metrics]
        content += [
            [data.as_json() for data in self.data],
            str(self.checkpoint),
            [astuple(point) for point in self.measured],
        ]
        content += [self.answers.digest] if self.answers is not None else []
        content += [self.curve.stat().st_size if self.curve is not None and self.curve.exists() else None]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8"))
        for path in self.artifacts or ():
            digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
        return replace(self, content=digest.hexdigest()[:16])


def study_facts(store: Store, manifest: Manifest) -> list[RunFacts]:
    """Return the study's run, then those of its stages that are finished, failed or started; parents before children.

    Empty until the first stage has started.
    """
    records = store.records(manifest.stages)
    values, names = measured_values(manifest, records), run_names(manifest)
    finals = {arm.state for arm in manifest.arms}
    facts = []
    for stage_id, stage in manifest.stages.items():
        run = StageRun(store, manifest, records, stage_id, stage, names[stage_id])
        if stage_id in records:
            facts.append(run.finished(values.get(stage_id, {}), is_final=stage_id in finals))
        elif failure := store.failure(stage_id):
            facts.append(run.failed(failure))
        elif started := run.started():
            facts.append(started)
    if not facts:
        return []
    return [run.digested() for run in (_study(store, manifest, facts), *facts)]


def measured_values(manifest: Manifest, records: Mapping[str, Record]) -> dict[str, dict[str, float]]:
    """Return the finished measures of each arm by the id of its last state; curves are not included."""
    by_state: dict[str, dict[str, float]] = {}
    for arm in manifest.arms:
        values = by_state.setdefault(arm.state, {})
        for column, evaluations in arm.measures.items():
            about = manifest.columns[column]
            if not about.is_curve and evaluations[0] in records and about.metric in records[evaluations[0]].metrics:
                values[column] = float(records[evaluations[0]].metrics[about.metric])
    return by_state


def measured_curves(manifest: Manifest, records: Mapping[str, Record], state: str) -> tuple[Point, ...]:
    """Return the curves of the arms that end in `state`: one point per finished evaluation."""
    points = []
    for arm in manifest.arms:
        for column, evaluations in arm.measures.items() if arm.state == state else ():
            about = manifest.columns[column]
            for stage_id in evaluations if about.is_curve else ():
                if stage_id in records and about.metric in records[stage_id].metrics:
                    value, step = float(records[stage_id].metrics[about.metric]), manifest.stages[stage_id].step or 0
                    finished_ms = milliseconds(records[stage_id].timing["finished_at"])
                    points.append(Point(result_name(column), value, finished_ms, step))
    return tuple(points)


def result_name(column: str) -> str:
    """Name of a measured column as a metric; its prefix puts it into the first section of charts."""
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
        if _is_decision(record):
            tags["mlflow.note.content"] = f"{Decision.of(record).sentence}."
        answers = answer_table(self.store, self.manifest, self.records, self.stage_id)
        if answers is not None:
            tags[TABLES_TAG] = TABLES
        return self._facts(
            status=FINISHED,
            started_ms=milliseconds(record.timing["started_at"]),
            ended_ms=milliseconds(record.timing["finished_at"]),
            tags=tags,
            metrics=metrics,
            curve=folder / METRICS_FILE if METRICS_FILE in record.files else None,
            measured=measured_curves(self.manifest, self.records, self.stage_id) if is_final else (),
            checkpoint=folder / CHECKPOINT_FOLDER if is_final else None,
            answers=answers,
            artifacts=_existing({folder / YIELDS_FILE: None}) if YIELDS_FILE in record.files else None,
        )

    def failed(self, failure: Mapping[str, Any]) -> RunFacts:
        ended_ms = milliseconds(failure["time"])
        log = "\n".join(failure["log"])[-_TEXT_LENGTH:]
        note = f"**{failure['cause']}**\n\nRetry with `{failure['retry']}`\n\n```\n{log}\n```"
        return self._facts(status=FAILED, started_ms=ended_ms, ended_ms=ended_ms, tags={"mlflow.note.content": note})

    def started(self) -> RunFacts | None:
        """The newest attempt with its curve so far; None if there is no attempt, or it is being removed."""
        attempt = next(iter(self.store.previous_attempts(self.stage_id)), None)
        if attempt is None or not (attempt / RESULT_FOLDER).exists():
            return None
        return self._facts(
            status=RUNNING if is_alive(attempt) else WAITING,
            started_ms=_started_ms(attempt.name),
            tags={ATTEMPT_TAG: attempt.name},
            curve=attempt / RESULT_FOLDER / METRICS_FILE,
        )

    @property
    def _params(self) -> dict[str, Any]:
        """The factors of the stage, the values that were chosen for it, and its model, step, data and split."""
        stage = self.stage
        parents = (self.records[parent] for parent in stage.parents if parent in self.records)
        chosen = {f"chosen.{made.name}": made.chosen for made in map(Decision.of, filter(_is_decision, parents))}
        about = {"model": stage.model or None, "step": stage.step, "data": stage.data or None, "split": stage.split or None}
        return {**stage.factors, **chosen, **{name: value for name, value in about.items() if value is not None}}

    def _facts(self, *, tags: Mapping[str, str], metrics: Mapping[str, float] | None = None, **facts: Any) -> RunFacts:
        state = state_behind(self.manifest, self.stage)
        data = data_facts(self.store, self.manifest, self.records, self.stage)
        all_tags = {
            STAGE_ID_TAG: self.stage_id,
            LAYOUT_TAG: _LAYOUT,
            PARENTS_TAG: ",".join(self.stage.parents)[:_TEXT_LENGTH],
            "midstudy.kind": self.stage.kind,
            "stage_kind": self.stage.role,
            "mlflow.source.name": "midstudy",
            "mlflow.source.type": "JOB",
            **{f"midstudy.data.{split.name}": split.digest for split in data},
            **tags,
        }
        if state is not None:
            all_tags["midstudy.parent_state"] = state
        if any(arm.state == self.stage_id for arm in self.manifest.arms):
            all_tags[ARM_TAG] = "yes"
        nested = self.stage.kind == "evaluation" and state in self.records
        return RunFacts(
            key=self.stage_id,
            under=state if nested else STUDY,
            name=self.name,
            ended_ms=facts.pop("ended_ms", None),
            params={name: _text(value) for name, value in self._params.items()},
            tags=all_tags,
            metrics=metrics or {},
            data=data,
            **facts,
        )


def _is_decision(record: Record) -> bool:
    return record.kind == "decision"


def run_names(manifest: Manifest) -> dict[str, str]:
    """Return the MLflow name of each stage: its label without the leading words that all labels of its role share.

    Columns and legends show about twenty letters, so `best fit → task A, seed 0` says more than the label `fine-tune best
    fit → task A, seed 0`. An evaluation has the name of its state, then its data. A name is a substring of its label, so
    `midstudy logs` finds the stage.
    """
    words: dict[str, list[list[str]]] = {}
    for stage in manifest.stages.values():
        words.setdefault(stage.role, []).append(stage.label.split(" "))
    shared = {role: _num_shared(labels) if len(labels) > 1 else 0 for role, labels in words.items()}
    names: dict[str, str] = {}
    for stage_id, stage in manifest.stages.items():  # parents come first
        names[stage_id] = stage.label.split(" ", shared[stage.role])[shared[stage.role]]
        state = state_behind(manifest, stage) if stage.kind == "evaluation" else None
        if state is not None:
            names[stage_id] = f"{names[state]}{stage.label.partition(manifest.stages[state].label)[2]}"
    return names


def _num_shared(rows: list[list[str]]) -> int:
    """How many leading words all rows share, without one that names the number after it, as in `seed 0`.

    The last word of a row always stays.
    """
    columns = list(zip(*rows, strict=False))
    num = next((place for place, column in enumerate(columns[:-1]) if len(set(column)) > 1), len(columns) - 1)
    names_a_number = num > 0 and all(word.isdigit() for word in columns[num])
    return num - 1 if names_a_number else num


def _study(store: Store, manifest: Manifest, stages: list[RunFacts]) -> RunFacts:
    """The study's run: its question, its progress and, once written, its report."""
    folder = store.paths.study(manifest.name)
    statuses = [stage.status for stage in stages]
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
    kept = {
        folder / "arms.csv": None,
        folder / "claims.csv": None,
        report / "report.html": "report",
        report / "report.ipynb": "report",
    }
    kept |= dict.fromkeys(sorted((report / "figures").glob("*.png")), "report/figures")
    return RunFacts(
        key=STUDY,
        under=None,
        name=manifest.name,
        status=status,
        started_ms=min(stage.started_ms for stage in stages),
        ended_ms=max((stage.ended_ms for stage in stages if stage.ended_ms is not None), default=None),
        params={},
        tags=tags,
        metrics={},
        artifacts=_existing(kept),
    )


def _existing(files: Mapping[Path, str | None]) -> dict[Path, str | None]:
    return {path: shown_in for path, shown_in in files.items() if path.exists()}


def _started_ms(attempt: str) -> int:
    """Start time of an attempt, from its name; equal to the one in its record, to the microsecond."""
    started = datetime.strptime(attempt.partition("-")[0], "%Y%m%dT%H%M%S.%f")
    return milliseconds(started.replace(tzinfo=UTC).timestamp())


def _text(value: Any) -> str:
    """A parameter's value as text; 0.0 and 0 give the same text, so that a factor's values compare as equal."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def milliseconds(time_s: float) -> int:
    """Unix time as MLflow takes it."""
    return round(time_s * 1000)
