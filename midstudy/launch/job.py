"""What runs inside a job: its stages one after the other, each publishing its own record.

submitit pickles `run_job` by name together with a store's path and a job's name, and nothing else; what to do is read from
the store. Stages that fail are written down and leave the others of the job alone. Where a job is several ranks, the first
decides, writes and reports, and the others follow it.
"""

from __future__ import annotations

import functools
import importlib
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import submitit

from midstudy.execute.stopped import StoppedError
from midstudy.launch.claim import is_taken_over
from midstudy.launch.job_file import End, Job, JobStage, is_cancelled, read_job, write_end
from midstudy.launch.log import LAST_LINES, begin_stage, stage_log
from midstudy.launch.stop import stop_signals
from midstudy.store.store import Store
from midstudy.train.placement import Placement

if TYPE_CHECKING:  # brings torch, which a job of one rank does not need here
    from midstudy.train.ranks import Ranks


class ExecuteStage(Protocol):
    """Makes one stage and publishes its record.

    It returns once the record is there, and raises what stopped it otherwise. `should_stop` is polled between steps;
    whatever is raised after it said so is taken as the stage's way of stopping. Of a job with several ranks each calls it
    with its `ranks`; alone it goes without.
    """

    def __call__(
        self,
        store: Store,
        stage_id: str,
        /,
        *,
        start_from: str | None,
        keeps_optimizer: bool,
        should_stop: Callable[[], bool],
        placement: Placement,
        **ranks: Ranks,
    ) -> None: ...


def run_job(store_root: str, name: str) -> None:
    """Make the stages of the job called `name` in the store at `store_root`. Every rank of a job calls this.

    Raises:
        StoreError: the job's file is missing or damaged, or the store cannot be written.
    """
    store = Store.open(Path(store_root))
    job = read_job(store, name)
    with stop_signals() as told_to_stop, _ranks(store, job) as ranks:
        execute = functools.partial(_entry(job.entry), placement=job.placement, should_stop=told_to_stop)
        if ranks is None:
            _make_all(store, job, execute, None, told_to_stop)
        elif ranks.is_first:
            _make_all(store, job, functools.partial(execute, ranks=ranks), ranks, told_to_stop)
        else:
            _assist(store, job, functools.partial(execute, ranks=ranks), ranks, told_to_stop)


def _make_all(
    store: Store, job: Job, execute: Callable[..., None], ranks: Ranks | None, told_to_stop: Callable[[], bool]
) -> None:
    def should_stop() -> bool:
        return told_to_stop() or is_cancelled(store, job.name)

    unmade: set[str] = set()
    end: End = "done"
    for stage in job.stages:
        if should_stop():
            break
        wanted = store.requested(stage.id)
        begin_stage(stage.id, wanted["label"])
        if unmade.intersection(wanted["parents"]):
            print("skipped: a stage that it needs has failed", flush=True)
            unmade.add(stage.id)
        elif is_taken_over(store, stage.id, job.name):  # its driver had given no sign of life for long
            print("left out: another job has taken it over", flush=True)
            unmade.add(stage.id)
            end = "cut short"
        elif not _make(store, job, stage, execute, ranks, told_to_stop, label=wanted["label"]):
            unmade.add(stage.id)
            if ranks is not None:  # the other ranks may be in the middle of it: a new job goes on with the rest
                end = "cut short" if store.failure(stage.id) else "stopped"
                break
    if ranks is not None and end == "done":
        ranks.from_first(None)
    write_end(store, job.name, "stopped" if should_stop() else end)


def _assist(store: Store, job: Job, execute: Callable[..., None], ranks: Ranks, told_to_stop: Callable[[], bool]) -> None:
    """What every rank but the first does: take part in the stages that the first one names, until it names none."""
    stages = {stage.id: stage for stage in job.stages}
    while (identity := ranks.from_first(None)) is not None:
        begin_stage(identity, store.requested(identity)["label"])
        stage = stages[identity]
        try:
            execute(store, identity, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer)
        except Exception as error:
            if not told_to_stop() and not _is_rank_lost(error) and store.failure(identity) is None:
                label = f"{store.requested(identity)['label']}, rank {ranks.rank}"
                cause = f"{type(error).__name__}: {error}"
                write_failure(store, job, identity, label=label, cause=cause, trace=traceback.format_exc())
            raise


@contextmanager
def _ranks(store: Store, job: Job) -> Iterator[Ranks | None]:
    """This process among the job's ranks; none where it is alone."""
    placement = job.placement
    if placement.num_ranks == 1:
        yield None
        return
    import torch

    from midstudy.train.ranks import joined

    environment = submitit.JobEnvironment()
    if placement.device == "cuda":
        torch.cuda.set_device(environment.local_rank)
    meeting_point = store.paths.job_meeting(job.name).as_uri()
    rank, size = environment.global_rank, environment.num_tasks
    with joined(rank=rank, size=size, device=placement.device, meeting_point=meeting_point) as ranks:
        yield ranks


def _make(
    store: Store,
    job: Job,
    stage: JobStage,
    execute: Callable[..., None],
    ranks: Ranks | None,
    told_to_stop: Callable[[], bool],
    *,
    label: str,
) -> bool:
    """Whether the stage is finished now; if it failed, its failure is written down."""
    if store.has(stage.id):
        print("reused", flush=True)
        return True
    store.clear_failure(stage.id)
    began = time.perf_counter()
    try:
        if ranks is not None:
            ranks.from_first(stage.id)
        execute(store, stage.id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer)
        if not store.has(stage.id):
            raise RuntimeError(f"{job.entry} returned and left no record")
    except Exception as error:
        text = traceback.format_exc()
        print(text, end="", flush=True)
        if store.has(stage.id):  # another attempt published it meanwhile and took this one's folder away
            return True
        if told_to_stop() or isinstance(error, StoppedError):  # of several ranks, another one may have been told first
            print(f"stopped after {time.perf_counter() - began:.1f} s", flush=True)
            return False
        if ranks is not None and _is_rank_lost(error):
            print("another rank of this job has ended; its own log says why", flush=True)
            return False
        write_failure(store, job, stage.id, label=label, cause=f"{type(error).__name__}: {error}", trace=text)
        return False
    print(f"finished in {time.perf_counter() - began:.1f} s", flush=True)
    return True


def _is_rank_lost(error: Exception) -> bool:
    from midstudy.train.ranks import RankLostError  # brings torch, which a job of several ranks has already

    return isinstance(error, RankLostError)


def write_failure(store: Store, job: Job, stage_id: str, *, label: str, cause: str, trace: str = "") -> None:
    """Write down why a stage failed, with what helps to understand it and the command that runs it again."""
    sys.stdout.flush()
    store.report_failure(
        stage_id,
        {
            "stage": stage_id,
            "label": label,
            "job": job.name,
            "time": time.time(),
            "cause": cause,
            "traceback": trace,
            "log": stage_log(store, stage_id, job.name)[-LAST_LINES:],
            "retry": shlex.join(["midstudy", "retry", "--store", str(store.root), job.study, stage_id]),
        },
    )


def _entry(name: str) -> ExecuteStage:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
