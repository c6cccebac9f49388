"""A process that evaluates many checkpoints builds one model and gets the results of separate models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders.training_runs import begin, curriculum, same_bits, train

from midstudy.evaluate import model_cache
from midstudy.evaluate.model_cache import borrow_weights, load_model
from midstudy.model.language_model import LanguageModel

PRECISIONS = ("fp32", "bf16_mixed", "bf16_true")
IDS = torch.arange(48).view(2, 24) % 512


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    model_cache._idle.clear()
    yield
    model_cache._idle.clear()


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[LanguageModel]:
    """Return a list of every model that is built."""
    models: list[LanguageModel] = []
    empty = model_cache.empty_model

    def count(*arguments: object, **options: object) -> LanguageModel:
        models.append(empty(*arguments, **options))  # type: ignore[arg-type]
        return models[-1]

    monkeypatch.setattr(model_cache, "empty_model", count)
    return models


def two_states(folder: Path, precision: str) -> tuple[Path, Path]:
    run = begin(precision)
    for step in (1, 3):
        train(run, curriculum(precision), step)
        run.save(folder / f"step{step}", with_optimizer=False)
    return folder / "step1", folder / "step3"


def logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).clone()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_reused_model_gives_the_logits_of_a_fresh_one_bit_for_bit(precision: str, tmp_path: Path) -> None:
    for state in (*two_states(tmp_path, precision), tmp_path / "step1"):
        fresh = load_model(state)
        with borrow_weights(state) as borrowed:
            assert torch.equal(logits(borrowed.model), logits(fresh))
            assert same_bits(dict(borrowed.model.named_parameters()), dict(fresh.named_parameters()))


def test_one_model_is_built_for_several_checkpoints(tmp_path: Path, built: list[LanguageModel]) -> None:
    first, second = two_states(tmp_path, "bf16_mixed")
    built.clear()
    seen = []
    for state in (first, second, first):
        with borrow_weights(state) as weights:
            model = weights.model
            seen.append((model, [parameter.data_ptr() for parameter in model.parameters()]))
    assert len(built) == 1
    assert seen[0] == seen[1] == seen[2]


def test_nested_calls_get_different_models(tmp_path: Path) -> None:
    first, second = two_states(tmp_path, "fp32")
    with borrow_weights(first) as outer:
        before = logits(outer.model)
        with borrow_weights(second) as inner:
            assert not torch.equal(logits(inner.model), before)
            assert torch.equal(logits(outer.model), before)


def test_each_precision_has_a_separate_model_and_at_most_two_are_kept(tmp_path: Path) -> None:
    state, _ = two_states(tmp_path, "fp32")
    types = set()
    for precision in PRECISIONS:
        with borrow_weights(state, precision=precision) as weights:
            model = weights.model
            types.add((model.embedding.weight.dtype, model.head.weight.dtype))
    assert len(types) == 3
    assert len(model_cache._idle) == 2


def test_a_model_in_use_at_an_error_is_not_reused(tmp_path: Path, built: list[LanguageModel]) -> None:
    state, _ = two_states(tmp_path, "fp32")
    built.clear()
    with pytest.raises(RuntimeError, match="half-way"), borrow_weights(state):
        raise RuntimeError("half-way")
    with borrow_weights(state):
        pass
    assert len(built) == 2
