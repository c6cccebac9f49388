"""The engine: updates are those of AdamW, resuming is bitwise exact, and phases reset or continue the optimizer state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.small_recipes import ARCHITECTURES, GENERAL, LLAMA, NEOX, TIED, code_branch, phase, start, trunk
from builders.training_runs import VOCAB_SIZE, batch_at, begin, curriculum, same_bits, train, weights
from torch.nn import functional as F

from midstudy.data.batch import Batch
from midstudy.model.initialise import initialised
from midstudy.recipe import AdamW, Constant, Curriculum, Mixture
from midstudy.recipe.shape import AnyShape
from midstudy.train import checkpoint
from midstudy.train.divergence import DivergedError
from midstudy.train.engine import Metrics, TrainingRun
from midstudy.train.feed import Feed
from midstudy.train.ranks import ALONE
from midstudy.train.rolling import Rolling, latest_valid

PRECISIONS = ("fp32", "bf16_mixed", "bf16_true")
LAST = 24


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_an_update_is_torchs_adamw_on_the_mean_token_loss(clip_norm: float) -> None:
    optimizer = AdamW(beta1=0.8, beta2=0.9, weight_decay=0.3, clip_norm=clip_norm, epsilon=1e-6)
    course = Curriculum.of(start(), phase(Mixture.only(GENERAL), 4, optimizer=optimizer, schedule=Constant(lr=1e-3)))
    run = begin()
    metrics = train(run, course, 4)

    model = initialised(start().model, seed=0)
    reference = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3, foreach=False, fused=False
    )
    for step, reported in enumerate(metrics):
        batch = batch_at(step)
        logits = model(torch.from_numpy(batch.input_ids)).flatten(0, 1)
        loss = F.cross_entropy(logits, torch.from_numpy(batch.targets).flatten())
        reference.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm or math.inf)
        assert reported["loss_nats"] == pytest.approx(loss.item(), rel=1e-5)
        assert reported["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert norm > 0.1
        reference.step()
    for (name, expected), trained in zip(model.named_parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-3, atol=2e-5, msg=name)


def packed(step: int) -> Batch:
    """Return a batch with two documents per row and different loss weights."""
    batch = batch_at(step, length=32)
    random = np.random.default_rng(step)
    documents = (np.arange(32) >= random.integers(4, 28, size=(8, 1))).astype(np.int32)
    return replace(batch, documents=documents, weights=random.uniform(0.1, 1.0, (8, 32)).astype(np.float32))


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_document_masks_and_loss_weights_are_applied(micro_batch: int | None) -> None:
    """Compared with a separate forward pass per document and an explicit weighted mean."""
    optimizer = AdamW(beta1=0.8, beta2=0.9, weight_decay=0.3, clip_norm=0.0)
    course = Curriculum.of(start(), phase(Mixture.only(GENERAL), 3, optimizer=optimizer, schedule=Constant(lr=1e-3)))
    run = begin(micro_batch=micro_batch)
    metrics: list[Metrics] = []
    assert run.advance(course, to_step=3, batch_at=packed, on_metrics=metrics.append, log_every=1)
    model = initialised(start().model, seed=0)
    reference = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.8, 0.9), weight_decay=0.3)
    for step, reported in enumerate(metrics):
        batch, total, weight = packed(step), torch.zeros(()), 0.0
        assert batch.documents is not None
        assert batch.weights is not None
        for row in range(8):
            for document in (0, 1):
                columns = np.flatnonzero(batch.documents[row] == document)
                logits = model(torch.from_numpy(batch.input_ids[row, columns])[None])[0]
                losses = F.cross_entropy(logits, torch.from_numpy(batch.targets[row, columns]), reduction="none")
                loss_weights = batch.weights[row, columns] * (batch.targets[row, columns] != -100)
                total = total + (losses * torch.from_numpy(loss_weights)).sum()
                weight += float(loss_weights.sum())
        reference.zero_grad()
        (total / weight).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)
        assert reported["loss_nats"] == pytest.approx((total / weight).item(), rel=1e-5)
        assert reported["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        reference.step()


def test_metrics_are_on_disk_before_the_state(tmp_path: Path) -> None:
    done: list[str] = []
    rolling = Rolling(folder=tmp_path, every_s=0, before=lambda: done.append("metrics"))
    rolling.save(1, lambda folder: done.append("state"))
    assert done == ["metrics", "state"]


def test_metrics_count_targets_and_follow_the_curve() -> None:
    course = curriculum()
    metrics = train(begin(), course, LAST)
    assert [m["step"] for m in metrics] == list(range(1, LAST + 1))
    assert [m["lr"] for m in metrics] == [course.curve.lr(step) for step in range(LAST)]
    targets = [int((batch_at(step).targets != -100).sum()) for step in range(LAST)]
    assert [m["tokens_seen"] for m in metrics] == np.cumsum(targets).tolist()
    assert all(m["tokens_per_s"] > 0 and m["data_wait_s"] >= 0 for m in metrics)


def test_metrics_are_reported_every_log_every_steps_and_at_the_end() -> None:
    steps: list[float] = []
    run = begin()
    run.advance(curriculum(), to_step=14, batch_at=batch_at, on_metrics=lambda m: steps.append(m["step"]), log_every=6)
    assert steps == [6, 12, 14]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ARCHITECTURES, ids=lambda model: model.name)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(model: AnyShape, precision: str, tmp_path: Path) -> None:
    """Interrupted within each phase and at both boundaries; each time, a new object loads the state from disk."""
    course = curriculum(precision, model=model)
    whole = begin(precision, model=model)
    expected = train(whole, course, LAST)
    run, metrics = begin(precision, model=model), []
    for stop in (5, 12, 15, 18, 21, LAST):
        metrics += train(run, course, stop)
        run.save(tmp_path / str(stop), with_optimizer=True)
        run = TrainingRun.load(tmp_path / str(stop))
    assert same_bits(weights(run), weights(whole))
    assert [m["loss_nats"] for m in metrics] == [m["loss_nats"] for m in expected]
    assert (run.step, run.state_id, run.tokens_seen) == (LAST, course.state().id, whole.tokens_seen)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ARCHITECTURES, ids=lambda model: model.name)
def test_training_reduces_the_loss(model: AnyShape, precision: str) -> None:
    metrics = train(begin(precision, model=model), curriculum(precision, model=model), LAST)
    assert metrics[0]["loss_nats"] == pytest.approx(math.log(VOCAB_SIZE), rel=0.05)
    assert metrics[-1]["loss_nats"] < metrics[0]["loss_nats"] - 1.0


@pytest.mark.parametrize("precision", ["bf16_mixed", "bf16_true"])
@pytest.mark.parametrize(("model", "last"), [(NEOX, LAST), (LLAMA, 18), (TIED, 18)], ids=["neox", "llama", "tied"])
def test_bfloat16_trains_like_fp32(model: AnyShape, last: int, precision: str) -> None:
    """Of Llamas until fine-tuning: its rate is so high for them that rounding decides whether one step's loss jumps."""
    runs = ((begin(kind, model=model), curriculum(kind, model=model)) for kind in ("fp32", precision))
    exact, rounded = ([m["loss_nats"] for m in train(run, course, last)] for run, course in runs)
    assert rounded == pytest.approx(exact, rel=0.02)


def test_mixed_precision_keeps_updates_that_bfloat16_rounds_away(tmp_path: Path) -> None:
    tiny = phase(Mixture.only(GENERAL), 3, schedule=Constant(lr=1e-7), precision="bf16_mixed")
    run = begin("bf16_mixed")
    train(run, Curriculum.of(start(), tiny), 3)
    run.save(tmp_path / "state", with_optimizer=False)
    moved = TrainingRun.load(tmp_path / "state")._weights.masters["blocks.0.mlp_in.weight"]
    drawn = initialised(start().model, seed=0).state_dict()["blocks.0.mlp_in.weight"]
    assert moved.dtype == torch.float32
    assert not torch.equal(moved, drawn)
    assert torch.equal(moved.bfloat16(), run.model.get_parameter("blocks.0.mlp_in.weight"))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16_mixed", 2e-3), ("bf16_true", 2e-3)])
@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("model", ARCHITECTURES, ids=lambda model: model.name)
def test_micro_batches_give_the_results_of_the_whole_batch(
    model: AnyShape, precision: str, tolerance: float, micro_batch: int
) -> None:
    """Rows differ in their number of targets, so equal weights for unequal micro-batches would be detected."""
    course = curriculum(precision, model=model)
    whole = train(begin(precision, model=model), course, 6)
    pieces = train(begin(precision, model=model, micro_batch=micro_batch), course, 6)
    for expected, actual in zip(whole, pieces, strict=True):
        assert actual["loss_nats"] == pytest.approx(expected["loss_nats"], rel=tolerance)
        assert actual["grad_norm"] == pytest.approx(expected["grad_norm"], rel=20 * tolerance)


def test_a_micro_batch_without_targets_does_not_count() -> None:
    def half_empty(step: int) -> Batch:
        batch = batch_at(step)
        targets = batch.targets.copy()
        targets[4:] = -100
        return Batch(input_ids=batch.input_ids, targets=targets)

    losses = []
    for micro_batch in (None, 4):
        begin(micro_batch=micro_batch).advance(
            curriculum(),
            to_step=3,
            batch_at=half_empty,
            on_metrics=lambda m: losses.append(m["loss_nats"]),
        )
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_batch_without_targets_is_rejected() -> None:
    empty = Batch(input_ids=np.zeros((2, 8), np.int64), targets=np.full((2, 8), -100))
    with pytest.raises(ValueError, match="batch of step 0 has no target token"):
        begin().advance(curriculum(), to_step=1, batch_at=lambda step: empty, on_metrics=print)


def test_a_phase_resets_or_continues_the_optimizer(tmp_path: Path) -> None:
    course = curriculum()
    run = begin()
    train(run, course, 18)
    assert run._optimizer is not None
    assert run._optimizer.num_updates == 18
    run.save(tmp_path / "bare", with_optimizer=False)
    train(run, course, 19)
    assert run._optimizer.num_updates == 1
    tuned = TrainingRun.load(tmp_path / "bare")
    train(tuned, course, 19)  # a phase that resets the optimizer needs no saved moments
    assert same_bits(weights(tuned), weights(run))


def test_a_phase_that_continues_an_optimizer_needs_one(tmp_path: Path) -> None:
    course = curriculum()
    run = begin()
    train(run, course, 12)
    run.save(tmp_path / "bare", with_optimizer=False)
    bare = TrainingRun.load(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"phases\.midtrain\.optimizer_state: .* Save that state with its optimizer"):
        train(bare, course, 13)
    with pytest.raises(ValueError, match="loaded without its optimizer"):
        bare.save(tmp_path / "again", with_optimizer=True)


def test_a_phase_may_change_the_precision(tmp_path: Path) -> None:
    course = curriculum("bf16_true", sft_precision="fp32")
    run = begin("bf16_true")
    train(run, course, 18)
    assert run.precision == "bf16_true"
    assert run.model.head.weight.dtype == torch.bfloat16
    train(run, course, 20)
    assert run.precision == "fp32"
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    run.save(tmp_path / "state", with_optimizer=True)
    resumed = TrainingRun.load(tmp_path / "state")
    train(run, course, LAST)
    train(resumed, course, LAST)
    assert same_bits(weights(resumed), weights(run))


def test_a_branch_continues_from_its_trunks_state() -> None:
    run = begin()
    train(run, trunk(20), 6)
    train(run, code_branch(trunk(20), 6), 8)  # the state at step 6 is the same in both
    with pytest.raises(ValueError, match=r"this run at step 8: expected state \w+, that of the curriculum, got"):
        train(run, trunk(20), 9)


@pytest.mark.parametrize("to_step", [-1, 3, 25])
def test_steps_before_the_run_or_past_the_end_are_rejected(to_step: int) -> None:
    run = begin()
    train(run, curriculum(), 4)
    with pytest.raises(ValueError, match=rf"to_step: expected 4 .* to 24, got {to_step}\."):
        train(run, curriculum(), to_step)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_stop_request_between_or_within_updates_leaves_no_partial_update(micro_batch: int | None) -> None:
    """Stopped at every poll: an interrupted step is repeated bit for bit."""
    course = curriculum()
    whole = begin(micro_batch=micro_batch)
    train(whole, course, 14)
    # Polls are before the step, after each forward pass, and after all backward passes but the last.
    polls_per_step = 2 if micro_batch is None else 8
    for poll in range(1, 2 * polls_per_step + 1):
        run = begin(micro_batch=micro_batch)
        train(run, course, 11)
        polls = iter([False] * (poll - 1) + [True])
        reached = run.advance(course, to_step=14, batch_at=batch_at, on_metrics=lambda m: None, should_stop=polls.__next__)
        assert not reached
        assert run.step == 11 + (poll - 1) // polls_per_step
        train(run, course, 14)
        assert same_bits(weights(run), weights(whole)), poll


def test_two_rolling_checkpoints_are_kept_and_resumed_from(tmp_path: Path) -> None:
    course = curriculum()
    whole = begin()
    train(whole, course, LAST, rolling=Rolling(folder=tmp_path, every_s=0, most_of_time=math.inf))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000022", "step-00000023"]
    latest = latest_valid(tmp_path)
    assert latest is not None
    resumed = TrainingRun.load(latest)
    train(resumed, course, LAST)
    assert same_bits(weights(resumed), weights(whole))


def test_slow_checkpoints_are_written_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("midstudy.train.rolling.time.monotonic", lambda: now)
    rolling = Rolling(folder=tmp_path, every_s=60.0, most_of_time=0.05)
    rolling._last_save = now  # its default factory uses the real clock

    def write(folder: Path) -> None:
        nonlocal now
        now += 9.0
        folder.mkdir()

    now = 59.0
    assert not rolling.due()
    now = 60.0
    assert rolling.due()
    rolling.save(1, write)
    now += 179.0
    assert not rolling.due()
    now += 1.0  # 9 s of 180
    assert rolling.due()


def test_divergence_names_the_step_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = begin()

    def poisoned(step: int) -> Batch:
        if step == 13:
            with torch.no_grad():
                run.model.final_norm.weight.fill_(math.nan)
        return batch_at(step)

    steps: list[float] = []
    with pytest.raises(
        DivergedError,
        match=r"from step 13 diverged: loss nan.*It read the text of step 13\..*checkpoint is .*step-00000012\.",
    ):
        run.advance(
            curriculum(),
            to_step=LAST,
            batch_at=poisoned,
            on_metrics=lambda m: steps.append(m["step"]),
            rolling=Rolling(folder=tmp_path, every_s=0, most_of_time=math.inf),
            text_at=lambda step: f"the text of step {step}",
        )
    assert max(steps) <= 13
    latest = latest_valid(tmp_path)
    assert latest is not None
    assert TrainingRun.load(latest).step == 13


def poison(run: TrainingRun, at_step: int) -> Callable[[int], Batch]:
    """Return batches; fetching that of `at_step` sets weights to NaN."""

    def poisoned(step: int) -> Batch:
        if step == at_step:
            with torch.no_grad():
                run.model.final_norm.weight.fill_(math.nan)
        return batch_at(step)

    return poisoned


def test_divergence_right_after_an_interruption_names_the_checkpoint_of_the_previous_attempt(tmp_path: Path) -> None:
    first = begin()
    rolling = Rolling(folder=tmp_path / "first", every_s=0, most_of_time=math.inf)
    first.advance(curriculum(), to_step=8, batch_at=batch_at, on_metrics=lambda m: None, rolling=rolling)
    rolling.save(8, lambda folder: first.save(folder, with_optimizer=True))
    run = TrainingRun.load(tmp_path / "first" / "step-00000008")
    with pytest.raises(DivergedError, match=r"from step 8 diverged.*last good checkpoint is .*first/step-00000007\."):
        run.advance(
            curriculum(),
            to_step=LAST,
            batch_at=poison(run, 8),
            on_metrics=lambda m: None,
            rolling=Rolling(folder=tmp_path / "second", every_s=0, most_of_time=math.inf),
        )


def test_divergence_at_the_first_update_names_the_state_it_started_from(tmp_path: Path) -> None:
    trunk_run = begin()
    train(trunk_run, curriculum(), 12)
    trunk_run.save(tmp_path / "kept", with_optimizer=True)
    run = TrainingRun.load(tmp_path / "kept")
    with pytest.raises(DivergedError, match=r"from step 12 diverged.*There is no checkpoint between it and .*kept\."):
        run.advance(curriculum(), to_step=LAST, batch_at=poison(run, 12), on_metrics=lambda m: None)


def test_the_memory_of_the_divergence_watch_is_saved_with_the_state(tmp_path: Path) -> None:
    run = begin()
    train(run, curriculum(), 8)
    run.save(tmp_path / "state", with_optimizer=True)
    watched = checkpoint.read(tmp_path / "state").watch
    assert watched is not None
    assert [step for _, step in watched["recent"]] == list(range(8))
    again = TrainingRun.load(tmp_path / "state")
    again.save(tmp_path / "again", with_optimizer=True)
    assert checkpoint.read(tmp_path / "again").watch == watched


def test_divergence_is_detected_between_reports() -> None:
    run = begin()

    def poisoned(step: int) -> Batch:
        if step == 3:
            with torch.no_grad():
                run.model.final_norm.weight.fill_(math.nan)
        return batch_at(step)

    with pytest.raises(DivergedError, match=r"from step 3 diverged.*There is no earlier checkpoint"):
        run.advance(curriculum(), to_step=8, batch_at=poisoned, on_metrics=lambda m: None, log_every=8)


def test_a_diverging_loss_stops_the_run_before_its_end() -> None:
    """A learning rate that is far too high, in a phase long enough to detect it."""
    course = Curriculum.of(
        start(),
        phase(Mixture.only(GENERAL), 40, schedule=Constant(lr=1e-2)),
        phase(Mixture.only(GENERAL), 200, schedule=Constant(lr=0.9), optimizer_state="reset"),
    )
    run = begin()
    with pytest.raises(DivergedError, match=r"nats, more than 3 above (its minimum|chance)|loss (nan|inf) nats"):
        train(run, course, 240)
    assert 40 < run.step < 240


def test_decay_of_matrices_only_leaves_biases_and_norms_unchanged() -> None:
    """With negligible gradients, decayed weights shrink by 1 - lr · decay per step and the others stay."""
    optimizer = AdamW(beta1=0.9, beta2=0.95, weight_decay=0.5, clip_norm=1e-12, epsilon=1e3, decayed="matrices")
    course = Curriculum.of(start(), phase(Mixture.only(GENERAL), 3, optimizer=optimizer, schedule=Constant(lr=0.1)))
    run = begin()
    before = weights(run)
    train(run, course, 3)
    for name, after in weights(run).items():
        factor = 0.95**3 if before[name].dim() == 2 else 1.0
        torch.testing.assert_close(after, before[name] * factor, rtol=1e-5, atol=1e-8, msg=name)


def test_random_numbers_of_an_update_are_a_function_of_seed_and_step(tmp_path: Path) -> None:
    """No layer draws any at present; one that did would not break exact resume."""
    drawn: dict[int, float] = {}

    def drawing(run: TrainingRun) -> TrainingRun:
        run.model.final_norm.register_forward_hook(lambda *_: drawn.__setitem__(run.step, torch.rand(()).item()))
        return run

    train(drawing(begin()), curriculum(), 6)
    whole = dict(drawn)
    assert len(set(whole.values())) == 6
    drawn.clear()
    run = begin()
    train(run, curriculum(), 3)
    run.save(tmp_path / "3", with_optimizer=True)
    torch.rand(17)
    train(drawing(TrainingRun.load(tmp_path / "3")), curriculum(), 6)
    assert drawn == {step: whole[step] for step in (3, 4, 5)}


def test_prefetched_batches_are_the_same_and_none_is_computed_past_the_end() -> None:
    requested: list[int] = []

    def recorded(step: int) -> Batch:
        requested.append(step)
        return batch_at(step)

    with Feed(recorded, until_step=9, ranks=ALONE, device=torch.device("cpu"), ahead=True) as feed:
        for step in range(4, 9):
            assert torch.equal(feed.take(step).input_ids, torch.from_numpy(batch_at(step).input_ids))
    assert requested == [4, 5, 6, 7, 8]
