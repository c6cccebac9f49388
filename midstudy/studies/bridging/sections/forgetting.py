"""The section on forgetting: general loss before and after fine-tuning, by mix."""

from __future__ import annotations

import pandas as pd

from midstudy.report.cells import readable
from midstudy.report.html import Heading, Html, Row, Text, table
from midstudy.report.numbers import difference, interval, loss, percent
from midstudy.report.report import Report
from midstudy.report.sections.comparisons import NO_RESULTS
from midstudy.studies.bridging.forgetting import forgetting as forgetting_table
from midstudy.studies.bridging.forgetting_figure import forgetting_figure
from midstudy.studies.bridging.scale import CONTROL


def forgetting(report: Report) -> Html:
    """Show general loss before and after SFT, as figure and table, for the main and continued comparisons."""
    rows = sorted(
        {
            row
            for comparison in report.manifest.comparisons
            if comparison.name in ("main", "continued")
            for row in (*comparison.arms, *comparison.references)
        }
    )
    arms = report.tables.arms.iloc[rows]
    table_of_arms = forgetting_table(report.tables)
    table_of_arms = table_of_arms.merge(arms[["size", "mix", "weight", "start_step", "task"]].drop_duplicates())
    if table_of_arms.empty:
        return NO_RESULTS
    shown = Html("")
    sizes = list(dict.fromkeys(arms["size"]))
    for size in sizes:
        shown += report.figure(
            forgetting_figure(arms[arms["size"] == size]),
            "forgetting" if len(sizes) == 1 else f"forgetting-{size}",
            caption="General-corpus loss (test, nats per token) before fine-tuning (ring) and after it (filled): "
            "the line is what was forgotten. One line per trunk seed (n), averaged over SFT seeds. All panels share an axis "
            "that does not start at zero. Levels differ between trunk seeds: compare arms on the same seeds, as "
            "the table of paired effects on general loss does." + (f" Size {size}." if len(sizes) > 1 else ""),
        )
    return shown + _table(table_of_arms)


def _table(table_of_arms: pd.DataFrame) -> Html:
    rows: list[Row] = []
    many_sizes = table_of_arms["size"].nunique() > 1
    for (size, task), arms in table_of_arms.groupby(["size", "task"], sort=False):
        rows.append(Heading(f"fine-tuned on {readable(task)}" + (f", {size}" if many_sizes else "")))
        rows += [_cells(row) for _, row in arms.sort_values("mix", key=lambda mix: mix != CONTROL, kind="stable").iterrows()]
    return table(
        ["arm", "trunk seeds", "before SFT", "after SFT", "forgotten, nats", "95 % interval"],
        rows,
        caption="General loss before and after fine-tuning and its increase (positive: forgotten), means over the arm's "
        "trunk seeds with 95 % t-intervals; a dash where there is only one trunk seed.",
    )


def _cells(row: pd.Series) -> list[Text]:
    name = CONTROL
    if row["mix"] != CONTROL:
        name = f"{readable(row['mix'])} {percent(row['weight'])} from step {row['start_step']:.0f}"
    return [
        name,
        str(row["num_seeds"]),
        loss(row["general_loss_before"]),
        loss(row["general_loss_after"]),
        difference(row["forgetting_nats"]),
        interval(row["ci_low"], row["ci_high"]),
    ]
