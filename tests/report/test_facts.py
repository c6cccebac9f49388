"""The sections that are made of facts alone: data, power and limitations."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from builders.planned_bridging import planned_tables
from builders.report_study import REPRODUCTION, loader_study, write_study

from midstudy.analysis.claims import INCONCLUSIVE
from midstudy.report.html import Html
from midstudy.report.numbers import with_minus
from midstudy.report.report import Report
from midstudy.report.sections import limitations as general
from midstudy.report.sections.power import power, power_of
from midstudy.report.sections.provenance import data
from midstudy.studies.bridging.sections.limitations import limitations


def plain(shown: Html) -> str:
    """Return the text of a section without markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", shown.markup)).replace("&#x27;", "'")


def facts(**values: float) -> pd.DataFrame:
    """Return the facts of two data sets, of which the second one is half as large and has no sample."""
    one = {
        "train_documents": 100.0,
        "dev_documents": 5.0,
        "test_documents": 7.0,
        "train_tokens": 2e6,
        "bytes_per_token": 3.5,
    }
    one |= {"overlap": 4.0, "sampled_documents": 100.0, "sampled_tokens": 50_000.0, **values}
    other = {**one, "train_tokens": 1e6, "overlap": float("nan"), "sampled_tokens": 10_000.0}
    return pd.DataFrame([{"data": "general", "source": "", **one}, {"data": "code", "source": "", **other}])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report.of(write_study(tmp_path_factory.mktemp("facts"), replace(planned_tables(), data=facts())))


def test_data_sets_are_shown_with_their_sizes_and_bytes_a_token(report: Report) -> None:
    text = plain(data(report))
    assert "general wheels:general 100 5 7 2M 7.00 3.50 50k 4" in text
    assert "code wheels:code 100 5 7 1M 3.50 3.50 10k –" in text, "a source that is not searched has no count of overlaps"


def test_splits_of_built_in_text_are_not_called_those_of_a_source(report: Report) -> None:
    text = plain(data(report))
    assert "Built-in text has no splits of its own: this project carves dev and test from it by hash." in text
    assert "those of the sources" not in text


def test_splits_of_files_are_those_of_the_sources_unless_a_note_says_otherwise(tmp_path: Path) -> None:
    def shown(tables: object, root: Path) -> str:
        folder = write_study(root, tables)  # type: ignore[arg-type]
        found = Report.of(folder)
        study = replace(found.study, reproduction={**REPRODUCTION, "sources": {"web": "/text/web"}})
        return plain(data(replace(found, study=study)))

    tables = loader_study()
    assert "All splits are those of the sources." in shown(tables, tmp_path / "own")
    carved = replace(tables, manifest=replace(tables.manifest, notes=("web: dev was carved from train",)))
    text = shown(carved, tmp_path / "carved")
    assert "web: dev was carved from train" in text
    assert "those of the sources" not in text


def test_claims_that_one_seed_cannot_decide_are_counted_and_named(report: Report) -> None:
    few = [one for one in power_of(report) if one.can_be_decided is False]
    assert 0 < len(few) < len(report.manifest.claims)
    assert f"{len(few)} of {len(power_of(report))} claims cannot be decided on this grid" in plain(limitations(report))
    assert all(one.text.replace("_", " ") in plain(limitations(report)) for one in few)
    assert f"{len(few)} of " in plain(power(report))


def test_an_undecided_claim_has_the_seeds_that_it_needs(report: Report) -> None:
    opened = [
        one for one, verdict in zip(power_of(report), report.judged["verdict"], strict=True)
        if verdict == INCONCLUSIVE and one.seeds_needed_holm
    ]  # fmt: skip
    assert opened
    for one in opened:
        assert re.search(
            rf"{re.escape(one.text.replace('_', ' '))} .*? {one.seeds_needed_holm:,} undecided", plain(power(report))
        )


def test_limitations_are_those_of_the_study_s_own_facts(report: Report, tmp_path: Path) -> None:
    text = plain(limitations(report))
    arms = report.tables.arms.groupby(["mix", "weight", "start_step", "task"])["trunk_seed"].nunique()
    assert f"{(arms == 1).sum()} of {len(arms)} cells have one trunk seed and no interval." in text
    assert "All runs are of one model, nano" in text
    assert "from 10k tokens (code) to 50k (general)" in text
    assert "Fine-tuning has one length, 72 steps" in text
    assert "come from one template engine" not in text, "the sources of this study are not known to be built in"
    study = replace(
        report.study, reproduction={**REPRODUCTION, "sources": {"math": "wheels:math", "word_problems": "wheels:w"}}
    )
    assert "come from one template engine" in plain(limitations(replace(report, study=study)))
    whole = Report.of(write_study(tmp_path, planned_tables("full=True")))
    assert "All runs are of one model" not in plain(limitations(whole))
    assert "Fine-tuning has one length" not in plain(limitations(whole))


def test_a_study_without_limitations_has_no_section(tmp_path: Path) -> None:
    loaders = loader_study()
    stages = {one: replace(stage, model=str(number)) for number, (one, stage) in enumerate(loaders.manifest.stages.items())}
    tables = replace(loaders, manifest=replace(loaders.manifest, stages=stages))
    assert not general.limitations(Report.of(write_study(tmp_path, tables))).markup


def test_numbers_in_sentences_have_a_true_minus() -> None:
    assert with_minus("by -0.3 % (-1 to +2), arXiv 2510.14865, p = 1e-05, 3-4, x-1") == (
        "by −0.3 % (−1 to +2), arXiv 2510.14865, p = 1e-05, 3-4, x-1"
    )


def test_a_choice_at_an_end_of_what_was_tried_is_a_limitation(report: Report) -> None:
    def made(*chosen: float) -> Report:
        tried = [{"value": value, "measured": 1.0, "margin": 0.0} for value in (0.001, 0.003, 0.01)]
        decisions = [{"name": "peak_lr", "chosen": value, "tried": tried} for value in chosen]
        return replace(report, study=replace(report.study, reproduction={**REPRODUCTION, "decisions": decisions}))

    assert "2 of 3 choices of peak lr took the highest value that was tried (0.01)" in plain(
        general.limitations(made(0.01, 0.003, 0.01))
    )
    assert "that was tried" not in plain(general.limitations(made(0.003)))
