"""Run a model's blocks compiled with `torch.compile`. This is placement: it changes speed, and results only by rounding.

The attention and the MLP of a block are compiled as two functions, once for all blocks of all models of one shape in a
process, as torchtitan and OLMo-core compile block by block. Of GPT-NeoX's block compiled as one function, torch 2.13
generates C++ that does not compile: attention and MLP are added to the same sum, so their biases have the same gradient, and
in bf16 its two stores get one name.

The first length that differs is compiled once more, for any length, since fine-tuning pads its batches to many lengths.
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

from midstudy.model.language_model import Block, LanguageModel

_COMPILED_PARTS = ("attend", "feed_forward")
_VARIANTS = 64
"""Most compiled variants of a part per process (shapes, types, training or not). Further variants run uncompiled."""
_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def compile_model(model: LanguageModel) -> None:
    """Make the blocks of `model` run compiled, except for fp32 on a CPU. The first steps take some seconds more.

    Raises:
        ValueError: the C++ compiler or Python's headers are missing.
    """
    require_compiler()
    for block in model.blocks:
        for part in _COMPILED_PARTS:
            setattr(block, part, MethodType(_compiled(getattr(type(block), part)), block))


def require_compiler() -> None:
    """Check that compiled code can be built on this machine.

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
def _compiled(eager: Callable[..., Any]) -> Callable[..., Any]:
    """Return one compiled function for all blocks; its code is looked up by shapes and types, not by the block."""
    import torch._inductor.config  # imported here, because it takes a second

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    if not torch.cuda.is_available():
        # Compile in this process: a job has few cores, and no worker process can outlive it.
        torch._inductor.config.compile_threads = 1
    # Compiled code computes the causal mask from the length and does not depend on its cache.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    compiled: Callable[..., Any] = torch.compile(eager)

    def run(block: Block, x: torch.Tensor, *more: Any) -> torch.Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32:  # slower if compiled: products dominate
            return eager(block, x, *more)
        with signals_held():
            output: torch.Tensor = compiled(block, x, *more)
        _stop_if_requested()
        if output.requires_grad and _should_stop is not None:
            output.register_hook(lambda gradient: _stop_if_requested())  # before its backward pass is compiled
        return output

    return run


class StopRequestedError(Exception):
    """A pass through the model ended early, between two compiled parts, because the process was asked to stop."""


_should_stop: Callable[[], bool] | None = None


@contextmanager
def stopping_between_parts(should_stop: Callable[[], bool]) -> Iterator[None]:
    """Inside the context, poll `should_stop` after each compiled part, since compiling a part can take seconds.

    Raises:
        StopRequestedError: `should_stop` returned True, or a held signal is pending.
    """
    global _should_stop
    previous, _should_stop = _should_stop, should_stop
    try:
        yield
    finally:
        _should_stop = previous


def _stop_if_requested() -> None:
    if _should_stop is not None and (_should_stop() or signal.sigpending() & {*_HELD}):
        raise StopRequestedError


@contextmanager
def signals_held() -> Iterator[None]:
    """Block stop signals for processes that are started inside the context; do nothing outside the main thread.

    A scheduler signals every process of a job. A C++ compiler that is started in the context inherits the signal mask and
    finishes, and so does the step that needs it. This process handles the signal at the end of the context, or at once if
    it has other threads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
