"""The loss by position in the sequence, against sums over single targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.small_recipes import GENERAL, PYCODE
from builders.training_runs import VOCAB_SIZE, begin

from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.model_cache import load_model
from midstudy.execute.evaluation import evaluate_state
from midstudy.recipe import Evaluation
from midstudy.recipe.canonical import identify
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.measure import require_metric

LENGTHS = (30, 7, 25, 12, 41, 19)


def split_of_items(*, prompt: int | None) -> TokenizedSplit:
    rng = np.random.default_rng(4)
    tokens = rng.integers(1, VOCAB_SIZE, size=sum(LENGTHS)).astype(np.uint16)
    offsets = np.cumsum([0, *LENGTHS]).astype(np.int64)
    return TokenizedSplit([tokens], [offsets], None if prompt is None else [np.full(len(LENGTHS), prompt, np.int64)])


def evaluated(folder: Path, evaluation: Evaluation, split: TokenizedSplit) -> dict[str, Any]:
    begin().save(folder / "checkpoint", with_optimizer=False)
    return evaluate_state(evaluation, checkpoint=folder / "checkpoint", split=split, tokenizer=pytest.fail, folder=folder)


@pytest.mark.parametrize(("loss", "prompt"), [("all_tokens", None), ("all_tokens", 5), ("target_tokens", 5)])
def test_the_loss_of_each_part_is_that_of_its_targets(tmp_path: Path, loss: str, prompt: int | None) -> None:
    data, split = (GENERAL if prompt is None else PYCODE), split_of_items(prompt=prompt)
    evaluation = Evaluation(data=data, split="test", loss=loss, seq_len=24, max_sequences=50, by_position=3)
    metrics = evaluated(tmp_path, evaluation, split)
    if prompt is None:
        flat = split.tokens[:].astype(np.int64)
        sequences = [flat[at : at + 25] for at in range(0, len(flat) - 24, 25)]
    else:
        sequences = [split.document(item)[:25].astype(np.int64) for item in range(len(LENGTHS))]
    model = load_model(tmp_path / "checkpoint")
    nats: list[list[float]] = [[], [], []]
    for tokens in sequences:
        with torch.no_grad():
            log_probabilities = model(torch.from_numpy(tokens[None, :-1]))[0].double().log_softmax(dim=1)
        for place, target in enumerate(tokens[1:].tolist()):
            if loss == "all_tokens" or place + 1 >= 5:
                nats[place // 8].append(-float(log_probabilities[place, target]))
    assert [metrics[f"loss_nats_{part}_of_3"] for part in (1, 2, 3)] == pytest.approx([*map(np.mean, nats)], rel=1e-6)
    assert metrics["loss_nats"] == pytest.approx(np.mean([one for part in nats for one in part]), rel=1e-6)
    assert metrics["target_tokens"] == sum(map(len, nats))


def test_a_part_without_a_target_has_no_loss(tmp_path: Path) -> None:
    evaluation = Evaluation(data=PYCODE, split="test", loss="target_tokens", seq_len=48, max_sequences=50, by_position=12)
    metrics = evaluated(tmp_path, evaluation, split_of_items(prompt=5))
    assert [part for part in range(1, 13) if f"loss_nats_{part}_of_12" in metrics] == [*range(2, 11)]


def test_the_parts_are_metrics_of_the_evaluation_and_its_id_is_as_before_without_them() -> None:
    def of(**fields: Any) -> Evaluation:
        return Evaluation(data=GENERAL, split="test", loss="all_tokens", seq_len=24, max_sequences=50, **fields)

    assert identify(of()) == identify(of(by_position=0)) != identify(of(by_position=2))
    require_metric("measure", of(by_position=2), "loss_nats_2_of_2", "lower")
    with pytest.raises(RecipeError, match=r"measure\.metric: expected one of loss_nats, got loss_nats_2_of_2"):
        require_metric("measure", of(), "loss_nats_2_of_2", "lower")
    for parts in (1, 5, -2, True):
        with pytest.raises(RecipeError, match=r"evaluation\.general\.by_position"):
            of(by_position=parts)
