"""The text of the studies that judge `midstudy recommend`: three targets, and corpora that hold none of their test items.

    python benchmarks/judged_text.py wheels FOLDER        from the built-in text
    python benchmarks/judged_text.py DIR FOLDER           from a folder that --data takes; code comes from the built-in text

FOLDER holds what `--data FOLDER` reads: general text, five candidates, and the targets sft/science, sft/dialogue and
sft/unseen_instruction. The last is a quarter of the kinds of instruction (field `task`), by a hash of their name, with
splits by a hash of each row (70 % train, 10 % dev, 20 % test); the candidate `instruction` is the rows of all other kinds.
Documents of a candidate that share 13 words in sequence with a test item of any target are left out; their number is
printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from midstudy.data.overlap import TestItems
from midstudy.data.rows import as_text
from midstudy.data.source import load_rows, resolve_source
from midstudy.data.splits import canonical_row, split_by_hash, unit_hash

CANDIDATES = ("code", "math", "instruction", "qa", "hqweb")
TARGETS = {  # name: part of the built-in text, folder of a directory
    "science": ("science_qa", "sft/sciqa"),
    "dialogue": ("long_form", "sft/dialogue"),
}
UNSEEN = "unseen_instruction"
SHARE_OF_KINDS = 0.25
SPLITS = ("train", "dev", "test")

Rows = list[dict[str, Any]]


def read(source: str, name: str, folder: str, split: str, *, is_task: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split of a corpus or task of a source."""
    yield from load_rows(resolve_source(source, name=name, folder=folder, is_task=is_task), split=split, is_task=is_task)


def kinds_apart(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Rows], Rows]:
    """Return the rows of the unseen kinds by split, and the rows of all other kinds."""
    unseen: dict[str, Rows] = {split: [] for split in SPLITS}
    others: Rows = []
    for row in rows:
        if unit_hash(row["task"]) < SHARE_OF_KINDS:
            unseen[split_by_hash(canonical_row(row), dev=0.1, test=0.2)].append(row)
        else:
            others.append(row)
    return unseen, others


def without_items(rows: Iterable[dict[str, Any]], test_rows: Iterable[dict[str, Any]]) -> Rows:
    """Return the rows whose document shares no 13 words in sequence with a test item, and holds none whole."""
    items = TestItems(as_text(row, "a test item") for row in test_rows)
    return [row for row in rows if not items.overlaps(as_text(row, "a candidate"))]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, sort_keys=True) + "\n" for row in rows)


def main(source: str, folder: Path) -> None:
    unseen, others = kinds_apart(read(source, "instruction", "instruction", "train"))
    targets = {UNSEEN: unseen} | {
        name: {split: list(read(source, part, place, split, is_task=True)) for split in SPLITS}
        for name, (part, place) in TARGETS.items()
    }
    for name, splits in targets.items():
        for split, rows in splits.items():
            write(folder / "sft" / name / f"{split}.jsonl", rows)
    for split in SPLITS:
        write(folder / "general" / f"{split}.jsonl", read(source, "general", "general", split))
    tests = [row for splits in targets.values() for row in splits["test"]]
    for name in CANDIDATES:
        place = "wheels" if name == "code" else source
        found = others if name == "instruction" else list(read(place, name, name, "train"))
        kept = without_items(found, tests)
        write(folder / name / "train.jsonl", kept)
        print(f"{name}: {len(kept):,} documents, {len(found) - len(kept):,} left out")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
