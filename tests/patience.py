"""The limits that midstudy sets to the servers that show a study, lifted: on a busy machine they are slow, not broken."""

from __future__ import annotations

import importlib

import pytest

_LIMITS = {
    "flows.study": ("_CLOSE_TIMEOUT_S", "_INTERRUPTED_TIMEOUT_S", "_ASK_TIMEOUT_S"),
    "flows.study_flow": ("_CALL_TIMEOUT_S",),
    "flows.view": ("_RECORD_TIMEOUT_S", "_FLUSH_TIMEOUT_S"),
}
_LONG_S = 1000.0


def lift_limits(patch: pytest.MonkeyPatch) -> None:
    from flows.server import PrefectServer
    from midstudy.track.follow import Follower

    for module, names in _LIMITS.items():
        for name in names:
            patch.setattr(importlib.import_module(module), name, _LONG_S)
    patch.setattr(PrefectServer.wait_until_healthy, "__defaults__", (_LONG_S,))
    patch.setattr(Follower.finish, "__kwdefaults__", {"timeout_s": _LONG_S})
