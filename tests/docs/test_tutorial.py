"""The tutorial works as it is written: its files and commands, in order, in an empty folder, print what it says they print.

Numbers may differ, words and columns may not. The part without training runs by default; all of it on one machine is slow;
the part on Slurm runs on a Slurm of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders.markdown import Block, blocks, missing_lines, sessions
from builders.places import REPOSITORY
from builders.waiting import wait_until
from slurm.cluster import Cluster

PAGE = REPOSITORY / "docs" / "tutorial.md"
TEXT, BLOCKS = PAGE.read_text("utf-8"), blocks(PAGE)


def section(number: int) -> list[Block]:
    """Return the blocks of a numbered section of the page."""
    begin, end = (TEXT.find(f"\n## {one}. ") for one in (number, number + 1))
    assert begin >= 0, f"section {number}"
    first, last = (TEXT.count("\n", 0, place) + 1 for place in (begin, end if end >= 0 else len(TEXT)))
    return [block for block in BLOCKS if first < block.line <= last]


class Reader:
    """Writes the files of blocks and runs their commands in a folder, with the `midstudy` of this environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": tools, "PYTHONPATH": str(REPOSITORY)}

    def follow(self, these: Sequence[Block]) -> None:
        for block in these:
            if block.file is not None:
                (self.folder / block.file).write_text(block.text, "utf-8")
            if block.language == "console":
                for session in sessions(block):
                    self._run(session.command, session.output)

    def _run(self, command: str, output: Sequence[str]) -> None:
        name, is_export, value = command.removeprefix("export ").partition("=")
        if is_export and command.startswith("export "):
            self.environment[name] = value.replace("$PWD", str(self.folder))
            return
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=1_500
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        missing = missing_lines(output, done.stdout)
        assert not missing, f"{command}\ndid not print {missing}, but\n{done.stdout}"

    def status(self, study: str) -> dict[str, int]:
        command = ["midstudy", "status", study, "--json"]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True)
        facts = json.loads(done.stdout)
        return {"stages": facts["stages"], "finished": facts["finished"], "failed": len(facts["failed"])}


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.delenv("MIDSTUDY_STORE", raising=False)
    return Reader(tmp_path)


def test_files_similarities_recommendation_and_plan(reader: Reader) -> None:
    for number in range(2, 7):
        reader.follow(section(number))
    assert not (reader.folder / "store" / "stages").exists(), "nothing was trained"


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_the_whole_of_it_on_one_machine(reader: Reader) -> None:
    for number in range(2, 10):
        reader.follow(section(number))
    claims = (reader.folder / "store" / "studies" / "which" / "claims.csv").read_text("utf-8")
    assert "code lowers the task's loss more than docs" in claims


@pytest.mark.slurm
def test_the_same_on_slurm(reader: Reader, cluster: Cluster) -> None:
    reader.environment["SLURM_CONF"] = os.environ["SLURM_CONF"]
    for number in (2, 5):
        reader.follow([block for block in section(number) if "midstudy new" not in block.text])
    begin, end = (
        [block for block in section(10) if ("midstudy report" in block.text) is is_end] for is_end in (False, True)
    )
    reader.follow(begin)
    wait_until(lambda: reader.status("which")["finished"] == reader.status("which")["stages"])
    assert reader.status("which")["failed"] == 0
    reader.follow(end)


def test_the_page_has_the_sections_that_are_followed() -> None:
    languages = {number: [block.language for block in section(number)] for number in range(1, 11)}
    assert languages[2].count("python") == languages[5].count("python") == 1
    assert all("console" in languages[number] for number in range(2, 11)), languages
    assert [block.file for number in (2, 5, 10) for block in section(number) if block.file] == [
        "make_example.py",
        "which.py",
        "mine.toml",
    ]
