"""One rank of a small training run, as a process: `python -m builders.ranks_driver RANK SIZE FOLDER [WORD...]`.

It trains the curriculum of `training_runs` and saves its last state to FOLDER/state-RANK and its metrics to
FOLDER/metrics-RANK.json. `device=cuda` uses the GPU numbered RANK; `optimizer=muon` trains matrices with Muon,
`model=tied` a Llama with a tied embedding. `stop=N`
requests a stop at this rank's N-th poll; `die=N` ends its process then.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from builders.small_recipes import NEOX, TIED, with_muon
from builders.training_runs import batch_at, curriculum
from midstudy.train.engine import TrainingRun
from midstudy.train.placement import Placement
from midstudy.train.ranks import joined


def main(rank: int, size: int, folder: Path, words: dict[str, str]) -> None:
    torch.set_num_threads(1)
    precision = words.get("precision", "fp32")
    device = words.get("device", "cpu")
    if device == "cuda":
        torch.cuda.set_device(rank)
    placement = Placement(
        device=device, num_ranks=size, micro_batch=int(words["micro_batch"]) if "micro_batch" in words else None
    )
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        if words.get("die") == str(asked):
            os._exit(9)
        return words.get("stop") == str(asked)

    metrics: list[dict[str, float]] = []
    with joined(rank=rank, size=size, device=device, meeting_point=(folder / "meeting").as_uri()) as ranks:
        optimizer, model = with_muon() if words.get("optimizer") == "muon" else None, TIED if "model" in words else NEOX
        course = curriculum(precision, optimizer=optimizer, model=model)
        run = TrainingRun.begin(course.start, precision=precision, placement=placement, ranks=ranks)
        run.advance(course, to_step=24, batch_at=batch_at, on_metrics=metrics.append, log_every=1, should_stop=should_stop)
    run.save(folder / f"state-{rank}", with_optimizer=True)
    (folder / f"metrics-{rank}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    rank, size, folder, *words = sys.argv[1:]
    main(int(rank), int(size), Path(folder), dict(word.split("=") for word in words))
