"""The general corpus: sentences of documentation from service descriptions and of package descriptions."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from midstudy.data.splits import split_by_hash, unit_hash
from midstudy.data.wheels import long_form
from midstudy.data.wheels.packages import Archive, listed, opened
from midstudy.data.wheels.prose import html_paragraphs, is_prose, sentences, text_paragraphs

PACKAGES = tuple(name for name in sorted(listed()) if name not in long_form.PACKAGES)
"""The packages whose descriptions are read; those of the long-form task are left to it."""
MAX_BYTES = 9_000_000
DOCUMENT_CHARS = 2_000
SAME_START = 60
START_CHARS = 24
"""How many sentences may begin with the same characters: service descriptions repeat themselves endlessly."""

LONG_FORM_SHARE = 0.2
"""Services, by hash, that belong to the high-quality web corpus instead."""

_SERVICE = re.compile(r"botocore/data/([^/]+)/([0-9-]+)/service-2\.json(\.gz)?")
_DOCUMENTATION = re.compile(rb'"documentation":("[^"\\]{70}[^"\\]*(?:\\.[^"\\]*)*")')


def service_documentation(botocore: Archive, *, long_form: bool) -> Iterator[tuple[str, list[str]]]:
    """Service name and the documentation HTML of everything in its newest description, services in order of hash."""
    newest: dict[str, tuple[str, str]] = {}
    for name in botocore.names:
        match = _SERVICE.fullmatch(name)
        if match:
            newest[match[1]] = max(newest.get(match[1], ("", "")), (match[2], name))
    for service in sorted(newest, key=lambda service: (unit_hash(f"order {service}"), service)):
        if (unit_hash(f"half {service}") < LONG_FORM_SHARE) == long_form:
            name = newest[service][1]
            content = botocore.read(name)
            content = gzip.decompress(content) if name.endswith(".gz") else content
            yield service, [json.loads(text) for text in dict.fromkeys(_DOCUMENTATION.findall(content))]


class Unrepeated:
    """Keeps a sentence the first time it is seen, and only so many sentences that begin alike."""

    def __init__(self, same_start: int) -> None:
        self._limit = same_start
        self._seen: set[str] = set()
        self._starts: Counter[str] = Counter()

    def keeps(self, sentence: str) -> bool:
        start = sentence[:START_CHARS]
        if sentence in self._seen or self._starts[start] >= self._limit:
            return False
        self._seen.add(sentence)
        self._starts[start] += 1
        return True


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Split and document; documents of about two thousand characters, each from one service or package."""
    fresh = Unrepeated(SAME_START)
    for name in PACKAGES:
        with opened(name) as archive:
            for row in _documents(f"{name} description", text_paragraphs(archive.description), fresh):
                yield split_by_hash(row["text"], dev=0.02, test=0.02), row
    num_bytes = 0
    with opened("botocore") as archive:
        for service, texts in service_documentation(archive, long_form=False):
            paragraphs = (paragraph for markup in texts for paragraph in html_paragraphs(markup))
            for row in _documents(f"botocore {service}", paragraphs, fresh):
                num_bytes += len(row["text"])
                yield split_by_hash(row["text"], dev=0.02, test=0.02), row
            if num_bytes > MAX_BYTES:
                return


def _documents(source: str, paragraphs: Iterator[str], fresh: Unrepeated) -> Iterator[dict[str, Any]]:
    held: list[str] = []
    size = count = 0
    for paragraph in paragraphs:
        kept = " ".join(text for text in sentences(paragraph) if fresh.keeps(text) and is_prose(text))
        if kept:
            held.append(kept)
            size += len(kept)
        if size >= DOCUMENT_CHARS:
            yield {"text": "\n".join(held), "source": f"{source} {count}"}
            held, size, count = [], 0, count + 1
    if size >= 200:
        yield {"text": "\n".join(held), "source": f"{source} {count}"}
