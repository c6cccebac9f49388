"""The README is correct: its Python runs, its commands and options exist."""

from __future__ import annotations

import re
from typing import Any

import pytest
from builders.places import REPOSITORY
from builders.small_recipes import CODE, GENERAL, MATH, PYCODE, phase, sft, start

from midstudy.cli.main import main
from midstudy.recipe import Average, Cosine, Curriculum, Mixture, Start, interpolated

README = (REPOSITORY / "README.md").read_text()
LINES = re.findall(r"^midstudy +(.*?)(?:#.*)?$", README, flags=re.MULTILINE)
VERBS = sorted({part.split()[0] for line in LINES for part in line.split("|")})


EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_of_a_study_is_what_midstudy_new_writes() -> None:
    assert EXAMPLES[0] in (REPOSITORY / "midstudy/studies/bridging/question.py").read_text()


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
    options = re.findall(r"`(--[\w-]+)", text)
    assert len(options) > 5
    for option in options:
        assert option in known
