"""The training engine on a device: train as on the CPU, save, resume, split into micro-batches and evaluate."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.places import PYTHONPATH
from builders.training_runs import batch_at, begin, curriculum, same_bits, train, weights
from torch import distributed

from midstudy.data.batch import Batch
from midstudy.evaluate.loss import mean_loss
from midstudy.evaluate.model_cache import borrow_weights, forget_models, load_model
from midstudy.train import checkpoint
from midstudy.train.averaging import mean_weights
from midstudy.train.divergence import DivergedError
from midstudy.train.engine import TrainingRun
from midstudy.train.feed import Feed
from midstudy.train.placement import Placement
from midstudy.train.ranks import ALONE, Ranks

PRECISIONS = ("fp32", "bf16_mixed", "bf16_true")
LAST_STEP = 24


@pytest.fixture
def deterministic_kernels() -> Iterator[None]:
    """Use deterministic kernels; by default, the backward pass of attention on a GPU is not deterministic."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    yield
    forget_models()


def losses(metrics: list[dict[str, float]]) -> list[float]:
    return [row["loss_nats"] for row in metrics]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16_mixed", 0.05), ("bf16_true", 0.05)])
def test_training_on_a_device_has_the_losses_of_fp32_on_the_cpu(
    device: torch.device, precision: str, tolerance: float
) -> None:
    """Pretraining, a branch that keeps all state, and fine-tuning with a new optimizer: each step's loss in nats."""
    on_cpu = train(begin(), curriculum(), LAST_STEP)
    on_device = train(begin(precision, device=device.type), curriculum(precision), LAST_STEP)
    assert losses(on_device) == pytest.approx(losses(on_cpu), abs=tolerance)
    assert losses(on_device)[17] < losses(on_device)[0] - 1.0, "the loss did not fall"
    tolerance = 1e-2 if precision == "fp32" else 0.2
    expected = [row["grad_norm"] for row in on_cpu]
    assert [row["grad_norm"] for row in on_device] == pytest.approx(expected, rel=tolerance)


def test_all_tensors_of_a_run_are_on_its_device(device: torch.device) -> None:
    run = begin("bf16_mixed", device=device.type)
    train(run, curriculum("bf16_mixed"), 2)
    assert run.device.type == device.type
    assert run.device_name == "cpu" if device.type == "cpu" else run.device_name == torch.cuda.get_device_name()
    assert run._optimizer is not None
    states = run._optimizer._adamw.state.values()
    assert {tensor.device.type for state in states for tensor in state.values()} == {device.type}
    assert {parameter.device.type for parameter in run.model.parameters()} == {device.type}
    assert run.device.type == "cpu" or run.device.index is not None, "the feed thread has its own current device"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.usefixtures("deterministic_kernels")
def test_a_resumed_run_ends_with_the_same_bits(device: torch.device, precision: str, tmp_path: Path) -> None:
    """Interrupted in pretraining, at the branch and in fine-tuning; each part resumes the previous part's checkpoint."""
    phases = curriculum(precision)
    whole = begin(precision, device=device.type)
    train(whole, phases, LAST_STEP)
    run = begin(precision, device=device.type)
    for step in (5, 12, 20, LAST_STEP):
        train(run, phases, step)
        run.save(tmp_path / str(step), with_optimizer=True)
        run = TrainingRun.load(tmp_path / str(step), placement=Placement(device=device.type))
    assert same_bits(weights(run), weights(whole))
    whole.save(tmp_path / "whole", with_optimizer=True)
    parts, at_once = checkpoint.read(tmp_path / str(LAST_STEP)), checkpoint.read(tmp_path / "whole")
    assert parts.moments is not None
    assert at_once.moments is not None
    assert same_bits(dict(parts.moments), dict(at_once.moments))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_saved_on_a_device_can_be_loaded_on_any_device(device: torch.device, precision: str, tmp_path: Path) -> None:
    run = begin(precision, device=device.type)
    train(run, curriculum(precision), 3)
    run.save(tmp_path / "state", with_optimizer=True)
    on_cpu = TrainingRun.load(tmp_path / "state")
    reloaded = TrainingRun.load(tmp_path / "state", placement=Placement(device=device.type))
    on_device = {name: tensor.cpu() for name, tensor in weights(run).items()}
    assert same_bits(weights(on_cpu), on_device)
    assert same_bits({name: tensor.cpu() for name, tensor in weights(reloaded).items()}, on_device)
    assert train(reloaded, curriculum(precision), 4)[0]["loss_nats"] == pytest.approx(
        train(on_cpu, curriculum(precision), 4)[0]["loss_nats"], abs=1e-4 if precision == "fp32" else 0.05
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_micro_batches_give_the_losses_of_the_batch_and_the_noise_scale(device: torch.device, precision: str) -> None:
    """Micro-batches of 3, 3 and 2 rows. The noise scale matches the CPU's."""
    phases = curriculum(precision)
    whole = train(begin(precision, device=device.type), phases, 6)
    pieces = train(begin(precision, device=device.type, micro_batch=3), phases, 6)
    assert losses(pieces) == pytest.approx(losses(whole), abs=1e-4 if precision == "fp32" else 0.05)
    on_cpu = train(begin(precision, micro_batch=3), phases, 6)
    for key in ("gradient_noise_trace", "gradient_squared_norm"):
        tolerance = 1e-2 if precision == "fp32" else 0.2
        assert pieces[0][key] == pytest.approx(on_cpu[0][key], rel=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "bf16_true"])
def test_compiled_training_has_the_same_losses(precision: str) -> None:
    """Batches of three lengths: the second compiles for dynamic lengths. Also covers documents and evaluation."""
    plain = begin(precision, device="cuda")
    compiled = begin(precision, device="cuda", compiled=True)
    expected, metrics = (train(run, curriculum(precision), 6) for run in (plain, compiled))
    assert losses(metrics) == pytest.approx(losses(expected), abs=1e-3 if precision == "fp32" else 0.05)
    documents = np.repeat(np.arange(4, dtype=np.int32), 4)[None].repeat(8, axis=0)
    batch = batch_at(0)
    packed = Batch(input_ids=batch.input_ids, targets=batch.targets, documents=documents)
    expected_loss, loss = (mean_loss(run.model, [packed]).loss_nats for run in (plain, compiled))
    assert expected_loss == pytest.approx(loss, abs=1e-3 if precision == "fp32" else 0.05)


def test_an_update_that_is_asked_to_stop_is_discarded(device: torch.device) -> None:
    """Stopped between two micro-batches of the third update; the run then continues as if uninterrupted."""
    run = begin(device=device.type, micro_batch=3)
    num_polls = 0

    def should_stop() -> bool:
        nonlocal num_polls
        num_polls += 1
        return run.step == 2 and num_polls > 1 and run.model.head.weight.grad is not None

    reached = run.advance(curriculum(), to_step=6, batch_at=batch_at, on_metrics=lambda _: None, should_stop=should_stop)
    assert (reached, run.step) == (False, 2)
    resumed = train(run, curriculum(), 6)
    expected = train(begin(device=device.type, micro_batch=3), curriculum(), 6)
    assert losses(resumed) == pytest.approx(losses(expected)[2:], abs=1e-4)


def test_a_non_finite_loss_is_detected(device: torch.device) -> None:
    run = begin(device=device.type)
    with torch.no_grad():
        run.model.head.weight[0, 0] = math.nan
    with pytest.raises(DivergedError, match="step 0 diverged"):
        train(run, curriculum(), 2)


@pytest.mark.parametrize("ahead", [False, True], ids=["synchronous", "ahead"])
def test_batches_arrive_on_the_device_in_their_order(device: torch.device, ahead: bool) -> None:
    def full(step: int) -> Batch:
        plain = batch_at(step)
        draw = np.random.default_rng(step)
        return Batch(
            input_ids=plain.input_ids,
            targets=plain.targets,
            weights=draw.random(plain.targets.shape, dtype=np.float32),
            documents=draw.integers(3, size=plain.targets.shape, dtype=np.int32),
        )

    target = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
    with Feed(full, until_step=9, ranks=ALONE, device=target, ahead=ahead) as feed:
        for step in range(9):
            portion, expected = feed.take(step), full(step)
            for name in ("input_ids", "targets", "weights", "documents"):
                tensor = getattr(portion, name)
                assert tensor.device == target
                np.testing.assert_array_equal(tensor.cpu().numpy(), getattr(expected, name))
            assert portion.num_targets == expected.num_targets


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_has_the_same_loss_on_every_device(device: torch.device, precision: str, tmp_path: Path) -> None:
    """Two states through one cached model, with and without documents, in the state's precision and in fp32."""
    run = begin(precision, device=device.type)
    for step in (2, 8):
        train(run, curriculum(precision), step)
        run.save(tmp_path / str(step), with_optimizer=False)
    plain = batch_at(100)
    documents = np.arange(plain.targets.shape[1], dtype=np.int32)[None].repeat(8, axis=0) // 7
    packed = Batch(input_ids=plain.input_ids, targets=plain.targets, documents=documents)
    for batch in (plain, packed):
        for computed_in, tolerance in ((None, 1e-5 if precision == "fp32" else 0.02), ("fp32", 1e-5)):
            actual, expected = [], []
            for step in (2, 8):
                with borrow_weights(tmp_path / str(step), precision=computed_in, device=device) as weights:
                    model = weights.model
                    assert model.head.weight.device.type == device.type
                    actual.append(mean_loss(model, [batch, batch]).loss_nats)
                on_cpu = load_model(tmp_path / str(step), precision=computed_in)
                expected.append(mean_loss(on_cpu, [batch, batch]).loss_nats)
            assert actual == pytest.approx(expected, rel=tolerance)
            assert abs(actual[0] - actual[1]) > 0.1, "the second state was not loaded into the model"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_mean_of_states_saved_on_a_device(device: torch.device, precision: str, tmp_path: Path) -> None:
    run = begin(precision, device=device.type)
    expected: dict[str, torch.Tensor] = {}
    for step in (2, 4, 6):
        train(run, curriculum(precision), step)
        run.save(tmp_path / str(step), with_optimizer=False)
        for name, master in run._weights.masters.items():
            expected[name] = expected.get(name, 0) + master.detach().double().cpu()
    mean = mean_weights(tmp_path / str(step) for step in (2, 4, 6))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (expected[name] / 3).to(tensor.dtype), rtol=1e-6, atol=0)


@pytest.fixture
def single_process_group(device: torch.device, tmp_path: Path) -> Iterator[Ranks]:
    """Return ranks of one process that poses as one of two: its sums use NCCL on a GPU and gloo on the CPU."""
    store = distributed.FileStore(str(tmp_path / "meeting"), 1)
    distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    yield Ranks(rank=0, size=2, tensors=distributed.new_group(backend=backend))
    distributed.destroy_process_group()


def test_sums_over_ranks_on_a_device(device: torch.device, single_process_group: Ranks) -> None:
    """A sum over one rank is the identity, for several shapes and dtypes and more than one bucket."""
    shapes = [(3, 5), (), (7,), (2**22,), (2**24,)]
    types = [torch.float32, torch.float64, torch.float32, torch.float32, torch.float32]
    tensors = [torch.randn(shape, dtype=kind, device=device) for shape, kind in zip(shapes, types, strict=True)]
    before = [tensor.clone() for tensor in tensors]
    single_process_group.add_up(tensors)
    assert all(torch.equal(tensor, original) for tensor, original in zip(tensors, before, strict=True))
    assert single_process_group.any(True)
    assert not single_process_group.any(False)
    assert single_process_group.from_first({"step": 3}) == {"step": 3}


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_on_two_gpus_has_the_losses_of_one(precision: str, tmp_path: Path) -> None:
    driver = [sys.executable, "-m", "builders.ranks_driver"]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    words = [str(tmp_path), "device=cuda", f"precision={precision}"]
    ranks = [subprocess.Popen([*driver, str(rank), "2", *words], env=environment) for rank in range(2)]
    assert [process.wait() for process in ranks] == [0, 0]
    alone = train(begin(precision, device="cuda"), curriculum(precision), LAST_STEP)
    metrics = json.loads((tmp_path / "metrics-0.json").read_text())
    assert losses(metrics) == pytest.approx(losses(alone), abs=1e-3 if precision == "fp32" else 0.05)
    first, second = (checkpoint.read(tmp_path / f"state-{rank}").weights for rank in range(2))
    assert same_bits(dict(first), dict(second))
