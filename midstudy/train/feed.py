"""Load this rank's rows of each batch onto the device; on a GPU, the next batch is prefetched."""

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
    """One rank's rows of a batch, as tensors of shape (rows, length) on the device, and totals of the whole batch.

    `row_weights` are the summed loss weights of each row's targets, or their number if the weights are advantages.
    `num_targets` and `total_weight` cover the batch over all ranks; every rank knows them without communication.
    """

    input_ids: Tensor
    targets: Tensor
    weights: Tensor | None
    documents: Tensor | None
    row_weights: NDArray[np.float64]
    num_targets: int
    total_weight: float


def portion_of(batch: Batch, *, ranks: Ranks, device: torch.device) -> Portion:
    """Return this rank's rows of `batch`, on `device`."""
    own = batch.rows(*ranks.rows(len(batch.input_ids)))
    has_target = own.targets != IGNORED
    weights = has_target if own.weights is None or own.weights_are_advantages else np.where(has_target, own.weights, 0.0)

    def to_device(array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

    return Portion(
        input_ids=to_device(own.input_ids),
        targets=to_device(own.targets),
        weights=None if own.weights is None else to_device(own.weights),
        documents=None if own.documents is None else to_device(own.documents),
        row_weights=weights.sum(axis=1, dtype=np.float64),
        num_targets=batch.num_targets,
        total_weight=batch.total_weight,
    )


class Feed:
    """Returns portions in the order of their steps.

    Args:
        batch_at: returns the batch that the update from a state reads.
        until_step: batches at or past this step are not computed.
        ahead: compute the next batch in a thread while the device works on the current one. Not useful on a CPU, where the
            thread would compete with the model.
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
        """Return the portion that the update from state `step` reads."""
        if self._thread is None:
            return self._make(step)
        if self._next is None or self._next[0] != step:
            self._next = (step, self._thread.submit(self._make, step))
        _, future = self._next
        portion = future.result()
        if step + 1 < self._until_step:
            self._next = (step + 1, self._thread.submit(self._make, step + 1))
        return portion

    def _make(self, step: int) -> Portion:
        return portion_of(self._batch_at(step), ranks=self._ranks, device=self._device)
