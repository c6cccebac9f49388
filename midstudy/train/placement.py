"""How a stage is computed: device, threads, ranks. Not part of the recipe or any id, but recorded with every stage.

A placement changes results by rounding at most, and the same placement reproduces the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe.errors import require_choice, require_flag, require_positive
from midstudy.recipe.plain import hold_plain_numbers

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device, threads, ranks and kernels of the processes that make a stage.

    `num_ranks` processes share a training step, each with `num_threads` threads and, on CUDA, its own device; each passes at
    most `micro_batch` sequences through the model at a time (`None`: all of its rows). `compiled` uses `torch.compile`.
    """

    device: str = "cpu"
    num_threads: int = 1
    num_ranks: int = 1
    micro_batch: int | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_choice("placement.device", self.device, DEVICES)
        require_positive("placement.num_threads", self.num_threads, unit="threads")
        require_positive("placement.num_ranks", self.num_ranks, unit="ranks")
        if self.micro_batch is not None:
            require_positive("placement.micro_batch", self.micro_batch, unit="sequences")
        require_flag("placement.compiled", self.compiled)
