"""The lock files are consistent: hashes for every package, the same versions in all, and torch only where it is pinned."""

from __future__ import annotations

import re
import tomllib

import pytest
from builders.places import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-benchmark.lock")


def locked(name: str) -> dict[str, tuple[Version, int]]:
    """Return the version and the number of hashes of each package in a lock file."""
    packages: dict[str, tuple[Version, int]] = {}
    for entry in re.split(r"\n(?=\S)", (REPOSITORY / name).read_text()):
        if not entry.startswith("#"):
            pin, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()  # type: ignore[union-attr]
            packages[canonicalize_name(pin)] = (Version(version), entry.count("--hash=sha256:"))
    return packages


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes(name: str) -> None:
    assert [package for package, (_, hashes) in locked(name).items() if not hashes] == []


@pytest.mark.parametrize("name", LOCKS)
def test_torch_and_cuda_are_not_in_the_lock_files(name: str) -> None:
    assert [p for p in locked(name) if p in ("torch", "triton") or p.startswith(("nvidia", "cuda"))] == []


@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_name_no_index_url_or_file(name: str) -> None:
    assert re.findall(r"--[\w-]*(?:index|links|host)[\w-]*|\S*://\S*", (REPOSITORY / name).read_text()) == []


def test_the_development_lock_contains_the_runtime_lock() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


def test_the_locked_versions_satisfy_the_declared_dependencies() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pins = {name: version for name, (version, _) in locked("requirements-dev.lock").items()}
    torch = re.search(r"^torch==(\S+)$", (REPOSITORY / "requirements-torch.txt").read_text(), re.MULTILINE)
    assert torch is not None
    pins["torch"] = Version(torch[1])
    declared = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]
    assert [str(d) for d in declared if not d.specifier.contains(pins[canonicalize_name(d.name)])] == []


def test_the_lock_contains_all_dependencies_of_torch() -> None:
    needed = {"filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"}
    assert needed <= locked("requirements.lock").keys()


def test_the_benchmark_lock_and_the_development_lock_do_not_overlap() -> None:
    assert locked("requirements-benchmark.lock").keys() & locked("requirements-dev.lock").keys() == set()
