"""The Prefect flow of a study: a task run per stage, named and tagged as the stage, and artifacts that tell how it goes.

The flow makes nothing happen; it is told what happens. Prefect persists no result, caches nothing and retries nothing: the
store is the truth, and the driver decides.
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
    """What a task run hands to those below it, so that Prefect draws the line between them.

    An object and not the state: Prefect refuses to start a task run that waits for a failed state, but here it is the
    driver that decides what is skipped. It also spares a hop between threads for every line.
    """


class StudyFlow:
    """Shows what a `Watch` is told, as one flow run.

    `run_id` is the flow run's id once it has begun, `num_task_runs` how many task runs it has made, and `missed` says
    which artifact could not be written. `on_cancel` is called when somebody has pressed the flow run's cancel button.
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
        """Make the flow run and keep it current until every stage has ended; returns its last state.

        Raises:
            Exception: the server refused the flow run, or could not be reached.
        """
        study = self._manifest.name
        shown: Flow[[str, str, str, int], Coroutine[Any, Any, Any]] = flow(
            name="study",
            description="One study: a task run per stage. The store holds the results; this is a view of it.",
            flow_run_name=study,
            retries=0,
            persist_result=False,
            validate_parameters=False,
            log_prints=False,
        )(self._body)
        return await shown(str(self._store.root), study, backend, max_jobs, return_state=True)

    async def _body(self, store: str, study: str, backend: str, max_jobs: int) -> State[Any]:
        await self.tell()
        return flow_state(self._manifest.stages, self._watch.ends)

    async def is_cancelling(self) -> bool:
        """Whether the server says that the flow run is being cancelled.

        Raises:
            Exception: the server does not answer, or has forgotten the run.
        """
        async with get_client() as client:
            return await self._is_cancelling(client)

    async def _is_cancelling(self, client: PrefectClient) -> bool:
        if self.run_id is None:
            return False
        run = await client.read_flow_run(UUID(self.run_id))
        return run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled())

    async def tell(self) -> None:
        """Keep the flow run that this is called in current until every stage has ended."""
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
        except Exception as error:  # such as a record that cannot be read: the driver says so, this is a view
            self.missed = f"the artifacts were not kept up ({type(error).__name__}: {error})"

    async def _look_for_cancel(self) -> None:
        """Look every few seconds whether somebody has pressed the cancel button, until it is so."""
        while True:
            await asyncio.sleep(_CANCEL_EVERY_S)
            with contextlib.suppress(Exception):  # a server that is away: it is asked again
                async with get_client() as client:
                    while not await asyncio.wait_for(self._is_cancelling(client), _CALL_TIMEOUT_S):
                        await asyncio.sleep(_CANCEL_EVERY_S)
                self._on_cancel()
                return

    async def _show_stage(
        self, stage_id: str, stage: StageEntry, parents: list[asyncio.Task[_Result | None]]
    ) -> _Result | None:
        """A stage's task run, from when the stage is begun; none where the run was interrupted before that."""
        upstream = [result for result in [await parent for parent in parents] if result is not None]
        await self._watch.begun(stage_id)
        if self._watch.ends.get(stage_id, End("")).how in (INTERRUPTED, DETACHED):
            return None
        result = _Result()

        async def stage_run(stage_id: str) -> State[Any]:
            return stage_state(await self._watch.ended(stage_id), result)

        shown = task(
            name=stage.role,
            task_run_name=stage.label.replace("{", "{{").replace("}", "}}"),
            tags=[stage.role, *([stage.data] if stage.data else []), *(str(one) for one in stage.factors.values())],
            retries=0,
            persist_result=False,
            cache_policy=NO_CACHE,
        )(stage_run)
        self.num_task_runs += 1
        made: Any = shown(stage_id, wait_for=upstream, return_state=True)  # Prefect types it as if it were not async
        await made
        return result

    async def _keep_artifacts(self) -> None:
        """Keep the study's page, the table of results and the progress bar current: three artifacts, written over."""
        made: dict[str, UUID] = {}
        shown: dict[str, Any] = {}
        while True:
            ended = self._watch.all_ended
            for what, content in (await self._contents()).items():
                if content != shown.get(what) and await self._told(what, content, made):
                    shown[what] = content
            if ended:
                return
            await self._watch.all_ended_within(ARTIFACTS_EVERY_S)

    async def _contents(self) -> dict[str, ArtifactCreate]:
        """What the artifacts hold now."""
        progress = self._watch.progress()
        study = self._manifest.name
        rows = await asyncio.to_thread(results_table, self._store, self._manifest)
        page = await asyncio.to_thread(mlflow_page, self._tracking_uri, self._manifest)
        text = study_text(self._store, self._manifest, self._watch, mlflow_page=page)
        contents = {
            "study": ArtifactCreate(type="markdown", data=text, description="What is run, and where everything is"),
            "progress": ArtifactCreate(
                type="progress",
                data=min(100.0, 100 * progress.share_done),  # a sum of floats
                description=progress_text(progress),
            ),
        }
        if rows:
            about = "What is measured of each arm"
            contents["results"] = ArtifactCreate(type="table", data=json.dumps(rows), description=about)
        return {what: one.model_copy(update={"key": artifact_key(study, what)}) for what, one in contents.items()}

    async def _told(self, what: str, content: ArtifactCreate, made: dict[str, UUID]) -> bool:
        """Write an artifact, over the one in `made` if there is one; false where the server failed or took too long."""
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S), get_client() as client:
                if what in made:
                    update = ArtifactUpdate(data=content.data, description=content.description)
                    await client.update_artifact(made[what], update)
                else:
                    in_run = {"flow_run_id": UUID(self.run_id)}
                    made[what] = (await client.create_artifact(content.model_copy(update=in_run))).id
        except Exception as error:
            made.pop(what, None)  # a server that forgot it is told it anew
            self.missed = f"an artifact was not written ({type(error).__name__}: {error})"
            return False
        self.missed = None
        return True


def stage_state(end: End, result: _Result) -> State[Any]:
    """The state in which a stage's task run ends. Only a failed stage is red."""
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
    """The flow run's last state, listing what failed and why."""
    numbers = Counter(end.how for end in ends.values())
    if numbers[DETACHED]:
        return Cancelled(
            name="Detached", message="told to leave; the jobs go on, and the next run of the study follows them"
        )
    if numbers[INTERRUPTED]:
        left = f"{numbers[INTERRUPTED]} of {len(stages)} stages"
        return Cancelled(message=f"interrupted with {left} to go; the same command goes on")
    failed = {stage_id: end.cause for stage_id, end in ends.items() if end.how == FAILED}
    return ended_state(stages, failed=failed, num_skipped=numbers[SKIPPED], num_reused=numbers[REUSED])


def ended_state(
    stages: Mapping[str, StageEntry], *, failed: Mapping[str, str], num_skipped: int, num_reused: int
) -> State[Any]:
    """The last state of a flow run in which every stage has come out; `failed` maps stages to causes."""
    if failed:
        listed = [f"{stages[stage_id].label}: {one_line(cause)}" for stage_id, cause in failed.items()]
        return Failed(
            message="\n".join([f"{len(failed)} failed and {num_skipped} skipped of {len(stages)} stages:", *listed])
        )
    return Completed(message=f"{len(stages)} stages, of which {num_reused} reused")
