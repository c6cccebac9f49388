"""The bridging report's page: its first screen, a section for each comparison, the design and the dose plot."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.places import REPOSITORY
from builders.planned_bridging import planned, planned_tables
from builders.report_study import write_study

from midstudy.analysis.tables import Tables
from midstudy.plan.experiment import load_study
from midstudy.report.html import Html
from midstudy.report.report import Report
from midstudy.report.sections import design
from midstudy.studies.bridging.dose import explained, gains
from midstudy.studies.bridging.forgetting import forgetting as forgetting_table
from midstudy.studies.bridging.sections import compared, dose, first_screen, forgetting

FULL = ("full=True", "sft_peak_lrs=()")


def plain(shown: Html) -> str:
    """Return the text of a section without markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r'src="[^"]+"', "", shown.markup)))


def report_of(root: Path, tables: Tables, **facts: Any) -> Report:
    return Report.of(write_study(root, tables, **facts))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report_of(tmp_path_factory.mktemp("full"), planned_tables(*FULL))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report_of(tmp_path_factory.mktemp("usual"), planned_tables())


def test_every_comparison_has_words_on_what_its_sides_differ_in() -> None:
    """Those of the full grid and of the three decisions, and no comparison that neither has."""
    decisions = load_study(REPOSITORY / "experiments" / "decision_gpu.py", data=[], settings=["trunk_seeds=(0, 1)"])
    names = {one.name for one in planned(*FULL).comparisons} | {one.name for one in decisions.comparisons}
    assert names == set(compared.DIFFER)


def test_a_study_shows_the_comparisons_that_it_has_and_no_others(usual: Report) -> None:
    headings = re.findall(r"<h3>(.+?)</h3>", compared.compared(usual).markup)
    assert headings == [entry.title for entry in usual.manifest.comparisons]
    assert len(headings) == 4


def test_a_comparison_along_a_factor_has_every_value_of_it_on_each_of_its_tasks() -> None:
    manifest = planned(*FULL)
    for entry in manifest.comparisons:
        if entry.along is not None:
            values: dict[object, set[object]] = {}
            for row in entry.arms:
                factors = manifest.arms[row].factors
                values.setdefault((factors["size"], factors["task"]), set()).add(factors[entry.along])
            assert len({frozenset(found) for found in values.values()}) == 1, entry.name


def test_two_mixes_are_compared_with_their_tokens_and_doses(full: Report) -> None:
    (sentence,) = set(compared.amounts(full, full.manifest.comparison("equal_dose"))[:1])
    doses = re.findall(r"dose ([\d.]+) %", sentence)
    assert len(doses) == 2
    assert float(doses[0]) == pytest.approx(float(doses[1]), rel=2e-3), "the study matches them"
    assert "ode 20 % from step 24 (" in sentence
    assert compared.amounts(full, full.manifest.comparison("main")) == []


def test_if_dose_explains_the_timing_the_first_screen_leads_with_it(usual: Report) -> None:
    text = plain(first_screen.first_screen(usual))
    lead = text.index("At equal dose the start leaves the task loss as it is (within the margin of the claim): ")
    assert lead < text.index("code lowers task loss most")
    assert re.search(r"code 20 % from step 24 instead of code 38.5 % from step 79 changes pycode loss by .+ % \[", text)


def test_an_effect_of_the_start_at_equal_dose_is_not_called_one_of_dose(tmp_path: Path) -> None:
    text = plain(first_screen.first_screen(report_of(tmp_path, planned_tables(early_nats=0.5))))
    assert "At equal dose the start matters for the task loss: " in text
    assert text.index("code lowers task loss most") < text.index("At equal dose the start matters for the task loss")
    (change,) = re.findall(r"from step 79 changes pycode loss by −([\d.]+) %", text)
    assert float(change) > 5


def test_the_first_screen_says_what_the_answer_is_about(usual: Report, full: Report) -> None:
    text = plain(first_screen.first_screen(usual))
    for expected in (
        "A placebo, unseen general text mixed in like code, changes pycode loss by",
        "Against the placebo, code changes pycode loss by −",
        "72 steps, 144 items, 0.3 epochs of the train split. What longer fine-tuning does to the effects was not measured.",
        "from built-in text (wheels)",
        "over at most 3 trunk seeds. A trunk seed moves initial weights, data order and batch slots, and the SFT seed with",
        "Text, test items and tokenizer do not move",
    ):
        assert expected in text
    assert not re.search(r"sft_loss|word_problems|general_loss", text)
    assert re.search(
        r"The gain of code on pycode \(size nano\) is \+[\d.]+ % at 72 steps, \+[\d.]+ % at 240",
        plain(first_screen.first_screen(full)),
    )


def test_the_design_draws_every_distinct_run_once_with_its_start_and_seeds(full: Report) -> None:
    lines = {line.name: line for line in design.run_lines(full)}
    control = lines["nano, control, weight 0, start step 0"]
    assert (control.shared_steps, control.seeds) == (0, "n = 5 (2), 3 (6)")
    early = lines["nano, code, weight 0.2, start step 24"]
    assert early.shared_steps == 24
    assert [dict(phase.shares) for phase in early.phases] == [{"general": 1.0}, {"general": 0.8, "code": 0.2}]
    assert lines["nano, placebo, weight 0.2, start step 24"].seeds == "n = 5"
    runs = {
        (arm.factors["size"], arm.factors["mix"], arm.factors["weight"], arm.factors["start_step"])
        for arm in full.manifest.arms
    }
    assert len(lines) == len(runs)


def test_a_manifest_keeps_the_learning_rates_of_a_run() -> None:
    arm = planned().arms[0]
    before, tuned = arm.phases
    rates = dict(before.rates)
    assert (before.start_step, before.stop_step, tuned.stop_step) == (0, 240, 312)
    assert rates[24] == 6e-3
    assert rates[239] == pytest.approx(2e-5, rel=0.1), "1/300 of the peak"
    assert dict(tuned.shares) == {"pycode": 1.0}


def test_forgetting_has_one_row_for_a_cell_and_differs_from_the_control_by_the_pairs(full: Report) -> None:
    text = plain(forgetting.forgetting(full))
    names = {entry.name: entry for entry in full.manifest.comparisons}
    controls = full.tables.arms.iloc[list(names["main"].references)].drop_duplicates(["size", "task"])
    assert text.count(" control 5 ") + text.count(" control 3 ") == len(controls), "none of another length of fine-tuning"
    arms = full.tables.arms
    forgotten = (arms["general_loss"] - arms["general_loss_before"]).rename("nats").to_frame().join(arms)
    forgotten = forgotten[(forgotten["task"] == "pycode") & (forgotten["sft_steps"] == 72) & (forgotten["size"] == "nano")]
    by_mix = {
        mix: rows[rows["start_step"] == step].set_index("trunk_seed")["nats"]
        for mix, step in (("control", 0), ("code", 24))
        for rows in [forgotten[(forgotten["mix"] == mix) & forgotten["weight"].isin([0.0, 0.2])]]
    }
    paired = float((by_mix["code"] - by_mix["control"]).mean())
    table = forgetting_table(full.tables)
    cell = table[(table["mix"] == "code") & (table["weight"] == 0.2) & (table["start_step"] == 24)]
    cell = cell[(cell["task"] == "pycode") & (cell["sft_steps"] == 72) & (cell["size"] == "nano")]
    assert cell["beyond_control_nats"].tolist() == pytest.approx([paired])


def test_a_law_of_dose_is_found_and_said(full: Report) -> None:
    points = gains(full.tables)
    row = explained(points, seed="trunk_seed").set_index(["size", "task", "corpus"]).loc[("nano", "pycode", "code")]
    assert row["r2_dose"] > 0.99
    assert row["r2_tokens"] < 0.8
    assert row["ci_low"] > 0
    assert "Size nano, dose explains more of the gain than tokens do: code on pycode" in plain(dose.dose(full))


def test_the_dose_of_a_run_is_that_before_fine_tuning(usual: Report) -> None:
    points = gains(usual.tables)
    code = points[(points["mix"] == "code") & (points["task"] == "pycode")]
    at_start = code[code["start_step"] == 24]["dose"].unique()
    assert len(at_start) == 1
    assert at_start[0] == pytest.approx(0.2 * 0.9, rel=0.03), "a fifth, of the rates after a tenth of warmup"
    assert "r² of dose and of tokens is not computed" in plain(dose.dose(usual))


def test_the_dose_in_a_sentence_does_not_depend_on_the_rates_of_fine_tuning(full: Report) -> None:
    """Twice the learning rates on all steps of fine-tuning move every dose of the table, and none of the sentence."""
    arms = full.tables.arms.copy()
    tasks = [f"dose:{name.removeprefix('items:')}" for name in arms if str(name).startswith("items:")]
    doses = [str(name) for name in arms if str(name).startswith("dose:")]
    grown = 1 + arms[tasks].sum(axis=1)
    for name in doses:
        arms[name] *= (2 if name in tasks else 1) / grown
    assert not arms[doses].equals(full.tables.arms[doses])
    entry = full.manifest.comparison("equal_dose")
    other = replace(full, study=replace(full.study, tables=replace(full.tables, arms=arms)))
    assert compared.amounts(other, entry) == compared.amounts(full, entry)
