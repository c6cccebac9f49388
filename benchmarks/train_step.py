"""Tokens per second of a full optimizer step: forward, loss, backward, clipping, AdamW.

    python benchmarks/train_step.py [--size micro] [--num-sequences 16] [--seq-len 128] [--threads 1] [--no-allocator]

Each precision is timed in turn, several rounds in rotation, and the medians over rounds are printed: per second, per
CPU-second (which a busy machine disturbs less), and as a share of this machine's measured matrix-product rate in the same
number type. The allocator settings of a stage are applied by starting the script anew, because glibc reads them when a
process starts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

import numpy as np
import torch

from midstudy.data.batch import Batch
from midstudy.recipe import AdamW, Corpus, Cosine, Curriculum, Mixture, Phase, Source, Start, Tokenizer, pythia
from midstudy.recipe.phase import PRECISIONS
from midstudy.train.environment import ALLOCATOR, configure_threads
from midstudy.train.run import TrainingRun

WARMUP_STEPS = 3
ROUNDS = 7


def matmul_rate(dtype: torch.dtype, width: int, num_tokens: int) -> float:
    """Best rate of 10, in FLOP/s, of the product that dominates a block: (num_tokens, width) by (width, 4 width)."""
    left, right = torch.randn(num_tokens, width).to(dtype), torch.randn(4 * width, width).to(dtype)
    times_s = []
    for _ in range(10):
        started = time.perf_counter()
        left @ right.T
        times_s.append(time.perf_counter() - started)
    return 2 * num_tokens * width * 4 * width / min(times_s)


def curriculum(args: argparse.Namespace, precision: str, num_steps: int) -> Curriculum:
    corpus = Corpus(name="random tokens", source=Source(kind="wheels", part="general", revision="benchmark"))
    start = Start(
        model=pythia(args.size, vocab_size=args.vocab_size, max_seq_len=args.seq_len),
        tokenizer=Tokenizer(corpus=corpus, vocab_size=min(args.vocab_size, 65_536), max_bytes=1),
        seed=0,
    )
    phase = Phase(
        name="benchmark",
        data=Mixture.only(corpus),
        loss="all_tokens",
        num_steps=num_steps,
        num_sequences=args.num_sequences,
        seq_len=args.seq_len,
        optimizer=AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        schedule=Cosine(peak_lr=1e-3, floor_lr=1e-5, warmup_steps=1, total_steps=num_steps),
        precision=precision,
        seed=0,
        optimizer_state="reset",
        data_positions="reset",
    )
    return Curriculum.of(start, phase)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", default="micro", help="model shape (default: micro, 4 layers of width 128)")
    parser.add_argument("--vocab-size", type=int, default=2_048)
    parser.add_argument("--num-sequences", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=128, help="tokens")
    parser.add_argument("--steps", type=int, default=8, help="timed steps a round and precision")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-allocator", action="store_true", help="leave glibc's allocator as it is")
    args = parser.parse_args()
    if not args.no_allocator and any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    configure_threads(args.threads)

    tokens = np.random.default_rng(0).integers(args.vocab_size, size=(args.num_sequences, args.seq_len + 1))
    batch = Batch(input_ids=tokens[:, :-1], targets=tokens[:, 1:])
    num_steps = WARMUP_STEPS + ROUNDS * args.steps
    curricula = {precision: curriculum(args, precision, num_steps) for precision in PRECISIONS}
    runs = {p: TrainingRun.begin(c.start, precision=p) for p, c in curricula.items()}

    def advance(precision: str, steps: int) -> None:
        run = runs[precision]
        run.advance(
            curricula[precision], to_step=run.step + steps, batch_at=lambda step: batch, on_metrics=lambda metrics: None
        )

    num_tokens = args.steps * args.num_sequences * args.seq_len
    per_second: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    per_cpu_second: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    ceilings: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    shape = curricula["fp32"].start.model
    for precision in PRECISIONS:
        advance(precision, WARMUP_STEPS)
    for _ in range(ROUNDS):
        for precision in PRECISIONS:
            started, cpu_started = time.perf_counter(), time.process_time()
            advance(precision, args.steps)
            per_second[precision].append(num_tokens / (time.perf_counter() - started))
            per_cpu_second[precision].append(num_tokens / (time.process_time() - cpu_started))
            dtype = torch.float32 if precision == "fp32" else torch.bfloat16
            ceilings[precision].append(matmul_rate(dtype, shape.width, args.num_sequences * args.seq_len))

    flops = shape.flops_per_token(seq_len=args.seq_len)
    print(f"{shape.name}: {shape.num_parameters:,} parameters, {args.num_sequences} x {args.seq_len} tokens, ", end="")
    print(f"{args.threads} thread(s), allocator settings {'off' if args.no_allocator else 'on'}, torch {torch.__version__}")
    print("| precision | tokens/s | tokens/CPU-second | share of matrix-product rate |\n|---|---|---|---|")
    for precision in PRECISIONS:
        rate, cpu_rate = statistics.median(per_second[precision]), statistics.median(per_cpu_second[precision])
        print(f"| {precision} | {rate:,.0f} | {cpu_rate:,.0f} | {rate * flops / max(ceilings[precision]):.0%} |")


if __name__ == "__main__":
    main()
