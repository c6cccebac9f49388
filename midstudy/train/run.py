"""The training engine: a model and its optimizer at some step of a curriculum, advanced update by update.

One engine serves every phase: pretraining, midtraining, continued pretraining and fine-tuning differ in their data and in
what their phase takes over, which `advance` applies at each phase's first step. The update from state s to state s + 1
reads `batch_at(s)` with the learning rate `curriculum.curve.lr(s)`; nothing random is drawn, so on one CPU configuration a
run that was interrupted, or run in pieces, ends with the same weights bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midstudy.data.batch import Batch
from midstudy.model.cross_entropy import IGNORED
from midstudy.model.initialise import initialised
from midstudy.model.pythia import Pythia
from midstudy.recipe.curriculum import Curriculum, Start, Stretch
from midstudy.train import checkpoint
from midstudy.train.checkpoint import Checkpoint, CheckpointError
from midstudy.train.optimizer import Optimizer
from midstudy.train.precision import Weights
from midstudy.train.rolling import Rolling, latest_valid

Metrics = dict[str, float]


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer a finite number; the message says at which step and where to look."""


def _never() -> bool:
    return False


class TrainingRun:
    """A model and its optimizer after `step` updates. Make one with `begin` or `load`.

    `model` computes in the run's precision and may be evaluated as it is between two calls of `advance`. `tokens_seen`
    counts target tokens since step 0.
    """

    def __init__(self, state: Checkpoint, *, device: torch.device | str = "cpu") -> None:
        self.step = state.step
        self._loaded_id = state.state_id
        self._curriculum: Curriculum | None = None
        self.tokens_seen = state.tokens_seen
        self.device = torch.device(device)
        model = Pythia.empty(state.shape, device="meta")
        # A copy: tensors read from a file may lie at any address, and products depend on alignment in the last bit.
        masters = {name: tensor.to(self.device, copy=True) for name, tensor in state.weights.items()}
        self._weights = Weights(model, masters, precision=state.precision)
        self._optimizer: Optimizer | None = None
        self._saved_moments, self._saved_updates = state.moments, state.num_updates

    @classmethod
    def begin(cls, start: Start, *, precision: str, device: torch.device | str = "cpu") -> TrainingRun:
        """The state before any step: weights drawn from the start's seed, no optimizer state."""
        assert start.seed is not None, "the weights of a release or an average are loaded from their own stage"
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
        return cls(state, device=device)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> TrainingRun:
        """The state that `save` wrote to `folder`.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
        """
        return cls(checkpoint.read(folder), device=device)

    @property
    def model(self) -> Pythia:
        return self._weights.model

    @property
    def state_id(self) -> str:
        """The recipe's id of this state."""
        return self._loaded_id if self._curriculum is None else self._curriculum.state_id(self.step)

    @property
    def precision(self) -> str:
        return self._weights.precision

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write this state to `folder`, atomically. Without its optimizer it can be evaluated, or fine-tuned with a new one.

        Raises:
            FileExistsError: `folder` is there already.
            CheckpointError: `with_optimizer`, but this run was loaded without one and has made no update since.
        """
        moments, num_updates = self._optimizer_state()
        if with_optimizer and moments is None:
            raise CheckpointError(f"{folder}: this state was loaded without its optimizer; save it without one.")
        state = Checkpoint(
            step=self.step,
            state_id=self.state_id,
            precision=self.precision,
            shape=self.model.shape,
            tokens_seen=self.tokens_seen,
            weights=self._weights.masters,
            moments=moments if with_optimizer else None,
            num_updates=num_updates,
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
        micro_batch: int | None = None,
        should_stop: Callable[[], bool] = _never,
        rolling: Rolling | None = None,
    ) -> bool:
        """Train from this run's step to `to_step`.

        Args:
            curriculum: what this run's state is a state of.
            to_step: state to reach, at most the curriculum's last.
            batch_at: the batch that the update from state `step` reads.
            on_metrics: called with the metrics of every `log_every`-th update and of the last. Keys: `step` (the state
                reached), `loss_nats` (mean over the batch's target tokens, before the update), `lr`, `grad_norm` (before
                clipping), `tokens_seen`, `tokens_per_s` and `data_wait_s` (both since the metrics before).
            micro_batch: sequences that pass through the model at a time; all by default. Changes no result but rounding.
            should_stop: asked before every update; true ends the call at that step boundary.
            rolling: where to save this run as it goes.

        Returns:
            Whether `to_step` was reached; false when `should_stop` ended the call. The caller then saves.

        Raises:
            ValueError: this run's state is none of `curriculum`'s, `to_step` lies behind it or past the end, or a phase
                continues an optimizer that the checkpoint does not hold.
            DivergedError: a loss or a gradient norm is not finite. No state at or past that step was saved.
        """
        self._require_state_of(curriculum, to_step)
        self._curriculum = curriculum
        meter = _Meter(self, on_metrics, rolling)
        for stretch in curriculum.stretches:
            if stretch.stop_step <= self.step or stretch.start_step >= to_step:
                continue
            self._enter(stretch)
            while self.step < min(stretch.stop_step, to_step):
                if should_stop():
                    meter.flush()
                    return False
                started = time.perf_counter()
                batch = batch_at(self.step)
                meter.waited_s += time.perf_counter() - started
                lr = curriculum.curve.lr(self.step)
                loss, norm, num_targets = self._update(batch, lr=lr, micro_batch=micro_batch)
                self.step += 1
                self.tokens_seen += num_targets
                meter.note(loss, norm, lr=lr, num_targets=num_targets)
                if self.step % log_every == 0 or self.step == to_step:
                    meter.flush()
                if rolling is not None and self.step < to_step and rolling.due():
                    meter.flush()  # a diverged state is not worth keeping
                    rolling.save(self.step, lambda folder: self.save(folder, with_optimizer=True))
        return True

    def _require_state_of(self, curriculum: Curriculum, to_step: int) -> None:
        if not self.step <= to_step <= curriculum.num_steps:
            raise ValueError(f"to_step: found {to_step}; allowed: {self.step} (this run's step) to {curriculum.num_steps}.")
        expected = curriculum.state_id(self.step)
        if self.state_id != expected:
            raise ValueError(
                f"this run holds state {self.state_id} at step {self.step}; the curriculum's is {expected}. "
                "`midstudy explain` prints the fields in which two states differ."
            )

    def _optimizer_state(self) -> tuple[Any, int]:
        if self._optimizer is not None:
            return self._optimizer.moments(), self._optimizer.num_updates
        return self._saved_moments, self._saved_updates

    def _enter(self, stretch: Stretch) -> None:
        """Apply what the phase takes over, and its precision. Entering a phase half-way changes nothing."""
        phase = stretch.phase
        moments, num_updates = self._optimizer_state()
        if self.step == stretch.start_step and (self.step == 0 or phase.optimizer_state == "reset"):
            moments, num_updates = {}, 0
        if moments is None:
            raise ValueError(
                f"phases.{phase.name}.optimizer_state: continues an optimizer, but the checkpoint of step {self.step} "
                "holds none; save that state with its optimizer."
            )
        if phase.precision != self.precision:
            self._weights = Weights(self.model, self._weights.masters, precision=phase.precision)
        self._optimizer = Optimizer(phase.optimizer, self._weights.masters)
        self._optimizer.restore(moments, num_updates=num_updates)
        self._saved_moments = None

    def _update(self, batch: Batch, *, lr: float, micro_batch: int | None) -> tuple[Tensor, Tensor, int]:
        """One optimizer step; returns the batch's mean loss, the gradient norm (both on the device) and its targets."""
        assert self._optimizer is not None
        num_targets = int((batch.targets != IGNORED).sum())
        if num_targets == 0:
            raise ValueError(f"the batch of step {self.step} has no target token; the recipe's data gives nothing to learn.")
        input_ids = torch.from_numpy(batch.input_ids).to(self.device)
        targets = torch.from_numpy(batch.targets).to(self.device)
        rows = micro_batch or len(input_ids)
        firsts = range(0, len(input_ids), rows)
        losses = []
        for first in firsts:
            loss = self.model.scaled_loss(
                input_ids[first : first + rows], targets[first : first + rows], scale=1.0 / num_targets
            )
            loss.backward()
            self._weights.gather_gradients(first=first == 0, last=first == firsts[-1])
            losses.append(loss.detach())
        norm = self._optimizer.clip()
        self._optimizer.update(lr=lr)
        self._weights.refresh()
        self._weights.forget_gradients()
        return torch.stack(losses).sum(), norm, num_targets


class _Meter:
    """Gathers losses and norms on the device and brings them to the host once a report, all steps at a time."""

    def __init__(self, run: TrainingRun, on_metrics: Callable[[Metrics], None], rolling: Rolling | None) -> None:
        self._run, self._on_metrics, self._rolling = run, on_metrics, rolling
        self._pending: list[Tensor] = []
        self._lr = 0.0
        self._num_targets = 0
        self._since = time.perf_counter()
        self.waited_s = 0.0

    def note(self, loss: Tensor, norm: Tensor, *, lr: float, num_targets: int) -> None:
        self._pending.append(torch.stack((loss, norm)))
        self._lr = lr
        self._num_targets += num_targets

    def flush(self) -> None:
        """Report the last update.

        Raises:
            DivergedError: some update since the last report was not finite.
        """
        if not self._pending:
            return
        values: list[list[float]] = torch.stack(self._pending).tolist()
        first_step = self._run.step - len(values)
        for step, (loss, norm) in enumerate(values, start=first_step):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergedError(self._story(step, loss, norm))
        now = time.perf_counter()
        loss, norm = values[-1]
        self._on_metrics(
            {
                "step": self._run.step,
                "loss_nats": loss,
                "lr": self._lr,
                "grad_norm": norm,
                "tokens_seen": self._run.tokens_seen,
                "tokens_per_s": self._num_targets / (now - self._since),
                "data_wait_s": self.waited_s,
            }
        )
        self._pending.clear()
        self._num_targets, self._since, self.waited_s = 0, now, 0.0

    def _story(self, step: int, loss: float, norm: float) -> str:
        last = latest_valid(self._rolling.folder) if self._rolling is not None else None
        return (
            f"the update from step {step} diverged: loss {loss} nats, gradient norm {norm}. "
            + (f"The last good checkpoint is {last}. " if last else "No rolling checkpoint of this attempt lies before it. ")
            + "Lower the learning rate, lengthen the warmup, or look at that step's batch."
        )
