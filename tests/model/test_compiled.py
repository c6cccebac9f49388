"""Compiled blocks give the same results up to rounding and are compiled once for all models of a shape and any length."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.training_runs import batch_at, begin, curriculum, same_bits, train, weights

from midstudy.evaluate.loss import mean_loss
from midstudy.model.compiled import (
    StopRequestedError,
    _compiled,
    compile_model,
    require_compiler,
    signals_held,
    stopping_between_parts,
)
from midstudy.train.engine import TrainingRun

PRECISIONS = ("fp32", "bf16_mixed", "bf16_true")
# Relative to a loss near 6 nats after six steps at a high learning rate; bf16 has eight significant bits.
TOLERANCES = {"fp32": 1e-5, "bf16_mixed": 1e-2, "bf16_true": 1e-2}


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without compiled code, in this process and on disk."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(precision: str) -> TrainingRun:
    run = begin(precision)
    compile_model(run.model)
    return run


def num_graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_compiled_training_equals_eager_to_rounding_and_compiles_once(precision: str, fresh_cache: None) -> None:
    # The batches have lengths 16, 24, 32, 16, ...; the last phase fine-tunes.
    eager, first = begin(precision), compiled(precision)
    expected = train(eager, curriculum(precision), 24)
    metrics = train(first, curriculum(precision), 24)
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours["loss_nats"] == pytest.approx(theirs["loss_nats"], rel=TOLERANCES[precision])
    assert mean_loss(first.model, [batch_at(30)]).loss_nats == pytest.approx(
        mean_loss(eager.model, [batch_at(30)]).loss_nats, rel=TOLERANCES[precision]
    )
    graphs = num_graphs()
    assert graphs <= 2 * 2 * 2, "two parts, one length and any length, training and evaluation"
    mean_loss(first.model, [batch_at(30, length=40), batch_at(31, length=56)])
    again = compiled(precision)
    assert [m["loss_nats"] for m in train(again, curriculum(precision), 24)] == [m["loss_nats"] for m in metrics]
    mean_loss(again.model, [batch_at(30, length=64)])
    assert num_graphs() == graphs, "a second model of the shape, and other lengths, need no compilation"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_documents_and_weights_compile_too(fresh_cache: None) -> None:
    from dataclasses import replace

    import numpy as np

    batch = batch_at(3, length=32)
    documents = np.repeat(np.array([[0, 1]], np.int32), 16, axis=1).repeat(8, axis=0)
    weights = np.full(batch.targets.shape, 0.5, np.float32)
    packed = replace(batch, documents=documents, weights=weights)

    def loss_of(run: TrainingRun, **given: torch.Tensor) -> float:
        tensors = [torch.from_numpy(array) for array in (packed.input_ids, packed.targets)]
        loss = run.model.scaled_loss(*tensors, scale=1 / 100, **given)
        loss.backward()
        return loss.item()

    eager, ours = begin("bf16_true"), compiled("bf16_true")
    with torch.no_grad():  # so that attention affects the loss
        for run in (eager, ours):
            for name, parameter in run.model.named_parameters():
                if name.endswith(("qkv.weight", "attention_out.weight")):
                    parameter.mul_(8)
    masks, counts = {"documents": torch.from_numpy(documents)}, {"weights": torch.from_numpy(weights)}
    expected = loss_of(eager, **masks, **counts)
    assert loss_of(ours, **masks, **counts) == pytest.approx(expected, rel=1e-3)
    assert abs(loss_of(eager, **counts) - expected) > 3e-3 * expected
    assert abs(loss_of(eager, **masks) - expected) > 0.5 * expected


def test_the_error_for_a_missing_compiler_says_how_to_fix_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"g\+\+ is not on the PATH.*apt-get install g\+\+.*leave compilation off"):
        compile_model(begin().model)


def test_the_error_for_missing_python_headers_says_how_to_fix_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mycompiler").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "mycompiler")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=r"Python\.h is missing.*python3\.11-dev"):
        require_compiler()


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Replace the compiler; return a list of the block parts that run, forward and backward, in order."""
    called: list[str] = []

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, name: str) -> torch.Tensor:
            ctx.name = name
            called.append(name)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
            called.append(f"{ctx.name} backward")
            return gradients[0], None

    def compile(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *arguments: Recorded.apply(function(*arguments), function.__name__)

    monkeypatch.setattr(torch, "compile", compile)
    _compiled.cache_clear()
    yield called
    _compiled.cache_clear()


FORWARD = ["attend", "feed_forward"] * 2
BACKWARD = ["feed_forward backward", "attend backward"] * 2


@pytest.mark.parametrize("parts", range(1, 8))
def test_a_stop_is_noticed_as_soon_as_a_part_is_compiled(parts: int, compiler: list[str]) -> None:
    """The stop comes from the flag, after any part of the forward or backward pass; the step is not applied."""
    run = begin("bf16_true", compiled=True)
    train(run, curriculum("bf16_true"), 2)
    assert compiler == (FORWARD + BACKWARD) * 2
    before = weights(run)
    compiler.clear()
    assert not run.advance(
        curriculum("bf16_true"),
        to_step=4,
        batch_at=batch_at,
        on_metrics=lambda metrics: None,
        should_stop=lambda: len(compiler) >= parts,
    )
    assert compiler == (FORWARD + BACKWARD)[:parts]
    assert run.step == 2
    assert same_bits(weights(run), before)
    train(run, curriculum("bf16_true"), 4)


def test_a_held_signal_is_noticed_as_soon_as_a_part_is_compiled(compiler: list[str]) -> None:
    """The signal is pending for this thread, or another thread of the process has handled it already."""
    run = compiled("bf16_true")
    arrived: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: arrived.append(number))
    try:
        with stopping_between_parts(lambda: bool(arrived)), signals_held():
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(StopRequestedError):
                run.model(torch.from_numpy(batch_at(0).input_ids))
            assert compiler == ["attend"]
        assert arrived == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_compiler_outlives_the_signal_that_stops_the_job() -> None:
    """Child and parent receive the signal, as from a scheduler; the child finishes, then the parent handles the signal."""
    arrived: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: arrived.append(number))
    try:
        with signals_held():
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5); print('built')"], stdout=-1)
            child.send_signal(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            output, _ = child.communicate()
        assert arrived == [signal.SIGTERM]
        assert (child.returncode, output) == (0, b"built\n")
    finally:
        signal.signal(signal.SIGTERM, previous)
