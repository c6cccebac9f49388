"""Workloads of the benchmarks: model shapes and batches, token files to read, and the machine's matrix product rate."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from midstudy.data.batches import Batches
from midstudy.data.tokens import TokenizedSplit
from midstudy.recipe import AdamW, Corpus, Cosine, Curriculum, Mixture, Phase, Source, Start, Tokenizer, pythia
from midstudy.recipe.canonical import identify
from midstudy.recipe.model import ModelShape

_TOKENS_PER_CORPUS = 2_000_000
_DOCUMENT_TOKENS = 500
NUM_STEPS = 100_000
"""Length of the curriculum; more than any benchmark runs."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model shape and the batch of one update."""

    name: str
    model: ModelShape
    num_sequences: int
    seq_len: int

    @property
    def tokens_per_step(self) -> int:
        return self.num_sequences * self.seq_len


def _workload(name: str, size: str, num_sequences: int, seq_len: int, **shape: int) -> Workload:
    model = pythia(size, max_seq_len=max(seq_len, 512), **shape)
    return Workload(name=name, model=model, num_sequences=num_sequences, seq_len=seq_len)


CPU = {
    workload.name: workload
    for workload in (
        _workload("nano", "nano", 8, 128, vocab_size=2_048),  # the default study's shape
        _workload("micro", "micro", 16, 128, vocab_size=2_048),
        _workload("small", "micro", 16, 256, vocab_size=4_096),
        _workload("70m", "70m", 2, 512),
    )
}
TRIAL = {"trial": _workload("trial", "nano", 2, 64, vocab_size=512)}
"""A tiny workload, to try a benchmark in seconds."""
CUDA = {name: _workload(name, name, rows, 2_048) for name, rows in {"70m": 32, "160m": 16, "410m": 8}.items()}


_ADAMW = AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0)


def curriculum(workload: Workload, precision: str, optimizer: AdamW = _ADAMW) -> Curriculum:
    """Return a curriculum of one phase on general text with a fifth of code, a typical mixture."""
    general, code = (
        Corpus(name=name, source=Source(kind="wheels", part=name, revision="1")) for name in ("general", "code")
    )
    start = Start(
        model=workload.model,
        tokenizer=Tokenizer(corpus=general, vocab_size=workload.model.vocab_size, max_bytes=1),
        seed=0,
    )
    phase = Phase(
        name="benchmark",
        data=Mixture.blend(general, {code: 0.2}),
        loss="all_tokens",
        num_steps=NUM_STEPS,
        num_sequences=workload.num_sequences,
        seq_len=workload.seq_len,
        optimizer=optimizer,
        schedule=Cosine(peak_lr=1e-3, floor_lr=1e-4, warmup_steps=100, total_steps=NUM_STEPS),
        precision=precision,
        seed=0,
        optimizer_state="reset",
        data_positions="reset",
    )
    return Curriculum.of(start, phase)


def batches(curriculum: Curriculum, folder: Path) -> Batches:
    """Return the curriculum's batches, read as in a stage from token files in `folder`, made with Zipf frequencies."""
    vocab_size = curriculum.start.model.vocab_size
    splits = {}
    mixture = curriculum.stretches[0].phase.data
    assert isinstance(mixture, Mixture)
    for seed, part in enumerate(mixture.parts):
        tokens, offsets = (folder / f"{part.corpus.name}.{kind}" for kind in ("tokens", "offsets"))
        if not tokens.exists():
            ranks = np.random.default_rng(seed).zipf(1.2, size=_TOKENS_PER_CORPUS) % vocab_size
            ranks.astype("<u2").tofile(tokens)
            np.arange(0, _TOKENS_PER_CORPUS + 1, _DOCUMENT_TOKENS, dtype="<i8").tofile(offsets)
        splits[identify(part.corpus)] = TokenizedSplit(
            tokens=[np.memmap(tokens, "<u2", "r")], offsets=[np.memmap(offsets, "<i8", "r")], prompt_lengths=None
        )
    return Batches(curriculum, splits)


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return the best rate of five, in FLOP/s, of a square matrix product large enough to reach the machine's peak."""
    width = 8_192 if device.type == "cuda" else 2_048
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    times_s = []
    for _ in range(5):
        synchronise(device)
        started = time.perf_counter()
        left @ right
        synchronise(device)
        times_s.append(time.perf_counter() - started)
    return 2 * width**3 / min(times_s)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
