"""The stage that prepares text: it reads corpora, passes train through the steps, and publishes JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from midstudy.data.limit import Limited, text_size
from midstudy.data.rows import as_example, as_text
from midstudy.data.train_part import InPart, is_in_part
from midstudy.execute.rows import read_rest, rows_of
from midstudy.execute.stopped import until_stopped
from midstudy.execute.work import Work
from midstudy.prepare.document import Document
from midstudy.prepare.pipeline import run_steps
from midstudy.recipe.data import SPLITS, Corpus, Dataset, Task
from midstudy.recipe.preparation import YIELDS_FILE, Prepared
from midstudy.recipe.stage import stage_id
from midstudy.recipe.train_part import TrainPart

HELD_OUT = ("dev", "test")

_THEN = "prepares the text from the beginning"


def preparation_stage(recipe: Prepared, work: Work) -> dict[str, Any]:
    """Write `SPLIT.jsonl` for each split: of train what the steps keep, of the others the text of the corpora as it is.

    Raises:
        ChangedTextError: a source differs from that of the plan.
        StoppedError: the job was asked to stop; the next attempt begins again.
        ValueError: nothing is left of train, or a file or field is missing.
    """
    stopping = partial(until_stopped, should_stop=work.should_stop, doing="text was prepared", then=_THEN)
    begun, yields = _begun(recipe, work)
    of = _documents(recipe, "train", work) if begun is None else _documents_of(begun, work)
    documents, counted = run_steps(
        stopping(of),
        recipe.steps[len(yields) :],
        held_out=lambda: stopping(_texts(recipe, work)),
        items_of=lambda data: _items(data, work),
    )
    metrics: dict[str, Any] = {}
    for split in SPLITS:
        rows = documents if split == "train" else stopping(_documents(recipe, split, work))
        metrics[f"{split}_documents"], metrics[f"{split}_bytes"] = _write(work.folder / f"{split}.jsonl", rows)
    yields += [one.as_metrics() for one in counted]
    for one in yields:
        kept, read = one["documents_out"], one["documents_in"]
        print(f"{one['step']}: {kept:,} of {read:,} documents, {one['bytes_out']:,} bytes", flush=True)
    if not metrics["train_documents"]:
        raise ValueError(f"preparation of {recipe}: nothing is left of train. Which step left it out is printed above.")
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in yields)
    (work.folder / YIELDS_FILE).write_text(text, "utf-8")
    lost = sum(number for one in yields for number in one["left_out"].values())
    left_out = {"unit": "documents", "used": metrics["train_documents"], "by_steps": lost}
    return {**metrics, "yields": yields, "left_out": {"train": left_out}}


def _begun(recipe: Prepared, work: Work) -> tuple[Prepared | None, list[dict[str, Any]]]:
    """Return the longest run of first steps that a finished stage has made, with its yields; else `None` and nothing."""
    for num_steps in range(len(recipe.steps) - 1, 0, -1):
        prefix = recipe.first(num_steps)
        if work.store.has(stage_id(prefix)):
            return prefix, [*work.store.record(stage_id(prefix)).metrics["yields"]]
    return None, []


def _documents_of(prepared: Prepared, work: Work) -> Iterator[Document]:
    for row in rows_of(work)(prepared, split="train", is_task=False):
        yield _document(row, row["text"])


def _document(row: dict[str, Any], text: str) -> Document:
    """Return a document with the other fields of its row, if the row's text is a field of it."""
    return Document(text, {name: value for name, value in row.items() if name != "text"} if "text" in row else {})


def _documents(recipe: Prepared, split: str, work: Work) -> Iterator[Document]:
    """Yield the documents of all corpora in one split, as tokenisation would read them: up to the limit of each."""
    for corpus in recipe.of:
        rows = rows_of(work)(corpus.source, split=split, is_task=False)
        named = ((row, as_text(row, f"{corpus.name} {split}:{number}")) for number, row in enumerate(rows, start=1))
        limited: Limited[tuple[dict[str, Any], str]] = Limited(
            named,
            size_of=lambda pair: text_size(pair[1]),
            path=f"corpora.{corpus.name}",
            split=split,
            max_bytes=corpus.max_bytes,
            should_stop=work.should_stop,
        )
        part = corpus.train_part if split == "train" else None
        for row, text in InPart(limited, part, is_in=partial(_is_in, part)) if part else limited:
            yield _document(row, text)
        read_rest(rows, work.should_stop, then=_THEN)


def _is_in(part: TrainPart, pair: tuple[dict[str, Any], str]) -> bool:
    return is_in_part(pair[1], part)


def _texts(recipe: Prepared, work: Work) -> Iterator[str]:
    return (document.text for split in HELD_OUT for document in _documents(recipe, split, work))


def _items(data: Dataset, work: Work) -> Iterator[str]:
    """Yield the dev and test items of a data set: of a task the prompt, the target, and both."""
    for split in HELD_OUT:
        rows = rows_of(work)(data.source, split=split, is_task=isinstance(data, Task))
        for number, row in enumerate(rows, start=1):
            where = f"{data.name} {split}:{number}"
            if isinstance(data, Corpus):
                yield as_text(row, where)
            else:
                example = as_example(row, where)
                yield from (example.prompt, example.target, f"{example.prompt} {example.target}")
        read_rest(rows, work.should_stop, then=_THEN)


def _write(path: Path, documents: Iterator[Document]) -> tuple[int, int]:
    """Write a JSON object a line; return the number of documents and their bytes of text."""
    number = num_bytes = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            row = {"text": document.text, **document.fields}
            # Parquet has fields that JSON has not, such as times: they are kept as text.
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True, default=str) + "\n")
            number += 1
            num_bytes += document.num_bytes
    return number, num_bytes
