"""`--backend slurm` on the command line: missing and contradictory options are reported before anything runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from builders.places import PYTHONPATH
from builders.small_study import write_text
from builders.waiting import wait_until

from midstudy.cli.main import main
from midstudy.store.store import Store

EXPERIMENT = """
from pathlib import Path
from builders.small_study import small_study

def study(*, data, text: str, total_steps: int = 12):
    return small_study(Path(text), total_steps=total_steps, starts=())
"""


@pytest.fixture
def run(tmp_path: Path) -> list[str]:
    """`midstudy run` of a small study."""
    write_text(tmp_path / "text")
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    experiment, text, store = (str(tmp_path / name) for name in ("experiment.py", "text", "store"))
    return ["run", experiment, "--set", f"text={text}", "--store", store]


@pytest.fixture
def placement(tmp_path: Path) -> str:
    path = tmp_path / "placement.toml"
    path.write_text("[default]\ncpus_per_task = 2\n")
    return str(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--backend", "slurm"],
            "--placement: expected with --backend slurm a file that says what jobs request, got none. `midstudy new",
        ),
        (
            ["--backend", "slurm", "--placement", "nowhere"],
            "--placement: expected with --backend slurm a file that says what jobs request, got nowhere",
        ),
        (
            ["--backend", "slurm", "--threads", "2"],
            "--threads: not an option with --backend slurm; set it in the placement file",
        ),
        (["--backend", "slurm", "--device", "cuda"], "--device: not an option with --backend slurm"),
        (["--backend", "slurm", "--compile"], "--compile: not an option with --backend slurm"),
        (["--placement", "FILE"], "--placement: expected with --backend slurm only, got --backend local."),
        (["--backend", "debug", "--detach"], "--detach: not possible with --backend debug"),
    ],
)
def test_contradictory_options_are_rejected(
    run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main([*run, *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_missing_slurm_commands_are_reported_before_the_run(
    run: list[str], placement: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main([*run, "--backend", "slurm", "--placement", placement]) == 2
    said = capsys.readouterr().err
    assert "sbatch, squeue, scancel, scontrol not found on the PATH" in said
    assert "use --backend local" in said


def test_an_error_in_the_placement_file_names_its_field(
    run: list[str], placement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(placement).write_text("[kind.sft]\nnum_threads = 3\n")
    assert main([*run, "--backend", "slurm", "--placement", placement]) == 2
    assert (
        "placement.toml: kind.sft.num_threads: expected at most cpus_per_task, which is 1, got 3." in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_detached_driver_is_a_process_that_keeps_running_until_it_is_cancelled(
    run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    assert main([*run, "--set", "total_steps=100000", "--detach"]) == 0
    said = capsys.readouterr().out
    store = Store.open(tmp_path / "store")
    assert f"log: {store.paths.detached_log('small')}" in said
    pid = json.loads(store.paths.detached("small").read_text())["process"]["pid"]
    assert f"driver process {pid} on " in said
    assert os.getsid(pid) == pid  # it survives the end of the terminal

    metrics = "*/attempts/*/result/metrics.jsonl"
    wait_until(lambda: any(path.stat().st_size for path in store.paths.stages.glob(metrics)))
    assert main(["cancel", "--store", str(store.root)]) == 0
    assert f"driver process {pid} stopped" in capsys.readouterr().out
    assert list(store.paths.stages.glob("*/attempts/*/checkpoints/step-*"))
