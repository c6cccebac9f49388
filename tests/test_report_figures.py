"""Figures: readable without the text (units, n, what is not finished), honest axes, labels that do not collide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis_tables import study_table, unfinished
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from report_study import bridging_arms, similarity_tables

from midstudy.analysis.ablations import timing_curve, weight_curve
from midstudy.analysis.arms import in_group
from midstudy.analysis.correlations import correlations, proximity_pairs
from midstudy.analysis.effects import paired_effects
from midstudy.report.figures import style
from midstudy.report.figures.curves import curve_figure
from midstudy.report.figures.effects import effects_figure
from midstudy.report.figures.forgetting import forgetting_figure
from midstudy.report.figures.placement import label_points, lay_out
from midstudy.report.figures.proximity import proximity_figure
from midstudy.report.figures.similarity import similarity_figure


@pytest.fixture(scope="module")
def arms() -> pd.DataFrame:
    return bridging_arms()


def draw_effects(arms: pd.DataFrame) -> Figure:
    main = in_group(arms, "main")
    general = paired_effects(main, loss_column="general_loss")
    return effects_figure(arms, task=paired_effects(main), general=general, size="micro")


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def row_names(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_effects_name_every_arm_with_its_weight_and_trunk_seeds(arms: pd.DataFrame) -> None:
    figure = draw_effects(arms)
    first = figure.axes[0]
    assert row_names(first)[:3] == ["code 20 %, n = 3", "math 12 %, n = 3", "instruction 5 %, n = 1"]
    assert figure.axes[-1].get_xlabel() == "lower than the control's by, %  (right is better)"
    low, high = first.get_xlim()
    assert low < 0 < high


def test_effects_print_the_mean_that_the_analysis_gives(arms: pd.DataFrame) -> None:
    table = paired_effects(in_group(arms, "main")).table
    expected = f"{100 * table['relative_improvement'].max():+.1f}"
    assert expected in texts(draw_effects(arms))


def test_an_unfinished_arm_keeps_its_row(arms: pd.DataFrame) -> None:
    half = unfinished(unfinished(arms, mix="qa", task="pycode"), trunk_seed=2)
    figure = draw_effects(half)
    assert row_names(figure.axes[0])[3] == "qa 20 %, n = 0"
    assert row_names(figure.axes[0])[0] == "code 20 %, n = 2"
    assert texts(figure).count("not finished") == 2  # of task loss and of general loss


def test_different_seeds_behind_the_two_losses_are_both_stated(arms: pd.DataFrame) -> None:
    half = arms.copy()
    half.loc[(half["mix"] == "code") & (half["trunk_seed"] == 2), "general_loss"] = np.nan
    assert row_names(draw_effects(half).axes[0])[0] == "code 20 %, n = 3 | 2"


def test_an_interval_wider_than_everything_else_is_cut_with_an_arrow() -> None:
    axes = style.new_figure(height_in=2).subplots()
    low, high = style.room_for(axes, [1.0, 2.0], intervals=[(-30.0, 33.0)], vertical=True)
    assert -3 < low < high < 5
    style.draw_interval(axes, at=0.5, low=-30.0, high=33.0, colour="black", vertical=True)
    bar, *arrows = axes.lines
    assert [line.get_marker() for line in arrows] == ["v", "^"]
    assert np.min(bar.get_ydata()) == pytest.approx(low)


def test_an_interval_that_fits_is_drawn_whole() -> None:
    axes = style.new_figure(height_in=2).subplots()
    style.room_for(axes, [1.0, 2.0], intervals=[(0.5, 2.5)], vertical=True)
    style.draw_interval(axes, at=0.5, low=0.5, high=2.5, colour="black", vertical=True)
    (bar,) = axes.lines
    assert np.asarray(bar.get_ydata()).tolist() == [0.5, 2.5]


@pytest.mark.parametrize(("factor", "curve"), [("start_step", timing_curve), ("weight", weight_curve)])
def test_curves_show_tokens_units_n_and_zero(arms: pd.DataFrame, factor: Any, curve: Any) -> None:
    figure = curve_figure(arms, curve(arms), curve(arms, loss_column="general_loss"), factor=factor, size="micro")
    task, general = figure.axes
    assert task.get_title(loc="left") == "pycode loss after SFT, n = 1"
    assert general.get_title(loc="left") == "general loss after SFT, n = 1"
    assert "tokens drawn" in task.get_xlabel()
    assert "%" in task.get_ylabel()
    assert task.get_ylim()[0] < 0 < task.get_ylim()[1]
    ticks = [label.get_text() for label in task.get_xticklabels()]
    assert ticks[0] == ("10 %\n24\n88.5k" if factor == "start_step" else "10 %\n17k")


def test_curves_of_several_trunk_seeds_have_intervals_and_single_seeds() -> None:
    arms = study_table()
    figure = curve_figure(
        arms, timing_curve(arms), timing_curve(arms, loss_column="general_loss"), factor="start_step", size="micro"
    )
    assert figure.axes[0].get_title(loc="left").endswith("n = 3")
    rings = [line for line in figure.axes[0].lines if line.get_markersize() == style.POINT]
    assert [np.size(line.get_ydata()) for line in rings] == [3, 3, 3]


def _moved(arms: pd.DataFrame, places: dict[float, float], factor: str) -> pd.DataFrame:
    """The arms with start steps or token fractions (in percent) moved to other places."""
    column = "start_fraction" if factor == "start_step" else "weight"
    special = arms["mix"] != "control"
    moved = arms[column].where(~special, arms[column].round(4).replace(places))
    return arms.assign(**{column: moved})


@pytest.mark.parametrize(
    ("factor", "curve", "end"),
    [
        *(("start_step", timing_curve, end) for end in (0.0, 0.01, 0.99)),
        *(("weight", weight_curve, end) for end in (0.01, 0.99, 1.0)),
    ],
)
def test_no_point_of_a_curve_is_cut_by_its_axis(arms: pd.DataFrame, factor: Any, curve: Any, end: float) -> None:
    """A mix that starts at step 0 or makes up all the text lies at an end of the axis, where its markers must be whole."""
    special = in_group(arms, "timing" if factor == "start_step" else "weight")[lambda rows: rows["mix"] != "control"]
    there = special["start_fraction" if factor == "start_step" else "weight"].round(4)
    arms = _moved(arms, {there.max() if end > 0.5 else there.min(): end}, factor)
    general = curve(arms, loss_column="general_loss")
    figure = curve_figure(arms, curve(arms), general, factor=factor, size="micro")
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        frame = axes.get_window_extent()
        marks = [line for line in axes.lines if line.get_marker() not in ("", "None", None)]
        assert marks
        for line in marks:
            points = axes.transData.transform(np.column_stack(line.get_data()).astype(float))
            radius = line.get_markersize() / 2 * figure.dpi / 72
            assert (points[:, 0] - radius >= frame.x0).all()
            assert (points[:, 0] + radius <= frame.x1).all()


def test_an_unfinished_point_of_a_curve_keeps_its_place(arms: pd.DataFrame) -> None:
    half = unfinished(arms, start_step=197)
    figure = curve_figure(
        half, timing_curve(half), timing_curve(half, loss_column="general_loss"), factor="start_step", size="micro"
    )
    assert len(figure.axes[0].get_xticks()) == 4
    assert "not\nfinished" in texts(figure)


def test_the_matrix_prints_every_similarity_it_shades(arms: pd.DataFrame) -> None:
    similarity, _ = similarity_tables(arms)
    figure = similarity_figure(similarity, arms)
    (axes,) = figure.axes
    printed = [text.get_text() for text in axes.texts if text.get_text()[0].isdigit()]
    assert len(printed) == len(axes.patches) == (6 + 5 + 4) * (6 + 4)
    pair = similarity[(similarity["left"] == "code 20 %") & (similarity["right"] == "pycode")]
    row = row_names(axes).index("code 20 %")
    assert printed[10 * row + 6] == f"{pair['combined'].iloc[0]:.2f}"


def test_a_mixture_without_similarities_is_an_error(arms: pd.DataFrame) -> None:
    similarity, _ = similarity_tables(arms)
    with pytest.raises(ValueError, match="no row of 'qa 20 %'"):
        similarity_figure(similarity[similarity["left"] != "qa 20 %"], arms)


@pytest.fixture(scope="module")
def proximity(arms: pd.DataFrame) -> Figure:
    pairs = proximity_pairs(paired_effects(in_group(arms, "main")).table, similarity_tables(arms)[1])
    return proximity_figure(pairs, correlations(pairs).iloc[0], arms)


def test_proximity_states_what_r_leans_on_in_the_figure_itself(arms: pd.DataFrame, proximity: Figure) -> None:
    pairs = proximity_pairs(paired_effects(in_group(arms, "main")).table, similarity_tables(arms)[1])
    found = correlations(pairs).iloc[0]
    headline = proximity.get_suptitle()
    for column in ("r", "ci_low", "ci_high", "r_unmatched", "r_without_best_pair", "leave_one_out_low", "spearman_rho"):
        assert f"{found[column]:.2f}" in headline


def test_proximity_names_all_pairs(proximity: Figure) -> None:
    whole, close = proximity.axes
    assert whole.get_title(loc="left") == "All 20 pairs"
    assert {"code → pycode (matched)", "math → word problems (matched)"} <= {text.get_text() for text in whole.texts}
    assert close.get_title(loc="left") == f"The {len(close.texts)} pairs in the frame, enlarged"
    assert len(whole.texts) + len(close.texts) == 20


def test_too_few_pairs_are_drawn_without_a_correlation(arms: pd.DataFrame) -> None:
    few = arms[
        (arms["task"] == "pycode") & arms["mix"].isin(["control", "code", "math"]) & arms["groups"].str.contains("main")
    ]
    pairs = proximity_pairs(paired_effects(few).table, similarity_tables(arms)[1])
    figure = proximity_figure(pairs, correlations(pairs).iloc[0], few)
    assert figure.get_suptitle().startswith("No correlation: r: 2 pairs, at least 4 are needed")


def test_forgetting_has_a_line_for_every_trunk_seed(arms: pd.DataFrame) -> None:
    figure = forgetting_figure(arms, size="micro")
    first = figure.axes[0]
    assert row_names(first)[0] == "control, n = 3"
    assert row_names(first)[-1] == "code 100 %, n = 1"
    assert first.get_xlabel() == "general loss, nats/token"
    segments = [line for line in first.lines if line.get_linewidth() == 1.3]
    assert len(segments) == 3 + 3 + 3 + 1 + 1 + 1 + 1
    shared = {axes.get_xlim() for axes in figure.axes}
    assert len(shared) == 1


def test_labels_cover_neither_points_nor_each_other() -> None:
    generator = np.random.default_rng(5)
    x, y = generator.uniform(0.1, 0.9, 14), generator.uniform(0.1, 0.9, 14)
    figure = style.new_figure(height_in=5)
    axes = figure.subplots()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    lay_out(figure)
    label_points(axes, x=list(x), y=list(y), texts=[f"label {i}" for i in range(14)], size=8)
    figure.draw_without_rendering()
    labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
    assert len(labels) == 14
    texts_only = [Text.get_window_extent(label) for label in labels]  # without the lines to their points
    points = [Bbox.from_bounds(at_x - 3, at_y - 3, 6, 6) for at_x, at_y in axes.transData.transform(np.column_stack([x, y]))]
    for i, box in enumerate(texts_only):
        assert not any(box.overlaps(other) for other in [*texts_only[:i], *points])


def test_every_mix_has_a_look_of_its_own() -> None:
    arms = pd.DataFrame({"mix": ["control", *(f"mix{i}" for i in range(30))]})
    known = style.looks(arms)
    assert len({(look.colour, look.marker) for look in known.values()}) == 31


def test_a_figure_is_saved_the_same_twice(tmp_path: Path, arms: pd.DataFrame) -> None:
    for folder in ("one", "two"):
        assert style.save(forgetting_figure(arms, size="micro"), tmp_path / folder, "forgetting").name == "forgetting.png"
    for suffix in ("png", "svg"):
        one, two = ((tmp_path / folder / f"forgetting.{suffix}").read_bytes() for folder in ("one", "two"))
        assert one == two
