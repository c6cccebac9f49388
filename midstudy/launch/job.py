"""What runs inside a job: its stages one after the other, each publishing its own record.

submitit pickles `run_job` by name together with a store's path and a job's name, and nothing else; what to do is read from
the store. Stages that fail are written down and leave the others of the job alone.
"""

from __future__ import annotations

import importlib
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from midstudy.launch.job_file import Job, JobStage, is_cancelled, read_job, write_end
from midstudy.launch.log import LAST_LINES, begin_stage, stage_log
from midstudy.launch.stop import stop_signals
from midstudy.store.store import Store


class ExecuteStage(Protocol):
    """Makes one stage and publishes its record.

    It returns once the record is there, and raises what stopped it otherwise. `should_stop` is polled between steps;
    whatever is raised after it said so is taken as the stage's way of stopping.
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
    ) -> None: ...


def run_job(store_root: str, name: str) -> None:
    """Make the stages of the job called `name` in the store at `store_root`.

    Raises:
        StoreError: the job's file is missing or damaged, or the store cannot be written.
    """
    store = Store.open(Path(store_root))
    job = read_job(store, name)
    with stop_signals() as told_to_stop:

        def should_stop() -> bool:
            return told_to_stop() or is_cancelled(store, name)

        execute = _entry(job.entry)
        unmade: set[str] = set()
        for stage in job.stages:
            if should_stop():
                break
            wanted = store.requested(stage.id)
            begin_stage(stage.id, wanted["label"])
            if unmade.intersection(wanted["parents"]):
                print("skipped: a stage that it needs has failed", flush=True)
                unmade.add(stage.id)
            elif not _make(store, job, stage, execute, told_to_stop, label=wanted["label"]):
                unmade.add(stage.id)
        write_end(store, name, "stopped" if should_stop() else "done")


def _make(
    store: Store, job: Job, stage: JobStage, execute: ExecuteStage, told_to_stop: Callable[[], bool], *, label: str
) -> bool:
    """Whether the stage is finished now; if it failed, its failure is written down."""
    if store.has(stage.id):
        print("reused", flush=True)
        return True
    store.clear_failure(stage.id)
    began = time.perf_counter()
    try:
        execute(
            store,
            stage.id,
            start_from=stage.start_from,
            keeps_optimizer=stage.keeps_optimizer,
            should_stop=told_to_stop,
        )
        if not store.has(stage.id):
            raise RuntimeError(f"{job.entry} returned and left no record")
    except Exception as error:
        text = traceback.format_exc()
        print(text, end="", flush=True)
        if store.has(stage.id):  # another attempt published it meanwhile and took this one's folder away
            return True
        if told_to_stop():
            print(f"stopped after {time.perf_counter() - began:.1f} s", flush=True)
            return False
        write_failure(store, job, stage.id, label=label, cause=f"{type(error).__name__}: {error}", trace=text)
        return False
    print(f"finished in {time.perf_counter() - began:.1f} s", flush=True)
    return True


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
