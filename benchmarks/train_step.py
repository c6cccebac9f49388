"""Tokens per second of a full optimizer step (forward, loss, backward, clipping, fused AdamW) against other implementations.

    make benchmark                                              # micro, small and 70m on the CPU, uncompiled
    make benchmark ARGS="--compile --workload small --precision bf16_true"
    make benchmark ARGS="--device cuda --compile --precision bf16_true --record h100"

midstudy's engine, transformers and litgpt train the same model from the same weights on the same batches, in one process,
taking turns: in a round, each makes some steps, and each round starts with another. Ratios are computed within a round, so
that other load on the machine disturbs them less. midstudy reads its batches from token files; the others get theirs in
memory. The allocator settings of a stage apply to all: the script re-executes itself with them, because glibc reads them at
process start. A contender that cannot be compiled or does not fit in GPU memory is reported as such. On a CPU, one contender
computes only a step's matrix products and AdamW (`floor.py`), which is an upper bound on speed; the table shows the fraction
that each contender reaches. There is no such bound on a GPU, because fused attention never writes the scores.

`--json FILE` also writes each measurement as a line of JSON; `on_gpu.py` collects them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import workload as workloads
from floor import Floor
from peers import PEERS, Peer
from recording import record
from workload import Workload, batches, curriculum, product_rate, synchronise

from midstudy.plan.device import CPU_CORE, DEVICES, Rate
from midstudy.recipe.phase import PRECISIONS
from midstudy.train.engine import Metrics, TrainingRun
from midstudy.train.environment import ALLOCATOR, configure_threads
from midstudy.train.placement import Placement

WARMUP_STEPS = 3
READY_BATCHES = 64
OURS = "midstudy"


class Contender(Protocol):
    """An implementation to time. `first_loss` is the loss of its first update, in nats; `None` if it computes no loss."""

    name: str

    @property
    def first_loss(self) -> float | None: ...

    def advance(self, num_steps: int) -> None: ...


class Ours:
    """midstudy's engine on the batches of a curriculum, which it reads from token files."""

    name = OURS

    def __init__(self, workload: Workload, precision: str, folder: Path, *, compiled: bool, device: torch.device) -> None:
        self.curriculum = curriculum(workload, precision)
        placement = Placement(device=device.type, compiled=compiled)
        self.run = TrainingRun.begin(self.curriculum.start, precision=precision, placement=placement)
        self.batch_at = batches(self.curriculum, folder)
        self.waited_s = self.first_loss = 0.0

    def advance(self, num_steps: int) -> None:
        self.run.advance(
            self.curriculum,
            to_step=self.run.step + num_steps,
            batch_at=self.batch_at,
            on_metrics=self._note,
            log_every=1 if self.run.step == 0 else num_steps,
        )

    def _note(self, metrics: Metrics) -> None:
        self.waited_s += metrics["data_wait_s"]
        if metrics["step"] == 1:
            self.first_loss = metrics["loss_nats"]


@dataclass
class Timing:
    """Measurements of one contender, one value per round.

    `kept_bytes` is the GPU memory that it holds between its turns, `peak_bytes` the most that it uses.
    """

    warmup_s: float
    kept_bytes: int
    peak_bytes: int = 0
    tokens_per_s: list[float] = field(default_factory=list)
    tokens_per_cpu_s: list[float] = field(default_factory=list)


def measure(workload: Workload, precision: str, options: argparse.Namespace) -> list[str]:
    """Time one workload in one precision; return rows of the table."""
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        held = _allocated(device)
        ours = Ours(workload, precision, Path(folder), compiled=options.compile, device=device)
        contenders: list[Contender] = []
        timings: dict[str, Timing | None] = {}
        for name, make in _contenders(ours, workload, precision, options).items():
            contender, timings[name] = _warm_up(name, make, device, held=held)
            held = _allocated(device)
            if contender is not None:
                contenders.append(contender)
                first_loss = contender.first_loss
                if first_loss is not None and abs(first_loss - ours.first_loss) > 0.01 * ours.first_loss:
                    sys.exit(f"{name}: expected midstudy's first loss {ours.first_loss}, got {first_loss}: another model")
        ours.waited_s, ours_s, ceilings = 0.0, 0.0, []
        for number in range(options.rounds):
            first = number % len(contenders)
            for contender in contenders[first:] + contenders[:first]:
                timing = timings[contender.name]
                assert timing is not None
                held = _allocated(device)
                cpu_started = time.process_time()
                took_s = _seconds(contender, options.steps, device)
                num_tokens = options.steps * workload.tokens_per_step
                timing.tokens_per_s.append(num_tokens / took_s)
                timing.tokens_per_cpu_s.append(num_tokens / (time.process_time() - cpu_started))
                timing.peak_bytes = max(timing.peak_bytes, timing.kept_bytes + _peak(device) - held)
                ours_s += took_s if contender is ours else 0.0
            ceilings.append(product_rate(torch.float32 if precision == "fp32" else torch.bfloat16, device))
    timing = timings[OURS]
    assert timing is not None, "midstudy's model must compile"
    rate = _rate(workload, precision, options, tokens_per_s=statistics.median(timing.tokens_per_s))
    if options.record:
        record([rate])
    if options.json:
        row = _json_row(rate, workload, timings, ceiling=max(ceilings), waited_share=ours.waited_s / ours_s)
        with options.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return _rows(workload, precision, timings, ceiling=max(ceilings), waited_share=ours.waited_s / ours_s)


def _warm_up(
    name: str, make: Callable[[], Contender], device: torch.device, *, held: int
) -> tuple[Contender | None, Timing | None]:
    """Make and warm up a contender; return `None` if it cannot be compiled, or does not fit next to `held` bytes."""
    from torch._inductor.exc import InductorError

    try:
        contender = make()
        took_s = _seconds(contender, WARMUP_STEPS, device)
        return contender, Timing(warmup_s=took_s, kept_bytes=_allocated(device) - held)
    except InductorError as error:
        print(f"{name} cannot be compiled: {_first_error(str(error))}", file=sys.stderr)
    except torch.OutOfMemoryError as error:
        if name == OURS:
            raise
        print(f"{name} does not fit: {_first_error(str(error))}", file=sys.stderr)
    return None, None


def _allocated(device: torch.device) -> int:
    """Return the bytes of GPU memory held by tensors; also reset the peak."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def _first_error(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if " error: " in line), text.strip().splitlines()[0])


def _rate(workload: Workload, precision: str, options: argparse.Namespace, *, tokens_per_s: float) -> Rate:
    """Return midstudy's rate as plans read it; `--json`, which does not affect the rate, is dropped from the command."""
    command = ["benchmarks/train_step.py", *sys.argv[1:]]
    if "--json" in command:
        index = command.index("--json")
        del command[index : index + 2]
    return Rate(
        device=options.record or options.device,
        shape=workload.model.name,
        precision=precision,
        vocab_size=workload.model.vocab_size,
        seq_len=workload.seq_len,
        flops_per_token=workload.model.flops_per_token(seq_len=workload.seq_len),
        compiled=options.compile,
        tokens_per_s=round(tokens_per_s),
        date=datetime.date.today().isoformat(),
        command=shlex.join(command),
    )


def _json_row(
    rate: Rate, workload: Workload, timings: dict[str, Timing | None], *, ceiling: float, waited_share: float
) -> dict[str, Any]:
    """Return a measurement as plain data: midstudy's rate as plans read it, and each contender's row of the table."""
    ours = timings[OURS]
    assert ours is not None
    contenders: dict[str, Any] = {}
    for name, timing in timings.items():
        if timing is None:
            contenders[name] = None
            continue
        tokens_per_s = statistics.median(timing.tokens_per_s)
        ratios = [our_rate / their_rate for our_rate, their_rate in zip(ours.tokens_per_s, timing.tokens_per_s, strict=True)]
        contenders[name] = {
            "tokens_per_s": tokens_per_s,
            "share_of_product_rate": tokens_per_s * rate.flops_per_token / ceiling,
            "warmup_s": timing.warmup_s,
            "peak_memory_bytes": timing.peak_bytes,
            "midstudy_is_times_as_fast": statistics.quantiles(ratios, n=4, method="inclusive"),
        }
    return {
        "workload": workload.name,
        "num_sequences": workload.num_sequences,
        "rate": asdict(rate),
        "product_flops_per_s": ceiling,
        "waited_share": waited_share,
        "contenders": contenders,
    }


def _contenders(
    ours: Ours, workload: Workload, precision: str, options: argparse.Namespace
) -> dict[str, Callable[[], Contender]]:
    """Map names of contenders to constructors; peers get midstudy's initial weights and first batches."""
    device = torch.device(options.device)
    optimizer = ours.curriculum.stretches[0].phase.optimizer
    weights = {key: weight.detach().float().cpu() for key, weight in ours.run.model.named_parameters()}

    def peer(name: str) -> Peer:
        ready = []
        for step in range(READY_BATCHES):
            batch = ours.batch_at(step)
            ready.append(tuple(torch.from_numpy(a).contiguous().to(device) for a in (batch.input_ids, batch.targets)))
        return Peer(name, workload.model, weights, ready, precision=precision, optimizer=optimizer, compiled=options.compile)

    contenders: dict[str, Callable[[], Contender]] = {OURS: lambda: ours}
    contenders |= {name: partial(peer, name) for name in options.peers}
    if device.type == "cpu":
        contenders[Floor.name] = lambda: Floor(workload, precision=precision, optimizer=optimizer, device=device)
    return contenders


def _seconds(contender: Contender, num_steps: int, device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    contender.advance(num_steps)
    synchronise(device)
    return time.perf_counter() - started


def _rows(
    workload: Workload, precision: str, timings: dict[str, Timing | None], *, ceiling: float, waited_share: float
) -> list[str]:
    """Return a row per contender; the last columns are midstudy's rate over the row's within rounds: median (quartiles)."""
    ours, bound = timings[OURS], timings.get(Floor.name)
    assert ours is not None, "midstudy's model must compile"
    flops = workload.model.flops_per_token(seq_len=workload.seq_len)
    batch = f"{workload.name} {workload.num_sequences} × {workload.seq_len}"
    rows = []
    for name, timing in timings.items():
        if timing is None:
            cells = ["not measured", *[""] * 7]
        else:
            rate = statistics.median(timing.tokens_per_s)
            cells = [
                f"{rate:,.0f}",
                f"{statistics.median(timing.tokens_per_cpu_s):,.0f}",
                f"{rate * flops / ceiling:.0%}",
                f"{_share(timing.tokens_per_cpu_s, bound.tokens_per_cpu_s):.0%}" if bound and name != Floor.name else "",
                f"{timing.warmup_s:.1f}",
                _ratio(ours.tokens_per_s, timing.tokens_per_s) if name != OURS else "",
                _ratio(ours.tokens_per_cpu_s, timing.tokens_per_cpu_s) if name != OURS else "",
                f"{waited_share:.2%}" if name == OURS else "",
            ]
        rows.append("| " + " | ".join([batch, precision, name, *cells]) + " |")
    return rows


def _ratio(ours: list[float], theirs: list[float]) -> str:
    """Return median and quartiles of the ratios within rounds."""
    ratios = [our_rate / their_rate for our_rate, their_rate in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _share(rates: list[float], bound: list[float]) -> float:
    return statistics.median(rate / most for rate, most in zip(rates, bound, strict=True))


COLUMNS = (
    "batch",
    "precision",
    "",
    "tokens/s",
    "tokens/CPU-s",
    "of product rate",
    "of the bound, by CPU time",
    "warm-up s",
    "midstudy is × as fast",
    "the same by CPU time",
    "waiting for data",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--workload",
        action="append",
        help="nano, micro, small, 70m (CPU); 70m, 160m, 410m (CUDA); default: all; trial (both); repeatable",
    )
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all; repeatable")
    parser.add_argument("--peer", action="append", dest="peers", choices=[*PEERS, "none"], help="default: all; repeatable")
    parser.add_argument("--compile", action="store_true", help="compile every contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--rounds", type=int, default=9, help="at least 2")
    parser.add_argument("--steps", type=int, default=8, help="steps of each contender per round")
    parser.add_argument("--record", choices=DEVICES, help="write midstudy's rates to the table for plans")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append each measurement as a line of JSON")
    options = parser.parse_args()
    if options.record == CPU_CORE.name and options.threads != 1:
        parser.error(f"--record {CPU_CORE.name}: expected --threads 1, since plans count cores, got {options.threads}")
    if (options.record or CPU_CORE.name) != CPU_CORE.name and options.device != "cuda":
        parser.error(f"--record {options.record}: expected --device cuda, got {options.device}")
    options.peers = [name for name in options.peers or PEERS if name != "none"]
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    configure_threads(options.threads)
    known = workloads.CUDA if options.device == "cuda" else workloads.CPU
    named = known | workloads.TRIAL
    for name in options.workload or known:
        if name not in named:
            parser.error(f"--workload: expected one of {', '.join(named)} on {options.device}, got {name}")

    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"{machine}, torch {torch.__version__}, {'compiled' if options.compile else 'not compiled'}, ", end="")
    print(f"{options.rounds} rounds of {options.steps} steps: medians, ratios round by round with quartiles")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for name in options.workload or known:
        for precision in options.precision or PRECISIONS:
            print("\n".join(measure(named[name], precision, options)), flush=True)


if __name__ == "__main__":
    main()
