"""Text of a target that no corpus holds: instructions of kinds that the instruction corpus beside it has not.

    python benchmarks/held_out_instruction.py wheels FOLDER        from the built-in text
    python benchmarks/held_out_instruction.py DIR FOLDER           from DIR/instruction/train.*

A quarter of the kinds (field `task`), by a hash of their name, become FOLDER/sft/unseen_instruction with splits by a hash
of each row (70 % train, 10 % dev, 20 % test); the rows of all other kinds become FOLDER/instruction, without those that
share 13 words in sequence with a test item.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from midstudy.data.builtin import read_part
from midstudy.data.file_sequence import FileSequence
from midstudy.data.overlap import TestItems
from midstudy.data.rows import as_text
from midstudy.data.split_files import split_files
from midstudy.data.splits import canonical_row, split_by_hash, unit_hash

TARGET = "unseen_instruction"
SHARE_OF_KINDS = 0.25


def is_target(row: dict[str, Any]) -> bool:
    """True if the row's kind of instruction belongs to the target."""
    return unit_hash(row["task"]) < SHARE_OF_KINDS


def write_held_out(rows: Iterable[dict[str, Any]], folder: Path) -> dict[str, int]:
    """Write the target's splits and the corpus; return the number of rows of each file and of those removed."""
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "test": []}
    others: list[dict[str, Any]] = []
    for row in rows:
        kept = {name: row[name] for name in ("inputs", "targets", "task")}
        (splits[split_by_hash(canonical_row(row), dev=0.1, test=0.2)] if is_target(row) else others).append(kept)
    items = TestItems(as_text(row, TARGET) for row in splits["test"])
    clean = [row for row in others if not items.overlaps(as_text(row, "instruction"))]
    files = {f"sft/{TARGET}/{split}.jsonl": found for split, found in splits.items()} | {"instruction/train.jsonl": clean}
    for name, found in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in found), encoding="utf-8")
    return {name: len(found) for name, found in files.items()} | {"removed for overlap": len(others) - len(clean)}


def rows_of(source: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the instruction corpus of a source."""
    if source == "wheels":
        yield from read_part("instruction", "train")
    else:
        yield from (row for _, row in FileSequence(split_files(Path(source) / "instruction", "train")).rows())


if __name__ == "__main__":
    print(json.dumps(write_held_out(rows_of(sys.argv[1]), Path(sys.argv[2])), indent=1))
