"""`midstudy new` writes examples that work as they are, and overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from midstudy.cli.main import main
from midstudy.launch.slurm.placement_file import read_placement_file
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import make_plan


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_experiment_is_a_study_named_after_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "when code.py"]) == 0
    assert "midstudy plan 'when code.py'" in capsys.readouterr().out
    study = load_study(Path("when code.py"))
    assert study.name == "when_code"
    assert len(study.arms) == 9
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    assert plan.total_steps == plan.lower_bound_steps
    text = Path("when code.py").read_text()
    assert "midstudy run 'when code.py'" in text
    code = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(code) <= 30
    assert text.count("#") >= 5, "it says what its lines are for"


def test_its_keywords_are_what_set_varies() -> None:
    assert main(["new", "question.py"]) == 0
    study = load_study(Path("question.py"), settings=["starts=(10, 20, 30)", "trunk_seeds=(4,)", "weight=0.5"])
    assert sorted({arm.factors["weight"] for arm in study.arms}) == [0, 0.5]
    assert len(study.arms) == 4


def test_a_placement_can_be_read_as_it_is() -> None:
    assert main(["new", "cluster.toml"]) == 0
    assert "--placement cluster.toml" in Path("cluster.toml").read_text()
    assert read_placement_file(Path("cluster.toml")).jobs.at_a_time is not None


@pytest.mark.parametrize("name", ["question.py", "cluster.toml"])
def test_a_file_that_exists_stays(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text("mine")
    assert main(["new", name]) == 2
    assert "a new file" in capsys.readouterr().err
    assert Path(name).read_text() == "mine"


def test_another_kind_of_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "question.ipynb"]) == 2
    assert ".py, for an experiment, or in .toml" in capsys.readouterr().err
    assert not Path("question.ipynb").exists()
