"""Run the steps of a preparation in order over the documents of a train split, and count what each keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from midstudy.prepare.document import Apply, Document, Yield, filtering
from midstudy.prepare.duplicates import exact_duplicates, near_duplicates
from midstudy.prepare.pieces import chunked, spliced
from midstudy.prepare.rules import rule
from midstudy.prepare.selection import sampled, selected, without_overlap
from midstudy.recipe.data import Dataset
from midstudy.recipe.preparation import (
    Chunk,
    Decontaminate,
    ExactDuplicates,
    Heuristics,
    NearDuplicates,
    Sample,
    Select,
    Splice,
    Step,
)

HeldOut = Callable[[], Iterable[str]]
"""Yields the texts of dev and test, of which a step for duplicates leaves no copy in train."""

ItemsOf = Callable[[Dataset], Iterable[str]]
"""Yields the dev and test items of a data set as text."""


def run_steps(
    documents: Iterable[Document], steps: Sequence[Step], *, held_out: HeldOut, items_of: ItemsOf
) -> tuple[Iterator[Document], list[Yield]]:
    """Return the documents after all steps, one at a time, and the yield of each step, which is final at their end."""
    left, yields = iter(documents), []
    for step in steps:
        found = Yield(step=step.short)
        yields.append(found)
        left = _entering(left, found)
        for apply in _functions(step, held_out, items_of):
            left = apply(left, found)
        left = _leaving(left, found)
    return left, yields


def _entering(documents: Iterator[Document], found: Yield) -> Iterator[Document]:
    for document in documents:
        found.documents_in += 1
        found.bytes_in += document.num_bytes
        yield document


def _leaving(documents: Iterator[Document], found: Yield) -> Iterator[Document]:
    for document in documents:
        found.documents_out += 1
        found.bytes_out += document.num_bytes
        yield document


def _functions(step: Step, held_out: HeldOut, items_of: ItemsOf) -> list[Apply]:
    """Return what a step does, one function after another."""
    match step:
        case ExactDuplicates():
            return [filtering(exact_duplicates(held_out()))]
        case NearDuplicates():
            return [filtering(near_duplicates(step, held_out()))]
        case Heuristics():
            return [rule(name) for name in step.rules]
        case Decontaminate():
            return [filtering(without_overlap(item for data in step.against for item in items_of(data)))]
        case Select():
            return [filtering(selected(step))]
        case Sample():
            return [filtering(sampled(step))]
        case Chunk():
            return [chunked(step)]
        case Splice():
            return [spliced(step)]
