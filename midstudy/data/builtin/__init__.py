"""The built-in source `wheels`: text from a frozen list of pure-Python packages (wheels), and generated word problems.

It has ten parts: six corpora and four tasks. `list_digest()` is its revision; `read_part(part, split)` reads its rows.
"""

from __future__ import annotations

from midstudy.data.builtin.prepare import (
    CORPORA,
    PARTS,
    TASKS,
    frozen_manifest,
    list_digest,
    prepared,
    read_part,
    removed_for_overlap,
)

__all__ = ["CORPORA", "PARTS", "TASKS", "frozen_manifest", "list_digest", "prepared", "read_part", "removed_for_overlap"]
