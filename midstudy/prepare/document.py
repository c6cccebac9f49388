"""A document between steps, and the yield of a step: what went in, what came out, and why the others did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 3
"""Examples that are kept for each reason."""

EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Document:
    """A text with the other fields of its row, such as a source or a label."""

    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode("utf-8"))


@dataclass
class Yield:
    """What a step read and kept, in documents and UTF-8 bytes, and what it left out, by reason, with examples."""

    step: str
    documents_in: int = 0
    bytes_in: int = 0
    documents_out: int = 0
    bytes_out: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, document: Document, reason: str) -> None:
        """Count a document that the step leaves out."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(document.text[:EXAMPLE_CHARACTERS])

    def as_metrics(self) -> dict[str, Any]:
        """Return the yield as plain data for the record."""
        return {
            "step": self.step,
            "documents_in": self.documents_in,
            "bytes_in": self.bytes_in,
            "documents_out": self.documents_out,
            "bytes_out": self.bytes_out,
            "left_out": self.left_out,
            "examples": self.examples,
        }


Apply = Callable[[Iterator[Document], Yield], Iterator[Document]]
"""A step: yields documents from documents, and counts what it leaves out."""


def filtering(why_not: Callable[[Document], str | None]) -> Apply:
    """Return a step that leaves a document out for the reason that `why_not` returns, and keeps it if that is `None`."""

    def apply(documents: Iterator[Document], found: Yield) -> Iterator[Document]:
        for document in documents:
            reason = why_not(document)
            if reason is None:
                yield document
            else:
                found.leave_out(document, reason)

    return apply
