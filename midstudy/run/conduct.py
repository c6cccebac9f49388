"""Conducts a run: the driver makes the stages, a view shows them, MLflow is kept up to date.

Driver, view and MLflow's sync live in the main thread, a thread and a process. A run ends when the driver raises or a person
ends it; what goes wrong with a view becomes a warning.

Ctrl-C and the view's cancel button cancel: the jobs are ended. SIGTERM and SIGHUP, which a closed laptop, a logout or a
restarted service send, detach: the jobs go on, and the next run follows them. A Prefect worker passes its cancel button on
as SIGTERM, too, so the view is asked which of the two was meant.
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
    """How a run came out. `finished` and `reused` are stage ids; `failed` and `skipped` map ids to causes.

    `warnings` are what went wrong with a view: Prefect or MLflow is not complete, the results are.
    """

    finished: tuple[str, ...]
    reused: tuple[str, ...]
    failed: Mapping[str, str]
    skipped: Mapping[str, str]
    wall_s: float
    warnings: tuple[str, ...]


class DetachedError(Exception):
    """The driver was told to leave by SIGTERM or SIGHUP: its jobs go on. `signal` is the number."""

    def __init__(self, number: int, num_jobs: int) -> None:
        super().__init__(
            f"told to leave ({signal.Signals(number).name}): {num_jobs} jobs go on by themselves. The same command follows "
            "them again; `midstudy status` shows them and `midstudy cancel` ends them."
        )
        self.signal = number


class StageDriver(Protocol):
    """What a run needs of `midstudy.launch.driver.Driver`."""

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
    when_done: Callable[[], None] = lambda: None,
    tracking_uri: str | None = None,
    view_of: ViewOf,
) -> RunSummary:
    """Make every stage of a study that is missing; returns when the last has ended and the views are up to date.

    The study's manifest and the missing stages' recipes are in the store already. A stage that fails skips its
    descendants and leaves the rest alone.

    Args:
        stages: all stages of the study's manifest, finished ones included.
        backend: "local", "slurm" or "debug".
        max_jobs: jobs at a time.
        placements: what jobs ask of Slurm and how they compute.
        placement: how each job computes; by default on one thread of the processor.
        gpus: what CUDA_VISIBLE_DEVICES may name, shared out among the jobs.
        on_progress: called in this thread about twice a second.
        on_notice: called in this thread with a line for people: a stage is run again, a job could not be submitted.
        when_done: called in this thread when every stage has ended, while the views are brought up to date.
        tracking_uri: MLflow's address; by default MLFLOW_TRACKING_URI, else its SQLite file in the store.
        view_of: makes the view that shows the run, such as `midstudy.flows.view.PrefectView`.

    Raises:
        StoreError: the store cannot be written, or a record in it is damaged.
        KeyboardInterrupt: after Ctrl-C, `midstudy cancel` or the view's cancel button, when the jobs are gone.
        DetachedError: after SIGTERM or SIGHUP; the jobs go on.
    """
    launcher = launcher_of(
        backend, store, placement=placement, gpus=gpus, placements=placements, stages=stages, on_notice=on_notice
    )
    budget: dict[str, Any] = {} if placements is None else {"job_budget_s": placements.jobs.budget_s}
    outlook = forecast(stages, published=store.published(stages), num_jobs=max_jobs, pack_key=launcher.pack_key, **budget)
    told = Notices(store, stages, on_notice)
    driver = Driver(
        store, stages, launcher, study=study_name, max_jobs=max_jobs, on_change=told, on_notice=on_notice, **budget
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
    when_done: Callable[[], None] = lambda: None,
    view_of: ViewOf,
    outlook: Forecast | None = None,
) -> RunSummary:
    """`run_study` with an existing driver and a forecast of the run."""
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
    """Follow every stage to its end.

    Raises:
        KeyboardInterrupt, DetachedError: somebody wanted it ended before.
    """

    async def follow(stage_id: str) -> None:
        outcome = await driver.finished(stage_id)
        took_s = _took_s(store, stage_id) if outcome.status == "published" else None
        watch.end(stage_id, End(_HOW[outcome.status], outcome.cause, took_s))

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
        following = asyncio.gather(*(follow(stage_id) for stage_id in watch.stages))
        button = asyncio.create_task(view.cancelled())
        try:
            with _told_to_leave() as told:
                ends: list[asyncio.Future[Any]] = [following, told, button]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    if button.done() or await asyncio.to_thread(view.is_cancelling, _ASK_TIMEOUT_S):
                        raise KeyboardInterrupt
                    raise DetachedError(told.result(), await driver.detach())
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
    """Seconds a stage took. None if its record cannot be read, which the stages that need it report."""
    try:
        return store.record(stage_id).timing["wall_s"]
    except StoreError:
        return None


@contextlib.contextmanager
def _told_to_leave() -> Iterator[asyncio.Future[int]]:
    """Within: a future that has the signal's number once SIGTERM or SIGHUP has come; not where they are ignored (nohup)."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()
    numbers = []
    if threading.current_thread() is threading.main_thread():
        numbers = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]

    def note(number: int) -> None:
        if not told.done():
            told.set_result(number)

    former = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, note, number)
    try:
        yield told
    finally:
        for number, handler in former.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
