"""The folder that caches fetched and prepared text between runs; it does not affect any id."""

from __future__ import annotations

import os
from pathlib import Path

from midstudy.environment import WITHOUT_HOME


def cache_dir() -> Path:
    """Return `$MIDSTUDY_CACHE`, else `midstudy` under `$XDG_CACHE_HOME`, else `~/.cache/midstudy`. It is not created.

    An empty or blank variable counts as unset.

    Raises:
        ValueError: neither variable is set and the user has no home directory.
    """
    named = os.environ.get("MIDSTUDY_CACHE", "").strip()
    if named:
        return Path(os.path.expanduser(named)).absolute()
    stated = os.environ.get("XDG_CACHE_HOME", "").strip()
    base = os.path.expanduser(stated or "~/.cache")
    if not os.path.isabs(base) or (WITHOUT_HOME in os.environ and not stated):
        raise ValueError(
            "no cache folder for fetched and prepared text: HOME is not a writable folder. Set MIDSTUDY_CACHE or HOME to a "
            "writable folder."
        )
    return Path(base) / "midstudy"
