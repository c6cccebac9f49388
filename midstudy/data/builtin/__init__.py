"""The built-in source `wheels`: text from frozen lists of pure-Python packages (wheels), and generated problems.

Two collections, each with a list, a manifest and a revision of its own: ten parts of text (six corpora and four tasks), and
conversations that teach and test abilities (`abilities/`). The name of a part says which one it is in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from midstudy.data.builtin.abilities.prepare import ABILITIES, CONVERSATIONS, READ_TEXT, TEST_ONLY
from midstudy.data.builtin.collection import Collection
from midstudy.data.builtin.prepare import CORPORA, TASKS, TEXT

__all__ = [
    "CONVERSATIONS", "CORPORA", "PARTS", "TASKS", "TEST_ONLY", "collection_of", "frozen_manifest", "list_digest",
    "needed_for", "part_facts", "prepared", "read_part", "removed_for_overlap",
]  # fmt: skip

PARTS = CORPORA + TASKS


def collection_of(part: str) -> Collection:
    """Return the collection that a part is in.

    Raises:
        ValueError: the part is unknown.
    """
    for collection in (TEXT, ABILITIES):
        if part in collection.parts:
            return collection
    raise ValueError(f"wheels part: expected one of {', '.join(PARTS + CONVERSATIONS)}, got {part!r}.")


def list_digest() -> str:
    """Return the revision of the ten parts of text."""
    return TEXT.revision


def frozen_manifest() -> dict[str, Any]:
    """Return the committed manifest of the ten parts of text."""
    return TEXT.manifest()


def part_facts(part: str) -> dict[str, Any]:
    """Return a part's packages, rows removed for overlap, and documents, bytes and digest of each split.

    Raises:
        ValueError: the part is unknown.
    """
    return collection_of(part).manifest()["parts"][part]


def removed_for_overlap(part: str) -> tuple[int, int]:
    """Return the number of rows of a part over all splits, and the number removed for sharing text with a test item.

    Raises:
        ValueError: the part is unknown.
    """
    facts = part_facts(part)
    return sum(split["docs"] for split in facts["splits"].values()), facts["removed_for_overlap"]


def needed_for(part: str) -> frozenset[str]:
    """Return the parts that are prepared before or as this one: a corpus may hold no item of a task, for instance.

    Raises:
        ValueError: the part is unknown.
    """
    collection_of(part)
    read = READ_TEXT.get(part, ())
    return frozenset((part, *read, *(TASKS if {part, *read} & {*CORPORA} else ())))


def prepared(part: str) -> Path:
    """Return the folder of a prepared part; prepare it on the first call.

    Raises:
        ValueError: the part is unknown, the wheels cannot be fetched, or the text differs from the frozen one.
    """
    return collection_of(part).prepared(part)


def read_part(part: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split of a part, in order; the part is prepared on the first call.

    Raises:
        ValueError: see `prepared`; also if the prepared file has changed since.
    """
    return collection_of(part).read(part, split)
