"""The code that runs inside a job: execute its stages one after the other, each publishing its own record.

submitit pickles only `run_job` by name, a store's path and a job's name; the job's stages are read from the store. A failed
stage is recorded, and the job continues with its other stages. In a job with several ranks, the first rank decides, writes
and reports; the others follow it.
"""

from __future__ import annotations

import functools
import os
import pkgutil
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:  # imports torch, which a job with one rank does not need here
    from midstudy.train.ranks import Ranks


def run_job(store_root: str, name: str) -> None:
    """Execute the stages of the job called `name` in the store at `store_root`. Every rank of a job calls this.

    A cluster may restart a job after preemption, its time limit or the loss of its node. The job then resumes where it was.

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
            execute = functools.partial(pkgutil.resolve_name(job.entry), placement=job.placement, should_stop=stop)
            if ranks is not None:
                execute = functools.partial(execute, ranks=ranks)
            if start is None:
                assert ranks is not None
                _assist(store, job, execute, ranks, stop)
            else:
                _run_stages(store, job, start, execute, ranks, stop)


def _is_wanted(store: Store, job: Job) -> bool:
    """Return whether this process should run the job's stages."""
    if (end := job_end(store, job.name)) is not None:
        print(f"this job has already ended ({end}); its stages run in other jobs", flush=True)
        return False
    if (slurm_id := this_slurm_job()) is not None:
        known = read_submission(store, job.name)
        if known is not None and known.ended is not None:
            print(f"this job was declared ended ({known.ended.text}); its stages run in other jobs", flush=True)
            return False
        if known is not None and known.id is not None and known.id != slurm_id:
            print(f"submitted twice: {job.name} already runs as Slurm job {known.id}", flush=True)
            return False
    return True


def _run_stages(store: Store, job: Job, start: Start, execute: Callable[..., None], ranks: Ranks | None, stop: Stop) -> None:
    """Run the job's stages in order, then requeue the job or write how it ended."""
    unmade: set[str] = set()
    end: End = "done"
    for stage in job.stages:
        if stop():
            break
        wanted = store.requested(stage.id)
        begin_stage(stage.id, wanted["label"])
        unmade_parents = unmade.intersection(wanted["parents"])
        if unmade_parents and (wanted["kind"] != "decision" or unmade_parents == {*wanted["parents"]}):
            print("skipped: a stage it depends on has failed", flush=True)
            unmade.add(stage.id)
        elif failed_in(store, job, stage.id):
            print("skipped: it failed in an earlier start of this job", flush=True)
            unmade.add(stage.id)
        elif _is_taken_over(store, job, stage) or _given_up(store, job, stage, label=wanted["label"]):
            end = "cut short"
            if ranks is not None:
                ranks.from_first(None)
            break
        elif not _run_stage(store, job, stage, execute, ranks, stop, label=wanted["label"]):
            unmade.add(stage.id)
            if ranks is not None:  # the other ranks may still be running it, so a new job runs the rest
                end = "cut short" if store.failure(stage.id) else "stopped"
                break
    if ranks is not None and end == "done":
        ranks.from_first(None)
    if starts(store, job.name)[-1:] != [start]:
        print("this job was restarted elsewhere and continues there", flush=True)
    elif stop() and not is_cancelled(store, job.name) and start.slurm_id is not None and requeue(stop.signals):
        print("requeued", flush=True)
    else:
        write_end(store, job.name, "stopped" if stop() else end)


def _is_taken_over(store: Store, job: Job, stage: JobStage) -> bool:
    """Return whether another job has taken this stage over, because this job's driver was unresponsive."""
    if is_taken_over(store, stage.id, job.name):
        print("ended: another job has taken this stage over", flush=True)
        return True
    return False


def _given_up(store: Store, job: Job, stage: JobStage, *, label: str) -> bool:
    """Return whether the job was restarted repeatedly without progress in this stage; if so, record the stage's failure."""
    job_starts = starts(store, job.name)
    if store.has(stage.id) or num_without_progress(job_starts) < MOST_WITHOUT_PROGRESS:
        return False
    nodes = ", ".join(dict.fromkeys(start.node or start.host for start in job_starts[-MOST_WITHOUT_PROGRESS:]))
    cause = f"its job was started {MOST_WITHOUT_PROGRESS} times (on {nodes}) without progress"
    write_failure(store, job, stage.id, label=label, cause=cause)
    return True


def _assist(store: Store, job: Job, execute: Callable[..., None], ranks: Ranks, stop: Stop) -> None:
    """Run on every rank but the first: take part in the stages that the first rank announces, until it announces None."""
    stages = {stage.id: stage for stage in job.stages}
    while (stage_id := ranks.from_first(None)) is not None:
        begin_stage(stage_id, store.requested(stage_id)["label"])
        stage = stages[stage_id]
        try:
            execute(store, stage_id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer)
        except Exception as error:
            if not stop() and not _is_rank_lost(error) and store.failure(stage_id) is None:
                label = f"{store.requested(stage_id)['label']}, rank {ranks.rank}"
                cause = f"{type(error).__name__}: {error}"
                write_failure(store, job, stage_id, label=label, cause=cause, trace=traceback.format_exc())
            raise


@contextmanager
def _ranks(store: Store, job: Job) -> Iterator[Ranks | None]:
    """Yield this process's view of the job's ranks; None if it is the only one."""
    placement = job.placement
    if placement.num_ranks == 1:
        yield None
        return
    import torch

    from midstudy.train.environment import visible_gpus
    from midstudy.train.ranks import joined

    environment = submitit.JobEnvironment()
    if placement.device == "cuda":  # on some clusters, a task sees only its own GPU
        torch.cuda.set_device(environment.local_rank % len(visible_gpus()))
    number = int(os.environ.get("SLURM_RESTART_COUNT", 0))  # the file of an earlier start names dead ranks
    meeting_point = store.paths.job_meeting(job.name, number).as_uri()
    rank, size = environment.global_rank, environment.num_tasks
    with joined(rank=rank, size=size, device=placement.device, meeting_point=meeting_point) as ranks:
        yield ranks


def _run_stage(
    store: Store,
    job: Job,
    stage: JobStage,
    execute: Callable[..., None],
    ranks: Ranks | None,
    stop: Stop,
    *,
    label: str,
) -> bool:
    """Run a stage, record its failure if it fails, and return whether it is finished."""
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
            raise RuntimeError(f"{job.entry} returned without publishing a record")
    except Exception as error:
        text = traceback.format_exc()
        print(text, end="", flush=True)
        if store.has(stage.id):  # another attempt has published it and removed this one's folder
            return True
        if stop() or isinstance(error, StoppedError):  # another rank may have been asked first
            print(f"stopped after {time.perf_counter() - began:.1f} s", flush=True)
            return False
        if ranks is not None and _is_rank_lost(error):
            print("another rank of this job has exited; see its log for the cause", flush=True)
            return False
        write_failure(store, job, stage.id, label=label, cause=f"{type(error).__name__}: {error}", trace=text)
        return False
    print(f"finished in {time.perf_counter() - began:.1f} s", flush=True)
    return True


def _is_rank_lost(error: Exception) -> bool:
    from midstudy.train.ranks import RankLostError  # imports torch, which a job with several ranks already has

    return isinstance(error, RankLostError)


def write_failure(store: Store, job: Job, stage_id: str, *, label: str, cause: str, trace: str = "") -> None:
    """Record why a stage failed, with its traceback, the end of its log and the command that retries it.

    Raises:
        StoreError: the store cannot be written.
    """
    sys.stdout.flush()
    backend = ["--backend", job.backend] if job.backend == "slurm" else []
    store.report_failure(
        stage_id,
        {
            "stage": stage_id,
            "label": label,
            "job": job.name,
            "where": job_starts[-1].place if (job_starts := starts(store, job.name)) else None,
            "time": time.time(),
            "cause": cause,
            "traceback": trace,
            "log": stage_log(store, stage_id, job.name)[-LAST_LINES:],
            "retry": shlex.join(["midstudy", "retry", *backend, "--store", str(store.root), job.study, stage_id]),
        },
    )
