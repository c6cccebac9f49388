"""The source `wheels`: text of a frozen list of pure-Python packages, and word problems made by the project.

`list_digest()` is its revision; `read_part(part, split)` its rows. Ten parts: six corpora and four tasks.
"""

from __future__ import annotations

from midstudy.data.wheels.prepare import (
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
