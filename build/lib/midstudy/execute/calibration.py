"""Measure how fast this machine trains a shape in a precision: a few real steps, if no finished stage gives a rate.

The steps run in subprocesses under job conditions: a job's threads and allocator, and as many processes side by side as
jobs will run, because they compete for caches and memory bandwidth. Results are cached on this machine by processor,
shape, precision and code. The calling process never imports PyTorch.

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
from midstudy.plan.cost import Calibrated, Workload
from midstudy.recipe import versions
from midstudy.recipe.model import ModelShape
from midstudy.store.processor import this_processor
from midstudy.train.environment import ALLOCATOR, configure_threads

MOST_WORKLOADS = 4
"""Workloads calibrated per plan, smallest shapes first; larger shapes get the rate of the largest one calibrated."""

STEP_FLOPS = 1.5e10
"""Upper bound on a calibrated step, except for the largest shapes: a quarter of a second on one core."""

_LEAST_TOKENS = 128
_MEASURED_S = 0.4
_MOST_PROCESSES = 8
_TIMEOUT_S = 120.0
_VERSION = 1
"""Increment when the measuring method changes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A job's share of the machine: its threads, and how many jobs run side by side."""

    num_threads: int
    num_jobs: int


def calibrated(workloads: Iterable[Workload], machine: Machine) -> dict[tuple[str, str], Calibrated]:
    """Cached results of earlier calibrations of these workloads; the first workload of a shape and precision wins."""
    found: dict[tuple[str, str], Calibrated] = {}
    for one in workloads:
        try:
            facts = json.loads(_file(one, machine).read_text("utf-8"))
            seen = Calibrated(float(facts["flops_per_s"]), float(facts["forward_share"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if seen.flops_per_s > 0 and 0 < seen.forward_share < 1:
            found.setdefault((one.model.name, one.precision), seen)
    return found


def calibrate(workloads: Sequence[Workload], machine: Machine) -> dict[tuple[str, str], Calibrated]:
    """Train a few steps of each workload now and cache the results; about a second each, plus start-up.

    At most `MOST_WORKLOADS` are measured, smallest first; larger ones get the rate of the largest measured in the same
    precision. If a process fails or hangs, warns and returns nothing.
    """
    chosen = sorted(workloads, key=lambda one: one.model.num_parameters)[:MOST_WORKLOADS]
    try:
        seen = _side_by_side(chosen, machine)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        warnings.warn(f"the speed of this machine could not be measured: {error}", stacklevel=2)
        return {}
    found: dict[tuple[str, str], Calibrated] = {}
    for one, result in zip(chosen, seen, strict=True):
        found[one.model.name, one.precision] = result
        _keep(one, machine, result)
    for one in workloads:
        like = [result for other, result in zip(chosen, seen, strict=True) if other.precision == one.precision]
        if like:
            found.setdefault((one.model.name, one.precision), like[-1])
    return found


def _side_by_side(workloads: Sequence[Workload], machine: Machine) -> list[Calibrated]:
    """Medians over as many processes as jobs will run at once.

    Raises:
        ValueError: a process fails or prints invalid output.
        OSError, subprocess.SubprocessError: a process cannot start or exceeds two minutes.
    """
    environment = of_job(Path(tempfile.gettempdir()), num_threads=machine.num_threads, **ALLOCATOR)
    asked = json.dumps({"num_threads": machine.num_threads, "workloads": [dataclasses.asdict(one) for one in workloads]})
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
            process.stdin.write(asked)
            process.stdin.close()
            process.stdin = None  # otherwise `communicate` below would flush the closed pipe
        for process in processes:
            told, errors = process.communicate(timeout=max(1.0, deadline_s - time.monotonic()))
            if process.returncode:
                raise ValueError((errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1])
            answers.append(_answer(told, len(workloads)))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return [
        Calibrated(median(one.flops_per_s for one in each), median(one.forward_share for one in each))
        for each in zip(*answers, strict=True)
    ]


def _answer(text: str, number: int) -> list[Calibrated]:
    """Parse a process's output: one result for each of `number` workloads.

    Raises:
        ValueError: the output is invalid.
    """
    told = json.loads(text)
    try:
        seen = [Calibrated(float(one["flops_per_s"]), float(one["forward_share"])) for one in told]
    except (TypeError, KeyError):
        seen = []
    if len(seen) != number or any(one.flops_per_s <= 0 for one in seen):
        raise ValueError(f"found the answer {text.strip()[:200]!r}; expected rates of {number} workloads")
    return seen


# -- cache ------------------------------------------------------------------------------------------------------------


def _facts(workload: Workload, machine: Machine) -> dict[str, Any]:
    """Everything the speed depends on."""
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


def _keep(workload: Workload, machine: Machine, seen: Calibrated) -> None:
    facts = {**dataclasses.asdict(seen), "of": _facts(workload, machine)}
    with contextlib.suppress(StoreError, ValueError):  # without a cache it costs time, not correctness
        write_json(_file(workload, machine), facts, durable=False)


# -- in a subprocess --------------------------------------------------------------------------------------------------


def stand_in(workload: Workload) -> Workload:
    """The workload measured in its place: sequences limited to a step of `STEP_FLOPS`, and for a large shape one layer and a
    small vocabulary, since the rate of wide matrix products hardly depends on their number.
    """
    model, seq_len = workload.model, workload.seq_len
    if model.flops_per_token(seq_len=seq_len) * _LEAST_TOKENS > STEP_FLOPS:
        model = dataclasses.replace(model, num_layers=1, vocab_size=min(model.vocab_size, 4_096))
    num_tokens = max(_LEAST_TOKENS, int(STEP_FLOPS / model.flops_per_token(seq_len=seq_len)))
    seq_len = min(seq_len, num_tokens)
    return Workload(model, workload.precision, seq_len, min(workload.num_sequences, max(1, num_tokens // seq_len)))


def measure(workload: Workload, *, num_threads: int) -> Calibrated:
    """Train this process's model for half a second and take the median step time.

    With one thread, CPU time is used, so that other load on the machine now does not count.
    """
    import numpy as np

    from midstudy.data.batches import pack_blocks
    from midstudy.evaluate.loss import mean_loss
    from midstudy.train.engine import TrainingRun
    from midstudy.train.placement import Placement

    course = _curriculum(workload)
    size = (workload.num_sequences, workload.seq_len + 1)
    batch = pack_blocks(np.random.default_rng(0).integers(1, workload.model.vocab_size, size=size), document_mask=False)
    run = TrainingRun.begin(course.start, precision=workload.precision, placement=Placement(num_threads=num_threads))
    clock = time.process_time if num_threads == 1 else time.perf_counter

    def step_s() -> float:
        began = clock()
        run.advance(course, to_step=run.step + 1, batch_at=lambda step: batch, on_metrics=lambda metrics: None)
        return clock() - began

    def forward_s() -> float:
        began = clock()
        mean_loss(run.model, [batch])
        return clock() - began

    step_s(), forward_s()  # warm-up: the first of each allocates
    steps, forwards = [step_s()], [forward_s()]
    while sum(steps) < _MEASURED_S:
        steps.append(step_s())
        forwards.append(forward_s())
    took_s = median(steps)
    flops = workload.num_sequences * workload.seq_len * workload.model.flops_per_token(seq_len=workload.seq_len)
    return Calibrated(flops / took_s, min(0.9, median(forwards) / took_s))


def _curriculum(workload: Workload) -> Any:
    """One phase on data that is never read."""
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


def _read(fields: Mapping[str, Any]) -> Workload:
    return Workload(**{**fields, "model": ModelShape(**fields["model"])})


def main() -> None:
    asked = json.load(sys.stdin)
    configure_threads(asked["num_threads"])
    one = functools.partial(measure, num_threads=asked["num_threads"])
    seen = [dataclasses.asdict(one(stand_in(_read(fields)))) for fields in asked["workloads"]]
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
