"""The page on sources: every statement that needed work has exactly one place, and what is not to be had is little."""

from __future__ import annotations

import re

from builders.places import REPOSITORY

NANOCHAT = range(1, 128)
"""Statements of source 002, numbered as on the page."""

NEEDED_NO_WORK = {8, 39, 40, 42, 45, 46, 47, 49, 51, 54, 58, 59, 64, 66, 68, 73}
"""Those that the project showed before there were conversations."""

SLIPS = range(115, 128)

PAGE = (REPOSITORY / "docs" / "sources.md").read_text("utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| 02.")]


def numbers(cells: list[str]) -> list[int]:
    return [int(number) for number in re.findall(r"\b02\.(\d+)\b", " ".join(cells))]


def test_every_statement_that_needed_work_occurs_exactly_once() -> None:
    found = [int(number) for number in re.findall(r"\b02\.(\d+)\b", PAGE)]
    assert sorted(found) == [number for number in NANOCHAT if number not in NEEDED_NO_WORK]
    assert sorted(found) == sorted(number for cells in ROWS for number in numbers(cells[:1]))


def test_every_slip_has_a_line_of_its_own_that_says_what_is_right() -> None:
    own = {number: cells for cells in ROWS for number in numbers(cells) if number in SLIPS}
    assert sorted(own) == [*SLIPS]
    assert all(len(cells) == 2 and numbers(cells) == [number] and cells[1] for number, cells in own.items())


def test_every_other_line_names_a_file_a_page_or_a_command_or_says_why_not() -> None:
    """Files and pages are checked to exist, and commands to parse, by `test_pages`."""
    others = [cells for cells in ROWS if numbers(cells)[0] not in SLIPS]
    for cells in others:
        assert len(cells) == 3
        is_shown = re.search(r"`\w+/[\w/.]+`|\]\([\w-]+\.md\)|`midstudy ", cells[2])
        assert is_shown or re.match(r"(open|none)\b", cells[2]), cells


def test_at_most_ten_statements_beside_the_slips_cannot_be_had() -> None:
    assert 0 < len([number for cells in ROWS if re.search(r"\bnone\b", cells[-1]) for number in numbers(cells)]) <= 10
