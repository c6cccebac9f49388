"""Tests of device code, for a GPU machine with only PyTorch, NumPy, safetensors, tokenizers and pytest.

    python -m pytest --confcutdir tests/gpu -m gpu tests/gpu     # on the GPU machine; benchmarks/on_gpu.py runs this
    python -m pytest tests/gpu                                   # on a CPU: the same tests, as part of `make test`

These tests do not import `tests/conftest.py`, hypothesis or the orchestration code. GPU results are compared with fp64
formulas or with the same computation on the CPU.
"""

from __future__ import annotations

import os

# Set before PyTorch is imported: this file is loaded before the other conftest if a test here is named on the command line.
os.environ["OMP_NUM_THREADS"] = "1"
# cuBLAS reads it when CUDA is first used; without it, repeated matrix products may differ in their last bits.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the CPU, or the GPU with `-m gpu`."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device here")
    return torch.device(request.param)
