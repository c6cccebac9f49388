"""No test leaves processes behind, however it ends; checked in separate pytest runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from builders.leftovers import VARIABLE
from builders.places import PYTHONPATH
from builders.waiting import wait_until

SLEEPER = """
import os, subprocess, sys, time
from pathlib import Path
import pytest

HERE = Path(__file__).parent

def sleeper(name, detached=True, environment=None):
    # As a job: in a session of its own, by a process that ends at once and does not wait for it.
    program = f"import os, time; open({str(HERE / name)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    if detached:
        start = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {program!r}], start_new_session=True)"
        subprocess.run([sys.executable, "-c", start], env=environment, check=True)
    else:
        subprocess.Popen([sys.executable, "-c", program], env=environment)
    while not (HERE / name).exists() or not (HERE / name).read_text():
        time.sleep(0.01)

def runs(name):
    try:
        return Path(f"/proc/{(HERE / name).read_text()}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
"""


def pytest_of(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(SLEEPER + text)
    plugins = ["-p", "builders.leftovers", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "test_it.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTHONPATH": PYTHONPATH, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def runs(folder: Path, name: str) -> bool:
    try:
        stat = Path(f"/proc/{(folder / name).read_text()}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize(
    "how",
    ["assert False", "raise KeyError", "raise SystemExit", "pytest.exit('no')"],
    ids=["an assertion", "an error", "an exit", "the end of the whole run"],
)
def test_a_test_that_fails_leaves_no_process(tmp_path: Path, how: str) -> None:
    done = pytest_of(tmp_path, f"\ndef test_one():\n    sleeper('one')\n    sleeper('child', detached=False)\n    {how}\n")
    assert done.returncode != 0, done.stdout
    assert (tmp_path / "one").exists()
    assert not runs(tmp_path, "one")
    assert not runs(tmp_path, "child")


def test_a_test_that_takes_too_long_leaves_no_process(tmp_path: Path) -> None:
    text = "\n@pytest.mark.timeout(3)\ndef test_one():\n    sleeper('one')\n    time.sleep(1000)\n"
    done = pytest_of(tmp_path, text)
    assert "Timeout" in done.stdout
    assert not runs(tmp_path, "one")


def test_processes_of_a_failed_test_are_gone_before_the_next_test(tmp_path: Path) -> None:
    text = "\ndef test_one():\n    sleeper('one')\n    assert False\n\ndef test_two():\n    assert not runs('one')\n"
    assert "1 failed, 1 passed" in pytest_of(tmp_path, text).stdout


@pytest.mark.parametrize("environment", ["None", "{'PATH': os.environ['PATH']}"], ids=["as it is", "of its own"])
def test_a_passing_test_that_leaves_a_process_is_an_error_that_names_the_process(tmp_path: Path, environment: str) -> None:
    settled = "\nfrom builders import leftovers\nleftovers._MAY_END_BY_ITSELF_S = 0.1\n"
    text = f"{settled}\ndef test_one():\n    sleeper('one', detached={environment} is None, environment={environment})\n"
    done = pytest_of(tmp_path, text)
    assert "1 passed, 1 error" in done.stdout
    assert f"{(tmp_path / 'one').read_text()}: {sys.executable}" in done.stdout
    assert not runs(tmp_path, "one")


def test_a_process_that_ends_soon_is_not_a_leftover(tmp_path: Path) -> None:
    text = "\ndef test_one():\n    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(0.3)'])\n"
    done = pytest_of(tmp_path, text)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("scope", ["module", "session"])
def test_processes_of_wider_fixtures_live_until_the_fixture_ends(tmp_path: Path, scope: str) -> None:
    text = f"""
@pytest.fixture(scope={scope!r})
def served():
    sleeper('served')

def test_one(served):
    sleeper('one')
    assert False

def test_two(served):
    assert runs('served') and not runs('one')
"""
    done = pytest_of(tmp_path, text)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert not runs(tmp_path, "served")


def test_processes_of_other_pytest_runs_are_not_touched(tmp_path: Path) -> None:
    """Two pytest runs at the same time, within this one."""
    other = tmp_path / "other"
    other.mkdir()
    program = "import time; time.sleep(1000)"
    beside = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, VARIABLE: "another run:test 1"})
    mine = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: Path(f"/proc/{beside.pid}/environ").read_bytes())
        pytest_of(other, "\ndef test_one():\n    sleeper('one')\n    assert False\n")
        assert (beside.poll(), mine.poll()) == (None, None)
        assert not runs(other, "one")
    finally:
        for process in (beside, mine):
            process.kill()
            process.wait()
