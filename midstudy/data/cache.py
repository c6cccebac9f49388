"""Where fetched and prepared text is kept between runs: placement, part of no id."""

from __future__ import annotations

import os
from pathlib import Path

from midstudy.environment import WITHOUT_HOME


def cache_dir() -> Path:
    """`$MIDSTUDY_CACHE`, else `midstudy` under `$XDG_CACHE_HOME`, else `~/.cache/midstudy`. Not created here.

    Raises:
        ValueError: neither is set, and the user has no home.
    """
    named = os.environ.get("MIDSTUDY_CACHE")
    if named:
        return Path(os.path.expanduser(named)).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base) or (WITHOUT_HOME in os.environ and not os.environ.get("XDG_CACHE_HOME")):
        raise ValueError(
            "no folder to keep fetched and prepared text in: HOME names no folder that can be written. Set MIDSTUDY_CACHE "
            "to one, or HOME."
        )
    return Path(base) / "midstudy"
