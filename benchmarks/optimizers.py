"""Time of a training step with Muon for matrices, relative to AdamW for everything, and what a plan expects of it.

    python benchmarks/optimizers.py                         # nano, micro and 70m on the CPU in fp32
    python benchmarks/optimizers.py --workload micro --precision bf16_mixed

Both are midstudy's engine on the same batches, in one process, taking turns of some steps; each round gives a ratio, so that
other load on the machine disturbs it less. CPU seconds are those of the process. The expected ratio counts FLOPs: those of
Newton-Schulz beside those of the model, at one rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from workload import CPU, CUDA, TRIAL, Workload, batches, curriculum

from midstudy.recipe import AdamW, Group, Muon
from midstudy.recipe.optimizer import SELECTIONS
from midstudy.recipe.phase import PRECISIONS
from midstudy.train.engine import TrainingRun
from midstudy.train.environment import configure_threads
from midstudy.train.placement import Placement

WARMUP_STEPS = 3


def optimizers() -> dict[str, AdamW]:
    """Return AdamW for everything, AdamW by groups, and groups with Muon for matrices, at negligible rates."""
    rule = Muon(momentum=0.95, warm_from=0.85, warm_updates=300)
    plain = AdamW(beta1=0.8, beta2=0.95, weight_decay=0.1, clip_norm=1.0)
    groups = {
        "by group": tuple(Group(select=name, lr_factor=1.0) for name in SELECTIONS),
        "muon": tuple(Group(select=name, lr_factor=1.0, rule=rule if name == "matrices" else None) for name in SELECTIONS),
    }
    return {"adamw": plain} | {name: replace(plain, groups=each) for name, each in groups.items()}


class Contender:
    """The engine with one optimizer."""

    def __init__(self, workload: Workload, precision: str, optimizer: AdamW, folder: Path, device: str) -> None:
        self._curriculum = curriculum(workload, precision, optimizer)
        self._run = TrainingRun.begin(self._curriculum.start, precision=precision, placement=Placement(device=device))
        self._batches = batches(self._curriculum, folder)

    def advance(self, num_steps: int) -> tuple[float, float]:
        """Make some steps; return the seconds and CPU seconds of one."""
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        self._run.advance(
            self._curriculum,
            to_step=self._run.step + num_steps,
            batch_at=self._batches,
            on_metrics=lambda metrics: None,
            log_every=num_steps,  # metrics are copied from the device at the end of a turn
        )
        return (time.perf_counter() - started_s) / num_steps, (time.process_time() - started_cpu_s) / num_steps


def measure(workload: Workload, options: argparse.Namespace) -> dict[str, object]:
    """Time one workload; return medians over rounds: milliseconds of a step with AdamW, and ratios to it."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = optimizers()
        contenders = {
            name: Contender(workload, options.precision, optimizer, Path(folder), options.device)
            for name, optimizer in kinds.items()
        }
        for contender in contenders.values():
            contender.advance(WARMUP_STEPS)
        rounds = []
        for number in range(options.rounds):
            order = list(contenders)[number % 3 :] + list(contenders)[: number % 3]
            rounds.append({name: contenders[name].advance(options.steps) for name in order})
    model_flops = workload.tokens_per_step * workload.model.flops_per_token(seq_len=workload.seq_len)
    row: dict[str, object] = {
        "workload": workload.name,
        "precision": options.precision,
        "threads": options.threads,
        "adamw_ms": round(1_000 * statistics.median(each["adamw"][0] for each in rounds), 2),
        "tokens_per_s": round(workload.tokens_per_step / statistics.median(each["adamw"][0] for each in rounds)),
        "expected_muon": round(1 + kinds["muon"].flops_per_update(workload.model) / model_flops, 3),
    }
    for name in ("by group", "muon"):
        for column, index in (("time", 0), ("cpu", 1)):
            ratios = sorted(each[name][index] / each["adamw"][index] for each in rounds)
            row[f"{name} {column}"] = round(statistics.median(ratios), 3)
            row[f"{name} {column} range"] = [round(ratios[0], 3), round(ratios[-1], 3)]
    return row


def main() -> None:
    known = CPU | CUDA | TRIAL
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", choices=known, default=["nano", "micro", "70m"])
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="steps of each optimizer in a round")
    parser.add_argument("--json", type=Path, help="also append each row to this file")
    options = parser.parse_args()
    configure_threads(options.threads)
    for name in options.workload:
        row = json.dumps(measure(known[name], options))
        print(row, flush=True)
        if options.json:
            with options.json.open("a") as file:
                file.write(f"{row}\n")


if __name__ == "__main__":
    main()
