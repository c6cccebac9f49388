"""SHA-256 of files, computed from the bytes read; digests of large unchanged files are cached."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from midstudy.data.cache import cache_dir

_SMALL_BYTES = 2**24
"""Files up to this size are always digested, without the cache: it takes about 10 ms."""

_END_BYTES = 2**16

_SETTLED_S = 2.0
"""Timestamps may have a resolution of two seconds (FAT), so a file changed this recently may change again unnoticed."""

_CHUNK_BYTES = 2**24


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    The digest of a large file is cached under its real path, inode, size, timestamps and the bytes at both ends. Size and
    mtime are not enough: `touch`, `cp -p`, `rsync -a` and archives can set them, but no program can set ctime. The device
    number is left out because nodes of a cluster number a shared disk differently. The cache only saves time: stages digest
    the text as they read it (`DigestedFile`).
    """
    opened_s = time.time()
    with path.open("rb") as file:
        facts = _facts(file)
        if os.fstat(file.fileno()).st_size <= _SMALL_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        try:
            cached = cache_dir() / "digests" / _key(path, file, facts)
        except ValueError:  # no cache directory
            cached = Path(os.devnull) / "digest"
        try:
            known = cached.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            known = ""
        if re.fullmatch("[0-9a-f]{64}", known):
            return known
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        is_settled = _facts(file) == facts and os.fstat(file.fileno()).st_ctime < opened_s - _SETTLED_S
    if is_settled:
        _store(cached, digest)
    return digest


def _facts(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _key(path: Path, file: BinaryIO, facts: tuple[int, ...]) -> str:
    """Return the cache key. The bytes at both ends distinguish disk images with fixed timestamps mounted at one path."""
    key = hashlib.sha256(os.fsencode(os.path.realpath(path)) + f"\n{facts}\n".encode("ascii"))
    for position in (0, max(0, os.fstat(file.fileno()).st_size - _END_BYTES)):
        file.seek(position)
        key.update(file.read(_END_BYTES))
    return key.hexdigest()


def _store(path: Path, digest: str) -> None:
    """Cache a digest; if the cache is not writable, skip it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as temporary:
            temporary.write(digest + "\n")
        Path(temporary.name).replace(path)
    except OSError:
        pass


class DigestedFile(io.RawIOBase):
    """A file read once from the start and digested while it is read.

    Raises:
        FileNotFoundError: the file does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._file = io.FileIO(path)
        self._sha256 = hashlib.sha256()
        self.num_bytes = os.fstat(self._file.fileno()).st_size
        self.num_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        num_read = self._file.readinto(buffer)
        self._sha256.update(memoryview(buffer)[:num_read])
        self.num_read += num_read
        return num_read

    def rest(self) -> Iterator[None]:
        """Read the rest of the file in chunks, then close it."""
        if not self.closed:
            buffer = memoryview(bytearray(_CHUNK_BYTES))
            while self.readinto(buffer):
                yield
            self.close()

    def digest(self) -> str:
        """Return the SHA-256 of the bytes read so far."""
        return self._sha256.hexdigest()

    def close(self) -> None:
        self._file.close()
        super().close()
