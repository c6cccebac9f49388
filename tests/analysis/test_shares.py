"""The table of shares of a real study: each state with its interval, and its change on the items of the state before."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders.quiz_study import quiz_study, write_quiz
from builders.small_study import make_study, write_text
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from midstudy.analysis.items import items_table
from midstudy.analysis.shares import shares_table
from midstudy.analysis.tables import Tables, read_tables, write_tables
from midstudy.recipe import Arm, Curriculum, Study, factors
from midstudy.report.report import Report
from midstudy.report.sections.shares import shares as section
from midstudy.report.sections.subjects import subjects
from midstudy.store.store import Store
from midstudy.store.study_manifest import load


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Study, Tables]:
    folder = tmp_path_factory.mktemp("quiz")
    write_text(folder)
    write_quiz(folder)
    store, study = Store.open(folder / "store", create=True), quiz_study(folder)
    make_study(store, study)
    return store, study, write_tables(store, load(store, "quiz"), store.paths.study("quiz"))


def right(tables: Tables, column: str) -> pd.Series:
    assert tables.items is not None
    return tables.items[tables.items["column"] == column].set_index("item")["right"]


def test_a_row_is_a_state_with_its_share_and_interval(made: tuple[Store, Study, Tables]) -> None:
    _, _, tables = made
    assert tables.shares is not None
    assert tables.shares["column"].tolist() == ["before", "letters", "scrambled", "replies"]
    assert tables.shares["step"].tolist() == [4, 44, 44, 44]
    assert tables.shares["state"].tolist() == ["pretrain to step 4", "sft", "sft", "sft"]
    assert tables.shares["measure"].tolist() == [0, 0, 1, 2]
    for _, row in tables.shares.iterrows():
        values = right(tables, row["column"])
        assert (row["num_items"], row["share"]) == (200, values.mean()) == (200, tables.arms[row["column"]].iloc[0])
        expected = proportion_confint(int(values.sum()), 200, method="wilson")
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(expected, abs=1e-12)


def test_the_commonest_answer_is_said_beside_right_ones(made: tuple[Store, Study, Tables]) -> None:
    store, _, tables = made
    assert tables.shares is not None
    rows = tables.shares.set_index("column")
    text = (store.published_folder(rows.loc["letters", "evaluation"]) / "choices.jsonl").read_text("utf-8")
    answers = Counter(json.loads(line)["answer"] for line in text.splitlines())
    expected = answers.most_common(1)[0][1] / answers.total()
    assert rows.loc["letters", "commonest"] == rows.loc["before", "commonest"] == expected
    assert rows.loc["replies", "commonest"] != expected, "other questions have their own"
    shown = section(Report.of(store.paths.study("quiz"))).markup
    assert f"the commonest answer would be right for {100 * expected:.3g} %" in shown


def test_the_change_is_from_the_state_before_with_the_same_evaluation(made: tuple[Store, Study, Tables]) -> None:
    _, _, tables = made
    assert tables.shares is not None
    rows = tables.shares.set_index("column")
    assert rows["before"].to_dict() == {"before": "", "letters": "pretrain to step 4", "scrambled": "", "replies": ""}
    first, second = right(tables, "before"), right(tables, "letters")
    change = rows.loc["letters"]
    assert change["change"] == pytest.approx((second - first).mean())
    table = pd.crosstab(first, second).reindex(index=[0.0, 1.0], columns=[0.0, 1.0], fill_value=0)
    assert change["p_value"] == pytest.approx(mcnemar(table.to_numpy(), exact=True).pvalue)
    assert change["change_low"] < change["change"] < change["change_high"]
    assert rows.loc[["before", "scrambled", "replies"], ["change", "change_low", "p_value"]].isna().all().all()


def test_the_table_is_kept_and_shown_in_the_report(made: tuple[Store, Study, Tables]) -> None:
    store, _, tables = made
    folder = store.paths.study("quiz")
    kept = read_tables(folder).shares
    assert kept is not None
    pd.testing.assert_frame_equal(kept, tables.shares)
    shown = section(Report.of(folder)).markup
    assert "accuracy on letters, test split (before, letters)" in shown
    assert "accuracy on scrambled, test split (scrambled)" in shown
    row = kept.set_index("column").loc["letters"]
    assert f'<td class="number">{100 * row["share"]:.3g} %</td>' in shown
    assert f"+{100 * row['change']:.1f}" in shown


def test_a_study_without_shares_has_no_table_and_no_section(made: tuple[Store, Study, Tables]) -> None:
    store, _, tables = made
    manifest = load(store, "quiz")
    assert tables.items is not None
    losses = tables.items[tables.items["column"] == "late_loss"]
    assert len(losses) == 20
    assert shares_table(store, manifest, None) is None
    assert shares_table(store, manifest, losses) is None
    report = Report.of(store.paths.study("quiz"))
    without = replace(report, study=replace(report.study, tables=replace(tables, shares=None)))
    assert section(without).markup == ""


def test_a_state_without_finite_scores_has_no_numbers(made: tuple[Store, Study, Tables]) -> None:
    store, _, tables = made
    items = items_table(store, load(store, "quiz"))
    assert items is not None
    items.loc[items["column"] == "before", "right"] = np.nan
    found = shares_table(store, load(store, "quiz"), items)
    assert found is not None
    assert tables.shares is not None
    rows = found.set_index("column")
    assert rows.loc["before", ["share", "ci_low", "ci_high"]].isna().all()
    assert math.isnan(rows.loc["letters", "change"])
    assert rows.loc["letters", "share"] == tables.shares.set_index("column").loc["letters", "share"]
    assert "–" in section(Report.of(store.paths.study("quiz"))).markup


def test_states_of_one_run_in_several_arms_are_compared_with_the_one_before(tmp_path: Path) -> None:
    """As one arm for each state: the change is from the nearest state on the way, not from a state beside it."""
    write_text(tmp_path)
    write_quiz(tmp_path)
    store, whole = Store.open(tmp_path / "store", create=True), quiz_study(tmp_path)
    tuned = whole.arms[0].curriculum
    letters = whole.arms[0].measures["letters"]
    phase = replace(tuned.stretches[-1].phase, num_steps=10)
    trunk = Curriculum.of(tuned.start, tuned.stretches[0].phase)
    runs = {"trunk": trunk, "short": trunk.then(phase), "other": trunk.then(replace(phase, seed=7, num_steps=12))}
    runs["long"] = runs["short"].then(replace(phase, seed=9))
    arms = [
        Arm(
            curriculum=replace(run, start=replace(run.start, factors=factors(run=name))),
            measures={"letters": replace(letters, state=run.state())},
        )
        for name, run in runs.items()
    ]
    study = Study(name="states", question="?", arms=arms, seeds=())
    make_study(store, study)
    tables = write_tables(store, load(store, "states"), store.paths.study("states"))
    assert tables.shares is not None
    found = tables.shares.set_index("step")
    labels = found["state"].to_dict()
    assert found["before"].to_dict() == {4: "", 14: labels[4], 16: labels[4], 24: labels[14]}


def test_subjects_of_ten_items_or_more_are_shown_at_every_state(made: tuple[Store, Study, Tables]) -> None:
    store, _, tables = made
    report = Report.of(store.paths.study("quiz"))
    shown = subjects(report).markup
    assert tables.items is not None
    for column in ("before", "letters", "scrambled"):
        part = tables.items[tables.items["column"] == column]
        for name, values in part.groupby("subject")["right"]:
            low, high = (f"{100 * end:.3g} %" for end in proportion_confint(int(values.sum()), len(values), method="wilson"))
            assert f'<td class="number">[{low}, {high}]</td>' in shown, (column, name)
    small = tables.items.drop(tables.items.index[tables.items.groupby(["column", "subject"]).cumcount() >= 9])
    few = replace(report, study=replace(report.study, tables=replace(tables, items=small)))
    assert "<td" not in subjects(few).markup
