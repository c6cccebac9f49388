"""Writes one study or stage to MLflow: a run, the data it read and, for an arm's last state, its checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from midstudy.track.answer_table import TABLE_FILE
from midstudy.track.facts import ATTEMPT_TAG, CONTENT_TAG, CURVE_STEP_TAG, LAYOUT_TAG, STAGE_ID_TAG, RunFacts
from midstudy.track.lineage import DataFacts

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Run
    from mlflow.tracking import MlflowClient

BATCH_SIZE = 1000
"""Metrics per call, the limit of MLflow's REST API."""

PARENT_RUN_TAG = "mlflow.parentRunId"
_CHECKPOINT_TAG = "midstudy.checkpoint"
_ODD_IN_MODEL_NAME = re.compile(r"[^\w@+\-]+")


def must_be_recreated(run: Run, facts: RunFacts) -> bool:
    """Return whether `run` cannot be updated to `facts`.

    MLflow cannot change parameters or start times, and keeps metrics under their old names and the points of previous
    attempts.
    """
    tags, params = run.data.tags, run.data.params
    return (
        tags.get(LAYOUT_TAG) != facts.tags[LAYOUT_TAG]
        or (params != {} and params != facts.params)
        or tags.get(ATTEMPT_TAG) != facts.tags.get(ATTEMPT_TAG)
        or run.info.start_time != facts.started_ms
    )


class RunWriter:
    """Creates and updates runs of one experiment. The digest is written last, so an interrupted write is repeated.

    `num_points` counts the metric points that were sent.
    """

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client, self._experiment_id = client, experiment_id
        self.num_points = 0

    def write(self, facts: RunFacts, run: Run | None, parent_run_id: str | None) -> Run:
        """Create the run, or update the existing `run`, and return it."""
        tags = {**facts.tags, **({} if parent_run_id is None else {PARENT_RUN_TAG: parent_run_id})}
        after_step = -1
        if run is None:
            run = self._client.create_run(self._experiment_id, start_time=facts.started_ms, tags=tags, run_name=facts.name)
            tags = {}
        else:
            after_step = int(run.data.tags.get(CURVE_STEP_TAG, after_step))
            tags["mlflow.runName"] = facts.name
        run_id = run.info.run_id
        if facts.data:
            self._client.log_inputs(run_id, [_dataset(data) for data in facts.data])
        model_id = self._model(facts, run_id)
        for path, shown_in in (facts.artifacts or {}).items():
            self._client.log_artifact(run_id, str(path), shown_in)
        if facts.answers is not None:
            self._client.log_text(run_id, facts.answers.text(), TABLE_FILE)
        self._log(facts, run_id, tags, after_step, model_id)
        if facts.ended_ms is not None:
            self._client.set_terminated(run_id, status=facts.status, end_time=facts.ended_ms)
        elif run.info.status != facts.status:
            self._client.update_run(run_id, status=facts.status)
        return run

    def _log(self, facts: RunFacts, run_id: str, tags: dict[str, str], after_step: int, model_id: str | None) -> None:
        """Log parameters, tags and points in batches; the digest goes with the last batch."""
        from mlflow.entities import Metric, Param, RunTag

        params: Sequence[Any] = [Param(name, value) for name, value in facts.params.items()]
        points = facts.points(after_step=after_step)
        batch = list(islice(points, BATCH_SIZE))
        while True:
            following = list(islice(points, BATCH_SIZE))
            # A batch may end within a step, so the last step of every batch but the last is sent again by a later sync.
            last_step = max((point.step for point in batch), default=0) - bool(following)
            if facts.curve is not None and last_step > 0:
                tags[CURVE_STEP_TAG] = str(max(last_step, after_step))
            if not following:
                tags[CONTENT_TAG] = facts.content
            metrics = [Metric(p.name, p.value, p.time_ms, p.step, model_id=model_id if p.step == 0 else None) for p in batch]
            self._client.log_batch(
                run_id, metrics=metrics, params=params, tags=[RunTag(name, value) for name, value in tags.items()]
            )
            self.num_points += len(batch)
            tags, params = {}, ()
            if not following:
                return
            batch = following

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _model(self, facts: RunFacts, run_id: str) -> str | None:
        """Return the id of the logged model of an arm's last state: a reference to its checkpoint in the store."""
        if facts.checkpoint is None:
            return None
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        uri = facts.checkpoint.as_uri()
        for known in self._models.get(facts.key, ()):
            if known.source_run_id == run_id and known.tags.get(_CHECKPOINT_TAG) == uri:
                return known.model_id
            self._client.delete_logged_model(known.model_id)
        model = self._client.create_logged_model(
            self._experiment_id,
            name=_ODD_IN_MODEL_NAME.sub("-", facts.name).strip("-"),
            source_run_id=run_id,
            tags={STAGE_ID_TAG: facts.key, _CHECKPOINT_TAG: uri, "mlflow.model.isExternal": "true"},
            params=dict(facts.params),
            model_type="checkpoint",
        )
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=int(facts.params.get("step", 0)))])
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return model.model_id

    @cached_property
    def _models(self) -> dict[str, list[LoggedModel]]:
        """The experiment's logged models by stage id."""
        models: dict[str, list[LoggedModel]] = {}
        token = None
        while True:
            page = self._client.search_logged_models([self._experiment_id], page_token=token)
            for model in page:
                if (stage_id := model.tags.get(STAGE_ID_TAG)) is not None:
                    models.setdefault(stage_id, []).append(model)
            token = page.token
            if not token:
                return models


def _dataset(facts: DataFacts) -> DatasetInput:
    """The token files that were read, as an MLflow dataset; the profile says where their text came from."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = {"split": facts.split, "tokens": facts.num_tokens, "documents": facts.num_documents, "text": facts.source}
    dataset = Dataset(
        name=facts.name,
        digest=facts.digest,
        source_type="local",
        source=json.dumps({"uri": facts.folder.as_uri()}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", facts.split)])
