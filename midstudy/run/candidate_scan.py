"""Candidates read whole for `midstudy recommend`: test items in them, copies of general text, documents near the target."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from midstudy.data.duplicates import KnownDocuments
from midstudy.data.hash_sample import batches_of
from midstudy.data.named_text import NamedText
from midstudy.data.overlap import TestItems
from midstudy.run.counts_cache import read, write
from midstudy.run.pool import each
from midstudy.similarity.hashed_words import mean_importance

NUM_NEAREST = 5
_SHOWN_CHARACTERS = 160


@dataclass(frozen=True)
class Near:
    """A document of a candidate that is close to the target: where it is, its beginning, and its mean log importance."""

    where: str
    beginning: str
    log_importance: float


@dataclass(frozen=True)
class Scan:
    """What was found in a whole candidate: documents in general text too, and those nearest to the target."""

    num_documents: int
    exact_copies: int
    near_copies: int
    contaminated: Sequence[str]
    nearest: Sequence[Near]


def scans(
    target: NamedText,
    general: NamedText,
    candidates: Sequence[NamedText],
    log_ratio: np.ndarray,
    num_processes: int,
    on_progress: Callable[[str], None],
) -> list[Scan]:
    """Return the scan of each candidate, from the cache where it is known; see `scan_text`."""
    found: dict[str, Scan] = {}
    for text in candidates:
        known = read(_scan_key(text, target, general))
        if known is not None:
            found[text.name] = _scan_of(json.loads(known["scan"].tobytes()))
    missing = [text for text in candidates if text.name not in found]
    if missing:
        on_progress("reading the test split and general text")
        work = partial(
            scan_text,
            items=TestItems(target.documents(split="test")),
            known=KnownDocuments(batches_of(general.documents())),
            log_ratio=log_ratio,
        )
        scanned = each(work, missing, num_processes=num_processes, on_progress=on_progress, done="scanned")
        for text, scan in zip(missing, scanned, strict=True):
            found[text.name] = scan
            content = json.dumps(asdict(scan)).encode("utf-8")
            write(_scan_key(text, target, general), {"scan": np.frombuffer(content, np.uint8)})
    return [found[text.name] for text in candidates]


def _scan_key(text: NamedText, target: NamedText, general: NamedText) -> list[Any]:
    # The place is in the key, because messages name files.
    return ["scan", text.place, *(one.identity for one in (text, target, general))]


def _scan_of(facts: Mapping[str, Any]) -> Scan:
    return Scan(**{**facts, "nearest": tuple(Near(**one) for one in facts["nearest"])})


def scan_text(text: NamedText, *, items: TestItems, known: KnownDocuments, log_ratio: np.ndarray) -> Scan:
    """Read one candidate to its end: contamination with test items, copies of general text, and the nearest documents."""
    num_documents = exact = near = 0
    contaminated: list[str] = []
    nearest: dict[str, Near] = {}
    batch: list[tuple[str, str]] = []
    size = 0

    def flush() -> None:
        nonlocal num_documents, exact, near, nearest
        texts = [document for _, document in batch]
        num_documents += len(texts)
        contaminated.extend(where for where, document in batch if items.overlaps(document))
        some = known.copies(texts)
        exact, near = exact + some[0], near + some[1]
        scores = mean_importance(texts, log_ratio)
        for place in np.argsort(-scores, kind="stable")[:NUM_NEAREST].tolist():
            where, document = batch[place]
            beginning = " ".join(document[: 4 * _SHOWN_CHARACTERS].split())[:_SHOWN_CHARACTERS]
            nearest.setdefault(document, Near(where, beginning, float(scores[place])))
        best = sorted(nearest.items(), key=lambda one: -one[1].log_importance)[:NUM_NEAREST]
        nearest = dict(best)
        batch.clear()

    for where, document in text.located_documents():
        if document.strip():
            batch.append((where, document.strip()))
            size += len(document)
        if size >= 2**20:
            flush()
            size = 0
    if batch:
        flush()
    return Scan(num_documents, exact, near, tuple(contaminated), tuple(nearest.values()))
