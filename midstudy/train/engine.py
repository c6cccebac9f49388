"""The training engine: a model and its optimizer at some step of a curriculum, advanced update by update.

One engine serves every phase: pretraining, midtraining, continued pretraining and fine-tuning differ in their data and in
what their phase takes over, which `advance` applies at each phase's first step. The update from state s to state s + 1
reads `batch_at(s)` with the learning rate `curriculum.curve.lr(s)`, and random numbers, should a layer ever draw any, come
from a seed made of the phase's and the step. So on one CPU configuration a run that was interrupted, or run in pieces, ends
with the same weights bit for bit.
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
from midstudy.model.compiled import StopRequestedError, compile_model, signals_held, stopping_between_parts
from midstudy.model.initialise import initialised
from midstudy.model.pythia import Pythia
from midstudy.recipe.curriculum import Curriculum, Start, Stretch
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


def _ignore(step: int) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True)
class _Update:
    """What one update measured, still on the device: the batch's mean loss and gradient norm, and the noise estimates."""

    loss: Tensor
    norm: Tensor
    noise: Tensor | None


class TrainingRun:
    """A model and its optimizer after `step` updates. Make one with `begin` or `load`.

    `model` computes in the run's precision and may be evaluated as it is between two calls of `advance`. `tokens_seen`
    counts target tokens since step 0; `trained_s` and `waited_s` are the seconds that this object has trained, and of these
    waited for data.
    """

    def __init__(self, state: Checkpoint, *, placement: Placement | None = None, ranks: Ranks = ALONE) -> None:
        self.placement, self.ranks = placement or Placement(), ranks
        self.step = state.step
        self._loaded_id = state.state_id
        self._curriculum: Curriculum | None = None
        self.tokens_seen = state.tokens_seen
        self.trained_s = self.waited_s = 0.0
        device = torch.device(self.placement.device)
        # With its index: the thread that feeds a GPU has a current device of its own.
        self.device = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
        model = Pythia.empty(state.shape, device="meta")
        model.chunked_loss = self.placement.chunked_loss
        # A copy: tensors read from a file may lie at any address, and products depend on alignment in the last bit.
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
        return cls(state, placement=placement, ranks=ranks)

    @classmethod
    def load(
        cls, folder: Path, *, with_optimizer: bool = True, placement: Placement | None = None, ranks: Ranks = ALONE
    ) -> TrainingRun:
        """The state that `save` wrote to `folder`; without its optimizer where the next phase begins a new one.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
        """
        run = cls(checkpoint.read(folder, with_optimizer=with_optimizer), placement=placement, ranks=ranks)
        run.loaded_from = folder
        return run

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

    @property
    def device_name(self) -> str:
        """`cpu`, or the GPU's product name: what a measured throughput is the throughput of."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type

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
        on_step: Callable[[int], None] = _ignore,
        should_stop: Callable[[], bool] = _never,
        rolling: Rolling | None = None,
        text_at: Callable[[int], str] | None = None,
    ) -> bool:
        """Train from this run's step to `to_step`. Every rank makes the same call.

        Args:
            curriculum: what this run's state is a state of.
            to_step: state to reach, at most the curriculum's last.
            batch_at: the whole batch that the update from state `step` reads.
            on_metrics: called with the metrics of every `log_every`-th update, of the last, and of one after which this run
                is saved or stopped. Keys: `step` (the state reached), `loss_nats` (weighted mean over the batch's targets,
                before the update), `lr`, `grad_norm` (before clipping), `tokens_seen`, and `tokens_per_s` and `data_wait_s`,
                both since the metrics before. Where the batch was cut into several pieces also `gradient_noise_trace` and
                `gradient_squared_norm` (means since the metrics before, see `noise_scale.py`) and, where both are positive,
                their ratio `noise_scale_sequences`.
            on_step: called after every update with the state that it reached.
            should_stop: asked before every update and between its micro-batches; true ends the call, and an update that is
                not complete leaves no trace. Of several ranks each finishes the update it is in, so that all stop at one.
            rolling: where the first rank saves this run as it goes.
            text_at: names what the update from a state reads, for the message about a divergence.

        Returns:
            Whether `to_step` was reached; false when `should_stop` ended the call. The caller then saves.

        Raises:
            ValueError: this run's state is none of `curriculum`'s, `to_step` lies behind it or past the end, or a phase
                continues an optimizer that the checkpoint does not hold.
            DivergedError: a loss or a gradient norm is not finite, or the loss has run away. No state that is not finite was
                saved.
        """
        self._require_state_of(curriculum, to_step)
        self._curriculum = curriculum
        meter = _Meter(self, on_metrics, rolling, text_at)
        ahead = self.device.type != "cpu"
        with Feed(batch_at, until_step=to_step, ranks=self.ranks, device=self.device, ahead=ahead) as feed:
            for stretch in curriculum.stretches:
                if stretch.stop_step <= self.step or stretch.start_step >= to_step:
                    continue
                self._enter(stretch)
                meter.begin_phase(stretch.start_step, memory=self._watch_memory)
                while self.step < min(stretch.stop_step, to_step):
                    if self.ranks.any(should_stop()):
                        meter.flush()
                        return False
                    portion = meter.wait_for(feed)
                    lr = curriculum.curve.lr(self.step)
                    update = self._update(portion, lr=lr, seed=stretch.phase.seed, should_stop=should_stop)
                    if update is None:
                        meter.flush()
                        return False
                    self.step += 1
                    on_step(self.step)
                    self.tokens_seen += portion.num_targets
                    meter.note(update, lr=lr, num_targets=portion.num_targets)
                    if self.step % log_every == 0 or self.step == to_step:
                        meter.flush()
                    if rolling is not None and self.ranks.is_first and self.step < to_step and rolling.due():
                        meter.flush()  # a diverged state is not worth keeping
                        rolling.save(self.step, lambda folder: self.save(folder, with_optimizer=True))
                        meter.restart_clock()  # saving is no training
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

    def remember(self, watch: DivergenceWatch) -> None:
        """Keep what a watch has seen so far, to be saved with the state."""
        self._watch_memory = watch.memory()

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

    def _update(self, portion: Portion, *, lr: float, seed: int, should_stop: Callable[[], bool]) -> _Update | None:
        """One optimizer step; none where `should_stop` ended it before anything was changed."""
        assert self._optimizer is not None
        if portion.total_weight <= 0:
            raise ValueError(f"the batch of step {self.step} has no target token; the recipe's data gives nothing to learn.")
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
                if self._told(should_stop):
                    return None
                with self._compiling(should_stop):
                    loss.backward()
            except StopRequestedError:
                self._weights.forget_gradients()
                return None
            if rows.stop < num_rows and self._told(should_stop):
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
        """Around what may be compiled first, which takes longer than anything else: a signal must not reach the compiler,
        and is noticed as soon as it returns. Of several ranks none leaves: the others wait for its gradient.

        Raises:
            StopRequestedError: `should_stop` said so.
        """
        if not self.placement.compiled:
            yield
            return
        with stopping_between_parts(should_stop) if self.ranks.size == 1 else contextlib.nullcontext(), signals_held():
            yield

    def _told(self, should_stop: Callable[[], bool]) -> bool:
        """Whether to leave the update unfinished. One of several ranks cannot: the others wait for its gradient."""
        if self.ranks.size > 1 or not should_stop():
            return False
        self._weights.forget_gradients()
        return True


class _Meter:
    """Gathers losses and norms on the device and brings them to the host once a report, all steps at a time."""

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
        self._lr = 0.0
        self._num_targets = 0
        self._since = time.perf_counter()
        self._waited_s = 0.0

    def begin_phase(self, first_step: int, *, memory: Mapping[str, Any] | None) -> None:
        """Judge the losses from here on as those of one phase."""
        self.check()
        self._watch = DivergenceWatch(first_step, vocab_size=self._run.model.shape.vocab_size, memory=memory)

    def restart_clock(self) -> None:
        self._since = time.perf_counter()

    def wait_for(self, feed: Feed) -> Portion:
        """The next update's portion; the time that takes is time waited for data."""
        started = time.perf_counter()
        portion = feed.take(self._run.step)
        self._waited_s += time.perf_counter() - started
        return portion

    def note(self, update: _Update, *, lr: float, num_targets: int) -> None:
        self._pending.append(torch.stack((update.loss, update.norm)))
        if update.noise is not None:
            self._noise.append(update.noise)
        self._lr = lr
        self._num_targets += num_targets

    def check(self) -> None:
        """Bring the losses and norms since the last check to the host and judge them.

        Raises:
            DivergedError: training has gone wrong since.
        """
        if not self._pending:
            return
        assert self._watch is not None
        values: list[list[float]] = torch.stack(self._pending).tolist()
        self._pending.clear()
        for step, (loss, norm) in enumerate(values, start=self._run.step - len(values)):
            trouble = self._watch.trouble(from_step=step, loss_nats=loss, gradient_norm=norm)
            if trouble is not None:
                raise DivergedError(self._story(trouble), good_step=trouble.good_step)
        self._run.remember(self._watch)
        self._last = (values[-1][0], values[-1][1])

    def flush(self) -> None:
        """Report the last update, unless it was reported.

        Raises:
            DivergedError: training has gone wrong since the last report.
        """
        self.check()
        if self._last is None:
            return
        now = time.perf_counter()
        loss, norm = self._last
        metrics = {
            "step": self._run.step,
            "loss_nats": loss,
            "lr": self._lr,
            "grad_norm": norm,
            "tokens_seen": self._run.tokens_seen,
            "tokens_per_s": self._num_targets / (now - self._since),
            "data_wait_s": self._waited_s,
        }
        if self._noise:
            measured = [pair for pair in torch.stack(self._noise).tolist() if all(map(math.isfinite, pair))]
            if measured:  # a batch of which only one micro-batch has targets measures nothing
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

    def _story(self, trouble: Trouble) -> str:
        begun_from = self._run.loaded_from
        folders = [self._rolling.folder, *self._rolling.former] if self._rolling is not None else []
        folders += [begun_from.parent] if begun_from is not None and begun_from.parent not in folders else []
        last = latest_valid(*folders, until_step=trouble.good_step) if folders else None
        if last is None and self._run.loaded_at <= trouble.good_step:
            last = begun_from
        none = f"No checkpoint lies between it and {begun_from}. " if begun_from else "No checkpoint lies before it. "
        return (
            f"the update from step {trouble.from_step} diverged: {trouble.what}. "
            + (f"It read {self._text_at(trouble.from_step)}. " if self._text_at is not None else "")
            + (f"The last good checkpoint is {last}. " if last else none)
            + "Lower the learning rate, lengthen the warmup, or look at that step's text."
        )
