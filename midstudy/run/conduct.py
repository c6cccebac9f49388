"""Conduct a run: the driver makes the stages, a view shows them, MLflow is kept up to date.

The driver runs in the main thread, the view in a thread, the MLflow sync in a process. A run ends early if the driver raises
or the user ends it; problems of the view or of MLflow become warnings.

Ctrl-C and the view's cancel button cancel: the jobs are stopped. SIGTERM and SIGHUP, sent by a closed laptop, a logout or a
restarted service, detach: the jobs keep running and the next run follows them. A Prefect worker also turns its cancel button
into SIGTERM, so after a signal the view is asked whether the run is being cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from midstudy.files.errors import StoreError
from midstudy.launch.backends import launcher_of
from midstudy.launch.driver import Driver, Outcome, StudyCancelledError
from midstudy.launch.forecast import Forecast, forecast
from midstudy.launch.slurm.placement_file import PlacementFile
from midstudy.plan.left_out import Notices
from midstudy.recipe.stage import Stage
from midstudy.run.view import View, ViewOf
from midstudy.run.watch import DETACHED, FAILED, FINISHED, REUSED, SKIPPED, End, Progress, Watch
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.track.client import TrackingError, tracking_uri_of
from midstudy.track.follow import Follower
from midstudy.train.placement import Placement

_TICK_S = 0.5
_CLOSE_TIMEOUT_S = 60.0
_INTERRUPTED_TIMEOUT_S = 15.0
_ASK_TIMEOUT_S = 5.0
_HOW = {"published": FINISHED, "reused": REUSED, "failed": FAILED, "skipped": SKIPPED}


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The outcome of a run. `finished` and `reused` are stage ids; `failed` and `skipped` map ids to causes.

    `warnings` list problems with Prefect or MLflow: they may be incomplete, the results are not affected.
    """

    finished: tuple[str, ...]
    reused: tuple[str, ...]
    failed: Mapping[str, str]
    skipped: Mapping[str, str]
    wall_s: float
    warnings: tuple[str, ...]


class DetachedError(Exception):
    """SIGTERM or SIGHUP detached the driver: its jobs keep running. `signal` is the signal's number."""

    def __init__(self, number: int, num_jobs: int) -> None:
        super().__init__(
            f"detached ({signal.Signals(number).name}): {num_jobs} jobs keep running. The same command follows them again; "
            "`midstudy status` shows them and `midstudy cancel` cancels them."
        )
        self.signal = number


class StageDriver(Protocol):
    """The part of `midstudy.launch.driver.Driver` that a run uses."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def detach(self) -> int: ...
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
    placements: PlacementFile | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_notice: Callable[[str], None] = lambda line: None,
    when_done: Callable[[], object] = lambda: None,
    tracking_uri: str | None = None,
    view_of: ViewOf,
) -> RunSummary:
    """Make every missing stage of a study; return when the last one has ended and the views are up to date.

    The store must already hold the study's manifest and the recipes of the missing stages. If a stage fails, its descendants
    are skipped and all other stages run.

    Args:
        stages: all stages of the study's manifest by id, finished ones included.
        backend: "local", "slurm" or "debug".
        max_jobs: jobs at a time.
        placement: how each job computes; by default on one CPU thread.
        gpus: values for CUDA_VISIBLE_DEVICES, distributed among the jobs.
        placements: the resources jobs request from Slurm and how they compute.
        on_progress: called in this thread about twice a second.
        on_notice: called in this thread with a line for the user: a stage is retried, a job could not be submitted.
        when_done: called in this thread when every stage has ended, while MLflow and the view are still being updated.
        tracking_uri: MLflow's address; by default MLFLOW_TRACKING_URI, else a SQLite file in the store.
        view_of: factory of the view that shows the run, such as `midstudy.flows.view.PrefectView`.

    Raises:
        StoreError: the store cannot be written, or a record in it is damaged.
        KeyboardInterrupt: after Ctrl-C, `midstudy cancel` or the view's cancel button, once the jobs have stopped.
        DetachedError: after SIGTERM or SIGHUP; the jobs keep running.
    """
    launcher = launcher_of(
        backend, store, placement=placement, gpus=gpus, placements=placements, stages=stages, on_notice=on_notice
    )
    budget: dict[str, Any] = {} if placements is None else {"job_budget_s": placements.jobs.budget_s}
    outlook = forecast(stages, published=store.published(stages), num_jobs=max_jobs, pack_key=launcher.pack_key, **budget)
    notices = Notices(store, stages, on_notice)
    driver = Driver(
        store, stages, launcher, study=study_name, max_jobs=max_jobs, on_change=notices, on_notice=on_notice, **budget
    )
    return conduct(
        driver,
        store,
        study_name,
        backend=backend,
        max_jobs=max_jobs,
        on_progress=on_progress,
        tracking_uri=tracking_uri_of(store, tracking_uri),
        when_done=when_done,
        view_of=view_of,
        outlook=outlook,
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
    when_done: Callable[[], object] = lambda: None,
    view_of: ViewOf,
    outlook: Forecast | None = None,
) -> RunSummary:
    """Do what `run_study` does, with a given driver and a forecast of the run."""
    began = time.perf_counter()
    manifest = load(store, study_name)
    watch = Watch(manifest.stages, max_jobs=max_jobs, outlook=outlook)
    view = view_of(store, manifest, watch, backend=backend, max_jobs=max_jobs, tracking_uri=tracking_uri)
    warnings = []
    with Follower(store, study_name, tracking_uri=tracking_uri) as follower:
        view.start()
        try:
            asyncio.run(_drive(driver, store, watch, view, on_progress))
            follower.sync_soon()
            when_done()
            try:
                follower.finish()
            except TrackingError as error:
                warnings.append(str(error))
            view.close(_CLOSE_TIMEOUT_S)
        except DetachedError:
            watch.interrupt(DETACHED)
            view.close(_INTERRUPTED_TIMEOUT_S)
            raise
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


async def _drive(
    driver: StageDriver, store: Store, watch: Watch, view: View, on_progress: Callable[[Progress], None]
) -> None:
    """Run the driver and record in `watch` when each stage begins and ends.

    Raises:
        KeyboardInterrupt: the run was cancelled before every stage had ended.
        DetachedError: a signal detached the run before every stage had ended.
    """

    async def follow(stage_id: str) -> None:
        outcome = await driver.finished(stage_id)
        took_s = _took_s(store, stage_id) if outcome.status == "published" else None
        watch.end(stage_id, End(_HOW[outcome.status], outcome.cause, took_s))

    async def tick() -> None:
        while True:
            for stage_id in driver.in_jobs:
                if store.paths.attempts(stage_id).exists():  # a job holds several stages and runs one at a time
                    watch.begin(stage_id)
            on_progress(watch.progress())
            await asyncio.sleep(_TICK_S)

    try:
        await driver.start()
        ticking = asyncio.create_task(tick())
        following = asyncio.gather(*(follow(stage_id) for stage_id in watch.stages))
        button = asyncio.create_task(view.cancelled())
        try:
            with _detach_signal() as signalled:
                ends: list[asyncio.Future[Any]] = [following, signalled, button]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    if button.done() or await asyncio.to_thread(view.is_cancelling, _ASK_TIMEOUT_S):
                        raise KeyboardInterrupt
                    raise DetachedError(signalled.result(), await driver.detach())
            following.result()
        except StudyCancelledError as error:
            raise KeyboardInterrupt from error
        finally:
            for task in (ticking, following, button):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
    finally:
        await driver.stop()
    on_progress(watch.progress())


def _took_s(store: Store, stage_id: str) -> float | None:
    """Return the seconds a stage took; None if its record cannot be read, which dependent stages will report."""
    try:
        return store.record(stage_id).timing["wall_s"]
    except StoreError:
        return None


@contextlib.contextmanager
def _detach_signal() -> Iterator[asyncio.Future[int]]:
    """Yield a future that receives the signal's number on SIGTERM or SIGHUP; signals ignored before (nohup) stay ignored."""
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[int] = loop.create_future()
    numbers = []
    if threading.current_thread() is threading.main_thread():
        numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]

    def note(number: int) -> None:
        if not signalled.done():
            signalled.set_result(number)

    previous = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, note, number)
    try:
        yield signalled
    finally:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
