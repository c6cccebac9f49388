"""midstudy works from its wheel, in an environment without the checkout, on a user's own file, beside a user's `flows`."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from builders.places import REPOSITORY
from builders.small_study import write_split


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools writes beside what it builds."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("midstudy", "flows"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(built), str(source))
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that holds the wheel, and sees the dependencies that are installed here but not this checkout."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (here,) = {path for path in sys.path if path.endswith("site-packages")}
    (packages / "dependencies.pth").write_text(here)  # its own .pth files, the checkout's among them, are not read
    (folder / "share").symlink_to(Path(sys.prefix) / "share")  # nbconvert's templates
    pip("--python", str(folder / "bin" / "python"), "install", str(wheel))
    return folder / "bin" / "python"


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments, "--no-deps", "--no-index"]
    subprocess.run(command, check=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, which is on the path: text, and packages of theirs whose names are those of our folders."""
    for name in ("flows", "experiments", "reports", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not yours to import')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2_000)]

    def text(number: int) -> str:
        return " ".join(rng.choices(words, k=number))

    for split, number in (("train", 300), ("validation", 30), ("test", 30)):
        for corpus in ("general", "code"):
            write_split(tmp_path / "text" / corpus, split, ({"text": text(120)} for _ in range(number)))
        pairs = ({"question": text(8), "answer": text(12)} for _ in range(number))
        write_split(tmp_path / "text" / "sft" / "pycode", split, pairs)
    return tmp_path


def midstudy(python: Path, folder: Path, *arguments: str) -> str:
    """What the command prints."""
    done = subprocess.run([python.with_name("midstudy"), *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_alone_with_the_files_it_reads(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"midstudy"}
    data = {str(path.relative_to(REPOSITORY)) for kind in ("json", "toml", "txt") for path in package_files(kind)}
    assert len(data) >= 5
    assert data <= {*names}


def package_files(kind: str) -> list[Path]:
    return [*(REPOSITORY / "midstudy").rglob(f"*.{kind}")]


def test_a_new_experiment_runs_to_its_report(python: Path, folder: Path) -> None:
    imported = "import midstudy; print(midstudy.__file__)"
    where = subprocess.run([python, "-c", imported], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert where.startswith(str(python.parent.parent)), "the installed package is what runs"
    assert midstudy(python, folder, "new", "question.py").startswith("question.py is written")
    question = folder / "question.py"
    shorter = 'Scale(size="nano", total_steps=24, sft_steps=6, vocab_size=512, tokenizer_bytes=200_000)'
    question.write_text(question.read_text().replace('Scale(size="nano")', shorter))
    command = ("question.py", "--data", "text", "--set", "starts=(6,)", "--set", "trunk_seeds=(0, 1)")
    assert "question: When should code enter pretraining?" in midstudy(python, folder, "plan", *command)
    said = midstudy(python, folder, "run", *command)
    report = folder / "store/studies/question/report/report.html"
    assert f"report: {report}" in said
    assert "When should code enter pretraining?" in report.read_text("utf-8")
    assert "0 failed, 0 skipped" in said


def test_the_environment_has_no_top_level_package_of_ours_but_midstudy(python: Path, folder: Path) -> None:
    code = "import midstudy.flows.deployed, midstudy.cli.commands, sys; print('flows' in sys.modules)"
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run([python, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr
