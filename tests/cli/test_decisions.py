"""What the commands, MLflow, the export and the report say of a choice."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from builders.decided_study import RATES, decided_study
from builders.places import PYTHONPATH
from builders.small_study import make_study

from midstudy.analysis.tables import write_tables
from midstudy.cli.main import main
from midstudy.plan.planner import Plan
from midstudy.report.report import Report
from midstudy.report.sections import provenance
from midstudy.store.decisions import Decision
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.track.facts import study_facts


@pytest.fixture(scope="module")
def made(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    store = Store.open(tmp_path_factory.mktemp("decided") / "store", create=True)
    plan = make_study(store, decided_study(text))
    write_tables(store, load(store, "decided"), store.paths.study("decided"))
    return store, plan


@pytest.fixture
def decisions(made: tuple[Store, Plan]) -> list[Decision]:
    store, plan = made
    return [Decision.of(store.record(choice.id)) for choice in plan.study.choices]


def test_a_decision_in_a_sentence(made: tuple[Store, Plan], decisions: list[Decision]):
    made_ = decisions[0]
    other = next(option for option in made_.tried if option.value != made_.chosen)
    assert made_.sentence == (
        f"sft_peak_lr {made_.chosen:g} has the lowest loss_nats on code_task dev, {made_.best:.4f} "
        f"({other.value:g}: {other.measured:.4f})"
    )
    assert made_.margin(other) == other.measured - made_.best > 0


def test_status_counts_outcomes(made: tuple[Store, Plan], decisions: list[Decision], capsys: pytest.CaptureFixture[str]):
    store, plan = made
    assert main(["status", "--store", str(store.root)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"  decision +2 of 2\n", shown)
    assert len({one.chosen for one in decisions}) == 1
    assert f"  chosen   sft_peak_lr {decisions[0].chosen:g} in 2 of 2 decisions\n" in shown
    assert main(["status", "--store", str(store.root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(one["id"], one["chosen"], one["outcome"]) for one in facts["decisions"]] == [
        (one.id, one.chosen, one.sentence) for one in decisions
    ]
    assert facts["decisions"][0]["label"] == plan.stages[decisions[0].id].label


def test_explain_shows_the_rule_in_place_of_the_rate(made: tuple[Store, Plan], capsys: pytest.CaptureFixture[str]):
    store, plan = made
    choice = plan.study.choices[0]
    decided = next(entry.state for entry in plan.arms if entry.arm.curriculum.choices == (choice,))
    candidate = choice.options[0]
    assert main(["explain", decided, candidate.state_id, "--store", str(store.root), "--json"]) == 0
    fields = {field["path"]: field for field in json.loads(capsys.readouterr().out)["differences"]}
    (path,) = (name for name in fields if name.endswith("to_lr"))
    assert fields[path]["b"] == candidate.value
    assert [option["value"] for option in fields[path]["a"]["choice"]["options"]] == list(RATES)
    assert "value" not in fields[path]["a"]  # the outcome is not part of the recipe's identity
    assert all(name.rsplit(".", 1)[-1] in ("to_lr", "from_lr") for name in fields)
    # Two decided states of different mixes differ in their rules, too.
    others = [choice.id for choice in plan.study.choices]
    assert main(["explain", *others, "--store", str(store.root)]) == 0
    assert "options[0].state_id" in capsys.readouterr().out


def test_mlflow_shows_the_chosen_rate_as_a_parameter(made: tuple[Store, Plan], decisions: list[Decision]):
    store, plan = made
    facts = {run.key: run for run in study_facts(store, load(store, "decided"))}
    for entry in plan.arms:
        run = facts[entry.state]
        assert run.params["chosen.sft_peak_lr"] == f"{decisions[0].chosen:g}"
        assert "lr chosen by sft_peak_lr" in plan.stages[entry.state].label
    for one in decisions:
        assert facts[one.id].tags["mlflow.note.content"] == f"{one.sentence}."
        assert facts[one.id].metrics["chosen"] == one.chosen
        assert facts[one.id].tags["stage_kind"] == "decision"
    candidates = [option.state_id for choice in plan.study.choices for option in choice.options]
    assert [facts[candidate].params["sft_peak_lr"] for candidate in candidates] == [f"{rate:g}" for rate in RATES] * 2


def test_the_report_lists_candidates_with_their_losses(made: tuple[Store, Plan], decisions: list[Decision]):
    store, plan = made
    shown = provenance.reproduce(Report.of(store.paths.study("decided"))).markup
    for one in decisions:
        assert plan.stages[one.id].label in shown.replace("&#x27;", "'")
        assert f">{one.chosen:g}</" in shown
        for option in one.tried:
            assert f"{option.measured:.3f}" in shown
            assert f"{one.margin(option):.3f}" in shown


def test_a_candidate_that_is_not_finite_is_shown_as_such(made: tuple[Store, Plan], tmp_path: Path):
    """The tables hold no NaN, which JSON does not have."""
    store, _ = made
    folder = store.paths.study("decided")
    whole = (folder / "reproduce.json").read_text("utf-8")
    facts = json.loads(whole, parse_constant=lambda constant: pytest.fail(constant))
    facts["decisions"][0]["tried"][0] |= {"measured": None, "margin": None}
    try:
        (folder / "reproduce.json").write_text(json.dumps(facts), "utf-8")
        assert "not finite" in provenance.reproduce(Report.of(folder)).markup
    finally:
        (folder / "reproduce.json").write_text(whole, "utf-8")


def test_an_exported_model_says_which_rates_it_was_trained_with(made: tuple[Store, Plan], decisions, tmp_path: Path):
    store, plan = made
    folder = tmp_path / "model"
    state = plan.arms[0].state
    assert main(["export", state, "--to", "hf", "--output", str(folder), "--store", str(store.root)]) == 0
    card = (folder / "README.md").read_text("utf-8")
    last = next(line for line in card.splitlines() if line.startswith("| sft nano control"))
    assert f"to {decisions[0].chosen:.3g} " in last
    assert f"`{decisions[0].id}` choose sft_peak_lr" in card  # in the lineage


EXPERIMENT = """
from pathlib import Path
from builders.decided_study import decided_study

def study(*, data, text: str, num_seeds: int = 2):
    return decided_study(Path(text), seeds=tuple(range(num_seeds)))
"""


@pytest.mark.slow
def test_a_study_with_choices_from_plan_to_report(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """With jobs, Prefect and MLflow: two seeds, two rates; then a third seed, which uses the decisions that were made."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    experiment, store = tmp_path / "decided.py", tmp_path / "store"
    experiment.write_text(EXPERIMENT)
    options = [str(experiment), "--store", str(store), "--set", f"text={text}"]
    assert main(["plan", *options]) == 0
    assert "  choose   sft_peak_lr among 0.0001, 0.003: 2 decisions\n" in capsys.readouterr().out
    assert main(["run", *options, "--jobs", "2"]) == 0
    first = capsys.readouterr().out
    assert "44 stages run, 0 reused, 0 failed, 0 skipped" in first
    opened = Store.open(store)
    before = {stage_id: opened.record(stage_id).metrics for stage_id in load(opened, "decided").stages}
    assert main(["clean", "--yes", "--unreferenced", "--store", str(store)]) == 0
    assert re.search(r" 4 +candidates of finished decisions", capsys.readouterr().out)
    assert main(["retry", "decided", "--store", str(store)]) == 0  # nothing is missing, so nothing runs
    assert re.search(r"^0 stages run, 40 reused", capsys.readouterr().out, re.MULTILINE)
    assert main(["run", *options, "--set", "num_seeds=3", "--jobs", "2"]) == 0
    assert re.search(r"^15 stages run, 36 reused, 0 failed, 0 skipped", capsys.readouterr().out, re.MULTILINE)
    assert "A choice never reads a test split" in (store / "studies/decided/report/report.html").read_text("utf-8")
    after = {stage_id: opened.record(stage_id).metrics for stage_id in load(opened, "decided").stages}
    assert all(after[stage_id] == before[stage_id] for stage_id in before.keys() & after.keys())
    chosen = {row["chosen"] for row in after.values() if "chosen" in row}
    assert chosen <= {*RATES}
    assert not any(math.isnan(rate) for rate in chosen)
