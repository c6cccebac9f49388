"""A comparison as a forest plot: how much better every arm is than its reference, by panel and measured column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstudy.analysis.effects import Effects
from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import in_panel, label, panels_of
from midstudy.report.figures import style
from midstudy.report.figures.style import Look
from midstudy.report.numbers import signed_percent

_ROW_IN, _PANEL_IN, _FOOT_IN = 0.24, 0.42, 0.55
_BELOW = 0.33  # of a row: offset of single seeds below their mean, which would hide them


@style.styled
def forest_figure(
    arms: pd.DataFrame,
    comparison: ComparisonEntry,
    effects: Mapping[str, Effects],
    *,
    names: Sequence[str],
    titles: Mapping[str, str],
) -> Figure:
    """Plot percent better than the reference: one row per panel of the comparison, one column per measured column.

    Shows means with 95 % t-intervals over seeds in the arm's colour and one small ring per seed; the mean is hollow if there
    is no interval. Every arm of `arms` has a row, so that unfinished arms are visible.

    The axis of a column is linear up to ±1 % and logarithmic beyond if most effects are small beside the largest.

    Args:
        names: the factors that name the arms.
        titles: what a reader calls the measured columns.
    """
    planned = arms.iloc[list(comparison.arms)]
    panels = panels_of(arms, comparison)
    rows = [
        in_panel(planned, panel).drop_duplicates([*names]) if names else in_panel(planned, panel).head(1)
        for _, panel in panels
    ]
    height = sum(_PANEL_IN + _ROW_IN * len(panel_rows) for panel_rows in rows) + _FOOT_IN
    figure = style.new_figure(height_in=height)
    grid = figure.subplots(
        len(panels),
        len(comparison.columns),
        squeeze=False,
        sharex="col",
        gridspec_kw={"height_ratios": [len(panel_rows) + 0.6 for panel_rows in rows]},
    )
    looks = style.looks([label(row, names) for _, row in planned.iterrows()])
    for column, name in enumerate(comparison.columns):
        table, points = effects[name].table, effects[name].by_seed
        is_symlog = style.spreads(100 * table["relative_improvement"].astype(float))
        style.room_for(
            grid[0][column],
            [100 * value for values in (table, points) if len(values) for value in values["relative_improvement"]],
            intervals=[(100 * a, 100 * b) for a, b in zip(table["relative_ci_low"], table["relative_ci_high"], strict=True)],
            vertical=False,
        )
        if is_symlog:
            style.use_symlog(grid[0][column])
        for place, (title, panel) in enumerate(panels):
            axes = grid[place][column]
            _forest(axes, rows[place], in_panel(table, panel), in_panel(points, panel), looks, names)
            axes.set_yticks(range(len(rows[place])))
            if column:
                axes.set_yticklabels([])
            else:
                axes.set_yticklabels(
                    [_row_name(row, names, panel, effects, comparison) for _, row in rows[place].iterrows()]
                )
                axes.set_title(title, fontweight="normal")
        grid[0][column].annotate(
            titles[name],
            xy=(0, 1),
            xytext=(0, 22),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=11.5,
            fontweight="bold",
        )
        scale = f"linear to ±{style.LINEAR_PERCENT:g}, then log" if is_symlog else "right is better"
        grid[-1][column].set_xlabel(f"better than the reference by, %  ({scale})")
    return figure


def _forest(
    axes: Axes,
    rows: pd.DataFrame,
    effects: pd.DataFrame,
    points: pd.DataFrame,
    looks: Mapping[str, Look],
    names: Sequence[str],
) -> None:
    style.zero_line(axes, vertical=True)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    for y, (_, row) in enumerate(rows.iterrows()):
        cell = {name: row[name] for name in names}
        of_arm = in_panel(effects, cell)
        axes.axhline(y, color=style.RULE, linewidth=0.5, zorder=0)
        if of_arm.empty:
            axes.annotate("not finished", xy=(0, y), xytext=(5, 0), textcoords="offset points", va="center",
                          color=style.MUTED, fontsize=8.5, style="italic")  # fmt: skip
            continue
        effect, look = of_arm.iloc[0], looks[label(row, names)]
        low, high = 100 * effect["relative_ci_low"], 100 * effect["relative_ci_high"]
        style.draw_interval(axes, at=y, low=low, high=high, colour=look.colour, vertical=False)
        style.draw_mean(
            axes, x=100 * effect["relative_improvement"], y=y, look=look, has_interval=pd.notna(effect["ci_low"])
        )
        axes.annotate(signed_percent(effect["relative_improvement"]), xy=(1, y), xycoords=("axes fraction", "data"),
                      xytext=(30, 0), textcoords="offset points", ha="right", va="center", fontsize=8.5)  # fmt: skip
        if effect["num_seeds"] > 1:
            values = 100 * in_panel(points, cell)["relative_improvement"]
            style.draw_points(axes, x=values, y=[y + _BELOW] * len(values))


def _row_name(
    row: pd.Series,
    names: Sequence[str],
    panel: Mapping[str, Any],
    effects: Mapping[str, Effects],
    comparison: ComparisonEntry,
) -> str:
    """Return the arm's name with its number of seeds; one number per column if the columns differ (unfinished study)."""
    counts = []
    for column in comparison.columns:
        of_arm = in_panel(effects[column].table, {**panel, **{name: row[name] for name in names}})
        counts.append(int(of_arm["num_seeds"].iloc[0]) if len(of_arm) else 0)
    return f"{label(row, names)}, n = {' | '.join(str(count) for count in dict.fromkeys(counts))}"
