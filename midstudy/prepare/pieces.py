"""Cut long documents into pieces, and join short ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from midstudy.prepare.document import Apply, Document, Yield
from midstudy.recipe.preparation import Chunk, Splice

_BREAKS = ("\n\n", "\n", " ")


def chunked(step: Chunk) -> Apply:
    """Return the step that cuts documents into pieces, which together are the document."""

    def apply(documents: Iterator[Document], found: Yield) -> Iterator[Document]:
        for document in documents:
            rest = document.text
            while len(rest.encode("utf-8")) > step.max_bytes:
                piece = _first_piece(rest, step.max_bytes)
                rest = rest[len(piece) :]
                yield replace(document, text=piece)
            if rest:
                yield replace(document, text=rest)

    return apply


def _first_piece(text: str, max_bytes: int) -> str:
    most = text.encode("utf-8")[:max_bytes].decode("utf-8", errors="ignore")
    for at in _BREAKS:
        if (end := most.rfind(at)) > 0:
            return most[: end + len(at)]
    return most


def spliced(step: Splice) -> Apply:
    """Return the step that joins consecutive documents by a blank line."""

    def apply(documents: Iterator[Document], found: Yield) -> Iterator[Document]:
        held: list[str] = []
        num_bytes = 0
        for document in documents:
            held.append(document.text)
            num_bytes += document.num_bytes + (2 if len(held) > 1 else 0)
            if num_bytes >= step.min_bytes:
                yield Document("\n\n".join(held))
                held, num_bytes = [], 0
        if held:
            found.leave_out(Document("\n\n".join(held)), "too short at the end")

    return apply
