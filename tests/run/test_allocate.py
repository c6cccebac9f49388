"""`midstudy allocate`: the seeds that undecided claims need, what they cost, and the command that trains them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from builders.seeded_study import EXPERIMENT, publish, seeded_study

from midstudy.cli.main import main
from midstudy.plan.experiment import load_study
from midstudy.recipe.factors import Value
from midstudy.store.store import Store

TASK_GAINS = (0.10, 0.20, 0.15, 0.12)
"""Nats by which code lowers the loss of its task, by trunk seed: 0.14 with a standard deviation of 0.04."""
GENERAL_GAINS = (0.001, -0.002, 0.003, -0.001)
"""An effect of about nothing, which no affordable number of seeds tells from 0."""


def value(factors: Mapping[str, Value], column: str) -> float:
    seed = int(factors["trunk_seed"])
    gain = {"sft_loss": TASK_GAINS, "general_loss": GENERAL_GAINS}.get(column, (0.0,) * 4)[seed]
    return 4.0 + 0.01 * seed - (gain if factors["mix"] == "code" else 0.0)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from builders.small_study import write_text

    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    return folder


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "seeded.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def store(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with two finished seeds of the study."""
    store = Store.open(tmp_path_factory.mktemp("allocate") / "store", create=True)
    publish(store, seeded_study(text, trunk_seeds=(0, 1)), value)
    return store


@pytest.fixture
def arguments(experiment: Path, text: Path, store: Store) -> list[str]:
    return [str(experiment), "--store", str(store.root), "--set", f"text={text}"]


def facts_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["allocate", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_the_proposal_is_what_decides_a_claim_for_the_least(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    facts = facts_of(capsys, *arguments)
    assert (facts["keyword"], facts["factor"], facts["seeds"]) == ("trunk_seeds", "trunk_seed", [0, 1])
    task, general = facts["claims"]
    assert (task["verdict"], task["num_seeds"], task["value"]) == ("inconclusive", 2, pytest.approx(0.15))
    assert task["more_seeds"] == task["seeds_needed"] - 2 > 0
    assert general["problem"].startswith("too close to its margin") or general["more_seeds"] > task["more_seeds"]
    assert facts["proposed"] == list(range(task["seeds_needed"]))
    assert facts["steps"][0]["claims"] == [1]


def test_a_seed_is_priced_by_planning_it_so_that_shared_stages_cost_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], text: Path
) -> None:
    """A whole study of one seed costs more than a further seed, by what the seeds share: text and tokenizer."""
    facts = facts_of(capsys, *arguments)
    assert main(["plan", *arguments[:1], "--set", f"text={text}", "--set", "trunk_seeds=(2,)", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert 0 < facts["seed_s"] < 3600 * alone["device_hours_missing"]
    assert facts["unfinished_s"] == 0
    assert facts["cost_s"] == pytest.approx(len(facts["proposed"][2:]) * facts["seed_s"])
    assert facts["claims"][0]["own_seed_s"] == pytest.approx(facts["seed_s"]), "both claims read all arms of the study"


def test_the_command_runs_the_proposed_seeds(capsys: pytest.CaptureFixture[str], arguments: list[str], text: Path) -> None:
    facts = facts_of(capsys, *arguments, "--set", "trunk_seeds=(0, 1)")
    words = shlex.split(facts["command"])
    assert words[:3] == ["midstudy", "run", arguments[0]]
    settings = [setting for word, setting in pairwise(words) if word == "--set"]
    assert [setting.partition("=")[0] for setting in settings] == ["text", "trunk_seeds"]
    study = load_study(Path(words[2]), settings=settings)
    assert list(dict.fromkeys(arm.factors["trunk_seed"] for arm in study.arms)) == facts["proposed"]


def test_the_text_ends_on_the_command(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(["allocate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("seeded: 2 of 2 claims are undecided with the trunk seeds 0, 1\n")
    assert re.search(
        r"claim 1   \(code helps code\): \+0\.15 nats, sd at most 0\.\d+; needs \d+ trunk seeds, \d+ more, ", printed
    )
    assert re.search(r"option    \d+ more, .*: expected to decide claim 1, .* a claim\n", printed)
    assert re.search(r"\n    midstudy run .*'trunk_seeds=\(0, 1, 2, .*\)' --store ", printed)


def test_what_cannot_be_decided_within_the_budget_says_so(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    facts = facts_of(capsys, *arguments, "--budget", "0.0001")
    assert facts["claims"][0]["problem"] == "cannot be decided within the budget"
    assert (facts["proposed"], facts["command"], facts["steps"]) == (None, None, [])
    assert main(["allocate", *arguments, "--budget", "0.0001"]) == 0
    printed = capsys.readouterr().out
    assert "cannot be decided within the budget" in printed
    assert "proposal  none: no further trunk seed is expected to decide a claim within 0 s" in printed


def test_seeds_go_to_the_next_planned_look_that_decides(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    free = facts_of(capsys, *arguments)["claims"][0]["seeds_needed"]
    looks = (2, free + 3, free + 20)
    facts = facts_of(capsys, *arguments, "--set", f"looks={looks}")
    assert facts["claims"][0]["seeds_needed"] in looks[1:]
    late = facts_of(capsys, *arguments, "--set", "looks=(2, 3)")
    assert late["claims"][0]["problem"] == "too close to its margin: not decided by the 3 planned seeds"


def test_one_finished_seed_gives_no_standard_deviation(
    capsys: pytest.CaptureFixture[str], text: Path, experiment: Path, tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "store", create=True)
    publish(store, seeded_study(text, trunk_seeds=(0,)), value)
    facts = facts_of(capsys, str(experiment), "--store", str(store.root), "--set", f"text={text}")
    assert {one["problem"] for one in facts["claims"]} == {"expected at least two finished seeds that differ, got 1"}
    assert facts["unfinished_s"] > 0, "the second seed of the grid is not finished"


NO_KEYWORD = EXPERIMENT.replace("trunk_seeds: tuple[int, ...] = (0, 1)", "number: int = 2").replace(
    "trunk_seeds=trunk_seeds", "trunk_seeds=tuple(range(number))"
)
RENAMED = EXPERIMENT.replace("trunk_seeds: tuple[int, ...] = (0, 1)", "repeats=None, others=(0, 1)").replace(
    "trunk_seeds=trunk_seeds", "trunk_seeds=repeats or (0, 1)"
)
"""The seeds are those of a keyword that is `None` by default; another one has their values and means something else."""


def test_the_keyword_is_found_by_what_it_does(
    capsys: pytest.CaptureFixture[str], text: Path, store: Store, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.py"
    renamed.write_text(RENAMED)
    assert facts_of(capsys, str(renamed), "--store", str(store.root), "--set", f"text={text}")["keyword"] == "repeats"


def test_an_experiment_without_such_a_keyword_is_an_error_that_lists_its_keywords(
    capsys: pytest.CaptureFixture[str], text: Path, store: Store, tmp_path: Path
) -> None:
    without = tmp_path / "without.py"
    without.write_text(NO_KEYWORD)
    assert main(["allocate", str(without), "--store", str(store.root), "--set", f"text={text}"]) == 2
    message = capsys.readouterr().err
    assert (
        "expected a keyword of study(...) whose values are those of trunk_seed, (0, 1), such as trunk_seeds, got" in message
    )
    assert "number" in message


def test_a_study_without_claims_has_nothing_to_decide(
    capsys: pytest.CaptureFixture[str], text: Path, store: Store, tmp_path: Path
) -> None:
    from builders.small_study import EXPERIMENT as WITHOUT_CLAIMS

    path = tmp_path / "bare.py"
    path.write_text(WITHOUT_CLAIMS)
    assert main(["allocate", str(path), "--store", str(store.root), "--set", f"text={text}"]) == 2
    assert "expected a study with claims to decide, got small without any" in capsys.readouterr().err
