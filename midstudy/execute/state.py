"""The training stage: train from a kept state, or from scratch, to the state that the recipe describes.

A damaged kept state does not stop the study: training resumes from the nearest earlier intact checkpoint and recomputes
the steps in between.
"""

from __future__ import annotations

import functools
import itertools
import logging
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from midstudy.data.batches import Batches
from midstudy.data.packed_rows import read_counts, read_packed
from midstudy.data.slots import slots_at
from midstudy.data.tally import Tally, blocks_tally, items_tally, prompts_tally
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.model_cache import forget_models
from midstudy.execute.rollouts import RolloutBatches
from midstudy.execute.step_line import StepLine
from midstudy.execute.stopped import StoppedError
from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import Curriculum, State, Stretch
from midstudy.recipe.data import Dataset, Task
from midstudy.recipe.packing import Packing
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.task_mixture import TaskMixture
from midstudy.store.attempt import CHECKPOINTS_FOLDER, METRICS_FILE, Attempt, read_metrics, steps_of
from midstudy.train.checkpoint import CheckpointError, step_of
from midstudy.train.divergence import DivergedError
from midstudy.train.engine import Metrics, TrainingRun
from midstudy.train.placement import Placement
from midstudy.train.ranks import ALONE, Ranks
from midstudy.train.rolling import Rolling, forget_after, newest, newest_step

CHECKPOINT_FOLDER = "checkpoint"
ROLLING_INTERVAL_S = 60.0
"""The training time that SIGKILL loses at most, or twenty times the time to write the state, if that is longer."""

ROLLING_MOST_OF_TIME = 0.05

LOG_EVERY = 10
"""Steps between two lines of the log; of rollouts, every step has one."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptCheckpoint:
    """The checkpoint of a published state: its step, and the folder that holds `checkpoint/`."""

    step: int
    published: Path

    @property
    def folder(self) -> Path:
        return self.published / CHECKPOINT_FOLDER


def train_state(
    recipe: State,
    *,
    attempt: Attempt,
    start_from: KeptCheckpoint | None,
    earlier: Iterable[KeptCheckpoint] = (),
    previous_attempts: list[Path],
    train_split: Callable[[Dataset], TokenizedSplit],
    packing: Callable[[Packing], Path],
    tokenizer: Callable[[], tokenizers.Tokenizer],
    keeps_optimizer: bool,
    should_stop: Callable[[], bool],
    placement: Placement,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train to `recipe`'s state and write its checkpoint into the attempt; return the stage's metrics.

    Args:
        start_from: the kept state to continue from; `None` to train from scratch.
        earlier: kept states before it that this curriculum can continue from, nearest first; iterated only if
            `start_from` is damaged.
        previous_attempts: folders of interrupted attempts, whose rolling checkpoints training resumes from.
        train_split: returns the tokenised train split of a corpus or task.
        packing: returns the published folder of a packing.
        tokenizer: loads the tokenizer of the splits; called only for rollouts.
        should_stop: polled before every update and within it.
        ranks: the ranks of this job, of which this process is the first; the others call `assist`.

    Raises:
        StoppedError: `should_stop` returned true; the state reached is in the attempt's rolling checkpoints.
        DivergedError: the loss is not finite, or has diverged.
        CheckpointError: `start_from` is damaged, no earlier state is intact, and the initial weights are not randomly drawn.
        ValueError: the data read does not match the quotas, or almost nothing of a task fits within `seq_len`.
    """
    tallies = _tallies(recipe, train_split, tokenizer)
    for tally in tallies:
        print(tally.sentence, flush=True)
    curriculum, step = recipe.curriculum, recipe.step
    last = curriculum.stretches[-1]
    kept_step = 0 if start_from is None else start_from.step
    forget_models()
    resumed = newest(
        lambda path: TrainingRun.load(path, placement=placement, ranks=ranks),
        *(folder / CHECKPOINTS_FOLDER for folder in previous_attempts),
    )
    if resumed is None or resumed[1].step <= kept_step:  # a later state was kept in the meantime: use it unless damaged
        own = resumed
        run = _from_kept(start_from, earlier, own=own[1] if own else None, recipe=recipe, placement=placement, ranks=ranks)
        resumed = own if own is not None and run is own[1] else None
    else:
        run = resumed[1]
    ranks.from_first(run.loaded_from)
    if resumed is not None:
        attempt.take_over_metrics(resumed[0].parent.parent, until_step=run.step)
    first_step = run.step
    attempt.begin_steps(first_step)
    rolling = Rolling(
        folder=attempt.checkpoints,
        previous=[attempt_folder / CHECKPOINTS_FOLDER for attempt_folder in previous_attempts],
        every_s=ROLLING_INTERVAL_S,
        most_of_time=ROLLING_MOST_OF_TIME,
        before=attempt.sync_metrics,
    )

    line = StepLine(curriculum, first_step=first_step, device_name=run.device_name, num_devices=placement.num_ranks)

    def log(batches: Batches | RolloutBatches, metrics: Metrics) -> None:
        if metrics["step"] > kept_step:  # earlier steps belong to another stage
            attempt.log_metrics(metrics | (batches.facts if isinstance(batches, RolloutBatches) else {}))
            line(metrics)

    try:
        for part, batches in _by_placed_phase(curriculum, run, train_split, packing, tokenizer, should_stop):
            reached = run.advance(
                part,
                to_step=part.num_steps,
                batch_at=batches,
                on_metrics=functools.partial(log, batches),
                # The facts of rollouts are those of one step.
                log_every=1 if isinstance(batches, RolloutBatches) else LOG_EVERY,
                on_step=attempt.note_step,
                should_stop=should_stop,
                rolling=rolling,
                text_at=batches.text_at,
            )
            if not reached:
                break
    except DivergedError as error:
        for folder in (rolling.folder, *rolling.previous):
            forget_after(folder, error.good_step)
        raise
    if not reached:
        if rolling.saved_step != run.step:  # equal if the signal arrived while this state was saved
            rolling.save(run.step, lambda folder: run.save(folder, with_optimizer=True))
        raise StoppedError(f"stopped at step {run.step} of {step}; the next attempt resumes from there")
    run.save(attempt.result / CHECKPOINT_FOLDER, with_optimizer=keeps_optimizer)
    metrics: dict[str, Any] = {
        "step": step,
        "stretch_from": curriculum.state_id(last.start_step),
        "has_optimizer": keeps_optimizer,
        "size": curriculum.start.model.name,
        "precision": last.phase.precision,
        "flops_per_token": last.phase.flops_per_token(curriculum.start.model),
        "device": run.device_name,
        "num_steps": step - kept_step,
        "resumed_at_step": first_step if resumed is not None else None,
        "recomputed_steps": _trained_steps(previous_attempts) - (first_step - kept_step),
        "num_tokens": (step - kept_step) * last.phase.tokens_per_step,
        **_realised(recipe, batches, first_step=max(first_step, last.start_step), train_split=train_split, packing=packing),
        "left_out": {tally.data: tally.as_metrics() for tally in tallies},
    }
    logged = list(read_metrics(attempt.result / METRICS_FILE))  # including those of previous attempts
    if logged:
        metrics["train_loss_nats"] = logged[-1]["loss_nats"]
        metrics["tokens_per_s"] = statistics.median(row["tokens_per_s"] for row in logged)
    if isinstance(last.phase.data, Rollouts):
        metrics["generated_tokens"] = sum(row["generated_tokens"] for row in logged)
    if run.trained_s:
        metrics["data_wait_share"] = run.waited_s / run.trained_s
    if with_noise := [row for row in logged if "gradient_noise_trace" in row]:
        # Numerator and denominator are averaged separately (McCandlish et al., 2018, appendix A.1).
        trace, squared = (
            statistics.fmean(row[name] for row in with_noise) for name in ("gradient_noise_trace", "gradient_squared_norm")
        )
        metrics["noise_scale_sequences"] = trace / squared if trace > 0 and squared > 0 else None
    return metrics


def assist(
    recipe: State,
    *,
    train_split: Callable[[Dataset], TokenizedSplit],
    packing: Callable[[Packing], Path],
    tokenizer: Callable[[], tokenizers.Tokenizer],
    should_stop: Callable[[], bool],
    placement: Placement,
    ranks: Ranks,
) -> None:
    """Compute this rank's part of each step while the first rank runs `train_state`; nothing is written to disk."""
    run = _run_from(ranks.from_first(None), recipe, placement, ranks)
    for part, batches in _by_placed_phase(recipe.curriculum, run, train_split, packing, tokenizer, should_stop):
        if not run.advance(
            part, to_step=part.num_steps, batch_at=batches, on_metrics=lambda metrics: None, should_stop=should_stop
        ):
            break


def can_begin_at(curriculum: Curriculum, step: int, *, has_optimizer: bool) -> bool:
    """Return whether training of the curriculum can continue from a kept state of this step."""
    return has_optimizer or _resets_at(curriculum, step)


def _resets_at(curriculum: Curriculum, step: int) -> bool:
    """Return whether the update from this step starts with a new optimizer."""
    placed: Stretch | None = next((placed for placed in curriculum.stretches if placed.start_step == step), None)
    return placed is not None and (step == 0 or placed.phase.optimizer_state == "reset")


def _from_kept(
    start_from: KeptCheckpoint | None,
    earlier: Iterable[KeptCheckpoint],
    *,
    own: TrainingRun | None,
    recipe: State,
    placement: Placement,
    ranks: Ranks,
) -> TrainingRun:
    """Load the run at `start_from`; if it is damaged, `own` or the nearest intact earlier state, whichever is later.

    Args:
        own: the run at this stage's newest rolling checkpoint, at a step no later than `start_from`.

    Raises:
        CheckpointError: all are damaged, and the initial weights are not randomly drawn.
    """
    if start_from is None:
        return _run_from(None, recipe, placement, ranks)
    damaged: list[str] = []
    first_error: CheckpointError | None = None
    run = None
    for kept in itertools.chain([start_from], earlier):
        if first_error is not None and own is not None and own.step >= kept.step:
            break
        try:
            run = _run_from(kept.folder, recipe, placement, ranks)
            break
        except CheckpointError as error:
            first_error = first_error or error
            damaged.append(f"{error} Remove {kept.published} and run its study again, which makes that state again.")
    if run is None and own is None and first_error is not None and recipe.curriculum.start.weights is not None:
        raise first_error
    run = run or own or _run_from(None, recipe, placement, ranks)
    if damaged:
        source = run.loaded_from or "the first weights"
        _logger.warning(
            "%s Until then, training resumes from step %d (%s); steps %d to %d are recomputed.",
            *(" ".join(damaged), run.step, source, run.step, start_from.step),
        )
    return run


def _run_from(checkpoint: Path | None, recipe: State, placement: Placement, ranks: Ranks) -> TrainingRun:
    curriculum = recipe.curriculum
    if checkpoint is not None:
        resets = _resets_at(curriculum, step_of(checkpoint))
        return TrainingRun.load(checkpoint, with_optimizer=not resets, placement=placement, ranks=ranks)
    precision = curriculum.stretches[0].phase.precision
    return TrainingRun.begin(curriculum.start, precision=precision, placement=placement, ranks=ranks)


def _by_placed_phase(
    curriculum: Curriculum,
    run: TrainingRun,
    train_split: Callable[[Dataset], TokenizedSplit],
    packing: Callable[[Packing], Path],
    tokenizer: Callable[[], tokenizers.Tokenizer],
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Curriculum, Batches | RolloutBatches]]:
    """Yield, for each placed phase to train from the run's step, the curriculum up to its end and the batches.

    There is more than one only if steps before the kept state are recomputed.
    """
    from_step = run.step
    for placed in curriculum.stretches:
        is_last = placed is curriculum.stretches[-1]
        if is_last or placed.stop_step > from_step:
            part = curriculum if is_last else curriculum.until(placed.stop_step)
            last = part.stretches[-1]
            if isinstance(last.phase.data, Rollouts):
                split = train_split(last.phase.data.prompts)
                yield part, RolloutBatches(last, split, tokenizer(), run, should_stop)
                continue
            splits = {identify(data): train_split(data) for data in part.datasets_of(last)}
            packings = {}
            if isinstance(last.phase.data, TaskMixture):
                recipe = Packing.of(last.phase, curriculum.start.tokenizer)
                packings[recipe.id] = read_packed(packing(recipe))
            yield part, Batches(part, splits, packings)


def _tallies(
    recipe: State, train_split: Callable[[Dataset], TokenizedSplit], tokenizer: Callable[[], tokenizers.Tokenizer]
) -> list[Tally]:
    """Return what the last placed phase uses of each of its data sets, and what it leaves out.

    Raises:
        ValueError: almost nothing of a task fits within `seq_len`.
    """
    phase = recipe.curriculum.stretches[-1].phase
    if isinstance(phase.data, TaskMixture):  # the record of its packing counts what is left out
        return []
    facts: dict[str, Any] = {"split_name": "train", "use": "training", "seq_len": phase.seq_len}
    if isinstance(phase.data, Rollouts):
        tally = prompts_tally(
            train_split(phase.data.prompts),
            tokenizer(),
            data=phase.data.name,
            split_name="train",
            longest=phase.seq_len - phase.data.max_new_tokens,
        )
        tally.require_enough()
        return [tally]
    if isinstance(phase.data, Task):
        target_only = phase.loss == "target_tokens"
        tally = items_tally(train_split(phase.data), data=phase.data.name, target_only=target_only, **facts)
        tally.require_enough()
        return [tally]
    # A corpus smaller than one block is rejected by the first step that draws from it.
    return [blocks_tally(train_split(corpus), data=corpus.name, **facts) for corpus in phase.data.corpora]


def _trained_steps(attempts: list[Path]) -> int:
    """Return the number of steps that interrupted attempts trained."""
    total = 0
    for folder in attempts:
        if (steps := steps_of(folder)) is not None:
            first, last = steps
            total += max(last, newest_step(folder / CHECKPOINTS_FOLDER), first) - first
    return total


def _realised(
    recipe: State,
    batches: Batches | RolloutBatches,
    *,
    first_step: int,
    train_split: Callable[[Dataset], TokenizedSplit],
    packing: Callable[[Packing], Path],
) -> Any:
    """Return realised token shares since the last reset of data positions, and epochs of each corpus or part so far.

    Raises:
        ValueError: the sequences read since `first_step` do not match the quotas.
    """
    last = recipe.curriculum.stretches[-1]
    phase = last.phase
    if isinstance(phase.data, TaskMixture):
        counts = read_counts(packing(Packing.of(phase, recipe.curriculum.start.tokenizer)), phase.data)
        num_steps = recipe.step - last.start_step
        sizes = [train_split(task).num_documents for task in phase.data.tasks]
        passes = counts.items[num_steps] / np.array(sizes)
        epochs = {name: round(float(number), 4) for name, number in zip(counts.names, passes, strict=True)}
        return {"token_shares": counts.shares(0, num_steps), "epochs": epochs}
    if isinstance(phase.data, Task | Rollouts):
        return {}
    assert isinstance(batches, Batches)
    slots, begin = slots_at(recipe.curriculum, first_step)
    end = begin + (recipe.step - first_step) * phase.num_sequences
    slots, _ = slots_at(recipe.curriculum, recipe.step - 1)
    before, after = slots.counts(begin), slots.counts(end)
    quotas = {corpus: number - before.get(corpus, 0) for corpus, number in after.items() if number != before.get(corpus, 0)}
    if quotas != batches.drawn:
        drawn = {corpus.name: number for corpus, number in batches.drawn.items()}
        raise ValueError(
            f"mixture: sequences read since step {first_step}: expected "
            f"{ ({corpus.name: number for corpus, number in quotas.items()}) } by the quotas, got {drawn}. This is a bug: "
            "please report the recipe."
        )
    epochs = {}
    for corpus in phase.data.corpora:  # the base is read by slot number, a specialist by its count of draws
        read = end if corpus == phase.data.base_corpus else after.get(corpus, 0)
        epochs[corpus.name] = round(read / max(1, train_split(corpus).num_blocks(phase.seq_len)), 4)
        if epochs[corpus.name] > 1:
            warnings.warn(f"{corpus.name} is read {epochs[corpus.name]:g} times", stacklevel=2)
    return {"token_shares": {corpus.name: number / end for corpus, number in after.items()}, "epochs": epochs}
