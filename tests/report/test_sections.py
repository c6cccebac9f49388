"""The sections of a report: they show the numbers of the analysis, unfinished arms, and notes on parts a study lacks."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import bridging_tables
from builders.crossed_tables import planted, study_of
from builders.report_study import NO_STAGES, loader_study, study_without_arms, tally, write_study

from midstudy.analysis.correlations import correlations
from midstudy.analysis.crossed import Crossed
from midstudy.analysis.reach import scope, two_answers
from midstudy.analysis.recorded_look import record_look
from midstudy.analysis.spending import levels
from midstudy.analysis.tables import Tables
from midstudy.plan.left_out import LeftOut
from midstudy.recipe.manifest import CountsEntry
from midstudy.recipe.study import Claim
from midstudy.report import numbers
from midstudy.report.html import Html, section
from midstudy.report.report import Report
from midstudy.report.sections import (
    claims,
    comparisons,
    curves,
    left_out,
    limitations,
    overview,
    provenance,
    representation,
    similarity,
)
from midstudy.report.sections.claims import VERDICTS
from midstudy.store.looks import looks_of
from midstudy.store.store import Store
from midstudy.studies.bridging.proximity import proximity_pairs
from midstudy.studies.bridging.sections import forgetting, proximity

SECTIONS = (
    overview.summary,
    overview.missing,
    comparisons.comparisons,
    curves.curves,
    claims.claims,
    similarity.similarity,
    similarity.proximity,
    representation.representations,
    provenance.cost,
    provenance.data,
    left_out.left_out,
    provenance.reproduce,
)

CODE_HELPS = Claim(
    text="code lowers pycode loss",
    source="a paper",
    estimator="paired_effect",
    comparison="main",
    column="sft_loss",
    arms={"mix": "code", "task": "pycode"},
    cited="2.3 → 2.1",
)


def plain(shown: Html) -> str:
    """Return the text of a section without markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", shown.markup))


def report_of(root: Path, tables: Tables, **facts: Any) -> Report:
    return Report.of(write_study(root, tables, **facts))


@pytest.fixture(scope="module")
def tables() -> Tables:
    return bridging_tables(claims=[CODE_HELPS])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, tables: Tables) -> Report:
    return report_of(tmp_path_factory.mktemp("store"), tables)


def test_the_summary_has_question_answer_and_cost(report: Report) -> None:
    text = plain(overview.summary(report, proximity.closeness(report)))
    assert report.manifest.question in text
    assert "code lowers sft loss most" in text
    assert "Pearson r =" in text
    assert "5,397 training steps; training each arm alone would take 16,560" in text
    assert "not finished" not in text


def test_a_comparison_shows_the_numbers_of_the_analysis(report: Report) -> None:
    text = plain(comparisons.comparisons(report, "main"))
    row = report.effects(report.manifest.comparison("main"), "sft_loss").table.iloc[0]
    assert f"{row['difference']:+.3f}" in text
    assert f"{100 * row['relative_improvement']:+.1f}" in text
    assert " + ".join(["2"] * 3) in text, "each of three trunk seeds has two SFT seeds"
    assert "pycode" in text
    assert "word problems" in text
    assert (report.figures_folder / "main.png").exists()


def test_pooled_intervals_stand_beside_the_plain_ones_with_what_they_assume(report: Report) -> None:
    shown = plain(comparisons.comparisons(report, "main"))
    table = report.effects(report.manifest.comparison("main"), "sft_loss").table
    for _, row in table.iterrows():
        plain_one, pooled = (numbers.interval(row[f"{kind}ci_low"], row[f"{kind}ci_high"]) for kind in ("", "moderated_"))
        assert f"{plain_one} {pooled}" in shown
    assert shown.count(escape(comparisons.POOLED)) == 1, "the second table of a comparison does not repeat it"
    assert "Columns as in the table above." in shown


def test_the_doses_of_a_comparison_leave_out_what_no_arm_reads_and_what_all_arms_share(report: Report) -> None:
    (doses,) = re.findall(r"<details>.*?</details>", comparisons.comparisons(report, "main").markup, flags=re.DOTALL)
    read = [name for name in report.tables.arms if name.startswith("dose:") and report.tables.arms[name].any()]
    assert doses.count("<th ") == 1 + len(read)
    assert "micro" not in doses, "all arms have this size"
    assert "fine-tuning among them" in doses


def test_a_comparison_along_a_factor_names_its_values(report: Report) -> None:
    text = plain(comparisons.comparisons(report, "timing"))
    for step in (10, 50, 80):
        assert f"start step {step}" in text
    assert "main" not in {path.stem for path in report.figures_folder.glob("timing*")}


def test_a_comparison_that_the_study_lacks_shows_nothing(report: Report) -> None:
    assert not section("Unheard", comparisons.comparisons(report, "unheard"), intro="Of nothing.").markup


def test_claims_are_shown_with_the_source_s_numbers_and_verdicts(report: Report) -> None:
    text = plain(claims.claims(report))
    assert "code lowers pycode loss" in text
    assert "2.3 → 2.1" in text
    assert "1 claim of a paper: yes 1, no 0, undecided 0" in text


def test_a_claim_has_its_margin_its_seeds_and_while_undecided_the_seeds_that_it_needs(tmp_path: Path) -> None:
    unchanged = replace(CODE_HELPS, text="code changes nothing", holds="within", margin=0.02)
    text = plain(claims.claims(report_of(tmp_path, bridging_tables(claims=[CODE_HELPS, unchanged]))))
    assert "code changes nothing holds within ±2 %" in text
    assert "code lowers pycode loss 2.3" in text, "a direction alone is no margin"
    few = plain(claims.claims(report_of(tmp_path / "few", bridging_tables(trunk_seeds=(0,), claims=[CODE_HELPS]))))
    assert "1 more needed" in few
    assert "needed" not in text, "both are decided"


@pytest.mark.parametrize(("r", "seed"), [(0.95, 0), (0.3, 1)])
def test_association_here_and_reach_beyond_are_two_answers_in_the_section_the_claims_and_the_first_screen(
    tmp_path: Path, r: float, seed: int
) -> None:
    about = Claim(text="closer is better", source="a paper", estimator="correlation", comparison="main", column="sft_loss")
    tables = study_of(planted(np.random.default_rng(seed), 5, 4, r=r), seed_sd=0.001, claims=[about])
    report = report_of(tmp_path, tables)
    (row,) = (row for _, row in report.judged.iterrows())
    answers = two_answers(row["p_value"], row["low"], row["high"])
    assert answers
    assert answers in plain(proximity.closeness(report))
    assert f"Two questions. QAP p = {numbers.p_value(row['p_value'])}" in plain(proximity.proximity(report))
    assert answers in plain(proximity.proximity(report))
    assert f"{VERDICTS[row['verdict']]} {scope(row['low'], row['high'])}" in plain(claims.claims(report))
    is_decided = row["verdict"] != "inconclusive"
    assert (f"holds {scope(row['low'], row['high'])}." in plain(limitations.limitations(report))) == is_decided


def test_the_claims_say_which_tests_decide_them_and_how_they_are_corrected(tmp_path: Path) -> None:
    claims_of = [replace(CODE_HELPS, family="losses"), replace(CODE_HELPS, family="losses", column="general_loss")]
    text = plain(claims.claims(report_of(tmp_path, bridging_tables(claims=claims_of))))
    assert "correction within its family of claims (tested claims: losses: 2)" in text
    assert "two one-sided tests (TOST)" in text
    assert "the largest p" in text


def growing(root: Path, *, looks: tuple[int, ...], **fields: Any) -> str:
    """Return the section of claims of a study that was looked at with two seeds and with three."""
    store = None
    for seeds in ((0, 1), (0, 1, 2)):
        tables = bridging_tables(claims=[replace(CODE_HELPS, **fields)], trunk_seeds=seeds)
        tables = replace(tables, manifest=replace(tables.manifest, looks=looks))
        folder = write_study(root, tables)
        store = Store.open(root)
        record_look(store, replace(tables, looks=looks_of(store, "synthetic")))
    return plain(claims.claims(Report.of(folder)))


def test_claims_say_that_they_were_registered_before_the_first_result(report: Report) -> None:
    text = plain(claims.claims(report))
    assert "Registration: claims, families, margins and looks were registered before the first result (2" in text
    assert "Changed later" not in text
    assert "Looks:" not in text, "one look needs no word"


def test_later_changes_of_the_claims_are_listed(tmp_path: Path, tables: Tables) -> None:
    write_study(tmp_path, tables)
    changed = replace(tables, manifest=replace(tables.manifest, claims=(replace(CODE_HELPS, margin=0.1),)))
    text = plain(claims.claims(report_of(tmp_path, changed)))
    assert "Changed later: claim changed: code lowers pycode loss: margin 0.0 → 0.1 (before the first result, 2" in text


def test_a_damaged_registration_is_a_warning_on_the_page(tmp_path: Path, tables: Tables) -> None:
    folder = write_study(tmp_path, tables)
    (folder / "registration.json").write_text("{")
    text = plain(claims.claims(Report.of(folder)))
    assert "registration unknown: " in text
    assert "1 claim of a paper: yes 1" in text


def test_planned_looks_show_the_level_of_this_look(tmp_path: Path) -> None:
    text = plain(claims.claims(Report.of(write_study(tmp_path / "none", bridging_tables(claims=[CODE_HELPS])))))
    assert "level" not in text.split("claim of a paper")[0]
    text = growing(tmp_path / "planned", looks=(2, 3, 6))
    level = levels(0.05, [2 / 6, 3 / 6], [2, 3])[-1]
    assert "planned at 2, 3, 6 seeds; looked at with 2, 3 seeds so far" in text
    assert f"level {numbers.p_value(float(level))} 3 seeds" in text
    assert re.search(r"(yes|undecided) look 2", text)


def test_several_looks_without_a_plan_are_a_warning(tmp_path: Path) -> None:
    text = growing(tmp_path, looks=())
    assert "judged with 2, 3 seeds, each time at 5 %, since no looks were planned" in text
    assert "a false verdict is more likely than that" in text


def test_the_bridging_report_has_its_own_sections(report: Report) -> None:
    assert "forgotten, nats" in plain(forgetting.forgetting(report))
    text = plain(proximity.proximity(report))
    for expected in (
        "QAP p",
        "without one mix",
        "regret",
        "cosine",
        "1 / (1 + JSD)",
        "Its noise ceiling",
    ):
        assert expected in text


@pytest.fixture
def leaning() -> Crossed:
    """A table whose r rests on one mix, and in it on one task and one pair."""
    table = planted(np.random.default_rng(5), 5, 4, r=0.3)
    for one in (table.x, table.y):
        one[1] += 3
        one[1, 2] += 6
    return table


@pytest.mark.parametrize(("kind", "left_out"), [("mix", (1, slice(None))), ("task", (slice(None), 2)), ("pair", (1, 2))])
def test_without_what_r_leans_on_the_first_screen_says_what_it_announced(
    tmp_path: Path, leaning: Crossed, kind: str, left_out: tuple[Any, Any]
) -> None:
    pairs = proximity_pairs(study_of(leaning))
    assert pairs is not None
    row = correlations(pairs).iloc[0]
    names = {"mix": "mix1", "task": "task2", "pair": "mix1 → task2"}
    assert row[f"without_{kind}_low_name"] == names[kind]
    announced = numbers.correlation(row[f"without_{kind}_low"])
    assert announced != numbers.correlation(row["r"])
    before = report_of(tmp_path / "before", study_of(leaning))
    if kind == "pair":
        assert f"{announced} {names[kind]}" in plain(proximity.proximity(before))
    else:
        assert f"one {kind} left out it is {announced} ({names[kind]})" in plain(proximity.closeness(before))
    after = report_of(tmp_path / "after", study_of(leaning.without(*left_out)))
    assert f"Pearson r = {announced} over" in plain(proximity.closeness(after))


def test_the_first_screen_has_the_rank_within_tasks_beside_its_ceiling(tmp_path: Path, leaning: Crossed) -> None:
    text = plain(proximity.closeness(report_of(tmp_path, study_of(leaning, seed_sd=0.1))))
    assert re.search(
        r"over 20 pairs of 5 mixes and 4 tasks \(95 % interval −?\d\.\d\d to \d\.\d\d over mixes and tasks; QAP p = ", text
    )
    assert re.search(
        r"mixes rank by closeness as by gain with ρ = .*; trunk seeds agree with each other with ρ = .* \(4 tasks\)", text
    )
    assert re.search(r"The closest mix is the best in \d of 4 tasks, and taking it loses \d+\.\d points of percent", text)
    alone = plain(proximity.closeness(report_of(tmp_path / "alone", study_of(leaning, seeds=(0,)))))
    assert "how well trunk seeds agree on the rank is not known" in alone


def test_two_mixes_have_r_without_an_interval(tmp_path: Path) -> None:
    report = report_of(tmp_path, study_of(planted(np.random.default_rng(0), 2, 3, r=0.5)))
    assert "without an interval (interval and p: expected at least 3 mixes, got 2" in plain(proximity.closeness(report))
    assert proximity.proximity(report).markup


def test_cost_shows_the_lower_bound_and_the_steps_without_sharing(report: Report) -> None:
    text = plain(provenance.cost(report))
    assert "lower bound of the plan, steps 5,397" in text
    assert "16,560 (3.1 ×)" in text


def test_reproduction_shows_commands_commit_versions_and_stage_ids(report: Report) -> None:
    text = plain(provenance.reproduce(report))
    for expected in ("git checkout 0123abcd", "midstudy run experiments/bridging_micro.py", "2.13.0"):
        assert expected in text
    assert all(arm.state in text for arm in report.manifest.arms)


def test_tables_in_the_folder_are_listed_and_columns_without_items_named(tmp_path: Path, tables: Tables) -> None:
    items = pd.DataFrame({"arm": [0, 0], "column": "sft_loss", "item": [0, 1], "nats": [8.0, 9.0], "target_tokens": [2, 3]})
    text = plain(provenance.reproduce(report_of(tmp_path, replace(tables, items=items))))
    assert re.search(r"items\.parquet one row per .*: nats and target tokens, or what is right 2 ", text)
    assert "Not kept per item: general loss, sft loss before, general loss before." in text
    assert "curves.parquet" not in text


def test_text_of_a_study_cannot_become_markup(tmp_path: Path, tables: Tables) -> None:
    manifest = replace(tables.manifest, question="<script>alert(1)</script>", notes=("<b>note</b>",))
    report = report_of(tmp_path, replace(tables, manifest=manifest))
    for show in (overview.summary, provenance.data):
        assert "<script>" not in show(report).markup
        assert "<b>note" not in show(report).markup


def test_a_finished_study_has_nothing_missing(report: Report) -> None:
    assert overview.is_complete(report)
    assert not overview.missing(report).markup


def test_an_unfinished_study_says_what_is_missing_and_still_has_every_section(tmp_path: Path) -> None:
    tables = bridging_tables(unfinished=[{"mix": "code", "task": "pycode"}])
    failed = {"id": "f" * 16, "label": "sft code", "cause": "out of memory\nmore"}
    report = report_of(tmp_path, tables, num_finished=200, failed=[failed])
    assert "This study is not finished." in plain(overview.summary(report))
    text = plain(overview.missing(report))
    assert "sft code (ffffffffffffffff): out of memory" in text
    assert "more" not in text.split("out of memory")[1][:6]
    unfinished = sum(arm.factors["mix"] == "code" and arm.factors["task"] == "pycode" for arm in tables.manifest.arms)
    assert f"Arms that lack a value: {unfinished} of {len(tables.manifest.arms)}" in text
    assert "120 of 320 stages are not finished" in text
    for show in SECTIONS:
        assert isinstance(show(report), Html)


def test_a_study_without_finished_stages_has_every_section(tmp_path: Path) -> None:
    tables = bridging_tables(unfinished=[{}])
    counts = tuple(CountsEntry(data=name, is_task=False, stage=f"counts{name}") for name in ("general", "code"))
    bare = replace(tables, manifest=replace(tables.manifest, counts=counts), similarity=None, proximity=None)
    report = report_of(tmp_path, bare, num_finished=0)
    for show in (*SECTIONS, forgetting.forgetting, proximity.proximity):
        assert isinstance(show(report), Html)
    assert "No results yet" in plain(comparisons.comparisons(report))
    assert "token counts are not finished" in plain(similarity.similarity(report))


def test_a_study_is_shown_in_terms_of_its_own_factors(tmp_path: Path) -> None:
    report = report_of(tmp_path, loader_study())
    text = plain(comparisons.comparisons(report))
    assert text.strip().startswith("Which loader is better"), "a single comparison has a title too"
    assert "best fit" in text
    assert "+0.100" in text, "higher is better, so an improvement is positive"
    shown = plain(curves.curves(report))
    assert "path on web, test split, nats per token, lower is better" in shown
    assert (report.figures_folder / "curve-path.png").exists()
    for show in SECTIONS:
        assert isinstance(show(report), Html)
    assert not similarity.similarity(report).markup, "the study counts no tokens"


def test_a_study_without_seeds_has_every_section(tmp_path: Path) -> None:
    report = report_of(tmp_path, loader_study(seeds=()))
    assert "2 of 2 arms finished, none repeated with another seed." in plain(overview.summary(report))
    assert "No arm is repeated with another seed, so no effect can be tested." in plain(comparisons.comparisons(report))
    assert "one line per run" in plain(curves.curves(report))
    unfinished = report_of(tmp_path / "unfinished", loader_study(seeds=(), unfinished=True), num_finished=1)
    assert "best fit" in plain(overview.missing(unfinished))


def test_a_study_without_arms_has_every_section(tmp_path: Path) -> None:
    report = report_of(tmp_path, study_without_arms(), **NO_STAGES)
    text = plain(similarity.proximity(report))
    assert text.index("code 20 %") < text.index("math 20 %"), "the closest mix first"
    assert "Runs:" not in plain(overview.summary(report))
    assert "trained alone" not in plain(overview.summary(report))
    assert not comparisons.comparisons(report).markup
    for show in SECTIONS:
        assert isinstance(show(report), Html)


def test_left_out_data_are_on_the_first_screen_and_in_their_section(tmp_path: Path, tables: Tables) -> None:
    report = report_of(tmp_path, tables, left_out=LeftOut(tallies=(tally(),)))
    text = plain(overview.summary(report))
    assert "pycode 25 % trained (within 128 tokens)" in text
    assert "Less than 90 % of a task" in text
    whole = replace(tally(), target_tokens_seen=540_000)
    text = plain(overview.summary(report_of(tmp_path / "whole", tables, left_out=LeftOut(tallies=(whole,)))))
    assert "pycode 90 % trained" in text
    assert "Less than" not in text
    assert "1,990" in plain(left_out.left_out(report))
