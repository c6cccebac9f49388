"""Read a frozen list of package wheels, fetch them once into the cache, and open them as archives.

There are two lists: `LIST`, and that of the conversations that teach and test abilities (`abilities/wheels.txt`), which is
apart so that its packages changed no revision of the text that was there before.

The wheels are never installed, imported or executed: their files are read as bytes, Python source as syntax trees.
They are separate from the project's dependencies, so that upgrading a dependency does not change any text.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from midstudy.data.cache import cache_dir
from midstudy.environment import of_child
from midstudy.files.lock import exclusive

LIST = Path(__file__).with_name("wheels.txt")
ABILITIES_LIST = Path(__file__).parent / "abilities" / "wheels.txt"
_LINE = re.compile(r"([a-z0-9-]+)==([0-9A-Za-z.]+) --hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Package:
    """One line of a list."""

    name: str
    version: str
    sha256: str


@cache
def listed(path: Path = LIST) -> dict[str, Package]:
    """Return the packages of a list by name."""
    packages = {}
    for line in path.read_text("ascii").splitlines():
        if line and not line.startswith("#"):
            match = _LINE.fullmatch(line)
            assert match, f"{path}: {line!r} is not 'name==version --hash=sha256:...'"
            packages[match[1]] = Package(*match.groups())
    return packages


class Archive:
    """A wheel opened for reading: member names in sorted order and their bytes."""

    def __init__(self, package: Package, archive: zipfile.ZipFile) -> None:
        self.package = package
        self._archive = archive
        self.names = tuple(sorted(archive.namelist()))

    def read(self, name: str) -> bytes:
        return self._archive.read(name)

    def text(self, name: str) -> str:
        """Return a member as UTF-8 text with `\\n` line ends; bytes that are not UTF-8 are an error."""
        return self._archive.read(name).decode("utf-8").replace("\r\n", "\n")

    @property
    def description(self) -> str:
        """The long description in the package's METADATA, as shown on its page on the package index."""
        name = next(name for name in self.names if name.endswith(".dist-info/METADATA"))
        return self.text(name).partition("\n\n")[2]


@contextmanager
def open_wheel(name: str, path: Path = LIST) -> Iterator[Archive]:
    """Open the wheel of a package of a list; fetch the list's wheels if necessary.

    Raises:
        ValueError: the wheels cannot be fetched, or the cached file does not have the listed digest.
    """
    package = listed(path)[name]
    folder = fetched(path)
    stem = f"{name.replace('-', '_')}-{package.version}-"
    wheel = next(iter(sorted(folder.glob(f"{stem}*-none-any.whl"))), None)
    if wheel is None:
        raise ValueError(f"{folder}: no wheel of {name} {package.version}. Delete the folder; it is fetched again.")
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise ValueError(
            f"{wheel}: expected sha256 {package.sha256}, the listed one, got {digest}. Delete the file's folder; "
            "it is fetched again."
        )
    with zipfile.ZipFile(wheel) as archive:
        yield Archive(package, archive)


def fetched(path: Path = LIST) -> Path:
    """Return the folder with every wheel of a list; fetch them with pip, checking hashes, on the first call.

    Raises:
        ValueError: pip is missing, has no network, or got a file with another hash; its last lines are quoted.
    """
    folder = cache_dir() / "wheels" / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    with exclusive(folder.with_suffix(".lock")):
        if folder.is_dir():
            return folder
        temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            _download(path, temporary)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _download(path: Path, into: Path) -> None:
    # A fixed target platform, so that every machine fetches the same files.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--platform", "any", "--implementation", "py"]
    command += ["--abi", "none", "--python-version", "3.11", "--dest", str(into), "--requirement", str(path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=of_child(), check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise ValueError(
            "the package wheels of the source 'wheels' could not be fetched. The package index is needed once; without it, "
            f"use your own text with --data DIR. The command was\n  {' '.join(command)}\n"
            f"and ended with\n{last}"
        )
