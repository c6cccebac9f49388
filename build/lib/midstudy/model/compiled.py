"""A model whose blocks run compiled (`torch.compile`): how it computes, not what. Placement, part of no recipe.

Attention and MLP of a block are compiled as two functions, once for all blocks of all models of one shape in a process, as
torchtitan and OLMo-core compile block by block. Compiled as one, torch 2.13 writes C++ that does not compile: attention and
MLP are added to the same sum, so their biases have the same gradient, and in bf16 its two stores get one name.

A length that differs from the first is compiled once more, for any length: fine-tuning pads its batches to many. Results
equal those of the model as it was to rounding.
"""

from __future__ import annotations

import os
import shutil
import signal
import sysconfig
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MethodType
from typing import Any

from midstudy.model.pythia import Block, Pythia

_COMPILED_PARTS = ("attend", "feed_forward")
_VARIANTS = 64
"""Compiled variants of a part that a process keeps: shapes, number types, training or not. Beyond them it runs as it is."""
_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def compile_model(model: Pythia) -> None:
    """Let the blocks of `model` run compiled from now on, but for fp32 on a CPU. The first steps take seconds more.

    Raises:
        ValueError: what compiling needs is not installed.
    """
    require_compiler()
    for block in model.blocks:
        for part in _COMPILED_PARTS:
            setattr(block, part, MethodType(_compiled(part), block))


def require_compiler() -> None:
    """See to it that compiled code can be built here.

    Raises:
        ValueError: there is no C++ compiler, or Python's headers are missing.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"compiling a model needs a C++ compiler: {compiler} is not on the PATH. Install one (Debian: apt-get install "
            "g++), name another with CXX, or leave compilation off; results differ by rounding only."
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise ValueError(
            f"compiling a model needs Python's headers: {header} is missing. Install them (Debian: apt-get install "
            f"python{sysconfig.get_python_version()}-dev), or leave compilation off; results differ by rounding only."
        )


@cache
def _compiled(part: str) -> Callable[..., Any]:
    """One compiled function for all blocks: its code is looked up by shapes and types, not by the block."""
    import torch._inductor.config  # here, because it takes a second

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    if not torch.cuda.is_available():
        # In this process: a job has a core or two, and no worker is left to whoever ends it.
        torch._inductor.config.compile_threads = 1
    # Compiled code makes the causal mask as it goes, from the length alone; nothing depends on the cache of it.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    as_it_is = getattr(Block, part)
    compiled: Callable[..., Any] = torch.compile(as_it_is)

    def run(block: Block, x: torch.Tensor, *more: Any) -> torch.Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32:  # products are all there is to it: slower if compiled
            return as_it_is(block, x, *more)
        with signals_held():
            found: torch.Tensor = compiled(block, x, *more)
        _leave_if_told()
        if found.requires_grad and _should_stop is not None:
            found.register_hook(lambda gradient: _leave_if_told())  # before its backward pass is compiled
        return found

    return run


class ToldToStopError(Exception):
    """A pass through the model was left between two compiled parts: its process was told to stop."""


_should_stop: Callable[[], bool] | None = None


@contextmanager
def left_when_told(should_stop: Callable[[], bool]) -> Iterator[None]:
    """Within, ask after each compiled part, forward and backward, whether to stop: each may have been compiled for seconds.

    Raises:
        ToldToStopError: `should_stop` said so, or one of the held signals is waiting.
    """
    global _should_stop
    former, _should_stop = _should_stop, should_stop
    try:
        yield
    finally:
        _should_stop = former


def _leave_if_told() -> None:
    if _should_stop is not None and (_should_stop() or signal.sigpending() & {*_HELD}):
        raise ToldToStopError


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep the signals that tell a job to stop from processes that are started within; does nothing outside the main thread.

    A scheduler signals every process of a job. A C++ compiler that is started meanwhile inherits the mask and finishes, so
    that the step it works for does too. This process is told at the end, or at once where it has other threads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
