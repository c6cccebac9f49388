"""Brings batches to the device: this rank's rows of each, computed ahead of time where the device is not the processor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midstudy.data.batch import IGNORED, Batch
from midstudy.train.ranks import Ranks


@dataclass(frozen=True)
class Portion:
    """One rank's rows of a batch on the device, (rows, length) each, and what the whole batch holds.

    `row_weights` are the summed weights of each row's targets; `num_targets` and `total_weight` are those of the batch over
    all ranks, known to each without asking the others.
    """

    input_ids: Tensor
    targets: Tensor
    weights: Tensor | None
    documents: Tensor | None
    row_weights: NDArray[np.float64]
    num_targets: int
    total_weight: float


def portion_of(batch: Batch, *, ranks: Ranks, device: torch.device) -> Portion:
    """This rank's rows of `batch`, on `device`."""
    mine = batch.rows(*ranks.rows(len(batch.input_ids)))
    has_target = mine.targets != IGNORED
    weights = has_target if mine.weights is None else np.where(has_target, mine.weights, 0.0)

    def bring(array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

    return Portion(
        input_ids=bring(mine.input_ids),
        targets=bring(mine.targets),
        weights=None if mine.weights is None else bring(mine.weights),
        documents=None if mine.documents is None else bring(mine.documents),
        row_weights=weights.sum(axis=1, dtype=np.float64),
        num_targets=batch.num_targets,
        total_weight=batch.total_weight,
    )


class Feed:
    """Portions in the order of their steps.

    Args:
        batch_at: the batch that the update from a state reads.
        until_step: no batch at or past this step is computed.
        ahead: compute the next batch in a thread while the device works on this one. On a CPU it would only take turns with
            the model.
    """

    def __init__(
        self, batch_at: Callable[[int], Batch], *, until_step: int, ranks: Ranks, device: torch.device, ahead: bool
    ) -> None:
        self._batch_at, self._until_step = batch_at, until_step
        self._ranks, self._device = ranks, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed") if ahead else None
        self._next: tuple[int, Future[Portion]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def take(self, step: int) -> Portion:
        """What the update from state `step` reads."""
        if self._thread is None:
            return self._make(step)
        if self._next is None or self._next[0] != step:
            self._next = (step, self._thread.submit(self._make, step))
        _, coming = self._next
        portion = coming.result()
        if step + 1 < self._until_step:
            self._next = (step + 1, self._thread.submit(self._make, step + 1))
        return portion

    def _make(self, step: int) -> Portion:
        return portion_of(self._batch_at(step), ranks=self._ranks, device=self._device)
