"""The training engine: a model and its optimizer at a step of a curriculum, advanced update by update.

One engine serves every phase: pretraining, midtraining, continued pretraining and fine-tuning differ in their data and in
what the phase takes over from the previous one, which `advance` applies at the first step of each phase. The update from
state s to state s + 1 reads `batch_at(s)` with learning rate `curriculum.curve.lr(s)`; random numbers, if a layer drew any,
would come from a seed derived from the phase's seed and the step. With the same CPU configuration, an interrupted run, or
one split into several runs, therefore ends with bitwise identical weights.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midstudy.data.batch import Batch
from midstudy.data.order import derive_key
from midstudy.model.architecture import empty_model
from midstudy.model.compiled import StopRequestedError, compile_model, signals_held, stopping_between_parts
from midstudy.model.initialise import initialised
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.curriculum import Curriculum, Start, Stretch
from midstudy.recipe.phase import POLICY_GRADIENT
from midstudy.recipe.task_mixture import TaskMixture
from midstudy.train import checkpoint
from midstudy.train.checkpoint import Checkpoint, CheckpointError
from midstudy.train.divergence import DivergedError, DivergenceWatch, Trouble
from midstudy.train.feed import Feed, Portion
from midstudy.train.noise_scale import estimate, partial_sums
from midstudy.train.optimizer import Optimizer
from midstudy.train.placement import Placement
from midstudy.train.precision import Weights
from midstudy.train.ranks import ALONE, Ranks
from midstudy.train.rolling import Rolling, latest_valid

Metrics = dict[str, float]


@dataclass(frozen=True)
class _Update:
    """Measurements of one update, still on the device: the batch's mean loss, gradient norm and noise estimates."""

    loss: Tensor
    norm: Tensor
    noise: Tensor | None


class TrainingRun:
    """A model and its optimizer after `step` updates. Create one with `begin` or `load`.

    `model` computes in the run's precision and can be evaluated between two calls of `advance`. `tokens_seen` counts target
    tokens since step 0. `trained_s` is the training time of this object in seconds, `waited_s` the part of it spent waiting
    for data.
    """

    def __init__(self, state: Checkpoint, *, placement: Placement | None = None, ranks: Ranks = ALONE) -> None:
        self.placement, self.ranks = placement or Placement(), ranks
        self.step = state.step
        self._loaded_id = state.state_id
        self._curriculum: Curriculum | None = None
        self.tokens_seen = state.tokens_seen
        self.trained_s = self.waited_s = 0.0
        device = torch.device(self.placement.device)
        # With its index: the thread that feeds a GPU has its own current device.
        self.device = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
        model = empty_model(state.shape, device="meta")
        # A copy: tensors read from a file can have any alignment, on which the last bit of matrix products depends.
        masters = {name: tensor.to(self.device, copy=True) for name, tensor in state.weights.items()}
        self._weights = Weights(model, masters, precision=state.precision)
        if self.placement.compiled:
            compile_model(model)
        self._optimizer: Optimizer | None = None
        self._saved_moments, self._saved_updates = state.moments, state.num_updates
        self._watch_memory = state.watch
        self.loaded_from: Path | None = None
        self.loaded_at = state.step

    @classmethod
    def begin(cls, start: Start, *, precision: str, placement: Placement | None = None, ranks: Ranks = ALONE) -> TrainingRun:
        """Return the state at step 0: weights drawn from the start's seed, no optimizer state."""
        assert start.seed is not None, "the weights of a release or an average are loaded from a separate stage"
        drawn = initialised(start.model, seed=start.seed)
        state = Checkpoint(
            step=0,
            state_id=start.id,
            precision=precision,
            shape=start.model,
            tokens_seen=0,
            weights=dict(drawn.named_parameters()),
            moments={},
            num_updates=0,
        )
        return cls(state, placement=placement, ranks=ranks)

    @classmethod
    def load(
        cls, folder: Path, *, with_optimizer: bool = True, placement: Placement | None = None, ranks: Ranks = ALONE
    ) -> TrainingRun:
        """Load the state that `save` wrote to `folder`; without its optimizer if the next phase starts with a new one.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
        """
        run = cls(checkpoint.read(folder, with_optimizer=with_optimizer), placement=placement, ranks=ranks)
        run.loaded_from = folder
        return run

    @property
    def model(self) -> LanguageModel:
        return self._weights.model

    @property
    def state_id(self) -> str:
        """The id of this state, from the recipe."""
        return self._loaded_id if self._curriculum is None else self._curriculum.state_id(self.step)

    @property
    def precision(self) -> str:
        return self._weights.precision

    @property
    def device_name(self) -> str:
        """`cpu`, or the product name of the GPU, to which a measured throughput refers."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write this state to `folder`, atomically. Without its optimizer, a state can be evaluated, or fine-tuned with a
        new optimizer.

        Raises:
            FileExistsError: `folder` exists already.
            CheckpointError: `with_optimizer` is set, but this run was loaded without one and has not made an update since.
        """
        moments, num_updates = self._optimizer_state()
        if with_optimizer and moments is None:
            raise CheckpointError(f"{folder}: this state was loaded without its optimizer. Save it without one.")
        state = Checkpoint(
            step=self.step,
            state_id=self.state_id,
            precision=self.precision,
            shape=self.model.shape,
            tokens_seen=self.tokens_seen,
            weights=self._weights.masters,
            moments=moments if with_optimizer else None,
            num_updates=num_updates,
            watch=self._watch_memory,
        )
        checkpoint.write(state, folder)

    def advance(
        self,
        curriculum: Curriculum,
        *,
        to_step: int,
        batch_at: Callable[[int], Batch],
        on_metrics: Callable[[Metrics], None],
        log_every: int = 10,
        on_step: Callable[[int], None] = lambda step: None,
        should_stop: Callable[[], bool] = lambda: False,
        rolling: Rolling | None = None,
        text_at: Callable[[int], str] | None = None,
    ) -> bool:
        """Train from this run's step to `to_step`. Every rank must make the same call.

        Args:
            curriculum: the curriculum that this run's state belongs to.
            to_step: the state to reach, at most the curriculum's last.
            batch_at: returns the whole batch that the update from state `step` reads. If the loss is a policy gradient, it
                is called when this run is at `step`, and may use its model; it may raise `StopRequestedError`, which ends
                the call as `should_stop` does.
            on_metrics: called with the metrics of every `log_every`-th update, of the last one, and of updates after which
                this run is saved or stopped. Keys: `step` (the state reached), `loss_nats` (weighted mean over the batch's
                targets, before the update), `lr`, `grad_norm` (before clipping), `tokens_seen`; `tokens_per_s` and
                `data_wait_s`, both since the previous metrics. If the optimizer has groups, `lr` is the multiplier (`lrm` in
                nanochat), and `lr_embedding`, `lr_head`, `lr_matrices` and `lr_vectors` are rates. If the batch was split
                into micro-batches or ranks, also `gradient_noise_trace` and `gradient_squared_norm` (means since the
                previous metrics, see `noise_scale.py`) and, if both are positive, their ratio `noise_scale_sequences`.
            on_step: called after every update with the state that it reached.
            should_stop: polled before every update and between its micro-batches. If true, the call ends and an incomplete
                update is discarded. With several ranks, all finish the current update, so that they stop at the same one.
            rolling: where and how often the first rank saves checkpoints.
            text_at: names the text that the update from a state reads, for the message of a divergence.

        Returns:
            True if `to_step` was reached; false if `should_stop` ended the call. The caller then saves.

        Raises:
            ValueError: this run's state does not belong to `curriculum`, `to_step` is before this state or past the end, or
                a phase continues an optimizer that is not in the checkpoint.
            DivergedError: a loss or a gradient norm is not finite, or the loss has diverged. No such state was saved.
        """
        self._require_state_of(curriculum, to_step)
        self._curriculum = curriculum
        meter = _Meter(self, on_metrics, rolling, text_at)
        to_train = [one for one in curriculum.stretches if one.start_step < to_step and one.stop_step > self.step]
        ahead = self.device.type != "cpu" and all(one.phase.loss != POLICY_GRADIENT for one in to_train)
        with Feed(batch_at, until_step=to_step, ranks=self.ranks, device=self.device, ahead=ahead) as feed:
            for placed in to_train:
                self._enter(placed)
                meter.begin_phase(placed, memory=self._watch_memory)
                while self.step < min(placed.stop_step, to_step):
                    if self.ranks.any(should_stop()):
                        meter.flush()
                        return False
                    try:
                        portion = meter.wait_for(feed)
                    except StopRequestedError:
                        meter.flush()
                        return False
                    lr = curriculum.curve.lr(self.step)
                    update = self._update(portion, lr=lr, seed=placed.phase.seed, should_stop=should_stop)
                    if update is None:
                        meter.flush()
                        return False
                    self.step += 1
                    on_step(self.step)
                    self.tokens_seen += portion.num_targets
                    meter.note(update, rates=placed.phase.optimizer.rates(lr), num_targets=portion.num_targets)
                    if self.step % log_every == 0 or self.step == to_step:
                        meter.flush()
                    if rolling is not None and self.ranks.is_first and self.step < to_step and rolling.due():
                        meter.flush()  # raises if training has diverged, so that no such state is saved
                        rolling.save(self.step, lambda folder: self.save(folder, with_optimizer=True))
                        meter.restart_clock()  # saving does not count as training
        return True

    def _require_state_of(self, curriculum: Curriculum, to_step: int) -> None:
        if not self.step <= to_step <= curriculum.num_steps:
            raise ValueError(f"to_step: expected {self.step} (this run's step) to {curriculum.num_steps}, got {to_step}.")
        expected = curriculum.state_id(self.step)
        if self.state_id != expected:
            raise ValueError(
                f"this run at step {self.step}: expected state {expected}, that of the curriculum, got {self.state_id}. "
                "`midstudy explain` prints the fields in which two states differ."
            )

    def remember(self, watch: DivergenceWatch) -> None:
        """Keep the memory of a watch, to be saved with the state."""
        self._watch_memory = watch.memory()

    def _optimizer_state(self) -> tuple[Any, int]:
        if self._optimizer is not None:
            return self._optimizer.moments(), self._optimizer.num_updates
        return self._saved_moments, self._saved_updates

    def _enter(self, placed: Stretch) -> None:
        """Apply the phase's handling of the optimizer state, and its precision. Within a phase, the state is unchanged."""
        phase = placed.phase
        moments, num_updates = self._optimizer_state()
        if self.step == placed.start_step and (self.step == 0 or phase.optimizer_state == "reset"):
            moments, num_updates = {}, 0
        if moments is None:
            raise ValueError(
                f"phases.{phase.name}.optimizer_state: continues an optimizer, but the checkpoint of step {self.step} has "
                "none. Save that state with its optimizer."
            )
        if phase.precision != self.precision:
            self._weights = Weights(self.model, self._weights.masters, precision=phase.precision)
        self._optimizer = Optimizer(
            phase.optimizer, self._weights.masters, shape=self.model.shape, compute_type=self._weights.compute_type
        )
        self._optimizer.restore(moments, num_updates=num_updates)
        self._saved_moments = None

    def _update(self, portion: Portion, *, lr: float, seed: int, should_stop: Callable[[], bool]) -> _Update | None:
        """Make one optimizer step; return `None` if `should_stop` ended it before anything was changed."""
        assert self._optimizer is not None
        if portion.total_weight <= 0:
            raise ValueError(f"the batch of step {self.step} has no target token. Check the recipe's data.")
        torch.manual_seed(derive_key("update", seed, self.step, self.ranks.rank))
        num_rows = len(portion.input_ids)
        size = self.placement.micro_batch or num_rows
        firsts = range(0, num_rows, size)
        losses, norms, sizes, shares = [], [], [], []
        for first in firsts:
            rows = slice(first, min(first + size, num_rows))
            try:
                with self._compiling(should_stop):
                    loss = self.model.scaled_loss(
                        portion.input_ids[rows],
                        portion.targets[rows],
                        scale=1.0 / portion.total_weight,
                        weights=None if portion.weights is None else portion.weights[rows],
                        documents=None if portion.documents is None else portion.documents[rows],
                    )
                if self._abandon_update(should_stop):
                    return None
                with self._compiling(should_stop):
                    loss.backward()
            except StopRequestedError:
                self._weights.forget_gradients()
                return None
            if rows.stop < num_rows and self._abandon_update(should_stop):
                return None
            norm = self._weights.gather_gradients(self.ranks, first=first == 0, last=first == firsts[-1])
            losses.append(loss.detach())
            if norm is not None:
                norms.append(norm)
                sizes.append(rows.stop - rows.start)
                shares.append(float(portion.row_weights[rows].sum()) / portion.total_weight)
        norm = self._optimizer.clip()
        total, noise = torch.stack(losses).sum(), None
        if norms:
            sums = torch.cat((partial_sums(norms, sizes, shares), total.double()[None]))
            self.ranks.add_up([sums])
            total, noise = sums[4].float(), estimate(sums[:4], norm)
        self._optimizer.update(lr=lr)
        self._weights.refresh()
        self._weights.forget_gradients()
        return _Update(total, norm, noise)

    @contextlib.contextmanager
    def _compiling(self, should_stop: Callable[[], bool]) -> Iterator[None]:
        """Hold signals during a call that may compile kernels, which is slow: a signal must not reach the compiler, but is
        handled as soon as it returns. With several ranks, no rank leaves, since the others wait for its gradient.

        Raises:
            StopRequestedError: `should_stop` returned true.
        """
        if not self.placement.compiled:
            yield
            return
        with stopping_between_parts(should_stop) if self.ranks.size == 1 else contextlib.nullcontext(), signals_held():
            yield

    def _abandon_update(self, should_stop: Callable[[], bool]) -> bool:
        """Return whether to abandon the current update. With several ranks, never: the others wait for the gradient."""
        if self.ranks.size > 1 or not should_stop():
            return False
        self._weights.forget_gradients()
        return True


class _Meter:
    """Collects losses and norms on the device, and copies them to the host once per report, for all steps since the last."""

    def __init__(
        self,
        run: TrainingRun,
        on_metrics: Callable[[Metrics], None],
        rolling: Rolling | None,
        text_at: Callable[[int], str] | None,
    ) -> None:
        self._run, self._on_metrics, self._rolling, self._text_at = run, on_metrics, rolling, text_at
        self._watch: DivergenceWatch | None = None
        self._pending: list[Tensor] = []
        self._last: tuple[float, float] | None = None
        self._noise: list[Tensor] = []
        self._rates: dict[str, float] = {}
        self._num_targets = 0
        self._since = time.perf_counter()
        self._waited_s = 0.0

    def begin_phase(self, placed: Stretch, *, memory: Mapping[str, Any] | None) -> None:
        """Start watching the losses of a new phase."""
        self.check()
        self._watch = DivergenceWatch(
            placed.start_step,
            vocab_size=self._run.model.shape.vocab_size,
            memory=memory,
            is_likelihood=placed.phase.loss != POLICY_GRADIENT,
            may_rise=isinstance(placed.phase.data, TaskMixture) and placed.phase.data.order == "sequential",
        )

    def restart_clock(self) -> None:
        self._since = time.perf_counter()

    def wait_for(self, feed: Feed) -> Portion:
        """Return the next update's portion; count the elapsed time as time waited for data."""
        started = time.perf_counter()
        portion = feed.take(self._run.step)
        self._waited_s += time.perf_counter() - started
        return portion

    def note(self, update: _Update, *, rates: dict[str, float], num_targets: int) -> None:
        self._pending.append(torch.stack((update.loss, update.norm)))
        if update.noise is not None:
            self._noise.append(update.noise)
        self._rates = rates
        self._num_targets += num_targets

    def check(self) -> None:
        """Copy the losses and norms since the last check to the host and check them for divergence.

        Raises:
            DivergedError: training has diverged since the last check.
        """
        if not self._pending:
            return
        assert self._watch is not None
        values: list[list[float]] = torch.stack(self._pending).tolist()
        self._pending.clear()
        for step, (loss, norm) in enumerate(values, start=self._run.step - len(values)):
            trouble = self._watch.trouble(from_step=step, loss_nats=loss, gradient_norm=norm)
            if trouble is not None:
                raise DivergedError(self._message(trouble), good_step=trouble.good_step)
        self._run.remember(self._watch)
        self._last = (values[-1][0], values[-1][1])

    def flush(self) -> None:
        """Report the last update, unless it has been reported.

        Raises:
            DivergedError: training has diverged since the last report.
        """
        self.check()
        if self._last is None:
            return
        now = time.perf_counter()
        loss, norm = self._last
        metrics = {
            "step": self._run.step,
            "loss_nats": loss,
            **self._rates,
            "grad_norm": norm,
            "tokens_seen": self._run.tokens_seen,
            "tokens_per_s": self._num_targets / (now - self._since),
            "data_wait_s": self._waited_s,
        }
        if self._noise:
            measured = [pair for pair in torch.stack(self._noise).tolist() if all(map(math.isfinite, pair))]
            if measured:  # empty if only one micro-batch of each batch had targets
                trace, squared = (statistics.fmean(values) for values in zip(*measured, strict=True))
                metrics |= {"gradient_noise_trace": trace, "gradient_squared_norm": squared}
                if trace > 0 and squared > 0:
                    metrics["noise_scale_sequences"] = trace / squared
        self._on_metrics(metrics)
        self._run.trained_s += now - self._since
        self._run.waited_s += self._waited_s
        self._last = None
        self._noise.clear()
        self._num_targets, self._since, self._waited_s = 0, now, 0.0

    def _message(self, trouble: Trouble) -> str:
        loaded_from = self._run.loaded_from
        folders = [self._rolling.folder, *self._rolling.previous] if self._rolling is not None else []
        folders += [loaded_from.parent] if loaded_from is not None and loaded_from.parent not in folders else []
        last = latest_valid(*folders, until_step=trouble.good_step) if folders else None
        if last is None and self._run.loaded_at <= trouble.good_step:
            last = loaded_from
        none = (
            f"There is no checkpoint between it and {loaded_from}. " if loaded_from else "There is no earlier checkpoint. "
        )
        return (
            f"the update from step {trouble.from_step} diverged: {trouble.what}. "
            + (f"It read {self._text_at(trouble.from_step)}. " if self._text_at is not None else "")
            + (f"The last good checkpoint is {last}. " if last else none)
            + "Lower the learning rate, lengthen the warmup, or check the text of that step."
        )
