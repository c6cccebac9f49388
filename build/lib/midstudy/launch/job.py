"""What runs inside a job: its stages one after the other, each publishing its own record.

submitit pickles `run_job` by name together with a store's path and a job's name, and nothing else; what to do is read from
the store. Stages that fail are written down and leave the others of the job alone. Where a job is several ranks, the first
decides, writes and reports, and the others follow it.
"""

from __future__ import annotations

import functools
import importlib
import os
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
from midstudy.launch.job_file import End, Job, JobStage, is_cancelled, job_end, read_job, write_end
from midstudy.launch.log import LAST_LINES, begin_stage, stage_log
from midstudy.launch.restarts import MOST_WITHOUT_PROGRESS, Start, begin, failed_in, num_without_progress, starts
from midstudy.launch.slurm.batch_file import read_submission
from midstudy.launch.slurm.job import requeue, this_slurm_job
from midstudy.launch.stop import Stop, stop_signals
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

    A cluster may start a job again: after preemption, the time limit or the loss of its node. It then goes on where it was.

    Raises:
        StoreError: the job's file is missing or damaged, or the store cannot be written.
    """
    store = Store.open(Path(store_root))
    job = read_job(store, name)
    if not _is_wanted(store, job):
        return
    with stop_signals(asked=lambda: is_cancelled(store, name)) as stop:
        is_first = job.placement.num_ranks == 1 or submitit.JobEnvironment().global_rank == 0
        start = begin(store, job, slurm_id=this_slurm_job()) if is_first else None
        with _ranks(store, job) as ranks:
            execute = functools.partial(_entry(job.entry), placement=job.placement, should_stop=stop)
            if ranks is not None:
                execute = functools.partial(execute, ranks=ranks)
            if start is None:
                assert ranks is not None
                _assist(store, job, execute, ranks, stop)
            else:
                _make_all(store, job, start, execute, ranks, stop)


def _is_wanted(store: Store, job: Job) -> bool:
    """Whether this process is the one that is to make the job's stages."""
    if (end := job_end(store, job.name)) is not None:
        print(f"this job has ended already ({end}); its stages are made elsewhere", flush=True)
        return False
    if (slurm_id := this_slurm_job()) is not None:
        known = read_submission(store, job.name)
        if known is not None and known.ended is not None:
            print(f"taken for ended ({known.ended.text}); its stages are made elsewhere", flush=True)
            return False
        if known is not None and known.id is not None and known.id != slurm_id:
            print(f"submitted twice: {job.name} runs as Slurm job {known.id}", flush=True)
            return False
    return True


def _make_all(store: Store, job: Job, start: Start, execute: Callable[..., None], ranks: Ranks | None, stop: Stop) -> None:
    unmade: set[str] = set()
    end: End = "done"
    for stage in job.stages:
        if stop():
            break
        wanted = store.requested(stage.id)
        begin_stage(stage.id, wanted["label"])
        if unmade.intersection(wanted["parents"]):
            print("skipped: a stage that it needs has failed", flush=True)
            unmade.add(stage.id)
        elif failed_in(store, job, stage.id):
            print("skipped: it has failed in an earlier start of this job", flush=True)
            unmade.add(stage.id)
        elif _is_taken_over(store, job, stage) or _given_up(store, job, stage, label=wanted["label"]):
            end = "cut short"
            if ranks is not None:
                ranks.from_first(None)
            break
        elif not _make(store, job, stage, execute, ranks, stop, label=wanted["label"]):
            unmade.add(stage.id)
            if ranks is not None:  # the other ranks may be in the middle of it: a new job goes on with the rest
                end = "cut short" if store.failure(stage.id) else "stopped"
                break
    if ranks is not None and end == "done":
        ranks.from_first(None)
    if starts(store, job.name)[-1:] != [start]:
        print("this job was started again elsewhere, where it goes on", flush=True)
    elif stop() and not is_cancelled(store, job.name) and start.slurm_id is not None and requeue(stop.signals):
        print("put back into the queue", flush=True)
    else:
        write_end(store, job.name, "stopped" if stop() else end)


def _is_taken_over(store: Store, job: Job, stage: JobStage) -> bool:
    """Whether another job has this stage now, because this one's driver had given no sign of life for long."""
    if is_taken_over(store, stage.id, job.name):
        print("left: another job has taken it over", flush=True)
        return True
    return False


def _given_up(store: Store, job: Job, stage: JobStage, *, label: str) -> bool:
    """Whether job was started again and again and never got further with this stage; its failure is then written down."""
    found = starts(store, job.name)
    if store.has(stage.id) or num_without_progress(found) < MOST_WITHOUT_PROGRESS:
        return False
    nodes = ", ".join(dict.fromkeys(one.node or one.host for one in found[-MOST_WITHOUT_PROGRESS:]))
    cause = f"its job was started {MOST_WITHOUT_PROGRESS} times (on {nodes}) and never got further"
    write_failure(store, job, stage.id, label=label, cause=cause)
    return True


def _assist(store: Store, job: Job, execute: Callable[..., None], ranks: Ranks, stop: Stop) -> None:
    """What every rank but the first does: take part in the stages that the first one names, until it names none."""
    stages = {stage.id: stage for stage in job.stages}
    while (identity := ranks.from_first(None)) is not None:
        begin_stage(identity, store.requested(identity)["label"])
        stage = stages[identity]
        try:
            execute(store, identity, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer)
        except Exception as error:
            if not stop() and not _is_rank_lost(error) and store.failure(identity) is None:
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

    from midstudy.train.environment import visible_gpus
    from midstudy.train.ranks import joined

    environment = submitit.JobEnvironment()
    if placement.device == "cuda":  # some clusters make only its own GPU visible to each task
        torch.cuda.set_device(environment.local_rank % len(visible_gpus()))
    number = int(os.environ.get("SLURM_RESTART_COUNT", 0))  # a file of an earlier start would name ranks that are gone
    meeting_point = store.paths.job_meeting(job.name, number).as_uri()
    rank, size = environment.global_rank, environment.num_tasks
    with joined(rank=rank, size=size, device=placement.device, meeting_point=meeting_point) as ranks:
        yield ranks


def _make(
    store: Store,
    job: Job,
    stage: JobStage,
    execute: Callable[..., None],
    ranks: Ranks | None,
    stop: Stop,
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
        if stop() or isinstance(error, StoppedError):  # of several ranks, another one may have been told first
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
    backend = ["--backend", job.backend] if job.backend == "slurm" else []
    store.report_failure(
        stage_id,
        {
            "stage": stage_id,
            "label": label,
            "job": job.name,
            "where": found[-1].place if (found := starts(store, job.name)) else None,
            "time": time.time(),
            "cause": cause,
            "traceback": trace,
            "log": stage_log(store, stage_id, job.name)[-LAST_LINES:],
            "retry": shlex.join(["midstudy", "retry", *backend, "--store", str(store.root), job.study, stage_id]),
        },
    )


def _entry(name: str) -> ExecuteStage:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
