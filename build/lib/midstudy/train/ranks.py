"""The processes that share a training step: sums over ranks, and agreement between them.

Every rank holds the whole model and computes the whole batch's order, which is a pure function of the step; it passes its
own rows through the model, and gradients are added up over ranks. Numbers on the device travel through NCCL where the
device is a GPU and through gloo elsewhere; decisions travel through gloo, so that no rank waits for its GPU to decide.
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
"""How long decisions wait for the others: they may wait for one that evaluates or writes. A rank that dies is noticed at
once, because gloo's connections close."""

_GPU_TIMEOUT = timedelta(minutes=30)
"""How long a sum on GPUs waits: NCCL does not notice a rank that dies. All are within a step of each other, or compile."""

_BUCKET_BYTES = 64 * 2**20
"""Gradients are copied together and summed in buckets of about this size: few calls, little extra memory."""


class RankLostError(RuntimeError):
    """Another rank has ended in the middle of a step; what this one holds of it is worth nothing."""


@contextmanager
def _together() -> Iterator[None]:
    """A collective call; what it raises when a rank is gone depends on the library that carries it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RankLostError(f"another rank has ended: {error}") from error


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size` ranks. `Ranks(0, 1)` is alone and communicates nothing."""

    rank: int = 0
    size: int = 1
    tensors: Any = None
    """The process group that sums tensors; none is the default one, that of the decisions."""

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and reports."""
        return self.rank == 0

    def rows(self, num_sequences: int) -> tuple[int, int]:
        """First row and row past the last of this rank's share of a batch; shares differ by one row at most.

        Raises:
            ValueError: there are more ranks than sequences.
        """
        if num_sequences < self.size:
            raise ValueError(
                f"placement.num_ranks: found {self.size} ranks for a batch of {num_sequences} sequences; allowed: at most "
                "one rank a sequence. Use fewer ranks, or a larger batch (which is another recipe)."
            )
        return self.rank * num_sequences // self.size, (self.rank + 1) * num_sequences // self.size

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over ranks; each calls this with tensors of the same shapes and types."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _together():
                distributed.all_reduce(flat, group=self.tensors)
            pieces = flat.split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [p.view_as(t) for p, t in zip(pieces, bucket, strict=True)])

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank; every rank gets the same answer."""
        if self.size == 1:
            return flag
        vote = torch.tensor(int(flag))
        with _together():
            distributed.all_reduce(vote, op=distributed.ReduceOp.MAX)
        return bool(vote)

    def from_first(self, value: Any) -> Any:
        """The first rank's value (plain data) on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with _together():
            distributed.broadcast_object_list(box, src=0)
        return box[0]


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
    """Within: this process among `size` ranks that all name the same meeting point.

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
    if meeting_point.startswith("file:"):  # torch takes a URL's %20 for part of the file's name, and waits for ever
        store = distributed.FileStore(unquote(urlparse(meeting_point).path), size)
        store.set_timeout(_TIMEOUT)
        where = {"store": store}
    distributed.init_process_group("gloo", rank=rank, world_size=size, timeout=_TIMEOUT, **where)
    try:
        tensors = distributed.new_group(backend="nccl", timeout=_GPU_TIMEOUT) if device == "cuda" else None
        yield Ranks(rank, size, tensors)
    finally:
        distributed.destroy_process_group()
