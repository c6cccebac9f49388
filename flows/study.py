"""Runs a study: the driver does the work, Prefect and MLflow are shown it.

Driver, Prefect and MLflow's sync live in the main thread, a thread and a process. Only what the driver raises ends a run;
what goes wrong with a view becomes a warning.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flows.view import PrefectView
from flows.watch import FAILED, FINISHED, REUSED, SKIPPED, End, Progress, Watch
from midstudy.launch.backends import launcher_of
from midstudy.launch.driver import Driver, Outcome
from midstudy.plan.stage import Stage
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.track.follow import Follower
from midstudy.track.sync import TrackingError, default_tracking_uri
from midstudy.train.placement import Placement

_TICK_S = 0.5
_CLOSE_TIMEOUT_S = 60.0
_INTERRUPTED_TIMEOUT_S = 15.0
_HOW = {"published": FINISHED, "reused": REUSED, "failed": FAILED, "skipped": SKIPPED}


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a run came out. `finished` and `reused` are stage ids; `failed` and `skipped` map ids to causes.

    `warnings` are what went wrong with a view: Prefect or MLflow is not complete, the results are.
    """

    finished: tuple[str, ...]
    reused: tuple[str, ...]
    failed: Mapping[str, str]
    skipped: Mapping[str, str]
    wall_s: float
    warnings: tuple[str, ...]


class StageDriver(Protocol):
    """What a run needs of `midstudy.launch.driver.Driver`."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def finished(self, stage_id: str) -> Outcome: ...
    @property
    def in_jobs(self) -> list[str]: ...


def run_study(
    store: Store,
    stages: Mapping[str, Stage],
    study_name: str,
    *,
    backend: str,
    max_jobs: int,
    placement: Placement | None = None,
    gpus: Sequence[str] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_notice: Callable[[str], None] = lambda line: None,
    when_done: Callable[[], None] = lambda: None,
    tracking_uri: str | None = None,
) -> RunSummary:
    """Make every stage of a study that is missing; returns when the last has ended and the views are up to date.

    The study's manifest and the missing stages' recipes are in the store already. A stage that fails skips its
    descendants and leaves the rest alone.

    Args:
        stages: all stages of the study's manifest, finished ones included.
        backend: "local" or "debug".
        max_jobs: jobs at a time.
        placement: how each job computes; by default on one thread of the processor.
        gpus: what CUDA_VISIBLE_DEVICES may name, shared out among the jobs.
        on_progress: called in this thread about twice a second.
        on_notice: called in this thread with a line for people: a stage is run again, a job could not be submitted.
        when_done: called in this thread when every stage has ended, while the views are brought up to date.
        tracking_uri: MLflow's address; by default its SQLite file in the store.

    Raises:
        StoreError: the store cannot be written, or a record in it is damaged.
        KeyboardInterrupt: after Ctrl-C, when the jobs are gone; finished stages stay.
    """
    launcher = launcher_of(backend, store, placement=placement, gpus=gpus)
    driver = Driver(store, stages, launcher, study=study_name, max_jobs=max_jobs, on_notice=on_notice)
    return conduct(
        driver,
        store,
        study_name,
        backend=backend,
        max_jobs=max_jobs,
        on_progress=on_progress,
        tracking_uri=tracking_uri or default_tracking_uri(store),
        when_done=when_done,
    )


def conduct(
    driver: StageDriver,
    store: Store,
    study_name: str,
    *,
    backend: str,
    max_jobs: int,
    on_progress: Callable[[Progress], None],
    tracking_uri: str,
    when_done: Callable[[], None] = lambda: None,
) -> RunSummary:
    """`run_study` with a driver that is made already."""
    began = time.perf_counter()
    manifest = load(store, study_name)
    watch = Watch(manifest["stages"], max_jobs=max_jobs)
    view = PrefectView(store, manifest, watch, backend=backend, max_jobs=max_jobs, tracking_uri=tracking_uri)
    warnings = []
    with Follower(store, study_name, tracking_uri=tracking_uri) as follower:
        view.start()
        try:
            asyncio.run(_drive(driver, store, watch, on_progress))
            follower.begin_last_sync()
            when_done()
            try:
                follower.finish()
            except TrackingError as error:
                warnings.append(str(error))
            view.close(_CLOSE_TIMEOUT_S)
        except BaseException:
            watch.interrupt()
            view.close(_INTERRUPTED_TIMEOUT_S)
            raise
    if view.trouble is not None:
        warnings.append(view.trouble)
    ends = watch.ends
    return RunSummary(
        finished=tuple(stage_id for stage_id, end in ends.items() if end.how == FINISHED),
        reused=tuple(stage_id for stage_id, end in ends.items() if end.how == REUSED),
        failed={stage_id: end.cause for stage_id, end in ends.items() if end.how == FAILED},
        skipped={stage_id: end.cause for stage_id, end in ends.items() if end.how == SKIPPED},
        wall_s=time.perf_counter() - began,
        warnings=tuple(warnings),
    )


async def _drive(driver: StageDriver, store: Store, watch: Watch, on_progress: Callable[[Progress], None]) -> None:
    async def follow(stage_id: str) -> None:
        outcome = await driver.finished(stage_id)
        watch.end(stage_id, End(_HOW[outcome.status], outcome.cause))

    async def tick() -> None:
        while True:
            for stage_id in driver.in_jobs:
                if store.paths.attempts(stage_id).exists():  # a job carries several stages, and makes one at a time
                    watch.begin(stage_id)
            on_progress(watch.progress())
            await asyncio.sleep(_TICK_S)

    try:
        await driver.start()
        ticking = asyncio.create_task(tick())
        try:
            await asyncio.gather(*(follow(stage_id) for stage_id in watch.stages))
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
    finally:
        await driver.stop()
    on_progress(watch.progress())
