"""Benchmark: documents a second of each step of a preparation, beside datatrove and datasketch, and memory.

    python benchmarks/prepare.py [--documents 2000 8000] [--rounds 3] [--text-from FILE.jsonl.gz]

The documents are those of the general part of the built-in text, or of a file, repeated with a number at the end so that
none is an exact copy. Every measurement is a process of its own, from a list of texts to the texts that are kept; variants
run in rotation, and medians are printed. The peers are datatrove's filters, which split words and sentences as midstudy does
so that rules alone are timed, and for near duplicates datasketch's MinHash and LSH, used as it documents. Memory is what
the process grew by from the first document on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from midstudy.data.builtin import read_part
from midstudy.data.files import read_rows
from midstudy.prepare.document import Document
from midstudy.prepare.duplicates import _grams
from midstudy.prepare.pipeline import run_steps
from midstudy.prepare.rules import num_sentences, words_of
from midstudy.recipe.preparation import Chunk, ExactDuplicates, Heuristics, NearDuplicates, Sample, Splice, Step

STEPS: dict[str, Step] = {
    "exact duplicates": ExactDuplicates(),
    "near duplicates": NearDuplicates(ngram=5, jaccard=Fraction("0.8")),
    "gopher quality": Heuristics(rules=("gopher quality",)),
    "gopher repetition": Heuristics(rules=("gopher repetition",)),
    "c4 pages": Heuristics(rules=("c4 pages",)),
    "sample": Sample(share=Fraction(1, 2)),
    "chunk": Chunk(max_bytes=2_000),
    "splice": Splice(min_bytes=20_000),
}

FILTERS = {
    "gopher quality": ("gopher_quality_filter", "GopherQualityFilter"),
    "gopher repetition": ("gopher_repetition_filter", "GopherRepetitionFilter"),
    "c4 pages": ("c4_filters", "C4QualityFilter"),
}
PEERS = {"near duplicates": "datasketch", **dict.fromkeys(FILTERS, "datatrove")}


def texts(path: Path | None, number: int) -> list[str]:
    """Return this many documents of at most 5,000 characters."""
    rows: Iterable[dict[str, str]] = read_rows(path) if path else read_part("general", "train")
    first = [row["text"][:5_000] for row in itertools.islice(rows, number)]
    return [f"{text}\n{place}" for place, text in zip(range(number), itertools.cycle(first), strict=False)]


def ours(step: Step) -> Callable[[Sequence[str]], int]:
    """Return the step as a function from texts to the number of documents that are kept."""

    def run(documents: Sequence[str]) -> int:
        left, _ = run_steps(map(Document, documents), (step,), held_out=lambda: (), items_of=lambda data: ())
        return sum(1 for _ in left)

    return run


def datatrove(name: str) -> Callable[[Sequence[str]], int]:
    """Return datatrove's filter, given the words and sentences of midstudy."""
    import importlib

    from datatrove.data import Document as Row

    module, kind = FILTERS[name]
    filters = importlib.import_module(f"datatrove.pipeline.filters.{module}")
    vars(filters).update(
        split_into_words=lambda text, language: words_of(text),
        split_into_sentences=lambda line, language: ["."] * num_sentences(line),
    )
    made = getattr(filters, kind)()

    def run(documents: Sequence[str]) -> int:
        kept = (made.filter(Row(text=text, id=str(number))) for number, text in enumerate(documents))
        return sum(found if isinstance(found, bool) else found[0] for found in kept)

    return run


def datasketch(documents: Sequence[str]) -> int:
    """Keep the documents that resemble no kept one, with datasketch's defaults but for the batch update."""
    from datasketch import MinHash, MinHashLSH

    known = MinHashLSH(threshold=0.8, num_perm=128)
    hashes: dict[int, Any] = {}
    for number, text in enumerate(documents):
        found = MinHash(num_perm=128)
        found.update_batch(_grams(text, 5))
        if not any(hashes[key].jaccard(found) >= 0.8 for key in known.query(found)):
            hashes[number] = found
            known.insert(number, found)
    return len(hashes)


def measured(variant: str, name: str, number: int, path: Path | None) -> None:
    """Print documents a CPU second, the number kept and MB that the process grew by."""
    documents = texts(path, number)
    run = ours(STEPS[name]) if variant == "midstudy" else datasketch if variant == "datasketch" else datatrove(name)
    run(documents[:20])  # imports
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    kept = run(documents)
    spent = time.process_time() - began
    grew = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"rate": number / spent, "kept": kept, "grew_mb": grew}))


def rotation(sizes: Sequence[int], rounds: int) -> Iterator[tuple[str, str, int]]:
    for _ in range(rounds):
        for number in sizes:
            for name in STEPS:
                yield "midstudy", name, number
                if name in PEERS:
                    yield PEERS[name], name, number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[2_000, 8_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text-from", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        variant, name, number = options.measure
        measured(variant, name, int(number), options.text_from)
        return
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    more = ["--text-from", str(options.text_from)] if options.text_from else []
    for variant, name, number in rotation(options.documents, options.rounds):
        command = [sys.executable, __file__, "--measure", variant, name, str(number), *more]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.setdefault((variant, name, number), []).append(json.loads(output.splitlines()[-1]))
    print(f"{'step':<20}{'documents':>10}{'midstudy/s':>12}{'peer/s':>10}{'ratio':>8}{'kept':>8}{'peer':>8}{'grew MB':>9}")
    for number in options.documents:
        for name in STEPS:
            own = _medians(found["midstudy", name, number])
            peer = _medians(found[PEERS[name], name, number]) if name in PEERS else None
            beside = (
                f"{peer['rate']:>10,.0f}{own['rate'] / peer['rate']:>8.2f}{own['kept']:>8.0f}{peer['kept']:>8.0f}"
                if peer
                else f"{'':>18}{own['kept']:>8.0f}{'':>8}"
            )
            print(f"{name:<20}{number:>10,}{own['rate']:>12,.0f}{beside}{own['grew_mb']:>9.0f}")


def _medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


if __name__ == "__main__":
    main()
