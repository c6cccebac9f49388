"""Prepare the parts of `wheels` once, in the cache: build, remove overlap with test items, check against frozen digests.

A prepared part is a folder with one gzip JSONL file per split and a manifest, written atomically. Digests cover the
uncompressed rows, because compressed bytes differ between builds of zlib.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from midstudy.data.builtin.packages import LIST, listed
from midstudy.data.cache import cache_dir
from midstudy.data.overlap import TestItems
from midstudy.data.rows import as_example, as_text
from midstudy.data.splits import canonical_row
from midstudy.files.lock import exclusive

PREPARATION = 1
"""Increase by hand, then run `python -m midstudy.data.builtin.freeze`, when the text made from the same packages changes."""

CORPORA = ("general", "code", "math", "instruction", "qa", "hqweb")
TASKS = ("pycode", "word_problems", "science_qa", "long_form")
PARTS = CORPORA + TASKS
SPLITS = ("train", "dev", "test")
FROZEN = Path(__file__).with_name("manifest.json")


@cache
def list_digest() -> str:
    """Return the revision of the source: SHA-256 over the list of wheels and the version of the preparation."""
    packages = "".join(f"{package}\n" for package in sorted(map(str, listed().values())))
    return hashlib.sha256(f"{packages}preparation {PREPARATION}\n".encode("ascii")).hexdigest()


def frozen_manifest() -> dict[str, Any]:
    """Return the committed manifest: for each part its packages, and documents, bytes and digest of each split."""
    return json.loads(FROZEN.read_text("ascii"))


def removed_for_overlap(part: str) -> tuple[int, int]:
    """Return the number of rows of a part over all splits, and the number removed for sharing text with a test item."""
    facts = frozen_manifest()["parts"][part]
    return sum(split["docs"] for split in facts["splits"].values()), facts["removed_for_overlap"]


def prepared(part: str) -> Path:
    """Return the folder of a prepared part; prepare it on the first call.

    Raises:
        ValueError: the part is unknown, the wheels cannot be fetched, or the text differs from the frozen one.
    """
    if part not in PARTS:
        raise ValueError(f"wheels part: expected one of {', '.join(PARTS)}, got {part!r}.")
    folder = cache_dir() / "prepared" / list_digest()[:16] / part
    if folder.is_dir():
        return folder
    with exclusive(folder.with_suffix(".lock")):
        if folder.is_dir():
            return folder
        temporary = folder.with_name(f".{part}-{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            manifest = write(part, build(part), temporary)
            _require_frozen(part, manifest)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read_part(part: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split of a part, in order; the part is prepared on the first call.

    Raises:
        ValueError: see `prepared`; also if the prepared file has changed since.
    """
    path = prepared(part) / f"{split}.jsonl.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Delete its folder; it is made again.") from error
    expected = frozen_manifest()["parts"][part]["splits"][split]["sha256"]
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise ValueError(f"{path}: expected sha256 {expected}, got {digest}. Delete its folder; it is made again.")
    for line in content.splitlines():
        yield json.loads(line)


def build(part: str) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """Return split and row of everything in a part, and the number of rows removed for overlap with a test item."""
    module = import_module(f"midstudy.data.builtin.{part}")
    rows: Iterable[tuple[str, dict[str, Any]]] = module.rows()
    if part in TASKS:
        rows = list(rows)
        items = TestItems(item_text(row) for split, row in rows if split == "test")
        kept = [(split, row) for split, row in rows if split == "test" or not items.overlaps(item_text(row))]
        return kept, len(rows) - len(kept)
    items = TestItems(item_text(row) for task in TASKS for row in read_part(task, "test"))
    kept, removed = [], 0
    for split, row in rows:
        if items.overlaps(as_text(row, part)):
            removed += 1
        else:
            kept.append((split, row))
    return kept, removed


def item_text(row: dict[str, Any]) -> str:
    """Return prompt and target of a task row as one text, which must not occur in training text."""
    example = as_example(row, "task")
    return f"{example.prompt} {example.target}"


def write(part: str, made: tuple[list[tuple[str, dict[str, Any]]], int], folder: Path) -> dict[str, Any]:
    """Write a part's splits and manifest; return the manifest."""
    rows, removed = made
    splits = {}
    for split in SPLITS:
        # In order of hash, so that the first documents are a fair sample of all packages.
        chosen = sorted((row for row_split, row in rows if row_split == split), key=_hash_order)
        lines = [json.dumps(row, ensure_ascii=False) for row in chosen]
        content = "".join(f"{line}\n" for line in lines).encode("utf-8")
        with (folder / f"{split}.jsonl.gz").open("wb") as file:
            # Level 1: the files are read as often as they are written.
            file.write(gzip.compress(content, compresslevel=1, mtime=0))
        splits[split] = {"docs": len(lines), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    packages = {name: listed()[name].version for name in import_module(f"midstudy.data.builtin.{part}").PACKAGES}
    manifest = {"packages": packages, "removed_for_overlap": removed, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "ascii")
    return manifest


def _hash_order(row: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_row(row).encode("ascii")).hexdigest()


def _require_frozen(part: str, manifest: dict[str, Any]) -> None:
    frozen = frozen_manifest()
    if frozen["list"] != hashlib.sha256(LIST.read_bytes()).hexdigest() or frozen["preparation"] != PREPARATION:
        raise ValueError(
            f"{FROZEN}: made from a different list of wheels or preparation. Run python -m midstudy.data.builtin.freeze."
        )
    expected = frozen["parts"][part]["splits"]
    if manifest["splits"] != expected:
        different = [split for split in SPLITS if manifest["splits"][split] != expected[split]]
        raise ValueError(
            f"wheels part {part!r}: the text made here differs from the frozen one (splits {', '.join(different)}: expected "
            f"sha256 {', '.join(expected[split]['sha256'][:12] for split in different)}, got "
            f"{', '.join(manifest['splits'][split]['sha256'][:12] for split in different)}). It is rejected, because ids "
            "refer to the frozen text. If the preparation was changed intentionally, increase PREPARATION and run "
            "python -m midstudy.data.builtin.freeze."
        )
