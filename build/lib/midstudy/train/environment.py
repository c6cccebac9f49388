"""The process a stage trains in: allocator settings, threads, and the GPUs there are."""

from __future__ import annotations

import os

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}
"""Environment variables of a process that trains on a CPU; glibc reads them when the process starts.

Memory that a step frees stays with the process instead of being returned and faulted in anew at the next step: up to 1.3
times the throughput on a CPU. Values in bytes.
"""


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that jobs started from here may use, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        ValueError: there is none.
    """
    import torch

    number = torch.cuda.device_count()
    if number == 0:
        raise ValueError(
            "--device: found cuda, but PyTorch sees no CUDA device here; allowed: cpu. Look at `nvidia-smi`, and at "
            f"CUDA_VISIBLE_DEVICES ({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')})."
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return (
        tuple(name.strip() for name in named.split(",")[:number]) if named else tuple(str(index) for index in range(number))
    )


def configure_threads(num_threads: int) -> None:
    """Let tensor operations of this process use `num_threads` threads.

    Results are bit for bit the same only at the same number: sums are split between threads.
    """
    import torch  # here, so that a launcher can read ALLOCATOR without it

    torch.set_num_threads(num_threads)
