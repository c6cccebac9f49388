"""Chromium for the tests that look at a page as a browser shows it; they are skipped where it is not installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def chromium(profile: Path, *arguments: str) -> str:
    """Run Chromium without a window and return what it prints; skip the test if there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium here: Debian's package `chromium`")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
