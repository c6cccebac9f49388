"""Ranks share a step: the same batches, the same numbers to rounding, one end; a rank that is lost is noticed."""

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
from builders.training_runs import batch_at, begin, curriculum, train, weights

from midstudy.train import checkpoint
from midstudy.train.feed import portion_of
from midstudy.train.ranks import Ranks

LAST = 24


DRIVER = (sys.executable, "-m", "builders.ranks_driver")


def run_ranks(folder: Path, *words: str, size: int = 2, of_rank: dict[int, str] | None = None) -> list[tuple[int, str]]:
    """Exit status and output of each rank."""
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
    assert torch.cat([one.input_ids for one in portions]).equal(torch.from_numpy(batch.input_ids))
    assert torch.cat([one.targets for one in portions]).equal(torch.from_numpy(batch.targets))
    rows = [len(one.input_ids) for one in portions]
    assert max(rows) - min(rows) <= 1
    for one in portions:  # what the whole batch holds is known to each without asking
        assert one.num_targets == one.total_weight == (batch.targets != -100).sum()
    assert np.concatenate([one.row_weights for one in portions]).sum() == portions[0].total_weight


def test_a_rows_weight_is_that_of_its_targets() -> None:
    batch = replace(
        batch_at(3), weights=np.random.default_rng(0).uniform(0.1, 1.0, batch_at(3).targets.shape).astype(np.float32)
    )
    portion = portion_of(batch, ranks=Ranks(0, 1), device=torch.device("cpu"))
    assert batch.weights is not None
    by_hand = (batch.weights * (batch.targets != -100)).sum(axis=1)
    assert portion.row_weights.tolist() == pytest.approx(by_hand.tolist(), rel=1e-6)
    assert portion.total_weight == pytest.approx(by_hand.sum(), rel=1e-6)


def test_the_noise_scale_of_two_ranks_is_that_of_one_in_as_many_pieces(tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, "micro_batch=2")  # eight sequences: two pieces of two on either rank
    assert [status for status, _ in ended] == [0, 0], ended
    expected = train(begin(micro_batch=2), curriculum(), LAST)
    for ours, theirs in zip(metrics_of(tmp_path), expected, strict=True):
        for name in ("gradient_noise_trace", "gradient_squared_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), (ours["step"], name)


def test_more_ranks_than_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"placement\.num_ranks: found 4 ranks for a batch of 3 sequences"):
        Ranks(0, 4).rows(3)


@pytest.mark.parametrize(
    ("precision", "words", "tolerance"),
    [("fp32", "", 1e-5), ("fp32", "micro_batch=3", 1e-5), ("bf16_mixed", "", 2e-3), ("bf16_true", "", 2e-3)],
)
def test_two_ranks_train_as_one_to_rounding(precision: str, words: str, tolerance: float, tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, f"precision={precision}", *words.split())
    assert [status for status, _ in ended] == [0, 0], ended
    alone = begin(precision)
    expected = train(alone, curriculum(precision), LAST)
    found = metrics_of(tmp_path)
    steps = slice(None) if precision == "fp32" else slice(0, 6)  # bfloat16's rounding grows from step to step
    assert [m["loss_nats"] for m in found[steps]] == pytest.approx([m["loss_nats"] for m in expected[steps]], rel=tolerance)
    assert [m["tokens_seen"] for m in found] == [m["tokens_seen"] for m in expected]
    states = [checkpoint.read(tmp_path / f"state-{rank}") for rank in (0, 1)]
    for name, tensor in states[0].weights.items():
        assert torch.equal(tensor, states[1].weights[name]), f"the ranks' {name} differ"
    if precision == "fp32":
        for name, tensor in weights(alone).items():
            if name.endswith(
                "qkv.bias"
            ):  # softmax does not see a key's bias: its gradient is rounding, which Adam magnifies
                continue
            torch.testing.assert_close(states[0].weights[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_ranks_stop_together_when_one_of_them_is_told_to(tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, of_rank={1: "stop=8"})
    assert [status for status, _ in ended] == [0, 0], ended
    assert [checkpoint.read(tmp_path / f"state-{rank}").step for rank in (0, 1)] == [7, 7]


def test_a_rank_that_dies_is_noticed_by_the_other(tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, of_rank={1: "die=5"})
    assert ended[1][0] == 9
    assert ended[0][0] == 1
    assert "RankLostError: another rank has ended" in ended[0][1]
