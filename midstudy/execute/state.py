"""The training stage: from a kept state, or from scratch, to the state that the recipe describes."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from midstudy.data.batches import Batches
from midstudy.data.slots import slots_at
from midstudy.data.tokens import TokenizedSplit
from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import Dataset, Task
from midstudy.store.attempt import CHECKPOINTS_FOLDER, METRICS_FILE, RESULT_FOLDER, Attempt, read_metrics
from midstudy.train.rolling import Rolling, latest_valid
from midstudy.train.run import TrainingRun

CHECKPOINT_FOLDER = "checkpoint"
ROLLING_INTERVAL_S = 60.0


class StoppedError(RuntimeError):
    """The job was told to stop; the state reached is in the attempt's rolling checkpoints."""


def train_state(
    recipe: State,
    *,
    attempt: Attempt,
    start_from: Path | None,
    former_attempts: list[Path],
    train_split: Callable[[Dataset], TokenizedSplit],
    keeps_optimizer: bool,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Train to `recipe`'s state and write its checkpoint into the attempt; returns the stage's metrics.

    Args:
        start_from: checkpoint of the kept state that training goes on from; none begins from scratch.
        former_attempts: folders of interrupted attempts, whose rolling checkpoints are gone on from.
        train_split: the tokenised train split of a corpus or task.
        should_stop: polled before every update.

    Raises:
        StoppedError: `should_stop` said so.
        ValueError: what was read is not what the quotas say.
    """
    curriculum, step = recipe.curriculum, recipe.step
    last = curriculum.stretches[-1]
    resumable = latest_valid(*(folder / CHECKPOINTS_FOLDER for folder in former_attempts))
    if resumable is not None:
        run = TrainingRun.load(resumable)
        attempt.take_over_metrics(resumable.parent.parent, until_step=run.step)
    elif start_from is not None:
        run = TrainingRun.load(start_from)
    else:
        run = TrainingRun.begin(curriculum.start, precision=curriculum.stretches[0].phase.precision)
    batches = Batches(curriculum, {identify(one): train_split(one) for one in last.phase.datasets})
    logged: list[dict[str, float]] = []

    def on_metrics(metrics: dict[str, float]) -> None:
        logged.append(metrics)
        attempt.log_metrics(metrics)

    first_step = run.step
    rolling = Rolling(folder=attempt.checkpoints, every_s=ROLLING_INTERVAL_S)
    if not run.advance(
        curriculum, to_step=step, batch_at=batches, on_metrics=on_metrics, should_stop=should_stop, rolling=rolling
    ):
        rolling.save(run.step, lambda folder: run.save(folder, with_optimizer=True))
        raise StoppedError(f"stopped at step {run.step} of {step}; the next attempt goes on from there")
    run.save(attempt.result / CHECKPOINT_FOLDER, with_optimizer=keeps_optimizer)
    begun = 0 if start_from is None else _step_of(start_from)
    metrics: dict[str, Any] = {
        "step": step,
        "stretch_from": curriculum.state_id(last.start_step),
        "has_optimizer": keeps_optimizer,
        "size": curriculum.start.model.name,
        "precision": last.phase.precision,
        "num_steps": step - begun,
        "resumed_at_step": first_step if resumable is not None else None,
        "recomputed_steps": max(0, _last_step_of(former_attempts) - first_step),
        "num_tokens": (step - begun) * last.phase.tokens_per_step,
        **_realised(recipe, batches, first_step=first_step, train_split=train_split),
    }
    if logged:
        metrics["train_loss_nats"] = logged[-1]["loss_nats"]
        metrics["tokens_per_s"] = statistics.median(one["tokens_per_s"] for one in logged)
        metrics["data_wait_s"] = sum(one["data_wait_s"] for one in logged)
    return metrics


def _last_step_of(attempts: list[Path]) -> int:
    """The furthest step that an interrupted attempt logged; what lies between it and a resumed one is computed again."""
    steps = (line["step"] for folder in attempts for line in read_metrics(folder / RESULT_FOLDER / METRICS_FILE))
    return max(steps, default=0)


def _step_of(checkpoint: Path) -> int:
    return int(json.loads((checkpoint / "checkpoint.json").read_text("utf-8"))["step"])


def _realised(recipe: State, batches: Batches, *, first_step: int, train_split: Callable[[Dataset], TokenizedSplit]) -> Any:
    """Realised token shares of the last stretch's data positions, and how often each corpus was read so far.

    Raises:
        ValueError: what was read since `first_step` is not what the quotas say.
    """
    phase = recipe.curriculum.stretches[-1].phase
    if isinstance(phase.data, Task):
        return {}
    slots, begin = slots_at(recipe.curriculum, first_step)
    end = begin + (recipe.step - first_step) * phase.num_sequences
    slots, _ = slots_at(recipe.curriculum, recipe.step - 1)
    before, after = slots.counts(begin), slots.counts(end)
    owed = {corpus: number - before.get(corpus, 0) for corpus, number in after.items() if number != before.get(corpus, 0)}
    if owed != batches.drawn:
        found = {corpus.name: number for corpus, number in batches.drawn.items()}
        raise ValueError(
            f"mixture: sequences read since step {first_step}: {found}; the quotas say "
            f"{ ({corpus.name: number for corpus, number in owed.items()}) }. This is a bug: please report the recipe."
        )
    epochs = {}
    for corpus in phase.data.corpora:  # the base is read by slot number, a specialist by count
        read = end if corpus == phase.data.base_corpus else after.get(corpus, 0)
        epochs[corpus.name] = round(read / max(1, train_split(corpus).num_blocks(phase.seq_len)), 4)
        if epochs[corpus.name] > 1:
            warnings.warn(f"{corpus.name} is read {epochs[corpus.name]:g} times over", stacklevel=2)
    return {"token_shares": {corpus.name: number / end for corpus, number in after.items()}, "epochs": epochs}
