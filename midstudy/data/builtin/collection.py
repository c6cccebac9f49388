"""A collection of built-in text: parts made from a frozen list of wheels, prepared once, checked against digests.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from midstudy.data.builtin.packages import ABILITIES_LIST, LIST, listed
from midstudy.data.cache import cache_dir
from midstudy.data.splits import canonical_row
from midstudy.files.lock import exclusive

SPLITS = ("train", "dev", "test")

Made = tuple[list[tuple[str, dict[str, Any]]], int]
"""Split and row of everything in a part, and the number of rows removed for overlap with a test item."""


@dataclass(frozen=True)
class Collection:
    """Parts that have one list of wheels, one version of their preparation and so one revision.

    `modules` is the package whose modules make a part each (`rows()`, `PACKAGES`). `parts` are in the order in which
    `freeze` makes them. `preparation` is increased by hand when the text made from the same packages changes.
    """

    modules: str
    list_path: Path
    parts: tuple[str, ...]
    preparation: int
    build: Callable[[str], Made]

    @cached_property
    def revision(self) -> str:
        """SHA-256 over the list of wheels and the version of the preparation."""
        packages = "".join(f"{package}\n" for package in sorted(map(str, listed(self.list_path).values())))
        return hashlib.sha256(f"{packages}preparation {self.preparation}\n".encode("ascii")).hexdigest()

    @property
    def folder(self) -> Path:
        """The folder of the prepared parts in the cache."""
        return cache_dir() / "prepared" / self.revision[:16]

    @property
    def manifest_path(self) -> Path:
        """The committed manifest, beside the list."""
        return self.list_path.with_name("manifest.json")

    @property
    def list_sha256(self) -> str:
        return hashlib.sha256(self.list_path.read_bytes()).hexdigest()

    def manifest(self) -> dict[str, Any]:
        """Return the committed manifest: for each part its packages, and documents, bytes and digest of each split."""
        return json.loads(self.manifest_path.read_text("ascii"))

    def prepared(self, part: str) -> Path:
        """Return the folder of a prepared part; prepare it on the first call.

        Raises:
            ValueError: the wheels cannot be fetched, or the text differs from the frozen one.
        """
        folder = self.folder / part
        if folder.is_dir():
            return folder
        with exclusive(folder.with_suffix(".lock")):
            if folder.is_dir():
                return folder
            temporary = folder.with_name(f".{part}-{secrets.token_hex(4)}")
            temporary.mkdir()
            try:
                manifest = self.write(part, self.build(part), temporary)
                self._require_frozen(part, manifest)
                temporary.replace(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def read(self, part: str, split: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a split of a part, in order; the part is prepared on the first call.

        Raises:
            ValueError: see `prepared`; also if the prepared file has changed since.
        """
        path = self.prepared(part) / f"{split}.jsonl.gz"
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: cannot be read ({error}). Delete its folder; it is made again.") from error
        expected = self.manifest()["parts"][part]["splits"][split]["sha256"]
        digest = hashlib.sha256(content).hexdigest()
        if digest != expected:
            raise ValueError(f"{path}: expected sha256 {expected}, got {digest}. Delete its folder; it is made again.")
        for line in content.splitlines():
            yield json.loads(line)

    def write(self, part: str, made: Made, folder: Path) -> dict[str, Any]:
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
        known = listed(ABILITIES_LIST) | listed(LIST)
        packages = {name: known[name].version for name in import_module(f"{self.modules}.{part}").PACKAGES}
        manifest = {"packages": packages, "removed_for_overlap": removed, "splits": splits}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "ascii")
        return manifest

    def _require_frozen(self, part: str, manifest: dict[str, Any]) -> None:
        frozen = self.manifest()
        if frozen["list"] != self.list_sha256 or frozen["preparation"] != self.preparation:
            raise ValueError(
                f"{self.manifest_path}: made from a different list of wheels or preparation. Run "
                "python -m midstudy.data.builtin.freeze."
            )
        expected = frozen["parts"][part]["splits"]
        if manifest["splits"] != expected:
            different = [split for split in SPLITS if manifest["splits"][split] != expected[split]]
            raise ValueError(
                f"wheels part {part!r}: the text made here differs from the frozen one (splits {', '.join(different)}: "
                f"expected sha256 {', '.join(expected[split]['sha256'][:12] for split in different)}, got "
                f"{', '.join(manifest['splits'][split]['sha256'][:12] for split in different)}). It is rejected, because "
                "ids refer to the frozen text. If the preparation was changed intentionally, increase its version "
                "(`preparation`) and run python -m midstudy.data.builtin.freeze."
            )


def _hash_order(row: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_row(row).encode("ascii")).hexdigest()
