"""Keep documents by a field, by the hash of their text, or because they share nothing with test items."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from midstudy.data.overlap import TestItems
from midstudy.prepare.document import Document
from midstudy.recipe.preparation import Sample, Select


def selected(step: Select) -> Callable[[Document], str | None]:
    """Return why a document is not selected: the value of its field.

    Raises:
        ValueError: when called, if a document lacks the field.
    """

    def why_not(document: Document) -> str | None:
        if step.field not in document.fields:
            raise ValueError(
                f"preparation.select: expected field '{step.field}' in every row, got "
                f"{', '.join(document.fields) or 'text'} in the row of {document.text[:40]!r}. Name a field that all have."
            )
        value = str(document.fields[step.field])
        return None if value in step.values else value

    return why_not


def sampled(step: Sample) -> Callable[[Document], str | None]:
    """Return why a document is not in the sample: by the hash of its text with the seed, whatever stands around it."""

    def why_not(document: Document) -> str | None:
        digest = hashlib.blake2b(f"{step.seed} {document.text}".encode(), digest_size=8).digest()
        return None if int.from_bytes(digest, "big") < step.share * 2**64 else "not drawn"

    return why_not


def without_overlap(items: Iterable[str]) -> Callable[[Document], str | None]:
    """Return why a document is contaminated: it shares 13 words with an item, or equals one."""
    known = TestItems(items)

    def why_not(document: Document) -> str | None:
        return "overlap with dev or test" if known.overlaps(document.text) else None

    return why_not
