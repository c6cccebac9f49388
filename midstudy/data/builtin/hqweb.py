"""The high-quality web corpus: longer, connected documentation of services that are not in the general corpus.

A document is a sequence of whole explanatory paragraphs; the general corpus has single plain sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.general import service_documentation
from midstudy.data.builtin.packages import open_wheel
from midstudy.data.builtin.prose import html_paragraphs
from midstudy.data.splits import split_by_hash

PACKAGES = ("botocore",)
PARAGRAPH_CHARS = 160
"""Shorter paragraphs are skipped: they are remarks, not explanations."""

DOCUMENT_CHARS = (600, 2_500)

_MARKUP = re.compile(r"[{}<>\\`|=$^~#@]|https?:|[^\x20-\x7e]")


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and document, services in order of hash."""
    with open_wheel("botocore") as archive:
        for service, texts in service_documentation(archive, long_form=True):
            for count, text in enumerate(_documents(texts)):
                yield split_by_hash(text, dev=0.04, test=0.04), {"text": text, "source": f"botocore {service} {count}"}


def _documents(texts: list[str]) -> Iterator[str]:
    seen: set[str] = set()
    held: list[str] = []
    for markup in texts:
        for paragraph in html_paragraphs(markup, literals=True) if len(markup) >= PARAGRAPH_CHARS else ():
            if len(paragraph) >= PARAGRAPH_CHARS and paragraph[:80] not in seen and _explains(paragraph):
                seen.add(paragraph[:80])
                held.append(paragraph)
                if sum(map(len, held)) >= DOCUMENT_CHARS[1]:
                    yield "\n\n".join(held)
                    held = []
    if sum(map(len, held)) >= DOCUMENT_CHARS[0]:
        yield "\n\n".join(held)


def _explains(paragraph: str) -> bool:
    return paragraph[0].isupper() and paragraph[-1] in ".!?" and ". " in paragraph and not _MARKUP.search(paragraph)
