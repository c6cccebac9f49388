"""The Prefect flow of a study: a task run per stage, named and tagged like the stage, and artifacts that show progress.

The flow only displays what the driver does. Prefect persists, caches and retries nothing: the store holds the results, and
the driver decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from uuid import UUID

from prefect import Flow, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed

from midstudy.flows.artifacts import artifact_key, one_line, progress_text, results_table, study_text
from midstudy.flows.mlflow_page import mlflow_page
from midstudy.recipe.manifest import Manifest, StageEntry
from midstudy.run.watch import DETACHED, FAILED, INTERRUPTED, REUSED, SKIPPED, End, Watch
from midstudy.store.store import Store

ARTIFACTS_EVERY_S = 20.0
_CALL_TIMEOUT_S = 20.0
_CANCEL_EVERY_S = 2.0


class _Result:
    """A task run's result, passed to its children so that Prefect draws the edges between them.

    It is not the state, because Prefect does not start a task run that waits for a failed state, while here the driver
    decides what is skipped. It also saves a switch between threads for every edge.
    """


class StudyFlow:
    """Shows the events of a `Watch` as one flow run.

    `run_id` is the flow run's id once it has started, `num_task_runs` the number of task runs created so far, and `missed`
    names an artifact that could not be written. `on_cancel` is called when the flow run is cancelled in Prefect.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        watch: Watch,
        *,
        tracking_uri: str,
        on_cancel: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._manifest, self._watch, self._tracking_uri = store, manifest, watch, tracking_uri
        self._on_cancel = on_cancel
        self.run_id: str | None = None
        self.num_task_runs = 0
        self.missed: str | None = None

    async def show(self, *, backend: str, max_jobs: int) -> State[Any]:
        """Create the flow run, keep it current until every stage has ended, and return its final state.

        Raises:
            Exception: the server rejected the flow run, or could not be reached.
        """
        study = self._manifest.name
        study_flow: Flow[[str, str, str, int], Coroutine[Any, Any, Any]] = flow(
            name="study",
            description="One study: a task run per stage. A view of the store, which holds the results.",
            flow_run_name=study,
            retries=0,
            persist_result=False,
            validate_parameters=False,
            log_prints=False,
        )(self._body)
        return await study_flow(str(self._store.root), study, backend, max_jobs, return_state=True)

    async def _body(self, store: str, study: str, backend: str, max_jobs: int) -> State[Any]:
        await self.follow()
        return flow_state(self._manifest.stages, self._watch.ends)

    async def is_cancelling(self) -> bool:
        """Return True if the server says that the flow run is being cancelled.

        Raises:
            Exception: the server does not answer, or does not know the run.
        """
        async with get_client() as client:
            return await self._is_cancelling(client)

    async def _is_cancelling(self, client: PrefectClient) -> bool:
        if self.run_id is None:
            return False
        run = await client.read_flow_run(UUID(self.run_id))
        return run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled())

    async def follow(self) -> None:
        """Keep the caller's flow run current until every stage has ended."""
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        self.run_id = str(context.flow_run.id)
        runs: dict[str, asyncio.Task[_Result | None]] = {}
        for stage_id, stage in self._watch.stages.items():
            parents = [runs[parent] for parent in stage.parents if parent in runs]
            runs[stage_id] = asyncio.create_task(self._show_stage(stage_id, stage, parents))
        artifacts = asyncio.create_task(self._keep_artifacts())
        cancelling = asyncio.create_task(self._look_for_cancel())
        await asyncio.gather(*runs.values())
        cancelling.cancel()
        try:
            await artifacts
        except Exception as error:  # such as an unreadable record, which the driver reports
            self.missed = f"the artifacts were not updated ({type(error).__name__}: {error})"

    async def _look_for_cancel(self) -> None:
        """Poll every few seconds until the flow run is cancelled."""
        while True:
            await asyncio.sleep(_CANCEL_EVERY_S)
            with contextlib.suppress(Exception):  # the server is unreachable: try again
                async with get_client() as client:
                    while not await asyncio.wait_for(self._is_cancelling(client), _CALL_TIMEOUT_S):
                        await asyncio.sleep(_CANCEL_EVERY_S)
                self._on_cancel()
                return

    async def _show_stage(
        self, stage_id: str, stage: StageEntry, parents: list[asyncio.Task[_Result | None]]
    ) -> _Result | None:
        """Create a stage's task run when the stage starts; None if the run was interrupted before that."""
        upstream = [result for result in [await parent for parent in parents] if result is not None]
        await self._watch.begun(stage_id)
        if self._watch.ends.get(stage_id, End("")).how in (INTERRUPTED, DETACHED):
            return None
        result = _Result()

        async def stage_run(stage_id: str) -> State[Any]:
            return stage_state(await self._watch.ended(stage_id), result)

        stage_task = task(
            name=stage.role,
            task_run_name=stage.label.replace("{", "{{").replace("}", "}}"),
            tags=[stage.role, *([stage.data] if stage.data else []), *(str(value) for value in stage.factors.values())],
            retries=0,
            persist_result=False,
            cache_policy=NO_CACHE,
        )(stage_run)
        self.num_task_runs += 1
        # Any, because Prefect types it as if it were not async.
        task_run: Any = stage_task(stage_id, wait_for=upstream, return_state=True)
        await task_run
        return result

    async def _keep_artifacts(self) -> None:
        """Keep three artifacts current by overwriting them: the study's page, the table of results and the progress bar."""
        made: dict[str, UUID] = {}
        shown: dict[str, Any] = {}
        while True:
            ended = self._watch.all_ended
            for what, content in (await self._contents()).items():
                if content != shown.get(what) and await self._write_artifact(what, content, made):
                    shown[what] = content
            if ended:
                return
            await self._watch.all_ended_within(ARTIFACTS_EVERY_S)

    async def _contents(self) -> dict[str, ArtifactCreate]:
        """Return the current content of each artifact."""
        progress = self._watch.progress()
        study = self._manifest.name
        rows = await asyncio.to_thread(results_table, self._store, self._manifest)
        page = await asyncio.to_thread(mlflow_page, self._tracking_uri, self._manifest)
        text = study_text(self._store, self._manifest, self._watch, mlflow_page=page)
        contents = {
            "study": ArtifactCreate(type="markdown", data=text, description="What is run, and where to find it"),
            "progress": ArtifactCreate(
                type="progress",
                data=min(100.0, 100 * progress.share_done),  # a sum of floats may exceed it
                description=progress_text(progress),
            ),
        }
        if rows:
            about = "What is measured of each arm"
            contents["results"] = ArtifactCreate(type="table", data=json.dumps(rows), description=about)
        return {what: artifact.model_copy(update={"key": artifact_key(study, what)}) for what, artifact in contents.items()}

    async def _write_artifact(self, what: str, content: ArtifactCreate, made: dict[str, UUID]) -> bool:
        """Create an artifact, or overwrite the one in `made`; return False if the server failed or took too long."""
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S), get_client() as client:
                if what in made:
                    update = ArtifactUpdate(data=content.data, description=content.description)
                    await client.update_artifact(made[what], update)
                else:
                    in_run = {"flow_run_id": UUID(self.run_id)}
                    made[what] = (await client.create_artifact(content.model_copy(update=in_run))).id
        except Exception as error:
            made.pop(what, None)  # the server may have lost it: create it again
            self.missed = f"an artifact was not written ({type(error).__name__}: {error})"
            return False
        self.missed = None
        return True


def stage_state(end: End, result: _Result) -> State[Any]:
    """Return the final state of a stage's task run. Only a failed stage is shown in red."""
    if end.how == FAILED:
        return Failed(message=end.cause, data=result)
    if end.how == SKIPPED:
        return Cancelled(name="Skipped", message=end.cause, data=result)
    if end.how == INTERRUPTED:
        return Cancelled(message=end.cause, data=result)
    if end.how == DETACHED:
        return Cancelled(name="Detached", message=end.cause, data=result)
    if end.how == REUSED:
        return Completed(name="Cached", message="finished by an earlier run; reused from the store", data=result)
    return Completed(message="published in the store", data=result)


def flow_state(stages: Mapping[str, StageEntry], ends: Mapping[str, End]) -> State[Any]:
    """Return the flow run's final state, which lists failures and their causes."""
    numbers = Counter(end.how for end in ends.values())
    if numbers[DETACHED]:
        return Cancelled(
            name="Detached", message="detached; the jobs keep running, and the next run of the study follows them"
        )
    if numbers[INTERRUPTED]:
        left = f"{numbers[INTERRUPTED]} of {len(stages)} stages"
        return Cancelled(message=f"interrupted with {left} to go; the same command continues")
    failed = {stage_id: end.cause for stage_id, end in ends.items() if end.how == FAILED}
    return ended_state(stages, failed=failed, num_skipped=numbers[SKIPPED], num_reused=numbers[REUSED])


def ended_state(
    stages: Mapping[str, StageEntry], *, failed: Mapping[str, str], num_skipped: int, num_reused: int
) -> State[Any]:
    """Return the final state of a flow run in which every stage has ended; `failed` maps stages to causes."""
    if failed:
        listed = [f"{stages[stage_id].label}: {one_line(cause)}" for stage_id, cause in failed.items()]
        return Failed(
            message="\n".join([f"{len(failed)} failed and {num_skipped} skipped of {len(stages)} stages:", *listed])
        )
    return Completed(message=f"{len(stages)} stages, of which {num_reused} reused")
