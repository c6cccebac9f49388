"""The code corpus: Python source files of packages that the docstring-to-function task does not read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.docstrings import modules
from midstudy.data.builtin.packages import open_wheel
from midstudy.data.splits import split_by_hash, unit_hash

PACKAGES = ("django", "networkx", "sympy", "werkzeug")
MAX_BYTES_PER_PACKAGE = 3_500_000
"""Limits the largest package to a third of the corpus."""

MIN_CHARS, MAX_CHARS = 400, 60_000
"""Shorter files are mostly imports; longer ones are tables and generated rules."""

_SKIPPED = re.compile(r"/(?:locale|migrations|antlr|_generated|atlas)/|_rules\.py$|rubi")


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and file, files in order of hash within a package."""
    for package in PACKAGES:
        num_bytes = 0
        with open_wheel(package) as archive:
            names = [name for name in modules(archive) if not _SKIPPED.search(name)]
            for name in sorted(names, key=lambda name: (unit_hash(name), name)):
                text = archive.text(name).strip("\n")
                if MIN_CHARS <= len(text) <= MAX_CHARS and num_bytes < MAX_BYTES_PER_PACKAGE:
                    num_bytes += len(text)
                    yield split_by_hash(name, dev=0.02, test=0.02), {"text": text, "source": f"{package} {name}"}
