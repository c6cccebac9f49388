"""Benchmark: several small runs of one shape on one device, as separate processes, sequentially, or as an ensemble.

    python benchmarks/shared_device.py [--runs 2] [--precision bf16_true]          # a CPU with two cores
    python benchmarks/shared_device.py --device cuda --runs 4                      # under CUDA's MPS, if that is started

It compares the total throughput of fine-tuning runs of `--runs` seeds: each in a separate process with its share of the
threads; sequentially in one process with all threads; and all runs as one model with stacked parameters, by `torch.func`'s
`vmap`. The variants take turns, and ratios are computed within a round. The first two compute exactly the results of single
runs; the ensemble computes them up to rounding.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F
from train_step import Ours
from workload import Workload, batches, curriculum, synchronise

from midstudy.model.initialise import initialised
from midstudy.model.language_model import LanguageModel
from midstudy.model.rotary import rotary_tables
from midstudy.recipe import ModelShape, pythia
from midstudy.recipe.phase import PRECISIONS
from midstudy.train.environment import ALLOCATOR, configure_threads

WORKLOAD = Workload(
    name="fine-tuning",
    model=pythia("micro", vocab_size=4_096, max_seq_len=256),
    num_sequences=16,
    seq_len=128,
)
WARMUP_STEPS = 3


class Ensemble:
    """Runs of several seeds as one: stacked parameters, one fused AdamW for all, gradient clipping per run."""

    def __init__(self, num_runs: int, precision: str, folder: Path, *, device: torch.device) -> None:
        if precision == "bf16_mixed":
            raise ValueError("precision: expected fp32 or bf16_true for an ensemble, got bf16_mixed.")
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        models = [initialised(WORKLOAD.model, seed=seed).to(device, dtype) for seed in range(num_runs)]
        stacked, _ = stack_module_state(models)
        self._parameters = {name: tensor.detach() for name, tensor in stacked.items()}
        self._template = _Plain(models[0])
        self._batch_at = batches(curriculum(WORKLOAD, precision), folder)
        self._device, self._num_runs, self._step = device, num_runs, 0
        self._adamw = torch.optim.AdamW(list(self._parameters.values()), lr=1e-3, weight_decay=0.1, fused=True)

    def advance(self, num_steps: int) -> None:
        """Make updates of every run, each on its own batch."""
        update = vmap(grad_and_value(self._loss))
        for _ in range(num_steps):
            run_batches = [self._batch_at(self._step * self._num_runs + run) for run in range(self._num_runs)]
            input_ids = torch.stack([torch.from_numpy(batch.input_ids) for batch in run_batches]).to(self._device)
            targets = torch.stack([torch.from_numpy(batch.targets) for batch in run_batches]).to(self._device)
            gradients, _ = update(self._parameters, input_ids, targets)
            norms = torch.stack([g.flatten(1).float().norm(dim=1) for g in gradients.values()]).norm(dim=0)
            factors = (1.0 / (norms + 1e-6)).clamp(max=1.0)
            for name, parameter in self._parameters.items():
                gradient = gradients[name]
                parameter.grad = gradient * factors.to(gradient.dtype).view(-1, *[1] * (gradient.dim() - 1))
            self._adamw.step()
            self._step += 1

    def _loss(self, parameters: dict[str, Tensor], input_ids: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = functional_call(
            self._template, {f"model.{k}": v for k, v in parameters.items()}, (input_ids, targets)
        )
        return loss


class _Plain(torch.nn.Module):
    """The loss of a model in operations that `vmap` supports, which the model's fused ones are not."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, targets: Tensor) -> Tensor:
        model, shape = self.model, self.model.shape
        assert isinstance(shape, ModelShape)
        batch, length = input_ids.shape
        cos, sin = rotary_tables(length, shape.rotary_dims, shape.rotary_base, input_ids.device)
        later = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).triu(1)

        def rotated(x: Tensor) -> Tensor:
            part, rest = x.split((shape.rotary_dims, shape.head_size - shape.rotary_dims), dim=-1)
            first, second = part.chunk(2, dim=-1)
            return torch.cat(((part * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype), rest), dim=-1)

        x = model.embedding(input_ids)
        for block in model.blocks:
            heads = block.qkv(block.attention_norm(x)).view(batch, length, shape.num_heads, 3, shape.head_size)  # type: ignore
            query, key, value = (heads[..., i, :].transpose(1, 2) for i in range(3))
            scores = rotated(query) @ rotated(key).transpose(2, 3) * shape.head_size**-0.5
            mixed = (scores.masked_fill(later, float("-inf")).softmax(dim=-1) @ value).transpose(1, 2).reshape(x.shape)
            x = x + block.attention_out(mixed) + block.mlp_out(F.gelu(block.mlp_in(block.mlp_norm(x))))  # type: ignore
        return F.cross_entropy(model.head(model.final_norm(x)).flatten(0, 1).float(), targets.flatten())


def work(connection: Connection, kind: str, num_runs: int, options: argparse.Namespace, num_threads: int) -> None:
    """Make the requested number of steps repeatedly, until 0 are requested; `num_runs` runs one after the other."""
    configure_threads(num_threads)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as name:
        trainer: Any
        if kind == "ensemble":
            trainer, repeats = Ensemble(num_runs, options.precision, Path(name), device=device), 1
        else:
            trainer, repeats = Ours(WORKLOAD, options.precision, Path(name), compiled=False, device=device), num_runs
        trainer.advance(WARMUP_STEPS)
        synchronise(device)
        connection.send("ready")
        while num_steps := connection.recv():
            for _ in range(repeats):
                trainer.advance(num_steps)
            synchronise(device)
            connection.send("done")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=[p for p in PRECISIONS if p != "bf16_mixed"], default="bf16_true")
    parser.add_argument("--runs", type=int, default=os.cpu_count(), help="number of concurrent runs (default: one per core)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="steps of each run per round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements to FILE")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    runs = options.runs
    cores = os.cpu_count() or 1
    kinds = {
        "processes": [("run", 1, max(1, cores // runs))] * runs,
        "one process": [("run", runs, cores)],
        "ensemble": [("ensemble", runs, cores)],
    }
    context = multiprocessing.get_context("spawn")
    workers: dict[str, list[Connection]] = {kind: [] for kind in kinds}
    for kind, members in kinds.items():
        for what, num_runs, num_threads in members:
            ours, theirs = context.Pipe()
            context.Process(target=work, args=(theirs, what, num_runs, options, num_threads), daemon=True).start()
            workers[kind].append(ours)
        for worker in workers[kind]:
            worker.recv()
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    order = list(kinds)
    for number in range(options.rounds):
        first = number % len(order)
        for kind in order[first:] + order[:first]:
            started = time.perf_counter()
            for worker in workers[kind]:
                worker.send(options.steps)
            for worker in workers[kind]:
                worker.recv()
            rates[kind].append(runs * options.steps * WORKLOAD.tokens_per_step / (time.perf_counter() - started))
    for group in workers.values():
        for worker in group:
            worker.send(0)

    shape = WORKLOAD.model
    mps = f", MPS {'on' if 'CUDA_MPS_PIPE_DIRECTORY' in os.environ else 'off'}" if options.device == "cuda" else ""
    print(
        f"{runs} runs of {shape.num_parameters:,} parameters, {WORKLOAD.num_sequences} × {WORKLOAD.seq_len} tokens, ", end=""
    )
    print(f"{options.precision}, {options.device}, {cores} cores{mps}, torch {torch.__version__}, {options.rounds} rounds")
    print("| | total tokens/s | × one process |\n|---|---|---|")
    measured = {}
    for kind in kinds:
        ratios = [rate / base for rate, base in zip(rates[kind], rates["one process"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        measured[kind] = {"tokens_per_s": statistics.median(rates[kind]), "times_one_process": [low, middle, high]}
        print(f"| {kind} | {statistics.median(rates[kind]):,.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    if options.json:
        facts = {"runs": runs, "precision": options.precision, "mps": "CUDA_MPS_PIPE_DIRECTORY" in os.environ}
        options.json.write_text(json.dumps(facts | {"kinds": measured}) + "\n", "utf-8")


if __name__ == "__main__":
    main()
