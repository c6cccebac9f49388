"""A study of a few arms shows its measures beside each other; verdicts over items of one seed say what they are about."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
from builders.analysis_tables import bridging_tables, tables_of
from builders.report_study import write_study

from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim
from midstudy.report.html import Html
from midstudy.report.report import Report
from midstudy.report.sections.claims import claims
from midstudy.report.sections.comparisons import comparison
from midstudy.report.sections.limitations import limitations
from midstudy.report.sections.measures import measures


def plain(shown: Html) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", shown.markup)))


def three_states(**more: Any) -> Tables:
    values = {"base": (1.5, 0.1), "mid": (1.25, 0.9), "sft": (math.nan, 0.95)}
    rows = [
        {"trunk_seed": 0, "after": after, "general_bits": bits, "sums": share} for after, (bits, share) in values.items()
    ]
    compared = {"name": "mid", "arms": {"after": "mid"}, "references": {"after": "base"}, "columns": ("sums",), "match": ()}
    return tables_of(rows, [compared], columns={"general_bits": "lower", "sums": "higher"}, seeds=("trunk_seed",), **more)


def test_a_row_is_a_measure_with_a_column_for_each_arm_and_shares_are_elsewhere(tmp_path: Path) -> None:
    shown = plain(measures(Report.of(write_study(tmp_path, three_states()))))
    assert "measure unit base mid sft general bits nats per token 1.500 1.250 –" in shown
    assert "sums" not in shown


def test_many_arms_have_no_such_table(tmp_path: Path) -> None:
    assert measures(Report.of(write_study(tmp_path, bridging_tables()))).markup == ""


def test_verdicts_about_one_state_are_named_together_with_what_they_are_about(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "source": "us",
        "estimator": "midstudy.analysis.item_tests:share",
        "comparison": "mid",
        "column": "sums",
    }
    known = [Claim(text=text, margin=margin, **asked) for text, margin in (("it adds", 0.2), ("it is perfect", 0.99))]
    tables = three_states(claims=known)
    right = [{"arm": 1, "column": "sums", "item": item, "right": float(item < 90)} for item in range(100)]
    report = Report.of(write_study(tmp_path, replace(tables, items=pd.DataFrame(right))))
    assert list(report.judged["verdict"]) == ["yes", "no"]
    about = "for these weights: the test is over items, not over seeds of training"
    assert f"The verdicts on 'it adds', 'it is perfect' hold {about}." in plain(limitations(report))
    assert plain(claims(report)).count(about) == 2
    assert "A single seed decides nothing, except about the items of its own state" in plain(claims(report))


def test_a_forest_plot_shows_three_measures_at_most_and_none_without_a_percentage(tmp_path: Path) -> None:
    """Of a reference at 0 no effect is a percentage: the table has its difference, and no empty axes are drawn."""
    columns = ("one", "two", "three", "four", "never")
    rows = [
        {"trunk_seed": 0, "after": after, **dict.fromkeys(columns, value), "never": value - 1.0}
        for after, value in (("base", 1.0), ("mid", 0.9))
    ]
    compared = {"arms": {"after": "mid"}, "references": {"after": "base"}, "match": ()}
    comparisons = [{"name": "all", "columns": columns, **compared}, {"name": "none", "columns": ("never",), **compared}]
    tables = tables_of(rows, comparisons, columns=dict.fromkeys(columns, "lower"), seeds=("trunk_seed",))
    report = Report.of(write_study(tmp_path, tables))
    every, nothing = (comparison(report, one) for one in report.manifest.comparisons)
    drawn = (report.figures_folder / "all.svg").read_text("utf-8")
    assert [f"<!-- {name} -->" in drawn for name in columns] == [True, True, True, False, False]
    assert "Not drawn, for want of room or of a percentage: 2 measures in the tables." in plain(every)
    assert "<img" not in nothing.markup
    assert "−0.100" in plain(nothing) or "+0.100" in plain(nothing)
