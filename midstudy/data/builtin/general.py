"""The general corpus: sentences from the documentation of services and from package descriptions."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin import long_form
from midstudy.data.builtin.packages import Archive, listed, open_wheel
from midstudy.data.builtin.prose import html_paragraphs, is_prose, sentences, text_paragraphs
from midstudy.data.splits import split_by_hash, unit_hash

PACKAGES = tuple(name for name in sorted(listed()) if name not in long_form.PACKAGES)
"""The packages whose descriptions are read: all but those of the long-form task."""
MAX_BYTES = 9_000_000
DOCUMENT_CHARS = 2_000
SAME_START = 60
START_CHARS = 24
"""At most `SAME_START` sentences may begin with the same `START_CHARS` characters: service descriptions are repetitive."""

LONG_FORM_SHARE = 0.2
"""Share of services, selected by hash, that belong to the high-quality web corpus instead."""

_SERVICE = re.compile(r"botocore/data/([^/]+)/([0-9-]+)/service-2\.json(\.gz)?")
_DOCUMENTATION = re.compile(rb'"documentation":("[^"\\]{70}[^"\\]*(?:\\.[^"\\]*)*")')


def service_documentation(botocore: Archive, *, long_form: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield service name and all documentation HTML of its newest description, services in order of hash."""
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
    """Keeps the first occurrence of a sentence, and at most `same_start` sentences with the same beginning."""

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
    """Yield split and document; documents have about 2,000 characters, each from one service or package."""
    unrepeated = Unrepeated(SAME_START)
    for name in PACKAGES:
        with open_wheel(name) as archive:
            for row in _documents(f"{name} description", text_paragraphs(archive.description), unrepeated):
                yield split_by_hash(row["text"], dev=0.02, test=0.02), row
    num_bytes = 0
    with open_wheel("botocore") as archive:
        for service, texts in service_documentation(archive, long_form=False):
            paragraphs = (paragraph for markup in texts for paragraph in html_paragraphs(markup))
            for row in _documents(f"botocore {service}", paragraphs, unrepeated):
                num_bytes += len(row["text"])
                yield split_by_hash(row["text"], dev=0.02, test=0.02), row
            if num_bytes > MAX_BYTES:
                return


def _documents(source: str, paragraphs: Iterator[str], unrepeated: Unrepeated) -> Iterator[dict[str, Any]]:
    held: list[str] = []
    size = count = 0
    for paragraph in paragraphs:
        kept = " ".join(text for text in sentences(paragraph) if unrepeated.keeps(text) and is_prose(text))
        if kept:
            held.append(kept)
            size += len(kept)
        if size >= DOCUMENT_CHARS:
            yield {"text": "\n".join(held), "source": f"{source} {count}"}
            held, size, count = [], 0, count + 1
    if size >= 200:
        yield {"text": "\n".join(held), "source": f"{source} {count}"}
