"""Fail a passing test that leaves processes behind, and end everything a test started.

midstudy's jobs run in their own sessions and outlive their driver, so neither process groups nor parents find them. An
environment variable does: it gets a new value for every test and is inherited by everything the test starts. Processes
started by module or session fixtures carry the fixture's value and are left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "STARTED_BY_TEST"

_MAY_END_BY_ITSELF_S = 60.0
"""A process that is finishing or was asked to end is not a leftover; on a busy machine it may take long to disappear."""

_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver", b"torch/_inductor/compile_worker")
"""Helpers of the standard library and torch: they end with the process that started them and serve many tests."""


def pytest_configure(config: pytest.Config) -> None:
    if Path("/proc/self/environ").exists():
        config.pluginmanager.register(_Leftovers(), "leftovers of tests")


class _Leftovers:
    def __init__(self) -> None:
        self._run = uuid.uuid4().hex
        self._number = 0
        self._before: set[int] = set()
        self._last_pid = ""
        self._failed = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, Any]:
        self._number += 1
        self._failed = False
        self._before, self._last_pid = set(_children()), _last_pid()
        with _marked(self._mark):
            return (yield)

    @property
    def _mark(self) -> str:
        return f"{self._run}:test {self._number}"

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        with _marked(f"{self._run}:{fixturedef.scope}"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self._failed = self._failed or report.failed
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        ended: list[str] = []
        try:
            result = yield
        except BaseException:
            self._failed = True
            raise
        finally:
            ended = self._end_what_was_left()
        if ended and not self._failed:
            pytest.fail("left running, and ended now:\n" + "\n".join(ended), pytrace=False)
        return result

    def pytest_unconfigure(self) -> None:
        _kill(lambda: _carriers(self._run))

    def _end_what_was_left(self) -> list[str]:
        """End this test's processes; return their commands."""
        if _last_pid() == self._last_pid:  # no process was started on this machine
            return []
        until = time.monotonic() + (0.0 if self._failed else _MAY_END_BY_ITSELF_S)
        commands: list[str] = []
        try:
            while (left := self._left()) and time.monotonic() < until:
                time.sleep(0.01)
            commands = [_command(pid) for pid in left]
        finally:
            _kill(self._left)
        return commands

    def _left(self) -> list[int]:
        marked = _carriers(self._mark)
        fixtures = set(_carriers(self._run)).difference(marked)
        # A child without the variable was started with a different environment.
        return sorted({*marked, *_children(but_for=self._before | fixtures)})


@contextlib.contextmanager
def _marked(mark: str) -> Iterator[None]:
    previous = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = mark
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if previous is not None:
            os.environ[VARIABLE] = previous


def _last_pid() -> str:
    """Return the pid last assigned to a process or thread."""
    return Path("/proc/loadavg").read_text("ascii").split()[-1]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # ended, or owned by another user
        return b""


def _carriers(mark: str) -> list[int]:
    """Return processes whose mark is this value or starts with it and a colon, except this process and helpers."""
    wanted = f"{VARIABLE}={mark}".encode()
    ends = (b"\0", b":")
    carriers = []
    for pid in _pids():
        _, is_there, rest = _read(pid, "environ").partition(wanted)
        if is_there and rest[:1] in ends and pid != os.getpid() and not _is_helper(pid):
            carriers.append(pid)
    return carriers


def _children(but_for: set[int] | frozenset[int] = frozenset()) -> list[int]:
    """Return running descendants of this process, except helpers and the subtrees of `but_for`."""
    parents: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _read(pid, "stat").rpartition(b")")[2].split()
        if len(fields) > 1 and fields[0] not in (b"Z", b"X"):
            parents.setdefault(int(fields[1]), []).append(pid)
    descendants: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        for pid in parents.get(waiting.pop(), []):
            if pid not in but_for and not _is_helper(pid):
                descendants.append(pid)
                waiting.append(pid)
    return descendants


def _is_helper(pid: int) -> bool:
    command = _read(pid, "cmdline")
    return any(helper in command for helper in _HELPERS)


def _command(pid: int) -> str:
    words = _read(pid, "cmdline").decode("utf-8", "replace").replace("\0", " ").strip()
    return f"  {pid}: {' '.join(words.split())[:300] or '(ending)'}"


def _kill(left: Callable[[], list[int]]) -> None:
    """Kill these processes and any they start meanwhile, until none are left."""
    while pids := left():
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
