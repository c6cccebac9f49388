"""Describe the machine and the code that made a stage, for its record. Recorded, never hashed."""

from __future__ import annotations

import functools
import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import midstudy
from midstudy.environment import of_git
from midstudy.store.processor import this_processor


@functools.cache
def describe_environment() -> dict[str, Any]:
    """Return Python, library versions, host, processor, and the commit of the source tree (`None` outside git)."""
    processor = this_processor()
    return {
        "midstudy": midstudy.__version__,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": processor.name,
        "cpu_has_bfloat16": processor.has_bfloat16,
        "num_cpus": os.cpu_count(),
        **source_commit(),
    }


def source_commit() -> dict[str, Any]:
    """Return `git_commit` and `git_dirty` of the source tree that midstudy is imported from."""
    root = Path(midstudy.__file__).parent.parent
    if not (root / ".git").exists():
        return {"git_commit": None, "git_dirty": None}
    commit, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, env=of_git(), timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
