"""Ranks share a step: the same batches, the same results to rounding, a common stop; a lost rank is detected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.places import PYTHONPATH
from builders.small_recipes import NEOX, TIED, with_muon
from builders.training_runs import batch_at, begin, curriculum, train, weights

from midstudy.train import checkpoint
from midstudy.train.feed import portion_of
from midstudy.train.ranks import Ranks

LAST = 24


DRIVER = (sys.executable, "-m", "builders.ranks_driver")


def run_ranks(folder: Path, *words: str, size: int = 2, of_rank: dict[int, str] | None = None) -> list[tuple[int, str]]:
    """Run the ranks; return exit status and output of each."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        subprocess.Popen(
            [*DRIVER, str(rank), str(size), str(folder), *words, *(of_rank or {}).get(rank, "").split()],
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    outputs = [process.communicate()[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def metrics_of(folder: Path, rank: int = 0) -> list[dict[str, float]]:
    return json.loads((folder / f"metrics-{rank}.json").read_text())


@pytest.mark.parametrize(("size", "num_sequences"), [(1, 5), (2, 8), (3, 8), (7, 7)])
def test_every_row_of_a_batch_belongs_to_one_rank(size: int, num_sequences: int) -> None:
    batch = batch_at(3, num_sequences=num_sequences)
    portions = [portion_of(batch, ranks=Ranks(rank, size), device=torch.device("cpu")) for rank in range(size)]
    assert torch.cat([portion.input_ids for portion in portions]).equal(torch.from_numpy(batch.input_ids))
    assert torch.cat([portion.targets for portion in portions]).equal(torch.from_numpy(batch.targets))
    rows = [len(portion.input_ids) for portion in portions]
    assert max(rows) - min(rows) <= 1
    for portion in portions:  # every rank knows the totals of the whole batch
        assert portion.num_targets == portion.total_weight == (batch.targets != -100).sum()
    assert np.concatenate([portion.row_weights for portion in portions]).sum() == portions[0].total_weight


def test_the_weight_of_a_row_is_the_sum_over_its_targets() -> None:
    batch = replace(
        batch_at(3), weights=np.random.default_rng(0).uniform(0.1, 1.0, batch_at(3).targets.shape).astype(np.float32)
    )
    portion = portion_of(batch, ranks=Ranks(0, 1), device=torch.device("cpu"))
    assert batch.weights is not None
    by_hand = (batch.weights * (batch.targets != -100)).sum(axis=1)
    assert portion.row_weights.tolist() == pytest.approx(by_hand.tolist(), rel=1e-6)
    assert portion.total_weight == pytest.approx(by_hand.sum(), rel=1e-6)


def test_the_noise_scale_of_two_ranks_is_that_of_one_rank_with_equal_micro_batches(tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, "micro_batch=2")  # eight sequences: two micro-batches of two on each rank
    assert [status for status, _ in ended] == [0, 0], ended
    expected = train(begin(micro_batch=2), curriculum(), LAST)
    for ours, theirs in zip(metrics_of(tmp_path), expected, strict=True):
        for name in ("gradient_noise_trace", "gradient_squared_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), (ours["step"], name)


def test_more_ranks_than_sequences_are_rejected() -> None:
    with pytest.raises(
        ValueError,
        match=r"placement\.num_ranks: expected at most one rank per sequence, got 4 ranks for a batch of 3 sequences",
    ):
        Ranks(0, 4).rows(3)


@pytest.mark.parametrize(
    ("precision", "words", "tolerance"),
    [
        *(("fp32", "", 1e-5), ("fp32", "micro_batch=3", 1e-5), ("bf16_mixed", "", 2e-3), ("bf16_true", "", 2e-3)),
        *(("fp32", "optimizer=muon", 1e-4), ("fp32", "model=tied", 1e-5), ("bf16_mixed", "model=tied", 2e-3)),
    ],
)
def test_two_ranks_train_like_one_to_rounding(precision: str, words: str, tolerance: float, tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, f"precision={precision}", *words.split())
    assert [status for status, _ in ended] == [0, 0], ended
    model = TIED if "tied" in words else NEOX
    alone = begin(precision, model=model)
    optimizer = with_muon() if "muon" in words else None
    expected = train(alone, curriculum(precision, optimizer=optimizer, model=model), LAST)
    metrics = metrics_of(tmp_path)
    steps = slice(None) if precision == "fp32" else slice(0, 6)  # rounding errors of bfloat16 grow from step to step
    losses = [m["loss_nats"] for m in metrics[steps]]
    assert losses == pytest.approx([m["loss_nats"] for m in expected[steps]], rel=tolerance)
    assert [m["tokens_seen"] for m in metrics] == [m["tokens_seen"] for m in expected]
    states = [checkpoint.read(tmp_path / f"state-{rank}") for rank in (0, 1)]
    for name, tensor in states[0].weights.items():
        assert torch.equal(tensor, states[1].weights[name]), f"the ranks' {name} differ"
    if precision == "fp32":
        for name, tensor in weights(alone).items():
            # Softmax is invariant to the bias of keys: its gradient is rounding error, which Adam amplifies.
            if name.endswith("qkv.bias"):
                continue
            torch.testing.assert_close(states[0].weights[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_ranks_stop_together_when_one_of_them_is_asked_to(tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, of_rank={1: "stop=8"})
    assert [status for status, _ in ended] == [0, 0], ended
    assert [checkpoint.read(tmp_path / f"state-{rank}").step for rank in (0, 1)] == [7, 7]


def test_a_dead_rank_is_detected_by_the_other(tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, of_rank={1: "die=5"})
    assert ended[1][0] == 9
    assert ended[0][0] == 1
    assert "RankLostError: another rank has exited" in ended[0][1]
