"""The README is correct: its Python runs, its commands and options exist."""

from __future__ import annotations

import re
from typing import Any

import pytest
from builders.places import REPOSITORY
from builders.small_recipes import CODE, GENERAL, MATH, PYCODE, phase, sft, start

from midstudy.cli.main import main
from midstudy.data.data_args import DataChoice
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.planner import make_plan
from midstudy.recipe import Average, Comparison, Cosine, Curriculum, Mixture, Start, Study, interpolated, where
from midstudy.studies.bridging.scale import Scale

README = (REPOSITORY / "README.md").read_text()
LINES = re.findall(r"^midstudy +(.*?)(?:#.*)?$", README, flags=re.MULTILINE)
VERBS = sorted({part.split()[0] for line in LINES for part in line.split("|")})


EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_study_can_be_planned() -> None:
    names: dict[str, Any] = {"Scale": Scale, "Study": Study, "Comparison": Comparison, "where": where}
    exec(EXAMPLES[0], names)
    study = names["study"](data=DataChoice())
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    assert len(study.arms) == 3 * 4
    assert plan.total_steps == plan.lower_bound_steps


def test_the_example_curriculum_runs() -> None:
    _, code = EXAMPLES
    schedule = Cosine(peak_lr=1e-3, floor_lr=1e-5, warmup_steps=10, total_steps=9_000)
    names: dict[str, Any] = {
        "Curriculum": Curriculum,
        "Mixture": Mixture,
        "interpolated": interpolated,
        "start": start(),
        "pretrain": phase(Mixture.only(GENERAL), 9_000, schedule=schedule),
        "sft": sft(PYCODE),
        "general": GENERAL,
        "code": CODE,
        "math": MATH,
    }
    exec(code, names)
    assert names["early"].state_id(6_000) == names["trunk"].state_id(6_000)
    assert names["rising"].num_steps == 9_000
    averaged = Start.averaged(Average.last(names["trunk"], num_states=4, every_steps=5))
    assert Curriculum.of(averaged, sft(PYCODE)).num_steps == 5


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_exists(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0


def test_every_option_of_the_placement_section_exists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    known = capsys.readouterr().out
    text = README[README.index("How a stage is computed is placement") :].split("\n\n")[0]
    for option in re.findall(r"`(--[\w-]+)", text):
        assert option in known
