"""Work on several items in processes, and what the worker processes of a verb begin with."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def leave_interrupts() -> None:
    """Ignore Ctrl-C, which also reaches the parent process; it ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def each(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    num_processes: int,
    on_progress: Callable[[str], None],
    done: str,
) -> list[Result]:
    """Return the results in the order of the items; `on_progress` is called with a line that begins with `done`."""
    if min(num_processes, len(items)) < 2:
        results: list[Result] = []
        for number, item in enumerate(items, start=1):
            results.append(work(item))
            on_progress(f"{done} {number} of {len(items)} candidates")
        return results
    results = []
    with ProcessPoolExecutor(num_processes, get_context("spawn"), initializer=leave_interrupts) as pool:
        try:
            for number, result in enumerate(pool.map(work, items), start=1):
                results.append(result)
                on_progress(f"{done} {number} of {len(items)} candidates")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results
