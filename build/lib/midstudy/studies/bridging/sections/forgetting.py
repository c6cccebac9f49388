"""What fine-tuning costs in general ability, by mix: general loss before and after it."""

from __future__ import annotations

import pandas as pd

from midstudy.report.cells import spoken
from midstudy.report.html import Heading, Html, Row, Text, table
from midstudy.report.numbers import difference, interval, loss, percent
from midstudy.report.report import Report
from midstudy.report.sections.comparisons import NOTHING
from midstudy.studies.bridging.forgetting import forgetting as rises
from midstudy.studies.bridging.forgetting_figure import forgetting_figure
from midstudy.studies.bridging.scale import CONTROL


def forgetting(report: Report) -> Html:
    """The figure before and after SFT, and the rise of every arm of the main and continued comparisons in numbers."""
    rows = sorted(
        {
            row
            for one in report.manifest.comparisons
            if one.name in ("main", "continued")
            for row in (*one.arms, *one.references)
        }
    )
    arms = report.tables.arms.iloc[rows]
    risen = rises(report.tables)
    risen = risen.merge(arms[["size", "mix", "weight", "start_step", "task"]].drop_duplicates())
    if risen.empty:
        return NOTHING
    shown = Html("")
    sizes = list(dict.fromkeys(arms["size"]))
    for size in sizes:
        shown += report.figure(
            forgetting_figure(arms[arms["size"] == size]),
            "forgetting" if len(sizes) == 1 else f"forgetting-{size}",
            caption="General-corpus loss (test, nats per token) before fine-tuning (ring) and after it (filled): "
            "the line is what was forgotten. One line per trunk seed (n), SFT seeds averaged. Panels share an axis "
            "that does not begin at zero. Levels differ between trunk seeds: compare arms on the same seeds, as "
            "the paired table of effects on general loss does." + (f" Size {size}." if len(sizes) > 1 else ""),
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
        str(row["num_seeds"]),
        loss(row["general_loss_before"]),
        loss(row["general_loss_after"]),
        difference(row["forgetting_nats"]),
        interval(row["ci_low"], row["ci_high"]),
    ]
