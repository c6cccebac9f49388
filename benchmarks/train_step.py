"""Tokens per second of a full optimizer step (forward, loss, backward, clipping, fused AdamW) against other implementations.

    make benchmark                                              # micro, small and 70m on the CPU, uncompiled
    make benchmark ARGS="--compile --workload small --precision bf16_true"
    make benchmark ARGS="--device cuda --compile --precision bf16_true --record h200"

midstudy's engine, transformers and litgpt train the same model from the same weights on the same batches, in one process,
taking turns: a round lets each make some steps, and the next round begins with another. Ratios are taken within a round,
which a busy machine disturbs less than rates. midstudy reads its batches from token files; the others are handed theirs.
The allocator settings of a stage hold for all: the script starts itself anew with them, because glibc reads them when a
process starts. A contender that cannot be compiled is told as such. One contender makes a step's matrix products and its
AdamW and nothing else (`floor.py`): the bound, of which each reaches a share.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import workload as workloads
from floor import Floor
from peers import PEERS, Peer
from workload import Workload, batches, curriculum, product_rate, synchronise

from midstudy.plan.device import CPU_CORE, DEVICES, RATES, Rate
from midstudy.recipe.phase import PRECISIONS
from midstudy.train.environment import ALLOCATOR, configure_threads
from midstudy.train.placement import Placement
from midstudy.train.run import Metrics, TrainingRun

WARMUP_STEPS = 3
READY_BATCHES = 64
OURS = "midstudy"


class Contender(Protocol):
    """Something that trains. `first_loss` is the loss of its first update, in nats; none of what computes no loss."""

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
    """What was measured of one contender, a value a round."""

    warmup_s: float
    tokens_per_s: list[float] = field(default_factory=list)
    tokens_per_cpu_s: list[float] = field(default_factory=list)


def measure(workload: Workload, precision: str, options: argparse.Namespace) -> list[str]:
    """Time one workload in one precision; returns rows of the table."""
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(workload, precision, Path(folder), compiled=options.compile, device=device)
        contenders: list[Contender] = []
        timings: dict[str, Timing | None] = {}
        floor = Floor(workload, precision=precision, optimizer=ours.curriculum.stretches[0].phase.optimizer, device=device)
        for one in (ours, *_peers(ours, workload, precision, options), floor):
            timings[one.name] = _warm_up(one, device)
            if timings[one.name] is not None:
                contenders.append(one)
                if one.first_loss is not None and abs(one.first_loss - ours.first_loss) > 0.01 * ours.first_loss:
                    sys.exit(f"{one.name}: first loss {one.first_loss}, midstudy's {ours.first_loss}: not the same model")
        ours.waited_s, ours_s, ceilings = 0.0, 0.0, []
        for number in range(options.rounds):
            first = number % len(contenders)
            for one in contenders[first:] + contenders[:first]:
                cpu_started = time.process_time()
                took_s = _seconds(one, options.steps, device)
                num_tokens = options.steps * workload.tokens_per_step
                timing = timings[one.name]
                assert timing is not None
                timing.tokens_per_s.append(num_tokens / took_s)
                timing.tokens_per_cpu_s.append(num_tokens / (time.process_time() - cpu_started))
                ours_s += took_s if one is ours else 0.0
            ceilings.append(product_rate(torch.float32 if precision == "fp32" else torch.bfloat16, device))
    if options.record:
        timing = timings[OURS]
        assert timing is not None
        _record(workload, precision, options, tokens_per_s=statistics.median(timing.tokens_per_s))
    return _rows(workload, precision, timings, ceiling=max(ceilings), waited_share=ours.waited_s / ours_s)


def _warm_up(contender: Contender, device: torch.device) -> Timing | None:
    """None if the contender's compiled code cannot be built."""
    from torch._inductor.exc import InductorError

    try:
        return Timing(warmup_s=_seconds(contender, WARMUP_STEPS, device))
    except InductorError as error:
        print(f"{contender.name} cannot be compiled: {_first_error(str(error))}", file=sys.stderr)
        return None


def _first_error(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if " error: " in line), text.strip().splitlines()[0])


def _record(workload: Workload, precision: str, options: argparse.Namespace, *, tokens_per_s: float) -> None:
    """Write midstudy's rate where plans look for it, in place of an older one of the same kind."""
    new = Rate(
        device=options.record,
        shape=workload.model.name,
        precision=precision,
        vocab_size=workload.model.vocab_size,
        seq_len=workload.seq_len,
        flops_per_token=workload.model.flops_per_token(seq_len=workload.seq_len),
        compiled=options.compile,
        tokens_per_s=round(tokens_per_s),
        date=datetime.date.today().isoformat(),
        command=shlex.join(["benchmarks/train_step.py", *sys.argv[1:]]),
    )
    kind = ("device", "shape", "precision", "vocab_size", "seq_len", "compiled")
    rows = [row for row in json.loads(RATES.read_text("utf-8")) if any(row[key] != getattr(new, key) for key in kind)]
    lines = ",\n".join(json.dumps(row) for row in [*rows, asdict(new)])
    RATES.write_text(f"[\n{lines}\n]\n", "utf-8")


def _peers(ours: Ours, workload: Workload, precision: str, options: argparse.Namespace) -> list[Peer]:
    """The peers with midstudy's first weights and batches."""
    device = torch.device(options.device)
    if not options.peers:
        return []
    ready = []
    for step in range(READY_BATCHES):
        batch = ours.batch_at(step)
        ready.append(tuple(torch.from_numpy(array).contiguous().to(device) for array in (batch.input_ids, batch.targets)))
    return [
        Peer(
            name,
            workload.model,
            {key: weight.detach().float().cpu() for key, weight in ours.run.model.named_parameters()},
            ready,
            precision=precision,
            optimizer=ours.curriculum.stretches[0].phase.optimizer,
            compiled=options.compile,
        )
        for name in options.peers
    ]


def _seconds(contender: Contender, num_steps: int, device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    contender.advance(num_steps)
    synchronise(device)
    return time.perf_counter() - started


def _rows(
    workload: Workload, precision: str, timings: dict[str, Timing | None], *, ceiling: float, waited_share: float
) -> list[str]:
    """A row a contender; the last columns divide midstudy's rate by the row's, round by round: median (quartiles)."""
    ours, bound = timings[OURS], timings[Floor.name]
    assert ours is not None, "midstudy's own model compiles"
    assert bound is not None, "the bound is never compiled"
    flops = workload.model.flops_per_token(seq_len=workload.seq_len)
    batch = f"{workload.name} {workload.num_sequences} × {workload.seq_len}"
    rows = []
    for name, timing in timings.items():
        if timing is None:
            cells = ["does not compile", *[""] * 7]
        else:
            rate = statistics.median(timing.tokens_per_s)
            cells = [
                f"{rate:,.0f}",
                f"{statistics.median(timing.tokens_per_cpu_s):,.0f}",
                f"{rate * flops / ceiling:.0%}",
                f"{_share(timing.tokens_per_cpu_s, bound.tokens_per_cpu_s):.0%}" if name != Floor.name else "",
                f"{timing.warmup_s:.1f}",
                _ratio(ours.tokens_per_s, timing.tokens_per_s) if name != OURS else "",
                _ratio(ours.tokens_per_cpu_s, timing.tokens_per_cpu_s) if name != OURS else "",
                f"{waited_share:.2%}" if name == OURS else "",
            ]
        rows.append("| " + " | ".join([batch, precision, name, *cells]) + " |")
    return rows


def _ratio(ours: list[float], theirs: list[float]) -> str:
    """Median and quartiles of the ratios within rounds."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _share(rates: list[float], bound: list[float]) -> float:
    return statistics.median(one / most for one, most in zip(rates, bound, strict=True))


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
    "waited for data",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--workload", action="append", help="micro, small, 70m (CPU); 70m, 160m, 410m (CUDA); default: all; repeatable"
    )
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all; repeatable")
    parser.add_argument("--peer", action="append", dest="peers", choices=[*PEERS, "none"], help="default: all; repeatable")
    parser.add_argument("--compile", action="store_true", help="compile every contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--rounds", type=int, default=9, help="at least 2")
    parser.add_argument("--steps", type=int, default=8, help="steps of each contender a round")
    parser.add_argument("--record", choices=DEVICES, help="write midstudy's rates to the table that prices plans")
    options = parser.parse_args()
    if options.record == CPU_CORE.name and options.threads != 1:
        parser.error(f"--record {CPU_CORE.name}: found --threads {options.threads}; allowed: 1, since plans count cores")
    if (options.record or CPU_CORE.name) != CPU_CORE.name and options.device != "cuda":
        parser.error(f"--record {options.record}: found --device {options.device}; allowed: cuda")
    options.peers = [name for name in options.peers or PEERS if name != "none"]
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    configure_threads(options.threads)
    known = workloads.CUDA if options.device == "cuda" else workloads.CPU
    for name in options.workload or known:
        if name not in known:
            parser.error(f"--workload: found {name}; allowed on {options.device}: {', '.join(known)}")

    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"{machine}, torch {torch.__version__}, {'compiled' if options.compile else 'not compiled'}, ", end="")
    print(f"{options.rounds} rounds of {options.steps} steps: medians, ratios round by round with quartiles")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for name in options.workload or known:
        for precision in options.precision or PRECISIONS:
            print("\n".join(measure(known[name], precision, options)), flush=True)


if __name__ == "__main__":
    main()
