"""A process that evaluates many checkpoints builds one model, and measures of each what a model of its own would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders.training_runs import begin, curriculum, same_bits, train

from midstudy.evaluate import model_cache as load
from midstudy.evaluate.model_cache import lent_model, load_model
from midstudy.model.pythia import Pythia

PRECISIONS = ("fp32", "bf16_mixed", "bf16_true")
IDS = torch.arange(48).view(2, 24) % 512


@pytest.fixture(autouse=True)
def _no_model_is_kept() -> Iterator[None]:
    load._idle.clear()
    yield
    load._idle.clear()


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Pythia]:
    """Every model that is built."""
    models: list[Pythia] = []
    empty = Pythia.empty

    def count(*arguments: object, **options: object) -> Pythia:
        models.append(empty(*arguments, **options))  # type: ignore[arg-type]
        return models[-1]

    monkeypatch.setattr(Pythia, "empty", count)
    return models


def two_states(folder: Path, precision: str) -> tuple[Path, Path]:
    run = begin(precision)
    for step in (1, 3):
        train(run, curriculum(precision), step)
        run.save(folder / f"step{step}", with_optimizer=False)
    return folder / "step1", folder / "step3"


def logits(model: Pythia) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).clone()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_reused_model_gives_the_logits_of_a_fresh_one_bit_for_bit(precision: str, tmp_path: Path) -> None:
    for state in (*two_states(tmp_path, precision), tmp_path / "step1"):
        fresh = load_model(state)
        with lent_model(state) as lent:
            assert torch.equal(logits(lent), logits(fresh))
            assert same_bits(dict(lent.named_parameters()), dict(fresh.named_parameters()))


def test_nothing_is_built_again(tmp_path: Path, built: list[Pythia]) -> None:
    first, second = two_states(tmp_path, "bf16_mixed")
    built.clear()
    seen = []
    for state in (first, second, first):
        with lent_model(state) as model:
            seen.append((model, [parameter.data_ptr() for parameter in model.parameters()]))
    assert len(built) == 1
    assert seen[0] == seen[1] == seen[2]


def test_two_at_a_time_are_two_models(tmp_path: Path) -> None:
    first, second = two_states(tmp_path, "fp32")
    with lent_model(first) as one:
        before = logits(one)
        with lent_model(second) as other:
            assert not torch.equal(logits(other), before)
            assert torch.equal(logits(one), before)


def test_each_precision_has_a_model_of_its_own_and_at_most_two_are_kept(tmp_path: Path) -> None:
    state, _ = two_states(tmp_path, "fp32")
    types = set()
    for precision in PRECISIONS:
        with lent_model(state, precision=precision) as model:
            types.add((model.embedding.weight.dtype, model.head.weight.dtype))
    assert len(types) == 3
    assert len(load._idle) == 2


def test_a_model_in_use_when_something_failed_is_not_used_again(tmp_path: Path, built: list[Pythia]) -> None:
    state, _ = two_states(tmp_path, "fp32")
    built.clear()
    with pytest.raises(RuntimeError, match="half-way"), lent_model(state):
        raise RuntimeError("half-way")
    with lent_model(state):
        pass
    assert len(built) == 2
