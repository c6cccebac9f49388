"""Paths of the repository, and the PYTHONPATH with which child processes find `builders` and this source tree."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = TESTS.parent
EXPERIMENTS = REPOSITORY / "experiments"
PYTHONPATH = os.pathsep.join([str(TESTS), str(REPOSITORY)])
