"""Invariants over thousands of random histories of drivers, jobs, hosts and a Slurm that fail and misreport, one per seed.

`simulation/` describes what is simulated and what is real. A failing seed prints the command that replays it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
from builders.places import PYTHONPATH, TESTS


def start_seeds(*arguments: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "simulation.run", *map(str, arguments)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": PYTHONPATH}
    return subprocess.Popen(command, cwd=TESTS, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def output_of(first: int, number: int, num_processes: int) -> str:
    """Run `number` seeds from `first`; return their output, which is empty if all invariants hold."""
    bounds = [first + number * part // num_processes for part in range(num_processes + 1)]
    running = [start_seeds(start, stop) for start, stop in itertools.pairwise(bounds)]
    return "".join(process.communicate()[0] for process in running)


@pytest.mark.timeout(600)  # ten seconds on two idle cores
def test_the_invariants_hold_in_300_histories() -> None:
    assert output_of(first=100_000, number=300, num_processes=2) == ""


@pytest.mark.slow
@pytest.mark.timeout(3600)  # two and a half minutes on two idle cores
@pytest.mark.parametrize("first", [0, 5_000])
def test_the_invariants_hold_in_5_000_histories(first: int) -> None:
    assert output_of(first=first, number=5_000, num_processes=os.cpu_count() or 1) == ""


def test_a_seed_determines_its_history() -> None:
    first, again = (start_seeds(4_711).communicate()[0] for _ in range(2))
    assert len(first.splitlines()) > 10
    assert first == again
