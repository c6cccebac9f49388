"""Run `midstudy.track` at normal priority; at its usual low priority it might never finish on a busy machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from midstudy.track import __main__ as track

_execv = os.execv


def _again(program: str, words: Sequence[str]) -> None:
    _execv(program, [program, __file__, *words[3:]])


if __name__ == "__main__":
    track._NICE_VALUE = 0
    track.os.execv = _again  # type: ignore[assignment]
    sys.exit(track.main())
