"""Tests of what runs on a device, made for a GPU machine that has PyTorch, NumPy, safetensors, tokenizers and pytest alone.

    python -m pytest --confcutdir tests/gpu -m gpu tests/gpu     # there; benchmarks/on_gpu.py runs this
    python -m pytest tests/gpu                                   # on a CPU: the same tests, as part of `make test`

Nothing here imports the conftest of `tests/`, hypothesis, or what orchestrates runs. What a GPU computes is compared with
formulas in fp64, or with the same computation on the processor.
"""

from __future__ import annotations

import os

# Read when PyTorch is imported, which is before the other conftest sets it where a test here is named on the command line.
os.environ["OMP_NUM_THREADS"] = "1"
# cuBLAS reads it when CUDA is first used: without it a product may give other bits the next time.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The processor, and with `-m gpu` the GPU instead."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device here")
    return torch.device(request.param)
