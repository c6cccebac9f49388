"""The section on representations shows the means over seeds of the compared states and of their layers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from builders.report_study import compared_study, loader_study, write_study

from midstudy.analysis.representation import representation_means
from midstudy.analysis.tables import Tables
from midstudy.report.figures.layers import layers_figure
from midstudy.report.html import Html
from midstudy.report.report import Report
from midstudy.report.sections.representation import representations


def report_of(root: Path, tables: Tables) -> Report:
    return Report.of(write_study(root, tables))


def plain(shown: Html) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", shown.markup))


def test_the_means_are_over_seeds_with_a_t_interval() -> None:
    means = representation_means(compared_study()).set_index("loader")
    assert list(means["column"]) == ["tuned_last_layer_cka"] * 2
    # Values 0.91, 0.92, 0.93 and 0.96, 0.97, 0.98: standard error 0.01 / √3, t(0.975, 2) = 4.302653.
    half_width = 4.302653 * 0.01 / 3**0.5
    for loader, mean in (("plain", 0.92), ("best fit", 0.97)):
        assert means.loc[loader, "mean"] == pytest.approx(mean)
        assert means.loc[loader, "ci_low"] == pytest.approx(mean - half_width, rel=1e-6)
        assert means.loc[loader, "ci_high"] == pytest.approx(mean + half_width, rel=1e-6)
    assert list(means["num_seeds"]) == [3, 3]


def test_the_section_names_states_and_arms_and_shows_means_with_intervals(tmp_path: Path) -> None:
    report = report_of(tmp_path, compared_study())
    text = plain(representations(report))
    assert "tuned last layer cka: linear CKA of the last layer, on answers, test split" in text
    assert "plain 3 0.920 [0.895, 0.945]" in text
    assert "best fit 3 0.970 [0.945, 0.995]" in text
    assert "such as sft 0 with pretrain 0" in text
    assert (report.figures_folder / "layers-tuned.png").exists()


def test_a_heat_map_shows_every_pair_of_layers_with_the_embedding_at_the_bottom() -> None:
    matrix = pd.DataFrame([[1.0, 0.8], [0.7, 0.9]])
    (axes,) = [axes for axes in layers_figure({"an arm": matrix}).axes if axes.get_visible()]
    shown = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert shown == {((0.5, 0.5), "1.00"), ((1.5, 0.5), "0.80"), ((0.5, 1.5), "0.70"), ((1.5, 1.5), "0.90")}
    assert axes.get_ylim() == (0, 2)
    assert axes.get_title(loc="left") == "an arm"
    shades = [patch.get_facecolor()[0] for patch in axes.patches]
    assert shades[2] == max(shades), "the least similar pair is the lightest"
    assert shades[0] == min(shades)


def test_the_layers_of_a_deep_model_are_shaded_without_numbers() -> None:
    matrix = pd.DataFrame([[0.5] * 25] * 25)
    (axes,) = [axes for axes in layers_figure({"an arm": matrix}).axes if axes.get_visible()]
    assert not axes.texts
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "4", "8", "12", "16", "20", "24"]


def test_heat_maps_hold_means_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, pd.DataFrame]] = []

    def draw(matrices: dict[str, pd.DataFrame]):
        drawn.append(matrices)
        return layers_figure(matrices)

    monkeypatch.setattr("midstudy.report.sections.representation.layers_figure", draw)
    representations(report_of(tmp_path, compared_study()))
    (matrices,) = drawn
    assert list(matrices) == ["plain", "best fit"]
    assert matrices["plain"].loc[2, 0] == pytest.approx(0.9 + 0.02 - 0.2)
    assert matrices["best fit"].loc[2, 2] == pytest.approx(0.97)


def test_without_seeds_there_are_no_intervals(tmp_path: Path) -> None:
    text = plain(representations(report_of(tmp_path, compared_study(seeds=()))))
    assert "so there are no intervals" in text
    assert "plain 1 0.910 –" in text


def test_a_study_without_compared_or_finished_states_says_so(tmp_path: Path) -> None:
    assert not plain(representations(report_of(tmp_path / "none", loader_study())))
    tables = compared_study()
    assert tables.representation is not None
    unfinished = replace(tables, representation=tables.representation.iloc[:0])
    assert "No results yet" in plain(representations(report_of(tmp_path / "unfinished", unfinished)))
