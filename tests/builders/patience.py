"""Lift midstudy's timeouts for its study views: on a busy machine they are slow, not broken."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

_LIMITS = {
    "midstudy.run.conduct": ("_CLOSE_TIMEOUT_S", "_INTERRUPTED_TIMEOUT_S", "_ASK_TIMEOUT_S"),
    "midstudy.flows.study_flow": ("_CALL_TIMEOUT_S",),
    "midstudy.flows.view": ("_RECORD_TIMEOUT_S", "_FLUSH_TIMEOUT_S"),
}
_LONG_S = 1000.0


def lift_limits(patch: pytest.MonkeyPatch) -> None:
    from midstudy.track.local_server import LocalServer

    for module, names in _LIMITS.items():
        for name in names:
            patch.setattr(importlib.import_module(module), name, _LONG_S)
    patch.setattr(LocalServer.wait_until_healthy, "__defaults__", (_LONG_S,))
    wait_for_followers(patch)


def wait_for_followers(patch: pytest.MonkeyPatch) -> None:
    """Wait without limit for the process that updates MLflow, which also has low priority."""
    from midstudy.track.follow import Follower

    patch.setattr(Follower.finish, "__kwdefaults__", {"timeout_s": _LONG_S})
    begin = Follower.__init__

    def brisk(self: Follower, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        if self._command[1:3] == ["-m", "midstudy.track"]:
            self._command[1:3] = [str(Path(__file__).parent / "brisk_track.py")]

    patch.setattr(Follower, "__init__", brisk)
