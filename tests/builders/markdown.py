"""Markdown pages of the project: code blocks, `midstudy` command lines, and what a page says that a command prints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builders.places import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = (README, *sorted((REPOSITORY / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`midstudy ([a-z][^`]*)`")
_NUMBER = re.compile(r"(?<![\w@.])[+−-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?![\w@])")
_TIME = re.compile(r"# (µs|ms|s|min|h|days)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its fence, from 1."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that holds the block, which its first line names: `# which.py` or `# which.py: what it is`."""
        named = re.match(r"# ([\w/-]+\.(?:py|toml))\b", self.text)
        return named[1] if named else None


@dataclass(frozen=True)
class Session:
    """A command of a `console` block and the lines that it is said to print."""

    command: str
    output: Sequence[str]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text = page.read_text("utf-8")
    return [Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in _BLOCK.finditer(text)]


def sessions(block: Block) -> list[Session]:
    """Return the commands of a `console` block: lines after `$ `, continued after a backslash, then their output."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return [Session(command, output) for command, output in found]


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of every `midstudy` command line in the page's blocks, without comments."""
    lines = []
    for block in blocks(page):
        if block.language in ("sh", "console", ""):
            for line in block.text.replace("\\\n", " ").splitlines():
                if found := re.match(r"(?:\$ )?(?:\S*/)?midstudy +([a-z-]+(?: .*)?)$", line):
                    lines.append(shlex.split(found[1], comments=True))
    return lines


def mentions(page: Path) -> list[list[str]]:
    """Return the words of every `midstudy VERB ...` in the page's text."""
    return [found.split() for found in _INLINE.findall(_BLOCK.sub("", page.read_text("utf-8")))]


def shape(line: str) -> str:
    """Return a printed line with `#` for its numbers and times and single blanks: what another run prints, too."""
    return _TIME.sub("#", _NUMBER.sub("#", " ".join(line.replace("±", "± ").split())))


def missing_lines(expected: Sequence[str], printed: str) -> list[str]:
    """Return those expected lines that do not follow in `printed`, in order; numbers may differ, `…` stands for anything."""
    lines = [shape(line) for line in printed.splitlines()]
    place, missing = 0, []
    for line in expected:
        if line.strip() in ("", "…"):
            continue
        pattern = ".*".join(map(re.escape, shape(line).split("…")))
        found = next((number for number in range(place, len(lines)) if re.fullmatch(pattern, lines[number])), None)
        if found is None:
            missing.append(line)
        else:
            place = found + 1
    return missing
