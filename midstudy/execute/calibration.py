"""Measure how fast this machine trains a shape in a precision: a few real steps, if no finished stage provides a rate.

The steps run in subprocesses under job conditions: a job's threads and allocator, and as many concurrent processes as there
will be jobs, because they compete for caches and memory bandwidth. Results are cached on this machine by processor, shape,
precision and code. The calling process does not import PyTorch.

    python -m midstudy.execute.calibration < WORKLOADS.json

is one of these subprocesses: it prints the results as JSON, in the order of the workloads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import midstudy
from midstudy.data.cache import cache_dir
from midstudy.environment import existing_folder, of_job
from midstudy.files.atomic import write_json
from midstudy.files.errors import StoreError
from midstudy.files.reading import read_as
from midstudy.plan.cost import Calibrated, Workload
from midstudy.recipe import versions
from midstudy.recipe.canonical import expanded
from midstudy.recipe.decode import decode
from midstudy.store.processor import this_processor
from midstudy.train.environment import ALLOCATOR, configure_threads

MOST_WORKLOADS = 4
"""Workloads calibrated per plan, smallest shapes first; larger shapes get the rate of the largest one calibrated."""

STEP_FLOPS = 1.5e10
"""Upper bound on the FLOPs of a calibrated step, except for the largest shapes: a quarter of a second on one core."""

_LEAST_TOKENS = 128
_MEASURED_S = 0.4
_MOST_PROCESSES = 8
_TIMEOUT_S = 120.0
_VERSION = 1
"""Increment when the measuring method changes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A job's share of the machine: its threads, and the number of concurrent jobs."""

    num_threads: int
    num_jobs: int


def calibrated(workloads: Iterable[Workload], machine: Machine) -> dict[tuple[str, str], Calibrated]:
    """Return cached calibrations of these workloads; the first workload of a shape and precision takes precedence."""
    rates: dict[tuple[str, str], Calibrated] = {}
    for workload in workloads:
        try:
            rate = read_as(_file(workload, machine), Calibrated, remedy="")
        except (OSError, ValueError):
            continue
        rates.setdefault((workload.model.name, workload.precision), rate)
    return rates


def calibrate(workloads: Sequence[Workload], machine: Machine) -> dict[tuple[str, str], Calibrated]:
    """Train a few steps of each workload now and cache the results; about a second each, plus start-up.

    At most `MOST_WORKLOADS` are measured, smallest first; larger ones get the rate of the largest measured in the same
    precision. If a process fails or hangs, warn and return nothing.
    """
    chosen = sorted(workloads, key=lambda workload: workload.model.num_parameters)[:MOST_WORKLOADS]
    try:
        measured = _in_processes(chosen, machine)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        warnings.warn(f"the speed of this machine could not be measured: {error}", stacklevel=2)
        return {}
    rates: dict[tuple[str, str], Calibrated] = {}
    for workload, rate in zip(chosen, measured, strict=True):
        rates[workload.model.name, workload.precision] = rate
        _cache(workload, machine, rate)
    for workload in workloads:
        same = [rate for other, rate in zip(chosen, measured, strict=True) if other.precision == workload.precision]
        if same:
            rates.setdefault((workload.model.name, workload.precision), same[-1])
    return rates


def _in_processes(workloads: Sequence[Workload], machine: Machine) -> list[Calibrated]:
    """Return medians over as many concurrent processes as there will be jobs.

    Raises:
        ValueError: a process fails.
        OSError, subprocess.SubprocessError: a process cannot start or exceeds two minutes.
    """
    environment = of_job(Path(tempfile.gettempdir()), num_threads=machine.num_threads, **ALLOCATOR)
    request = json.dumps(
        {
            "num_threads": machine.num_threads,
            "workloads": [request_of(workload) for workload in workloads],
        }
    )
    processes: list[subprocess.Popen[str]] = []
    answers: list[list[Calibrated]] = []
    deadline_s = time.monotonic() + _TIMEOUT_S
    try:
        for _ in range(min(machine.num_jobs, _MOST_PROCESSES)):
            process = subprocess.Popen(
                [sys.executable, "-m", "midstudy.execute.calibration"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                env=environment,
                cwd=existing_folder(),
            )
            processes.append(process)
            assert process.stdin is not None
            process.stdin.write(request)
            process.stdin.close()
            process.stdin = None  # otherwise `communicate` below would flush the closed pipe
        for process in processes:
            output, errors = process.communicate(timeout=max(1.0, deadline_s - time.monotonic()))
            if process.returncode:
                raise ValueError((errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1])
            answers.append([Calibrated(**rate) for rate in json.loads(output)])
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return [
        Calibrated(median(rate.flops_per_s for rate in rates), median(rate.forward_share for rate in rates))
        for rates in zip(*answers, strict=True)
    ]


# -- cache ------------------------------------------------------------------------------------------------------------


def _facts(workload: Workload, machine: Machine) -> dict[str, Any]:
    """Return everything that the speed depends on."""
    return {
        "calibration": _VERSION,
        "processor": dataclasses.asdict(this_processor()),
        "machine": dataclasses.asdict(machine),
        "torch": metadata.version("torch"),
        "versions": {"midstudy": midstudy.__version__, "model": versions.MODEL, "training": versions.TRAINING},
        "workload": dataclasses.asdict(workload),
    }


def _file(workload: Workload, machine: Machine) -> Path:
    text = json.dumps(_facts(workload, machine), sort_keys=True)
    return cache_dir() / "rates" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def _cache(workload: Workload, machine: Machine, rate: Calibrated) -> None:
    facts = {**dataclasses.asdict(rate), "of": _facts(workload, machine)}
    with contextlib.suppress(StoreError, ValueError):  # without a cache, the calibration is repeated
        write_json(_file(workload, machine), facts, durable=False)


def request_of(workload: Workload) -> dict[str, Any]:
    """Return a workload as a subprocess reads it, with the class of its shape."""
    return {**dataclasses.asdict(workload), "model": expanded(workload.model)}


# -- in a subprocess --------------------------------------------------------------------------------------------------


def stand_in(workload: Workload) -> Workload:
    """Return a smaller workload to measure instead: sequences limited to a step of `STEP_FLOPS`, and for a large shape one
    layer and a small vocabulary, since the rate of wide matrix products hardly depends on their number.
    """
    model, seq_len = workload.model, workload.seq_len
    if model.flops_per_token(seq_len=seq_len) * _LEAST_TOKENS > STEP_FLOPS:
        model = dataclasses.replace(model, num_layers=1, vocab_size=min(model.vocab_size, 4_096))
    num_tokens = max(_LEAST_TOKENS, int(STEP_FLOPS / model.flops_per_token(seq_len=seq_len)))
    seq_len = min(seq_len, num_tokens)
    return Workload(model, workload.precision, seq_len, min(workload.num_sequences, max(1, num_tokens // seq_len)))


def measure(workload: Workload, *, num_threads: int) -> Calibrated:
    """Train a model in this process for half a second and return the rate of the median step.

    With one thread, CPU time is measured, so that other load on the machine does not count.
    """
    import numpy as np

    from midstudy.data.batches import pack_blocks
    from midstudy.evaluate.loss import mean_loss
    from midstudy.train.engine import TrainingRun
    from midstudy.train.placement import Placement

    curriculum = _curriculum(workload)
    size = (workload.num_sequences, workload.seq_len + 1)
    batch = pack_blocks(np.random.default_rng(0).integers(1, workload.model.vocab_size, size=size), document_mask=False)
    run = TrainingRun.begin(curriculum.start, precision=workload.precision, placement=Placement(num_threads=num_threads))
    clock = time.process_time if num_threads == 1 else time.perf_counter

    def step_s() -> float:
        started = clock()
        run.advance(curriculum, to_step=run.step + 1, batch_at=lambda step: batch, on_metrics=lambda metrics: None)
        return clock() - started

    def forward_s() -> float:
        started = clock()
        mean_loss(run.model, [batch])
        return clock() - started

    step_s(), forward_s()  # warm-up: the first calls allocate memory
    steps, forwards = [step_s()], [forward_s()]
    while sum(steps) < _MEASURED_S:
        steps.append(step_s())
        forwards.append(forward_s())
    median_s = median(steps)
    flops = workload.num_sequences * workload.seq_len * workload.model.flops_per_token(seq_len=workload.seq_len)
    return Calibrated(flops / median_s, min(0.9, median(forwards) / median_s))


def _curriculum(workload: Workload) -> Any:
    """Return a curriculum of one phase, whose data is never read."""
    from midstudy.recipe import AdamW, Constant, Corpus, Curriculum, Mixture, Phase, Source, Start, Tokenizer

    corpus = Corpus(name="calibration", source=Source(kind="wheels", part="calibration", revision="none"))
    tokenizer = Tokenizer(corpus=corpus, vocab_size=max(257, workload.model.vocab_size), max_bytes=1)
    phase = Phase(
        name="calibration",
        data=Mixture.only(corpus),
        loss="all_tokens",
        num_steps=10_000,
        num_sequences=workload.num_sequences,
        seq_len=workload.seq_len,
        optimizer=AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        schedule=Constant(lr=1e-4),
        precision=workload.precision,
        seed=0,
        optimizer_state="reset",
        data_positions="reset",
    )
    return Curriculum.of(Start(model=workload.model, tokenizer=tokenizer, seed=0), phase)


def _workload(fields: Mapping[str, Any]) -> Workload:
    return Workload(**{**fields, "model": decode(fields["model"])})


def main() -> None:
    request = json.load(sys.stdin)
    configure_threads(request["num_threads"])
    rate_of = functools.partial(measure, num_threads=request["num_threads"])
    rates = [dataclasses.asdict(rate_of(stand_in(_workload(fields)))) for fields in request["workloads"]]
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
