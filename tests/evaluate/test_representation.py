"""Two states are compared over their real tokens: the matrix, its summary and the distortion, computed independently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders.small_recipes import GENERAL, PYCODE
from builders.training_runs import begin, curriculum, train
from numpy.typing import NDArray
from safetensors.numpy import load_file

from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.model_cache import load_model
from midstudy.execute.evaluation import evaluate_state
from midstudy.model.language_model import LanguageModel
from midstudy.recipe import RepresentationSimilarity
from midstudy.recipe.representation import CKA_FILE

SEQ_LEN, MAX_SEQUENCES = 24, 40


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoints after 18 and after 24 steps of a run."""
    folder, run = tmp_path_factory.mktemp("states"), begin()
    for step in (18, 24):
        train(run, curriculum(), step)
        run.save(folder / str(step), with_optimizer=False)
    return folder / "18", folder / "24"


def split_of(*, is_task: bool) -> TokenizedSplit:
    """Return documents of 3 to 39 random tokens; some are longer than `SEQ_LEN`."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 40, size=60)
    return TokenizedSplit(
        tokens=[random.integers(1, 512, size=lengths.sum()).astype(np.uint16)],
        offsets=[np.cumsum([0, *lengths])],
        prompt_lengths=[np.full(60, 2)] if is_task else None,
    )


def compare(data: Any, examples: str, states: tuple[Path, Path], folder: Path) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Return the metrics and the matrix of the second state compared with the first one."""
    recipe = RepresentationSimilarity(
        data=data, split="test", seq_len=SEQ_LEN, max_sequences=MAX_SEQUENCES, examples=examples, other="0" * 16
    )
    metrics = evaluate_state(
        recipe,
        checkpoint=states[1],
        other_checkpoint=states[0],
        split=split_of(is_task=data == PYCODE),
        tokenizer=pytest.fail,
        folder=folder,
    )
    table = pd.read_parquet(folder / CKA_FILE)
    return metrics, table.pivot(index="layer_a", columns="layer_b", values="cka").to_numpy()


def read_sequences(data: Any) -> list[NDArray[np.int64]]:
    """Return the inputs of the first sequences, without padding."""
    split = split_of(is_task=data == PYCODE)
    if data == PYCODE:
        return [np.asarray(split.document(item)[: SEQ_LEN + 1], np.int64)[:-1] for item in range(MAX_SEQUENCES)]
    blocks = split.tokens[: split.num_blocks(SEQ_LEN) * (SEQ_LEN + 1)].reshape(-1, SEQ_LEN + 1)
    return [np.asarray(block[:-1], np.int64) for block in blocks[:MAX_SEQUENCES]]


@torch.no_grad()
def layers_by_hook(
    model: LanguageModel, sequences: list[NDArray[np.int64]], *, by_sequence: bool
) -> list[NDArray[np.float64]]:
    """Return the examples of the embedding, of every block but the last, and of the final norm, one sequence at a time."""
    modules = [model.embedding, *list(model.blocks)[:-1], model.final_norm]
    seen: list[list[NDArray[np.float64]]] = [[] for _ in modules]
    hooks = [
        module.register_forward_hook(lambda _, __, output, into=into: into.append(output[0].double().numpy()))
        for module, into in zip(modules, seen, strict=True)
    ]
    for ids in sequences:
        model(torch.from_numpy(ids)[None])
    for hook in hooks:
        hook.remove()
    return [np.stack([part.mean(axis=0) for part in one]) if by_sequence else np.concatenate(one) for one in seen]


def by_hsic(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    number = len(left)
    centring = np.eye(number) - 1 / number
    k, h = centring @ left @ left.T @ centring, centring @ right @ right.T @ centring
    return float((k * h).sum() / np.sqrt((k * k).sum() * (h * h).sum()))


@pytest.mark.parametrize("examples", ["tokens", "sequences"])
@pytest.mark.parametrize("data", [PYCODE, GENERAL], ids=["items", "blocks"])
def test_the_matrix_is_that_of_activations_without_padding(
    data: Any, examples: str, states: tuple[Path, Path], tmp_path: Path
) -> None:
    metrics, matrix = compare(data, examples, states, tmp_path)
    sequences = read_sequences(data)
    by_sequence = examples == "sequences"
    other, own = (layers_by_hook(load_model(state), sequences, by_sequence=by_sequence) for state in states)
    expected = np.array([[by_hsic(a, b) for b in other] for a in own])
    assert matrix == pytest.approx(expected, rel=1e-5)
    assert np.abs(matrix - matrix.T).max() > 1e-3, "the test does not see which state is which"
    assert metrics["mean_diagonal_cka"] == pytest.approx(np.diag(expected).mean(), rel=1e-5)
    assert metrics["last_layer_cka"] == pytest.approx(expected[-1, -1], rel=1e-5)
    assert metrics["num_examples"] == (len(sequences) if by_sequence else sum(map(len, sequences)))


def test_the_distortion_is_the_norm_of_the_change_of_the_last_mlp(states: tuple[Path, Path], tmp_path: Path) -> None:
    metrics, _ = compare(PYCODE, "tokens", states, tmp_path)
    before, after = (load_file(state / "model.safetensors")["blocks.1.mlp_out.weight"] for state in states)
    assert metrics["layer_distortion"] == pytest.approx(np.sqrt(((after.astype(float) - before) ** 2).sum()), rel=1e-12)
    assert metrics["layer_distortion"] > 0.1


def test_the_distortion_of_mixed_precision_is_that_of_the_fp32_weights(tmp_path: Path) -> None:
    """The bf16 copies with which a `bf16_mixed` model computes would hide small changes."""
    run = begin("bf16_mixed")
    run.save(tmp_path / "before", with_optimizer=False)
    weight = run._weights.masters["blocks.1.mlp_out.weight"].detach()
    weight.mul_(1 + 1e-5)
    run.save(tmp_path / "after", with_optimizer=False)
    metrics, _ = compare(PYCODE, "tokens", (tmp_path / "before", tmp_path / "after"), tmp_path)
    assert metrics["layer_distortion"] == pytest.approx(1e-5 * float(torch.linalg.norm(weight)), rel=0.02)


def test_a_state_compared_with_itself_is_the_same_in_every_layer(states: tuple[Path, Path], tmp_path: Path) -> None:
    metrics, matrix = compare(PYCODE, "sequences", (states[0], states[0]), tmp_path)
    assert np.diag(matrix) == pytest.approx(1, rel=1e-9)
    assert matrix == pytest.approx(matrix.T, rel=1e-9)
    assert metrics["layer_distortion"] == 0
