"""Sections: their numbers are the analysis's, and a study that is half done says what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from analysis_tables import unfinished
from report_study import bridging_arms, similarity_tables, write_study

from midstudy.analysis.ablations import mid_versus_continued
from midstudy.analysis.answer import answer_sentence
from midstudy.analysis.arms import in_group
from midstudy.analysis.correlations import MEASURES, correlations, proximity_pairs
from midstudy.analysis.effects import paired_effects
from midstudy.report.inputs import FailedStage
from midstudy.report.report import Report
from midstudy.report.sections import ablations, bridging, effects, forgetting, left_out, overview, provenance

SECTIONS = [
    overview.summary,
    overview.missing,
    effects.effects,
    bridging.similarity,
    bridging.proximity,
    ablations.mid_versus_continued,
    ablations.timing,
    ablations.weight,
    forgetting.forgetting,
    provenance.beside_paper,
    provenance.cost,
    provenance.data,
    left_out.left_out,
    provenance.reproduce,
]


def plain(markup: str) -> str:
    """Text of markup, without tags and embedded images."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup)).replace("&#x27;", "'").replace("&gt;", ">")


@pytest.fixture(scope="module")
def correlation_rows() -> dict[str, pd.Series]:
    """The correlation of each measure, straight from the analysis."""
    arms = bridging_arms()
    pairs = proximity_pairs(paired_effects(in_group(arms, "main")).table, similarity_tables(arms)[1])
    return {measure: correlations(pairs, measure=measure).iloc[0] for measure in MEASURES}


def one_contrast() -> pd.DataFrame:
    """Code and the control on one task."""
    arms = bridging_arms()
    few = arms[(arms["task"] == "pycode") & arms["mix"].isin(["control", "code"]) & arms["groups"].str.contains("main")]
    return few.assign(groups="main").reset_index(drop=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report.of(write_study(tmp_path_factory.mktemp("study")))


def half_done(folder: Path) -> Report:
    arms = unfinished(unfinished(bridging_arms(), trunk_seed=2), task="science_qa")
    failed = [{"id": "0a1b", "label": "sft micro control → science_qa", "cause": "RuntimeError: loss is NaN\nTraceback"}]
    return Report.of(write_study(folder, arms=arms, failed=failed))


def test_the_summary_has_question_answer_r_and_cost(report: Report, correlation_rows: dict[str, pd.Series]) -> None:
    text = plain(overview.summary(report).markup)
    assert "Which midtraining mix, from which step" in text
    tasks = ["pycode", "word_problems", "science_qa", "long_form"]
    for sentence in re.split(r"(?<=\.) (?=[A-Z])", answer_sentence(bridging_arms(), tasks=tasks)):
        assert sentence in text
    found = correlation_rows["combined"]
    assert f"r = {found['r']:.2f} over 20 (mix, task) pairs" in text
    assert f"{found['r_unmatched']:.2f} over the 18 unmatched pairs alone" in text
    assert "8.5 min of CPU time" in text
    assert "not finished" not in text


def test_the_table_of_effects_is_the_analysis(report: Report) -> None:
    text = plain(effects.effects(report).markup)
    for loss_column in ("sft_loss", "general_loss"):
        for _, row in paired_effects(in_group(bridging_arms(), "main"), loss_column=loss_column).table.iterrows():
            assert f"{row['control_loss']:.3f} {row['loss']:.3f}" in text
            if row["n_trunk_seeds"] > 1:
                assert f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]".replace("-", "−") in text


def test_the_correlation_table_has_all_that_r_leans_on(report: Report, correlation_rows: dict[str, pd.Series]) -> None:
    text = plain(bridging.proximity(report).markup)
    for found in correlation_rows.values():
        for column in ("r", "r_unmatched", "r_without_best_pair", "leave_one_out_low", "leave_one_out_high", "spearman_rho"):
            assert f"{found[column]:.2f}".replace("-", "−") in text
        assert f"{found['ci_low']:.2f} to {found['ci_high']:.2f}".replace("-", "−") in text
    assert "too narrow" in text


def test_mid_and_continued_stand_side_by_side(report: Report) -> None:
    text = plain(ablations.mid_versus_continued(report).markup)
    for _, row in mid_versus_continued(bridging_arms()).iterrows():
        assert f"{row['control_loss']:.3f} {row['mid_loss']:.3f} {row['continued_loss']:.3f}" in text
    assert "20 % from step 24 (88.5k code tokens) against 100 % from step 157 (170k)" in text


def test_ablations_state_the_specialist_tokens_and_that_they_are_tied_to_the_factor(report: Report) -> None:
    timing, weight = (plain(section(report).markup) for section in (ablations.timing, ablations.weight))
    assert "An earlier start also means more specialist tokens" in timing
    assert "20 % from step 197 (82.1 %) 17.6k" in timing
    assert "A heavier share also means more specialist tokens" in weight
    assert "80 % from step 157 (65.4 %) 136k" in weight


def test_cost_stands_beside_the_lower_bound_and_the_price_without_sharing(report: Report) -> None:
    text = plain(provenance.cost(report).markup)
    assert "useful training steps 4,971" in text
    assert "lower bound of the plan 4,971" in text
    assert "the same grid without sharing 17,112 (3.4 ×)" in text


def test_what_was_carved_is_told(report: Report) -> None:
    assert "long_form: dev carved from train by hash" in plain(provenance.data(report).markup)


def test_commands_commit_versions_and_stage_ids_are_there(report: Report) -> None:
    text = plain(provenance.reproduce(report).markup)
    assert "git checkout 0123456789abcdef0123456789abcdef01234567 midstudy run experiments/bridging_micro.py" in text
    assert "torch 2.13.0+cpu" in text
    for state in bridging_arms()["sft_state"]:
        assert state in text


def test_every_claim_of_the_paper_has_a_row_with_a_verdict(report: Report) -> None:
    markup = provenance.beside_paper(report).markup
    claims = report.results.claims
    assert len(re.findall(r'class="verdict-', markup)) == len(claims)
    assert "2.264 → 2.091, 7.6 % lower (v1 Table 2, 410m)" in plain(markup)


def test_a_finished_study_misses_nothing(report: Report) -> None:
    assert "all 62 runs and all 300 stages are finished" in plain(overview.missing(report).markup)


def test_a_half_done_study_says_what_is_missing(tmp_path: Path) -> None:
    report = half_done(tmp_path)
    assert "This study is not finished." in plain(overview.summary(report).markup)
    text = plain(overview.missing(report).markup)
    missing = report.study.arms["sft_loss"].isna().sum()
    assert f"Runs that lack a loss: {missing} of 62." in text
    assert "micro code 20 % from step 24 → pycode 2 / 1337, 895 all losses" in text
    assert "micro control → science_qa 0 / 1337 all losses" in text
    assert "sft micro control → science_qa (0a1b): RuntimeError: loss is NaN" in text
    assert "of 300 stages are not finished" in text


def test_a_single_missing_loss_is_named(tmp_path: Path) -> None:
    arms = one_contrast()
    arms.loc[0, "general_loss"] = float("nan")
    text = plain(overview.missing(Report.of(write_study(tmp_path, arms=arms))).markup)
    assert "micro control → pycode 0 / 1337 general loss after SFT" in text


@pytest.mark.parametrize("counted", [True, False])
def test_a_study_of_which_nothing_is_finished_has_every_section(tmp_path: Path, counted: bool) -> None:
    arms = bridging_arms()
    arms[[column for column in arms if "loss" in str(column)]] = float("nan")
    report = Report.of(write_study(tmp_path, arms=arms, counted=counted))
    for section in SECTIONS:
        assert section(report).markup
    assert "Nothing to show yet" in effects.effects(report).markup
    assert "Nothing to show yet" in bridging.proximity(report).markup


def test_a_study_of_one_contrast_has_every_section(tmp_path: Path) -> None:
    report = Report.of(write_study(tmp_path, arms=one_contrast()))
    for section in SECTIONS:
        assert section(report).markup
    assert "no continued-pretraining arms" in ablations.mid_versus_continued(report).markup
    assert "no timing arms" in ablations.timing(report).markup


def test_sizes_have_figures_of_their_own(tmp_path: Path) -> None:
    arms = pd.concat([one_contrast(), one_contrast().assign(size="small")], ignore_index=True)
    report = Report.of(write_study(tmp_path, arms=arms))
    assert "Size small." in effects.effects(report).markup
    assert {path.name for path in report.figures_folder.glob("*.png")} == {"effects-micro.png", "effects-small.png"}


def test_text_of_a_study_cannot_become_markup(report: Report) -> None:
    cost = replace(report.study.cost, failed=(FailedStage(id="0a", label="<script>", cause="</p><b>"),))
    markup = overview.missing(replace(report, study=replace(report.study, cost=cost))).markup
    assert "<script>" not in markup
    assert "&lt;script&gt;" in markup


def test_what_was_left_out_is_on_the_first_screen_and_in_its_section(report: Report) -> None:
    assert "training sees: pycode 33.3 % within 128 tokens" in plain(overview.summary(report).markup)
    text = plain(left_out.left_out(report).markup)
    assert "pycode train, training at 128 tokens: 60 of 2,000 items left out (no target token within 128 tokens)" in text
    assert "with 30,000 of 90,000 target tokens (33.3 %); 1,900 targets cut" in text
    assert "All 2 uses of the data" in text
    assert "34 of 23,434 tokens left out" not in text  # a loss of 0.1 % appears only in the table
    assert "too few to fill a block 23,400 tokens 34" in text


def test_a_stage_without_counts_is_not_counted(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    (folder / "left_out.json").write_text('{"tallies": [], "not_counted": ["tokens code"]}')
    report = Report.of(folder)
    assert "Not counted: tokens code." in plain(left_out.left_out(report).markup)
    assert "training sees" not in plain(overview.summary(report).markup)
