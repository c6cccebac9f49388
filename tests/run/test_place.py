"""The place of a run from its options: how many jobs fit, and which options cannot be combined."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from midstudy.run.study import place
from midstudy.train import environment

OPTIONS: dict[str, Any] = {
    "backend": "local",
    "placement_file": None,
    "device": "cpu",
    "jobs": None,
    "threads": 1,
    "ranks": 1,
    "micro_batch": None,
    "compiled": False,
}


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "visible_gpus", lambda: ("0", "1"))


def test_a_cpu_runs_as_many_jobs_as_its_cores_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    assert place(**OPTIONS).max_jobs == 16
    assert place(**OPTIONS | {"threads": 4}).max_jobs == 4
    assert place(**OPTIONS | {"threads": 2, "ranks": 2}).max_jobs == 4
    assert place(**OPTIONS | {"threads": 32}).max_jobs == 1
    assert place(**OPTIONS | {"jobs": 3}).max_jobs == 3


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_holds_one_rank() -> None:
    alone = place(**OPTIONS | {"device": "cuda"})
    assert (alone.max_jobs, alone.gpus) == (2, ("0", "1"))
    assert place(**OPTIONS | {"device": "cuda", "ranks": 2}).max_jobs == 1


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("option", [{"device": "cuda"}, {"compiled": True}, {"threads": 2}])
def test_on_slurm_only_the_placement_file_sets_how_stages_compute(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not an option with --backend slurm; set it in the placement file"):
        place(**OPTIONS | {"backend": "slurm", "placement_file": tmp_path / "slurm.toml"} | option)
