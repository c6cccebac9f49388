"""The main result: how far every mix lowers the loss of every task, and the general loss, below the control's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstudy.analysis.arms import CONTROL, in_group
from midstudy.analysis.effects import Effects
from midstudy.report.figures import style
from midstudy.report.figures.style import Look
from midstudy.report.numbers import percent, signed_percent

_ROW_IN, _PANEL_IN, _FOOT_IN = 0.24, 0.42, 0.55
_BELOW = 0.33  # of a row: trunk seeds below their mean, which would hide them


@style.styled
def effects_figure(arms: pd.DataFrame, *, task: Effects, general: Effects, size: str) -> Figure:
    """A row of panels per task: reduction of task loss (left) and of general loss (right) against the control, percent.

    Means with 95 % t-intervals over trunk seeds in the mix's colour, one small ring per trunk seed, the mean hollow where
    one trunk seed allows no interval. ``arms`` gives the rows, so that a mix without a finished pair shows as such.
    """
    planned = in_group(arms, "main")
    planned = planned[(planned["size"] == size) & (planned["mix"] != CONTROL)]
    tasks = list(dict.fromkeys(planned["task"]))
    rows = {one: planned[planned["task"] == one].drop_duplicates("mix") for one in tasks}
    num_rows = [len(rows[one]) for one in tasks]
    height = sum(_PANEL_IN + _ROW_IN * n for n in num_rows) + _FOOT_IN
    figure = style.new_figure(height_in=height)
    panels = figure.subplots(
        len(tasks), 2, squeeze=False, sharex="col", gridspec_kw={"height_ratios": [n + 0.6 for n in num_rows]}
    )
    known = style.looks(arms)
    for column, effects in enumerate((task, general)):
        here = effects.table[effects.table["size"] == size]
        points = effects.by_trunk_seed
        points = points[points["size"] == size] if len(points) else points
        style.room_for(
            panels[0][column],
            [100 * value for table in (here, points) if len(table) for value in table["relative_improvement"]],
            intervals=[(100 * a, 100 * b) for a, b in zip(here["relative_ci_low"], here["relative_ci_high"], strict=True)],
            vertical=False,
        )
        for row, name in enumerate(tasks):
            axes = panels[row][column]
            _forest(
                axes,
                rows[name],
                here[here["task"] == name],
                points[points["task"] == name] if len(points) else points,
                known,
            )
            axes.set_yticks(range(len(rows[name])))
            if column:
                axes.set_yticklabels([])
        panels[0][column].annotate(
            ("Task loss after SFT", "General loss after SFT")[column],
            xy=(0, 1),
            xytext=(0, 22),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=11.5,
            fontweight="bold",
        )
        panels[-1][column].set_xlabel("lower than the control's by, %  (right is better)")
    for row, name in enumerate(tasks):
        panels[row][0].set_yticklabels(
            [_row_name(one, (task.table, general.table), size) for _, one in rows[name].iterrows()]
        )
        panels[row][0].set_title(f"fine-tuned on {style.spoken(name)}", fontweight="normal")
    return figure


def _forest(axes: Axes, rows: pd.DataFrame, effects: pd.DataFrame, points: pd.DataFrame, known: Mapping[str, Look]) -> None:
    style.zero_line(axes, vertical=True)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    for y, (_, row) in enumerate(rows.iterrows()):
        found = effects[effects["mix"] == row["mix"]]
        axes.axhline(y, color=style.RULE, linewidth=0.5, zorder=0)
        if found.empty:
            axes.annotate("not finished", xy=(0, y), xytext=(5, 0), textcoords="offset points", va="center",
                          color=style.MUTED, fontsize=8.5, style="italic")  # fmt: skip
            continue
        effect, look = found.iloc[0], known[str(row["mix"])]
        style.draw_interval(axes, at=y, low=100 * effect["relative_ci_low"], high=100 * effect["relative_ci_high"],
                            colour=look.colour, vertical=False)  # fmt: skip
        style.draw_mean(
            axes, x=100 * effect["relative_improvement"], y=y, look=look, has_interval=pd.notna(effect["ci_low"])
        )
        axes.annotate(signed_percent(effect["relative_improvement"]), xy=(1, y), xycoords=("axes fraction", "data"),
                      xytext=(30, 0), textcoords="offset points", ha="right", va="center", fontsize=8.5)  # fmt: skip
        if effect["n_trunk_seeds"] > 1:
            values = 100 * points.loc[points["mix"] == row["mix"], "relative_improvement"]
            style.draw_points(axes, x=values, y=[y + _BELOW] * len(values))


def _row_name(row: pd.Series, tables: Iterable[pd.DataFrame], size: str) -> str:
    """Mix, weight and trunk seeds: of both losses where a study that is not finished has them from different seeds."""
    counts = []
    for effects in tables:
        found = effects[(effects["size"] == size) & (effects["task"] == row["task"]) & (effects["mix"] == row["mix"])]
        counts.append(int(found["n_trunk_seeds"].iloc[0]) if len(found) else 0)
    return f"{style.spoken(row['mix'])} {percent(row['weight'])}, n = {' | '.join(str(n) for n in dict.fromkeys(counts))}"
