"""The main result: effects of every mix on every task against the general-only control, drawn and in numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from midstudy.report.figures.effects import effects_figure
from midstudy.report.figures.style import spoken
from midstudy.report.html import Heading, Html, Row, Text, bold, paragraph, table
from midstudy.report.numbers import difference, interval, loss, p_value, percent, signed_percent
from midstudy.report.report import Report

NOTHING = paragraph("Nothing to show yet: no arm is finished together with its control.", css="note")

COLUMNS: list[Text] = [
    "mix",
    "from step",
    "seeds",
    "control",
    "mix",
    "lower by, nats",
    "95 % interval",
    "lower by, %",
    "95 % interval",
    "p",
    "p, Holm",
]


def effects(report: Report) -> Html:
    """The figure of effects and the tables of effects on task loss and on general loss."""
    results = report.results
    if results.effects.table.empty and results.general_effects.table.empty:
        return NOTHING
    shown = Html("")
    for size, where in report.by_size():
        drawn = effects_figure(report.study.arms, task=results.effects, general=results.general_effects, size=size)
        shown += report.figure(
            drawn,
            "effects",
            size=size,
            caption="How far each mix lowers the loss after fine-tuning below the general-only control's, test "
            "splits, percent of the control's loss. Large markers: means of paired differences; bars: 95 % "
            "t-intervals over n trunk seeds; small rings: single trunk seeds (SFT seeds averaged). Hollow markers: "
            f"one trunk seed, no interval. All tasks share an axis.{where}",
        )
    return (
        shown
        + _effects_table(results.effects.table, "task loss")
        + _effects_table(results.general_effects.table, "general loss")
    )


def _effects_table(effects: pd.DataFrame, what: str) -> Html:
    if effects.empty:
        return Html("")
    family = int(effects["family_size"].iloc[0])
    caption = (
        f"Effects on {what} after SFT against the general-only control (test, nats per token). Seeds: trunk × SFT "
        "seeds; differences are paired by seed, SFT seeds averaged within a trunk, intervals and p from the paired "
        f"t-test over trunk seeds; Holm's correction over the {family} effects of this table that can be tested. "
        "Bold: Holm-corrected p below 0.05. A dash: one trunk seed, nothing to test."
    )
    return table(COLUMNS, _rows(effects), caption=caption)


def _rows(effects: pd.DataFrame) -> Iterator[Row]:
    many_sizes = effects["size"].nunique() > 1
    for (size, task), rows in effects.groupby(["size", "task"], sort=False):
        yield Heading(f"{spoken(task)}, {size}" if many_sizes else spoken(task))
        for _, row in rows.iterrows():
            yield effect_cells(row)


def effect_cells(row: pd.Series) -> list[Text]:
    """Cells of ``COLUMNS`` for a row of effects."""
    name = f"{spoken(row['mix'])} {percent(row['weight'])}"
    is_clear = row["p_holm"] < 0.05
    by_percent = signed_percent(row["relative_improvement"])
    return [
        bold(name) if is_clear else name,
        str(row["start_step"]),
        f"{row['n_trunk_seeds']} × {row['n_sft_seeds']}",
        loss(row["control_loss"]),
        loss(row["loss"]),
        difference(row["difference_nats"]),
        interval(row["ci_low"], row["ci_high"]),
        bold(by_percent) if is_clear else by_percent,
        interval(row["relative_ci_low"], row["relative_ci_high"], signed_percent),
        p_value(row["p_value"]),
        p_value(row["p_holm"]),
    ]
