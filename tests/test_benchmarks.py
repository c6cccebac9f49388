"""The benchmarks run: each that times training does so here on its smallest workload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders.places import PYTHONPATH, REPOSITORY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train_step.py", ["--workload", "trial", "--precision", "fp32", "--peer", "none", "--threads", "1"]),
        ("optimizers.py", ["--workload", "trial", "--threads", "1"]),
        ("shared_device.py", ["--runs", "2", "--precision", "fp32"]),
    ],
)
def test_a_benchmark_of_training_measures_something(script: str, arguments: list[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / script), *arguments, "--rounds", "2", "--steps", "1"]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run([*command, "--json", str(rows)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = [json.loads(line) for line in rows.read_text().splitlines()]
    assert measured
    assert all("tokens_per_s" in json.dumps(row) for row in measured)
