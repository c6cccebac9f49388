"""Data parallelism: the processes (ranks) that share a training step, sums over ranks, and common decisions.

Every rank holds the whole model and computes the order of the whole batch, which is a pure function of the step. It passes
its own rows through the model, and gradients are summed over ranks. Tensors are summed with NCCL on GPUs and with gloo
elsewhere; decisions always use gloo, so that no rank waits for its GPU to decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlparse

import torch
from torch import Tensor, distributed

_TIMEOUT = timedelta(days=1)
"""Timeout of decisions, which may wait for a rank that evaluates or writes. A dead rank is detected immediately, because its
gloo connections close."""

_GPU_TIMEOUT = timedelta(minutes=30)
"""Timeout of sums on GPUs: NCCL does not detect a dead rank. Ranks are at most a step, or a compilation, apart."""

_BUCKET_BYTES = 64 * 2**20
"""Gradients are concatenated and summed in buckets of about this size: few calls, little extra memory."""


class RankLostError(RuntimeError):
    """Another rank exited in the middle of a step; this rank's part of the step must be discarded."""


@contextmanager
def _collective() -> Iterator[None]:
    """Wrap a collective call: raise `RankLostError` for the backends' different errors when a rank is lost."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RankLostError(f"another rank has exited: {error}") from error


@dataclass(frozen=True)
class Ranks:
    """This process's rank among `size` ranks. `Ranks(0, 1)` is a single process and does not communicate."""

    rank: int = 0
    size: int = 1
    tensors: Any = None
    """The process group that sums tensors; `None` for the default group, which also makes the decisions."""

    @property
    def is_first(self) -> bool:
        """True for the rank that writes and reports."""
        return self.rank == 0

    def rows(self, num_sequences: int) -> tuple[int, int]:
        """Return the first row, and the row past the last, of this rank's part of a batch; parts differ by at most one row.

        Raises:
            ValueError: there are more ranks than sequences.
        """
        if num_sequences < self.size:
            raise ValueError(
                f"placement.num_ranks: expected at most one rank per sequence, got {self.size} ranks for a batch of "
                f"{num_sequences} sequences. Use fewer ranks, or a larger batch (which changes the recipe)."
            )
        return self.rank * num_sequences // self.size, (self.rank + 1) * num_sequences // self.size

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over ranks; every rank must pass tensors of the same shapes and dtypes."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _collective():
                distributed.all_reduce(flat, group=self.tensors)
            pieces = flat.split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [p.view_as(t) for p, t in zip(pieces, bucket, strict=True)])

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank; every rank gets the same result."""
        if self.size == 1:
            return flag
        vote = torch.tensor(int(flag))
        with _collective():
            distributed.all_reduce(vote, op=distributed.ReduceOp.MAX)
        return bool(vote)

    def from_first(self, value: Any) -> Any:
        """Return the first rank's value (plain data) on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with _collective():
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def from_every(self, value: Any) -> list[Any]:
        """Return the value (plain data) of every rank, in their order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _collective():
            distributed.all_gather_object(values, value)
        return values


ALONE = Ranks()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    num_bytes = 0
    for tensor in tensors:
        if bucket and (num_bytes + tensor.nbytes > _BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, num_bytes = [], 0
        bucket.append(tensor)
        num_bytes += tensor.nbytes
    if bucket:
        yield bucket


@contextmanager
def joined(*, rank: int, size: int, device: str, meeting_point: str) -> Iterator[Ranks]:
    """Join `size` ranks that all name the same meeting point, for the duration of the context.

    Args:
        rank: this process's number, from 0.
        device: `cpu` or `cuda`; on CUDA the process's current device is used.
        meeting_point: `file:///path` of a file that does not exist yet, on a file system that all ranks share, or
            `tcp://host:port`.
    """
    if size == 1:
        yield ALONE
        return
    where: dict[str, Any] = {"init_method": meeting_point}
    if meeting_point.startswith("file:"):  # torch does not decode a URL's %20, and would wait indefinitely
        store = distributed.FileStore(unquote(urlparse(meeting_point).path), size)
        store.set_timeout(_TIMEOUT)
        where = {"store": store}
    distributed.init_process_group("gloo", rank=rank, world_size=size, timeout=_TIMEOUT, **where)
    try:
        tensors = distributed.new_group(backend="nccl", timeout=_GPU_TIMEOUT) if device == "cuda" else None
        yield Ranks(rank, size, tensors)
    finally:
        distributed.destroy_process_group()
