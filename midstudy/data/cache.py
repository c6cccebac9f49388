"""Where fetched and prepared text is kept between runs: placement, part of no id."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$MIDSTUDY_CACHE`, else `midstudy` under `$XDG_CACHE_HOME`, else `~/.cache/midstudy`. Not created here.

    A variable that is empty, or blank, counts as not set.
    """
    named = os.environ.get("MIDSTUDY_CACHE", "").strip()
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "midstudy"
