"""What fine-tuning costs in general ability, by mix: general loss before and after it."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.arms import CONTROL, is_member
from midstudy.report.figures.forgetting import forgetting_figure
from midstudy.report.figures.style import spoken
from midstudy.report.html import Heading, Html, Row, Text, table
from midstudy.report.numbers import difference, interval, loss, percent
from midstudy.report.report import Report
from midstudy.report.sections.effects import NOTHING


def forgetting(report: Report) -> Html:
    """The figure before and after SFT, and the rise of every arm in numbers."""
    risen = report.results.forgetting
    risen = risen[is_member(risen, "main") | is_member(risen, "continued")]
    if risen.empty:
        return NOTHING
    shown = Html("")
    for size, where in report.by_size():
        shown += report.figure(
            forgetting_figure(report.study.arms, size=size),
            "forgetting",
            size=size,
            caption="General-corpus loss (test, nats per token) before fine-tuning (ring) and after it (filled): "
            "the line is what was forgotten. One line per trunk seed (n), SFT seeds averaged. Panels share an axis "
            "that does not begin at zero. Levels differ between trunk seeds: compare arms on the same seeds, as "
            f"the paired table of effects on general loss does.{where}",
        )
    return shown + _table(risen)


def _table(risen: pd.DataFrame) -> Html:
    rows: list[Row] = []
    many_sizes = risen["size"].nunique() > 1
    for (size, task), arms in risen.groupby(["size", "task"], sort=False):
        rows.append(Heading(f"fine-tuned on {spoken(task)}" + (f", {size}" if many_sizes else "")))
        rows += [_cells(row) for _, row in arms.sort_values("mix", key=lambda mix: mix != CONTROL, kind="stable").iterrows()]
    return table(
        ["arm", "trunk seeds", "before SFT", "after SFT", "forgotten, nats", "95 % interval"],
        rows,
        caption="General loss before and after fine-tuning and its rise (positive: forgotten), means over the "
        "arm's own trunk seeds with 95 % t-intervals; a dash where one trunk seed allows none.",
    )


def _cells(row: pd.Series) -> list[Text]:
    name = CONTROL
    if row["mix"] != CONTROL:
        name = f"{spoken(row['mix'])} {percent(row['weight'])} from step {row['start_step']:.0f}"
    return [
        name,
        str(row["n_trunk_seeds"]),
        loss(row["general_loss_before"]),
        loss(row["general_loss_after"]),
        difference(row["forgetting_nats"]),
        interval(row["ci_low"], row["ci_high"]),
    ]
