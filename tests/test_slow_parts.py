"""Every slow test is in exactly one part of `slow_parts.txt`, so that CI's rotation covers all of them."""

from __future__ import annotations

import re
from collections import Counter

from builders.places import TESTS

PARTS = dict(line.split(": ", 1) for line in (TESTS / "slow_parts.txt").read_text().splitlines() if not line.startswith("#"))


def test_every_file_with_slow_tests_is_in_exactly_one_part() -> None:
    files = [path for path in TESTS.rglob("test_*.py") if re.search(r"\bmark\.slow\b", path.read_text())]
    slow = {f"tests/{path.relative_to(TESTS)}" for path in files}
    named = Counter(word for arguments in PARTS.values() for word in arguments.split() if word.startswith("tests/"))
    simulated = "tests/launch/test_simulation.py"  # its seeds are split by number; see the next test
    assert set(named) == slow
    assert {path for path, times in named.items() if times > 1} == {simulated}


def test_the_parts_of_the_simulation_cover_all_its_slow_seeds() -> None:
    selections = [arguments for arguments in PARTS.values() if "test_simulation" in arguments]
    chosen = [int(number) for text in selections for number in re.findall(r"\[(\d+)\]", text)]
    (declared,) = re.findall(r'parametrize\("first", \[(.*?)\]\)', (TESTS / "launch" / "test_simulation.py").read_text())
    assert sorted(chosen) == [int(number) for number in declared.split(",")]
