"""The section on forgetting: general loss before and after fine-tuning, and its Pareto front with the loss on the task."""

from __future__ import annotations

import pandas as pd

from midstudy.report.cells import cell_factors, readable
from midstudy.report.html import Heading, Html, Row, Text, bold, small, table
from midstudy.report.numbers import ABSENT, decimal, difference, interval, p_value, percent
from midstudy.report.report import Report
from midstudy.report.sections.comparisons import NO_RESULTS
from midstudy.studies.bridging.forgetting import forgetting as forgetting_table
from midstudy.studies.bridging.forgetting_figure import forgetting_figure
from midstudy.studies.bridging.forgetting_front import name_of_run, pareto_front
from midstudy.studies.bridging.forgetting_front_figure import front_figure, numbered_front
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
    table_of_arms = table_of_arms.merge(arms[cell_factors(report.manifest)].drop_duplicates())
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
        [
            "arm",
            "trunk seeds",
            "before SFT",
            "after SFT",
            "forgotten, nats",
            "95 % interval",
            "beyond the control",
            "95 % interval",
            "p",
        ],
        rows,
        caption="General loss before and after fine-tuning and its increase (positive: forgotten), means over the arm's "
        "trunk seeds with 95 % t-intervals; a dash where there is only one trunk seed. Beyond the control: the arm's "
        "increase minus that of the control with the same seeds (negative: the arm forgets less), with the paired t-test "
        "over trunk seeds; p values are uncorrected.",
    )


def _cells(row: pd.Series) -> list[Text]:
    name = CONTROL
    if row["mix"] != CONTROL:
        name = f"{readable(row['mix'])} {percent(row['weight'])} from step {row['start_step']:.0f}"
    return [
        name,
        str(row["num_seeds"]),
        decimal(row["general_loss_before"]),
        decimal(row["general_loss_after"]),
        difference(row["forgetting_nats"]),
        interval(row["ci_low"], row["ci_high"]),
        difference(row["beyond_control_nats"]),
        interval(row["beyond_ci_low"], row["beyond_ci_high"]),
        p_value(row["beyond_p_value"]),
    ]


def front(report: Report) -> Html:
    """Show the Pareto front of the gain on each task and the general loss after SFT, as figure and table."""
    found = pareto_front(report.tables)
    if (found["mix"] == CONTROL).all():
        return NO_RESULTS
    fixed = [name for name in ("size", "sft_steps") if name in found and found[name].nunique() > 1]
    shown = Html("")
    for values, rows in found.groupby(fixed, sort=False) if fixed else [((), found)]:
        where = ", ".join(f"{readable(name)} {value}" for name, value in zip(fixed, values, strict=True))
        shown += report.figure(
            front_figure(rows),
            "-".join(["pareto-front", *map(str, values)]),
            caption="What a mix gains on the task against what it gains or costs in general loss after fine-tuning, as "
            "paired differences from the control (cross, at the origin); up and right is better. Filled and joined: the "
            "mixes that no other surpasses in both, numbered as in the table. Hollow: surpassed. Bars: 95 % t-intervals "
            f"over trunk seeds, absent with one seed.{f' Arms with {where}.' if where else ''}",
        )
        shown += _front_table(rows, where)
    return shown


def _front_table(front: pd.DataFrame, where: str) -> Html:
    rows: list[Row] = []
    for task, arms in front.groupby("task", sort=False):
        rows.append(Heading(f"fine-tuned on {readable(task)}"))
        numbers = {index: str(number) for number, index in enumerate(numbered_front(arms).index, start=1)}
        for index, row in arms.loc[[*numbers, *arms.index[~arms["is_on_front"]]]].iterrows():
            name = name_of_run(row)
            rows.append(
                [
                    bold(name) if row["is_on_front"] else name,
                    numbers.get(index, ABSENT),
                    str(row["num_seeds"]),
                    difference(row["task_gain_nats"]),
                    interval(row["task_ci_low"], row["task_ci_high"]),
                    decimal(row["general_loss_after"]),
                    difference(row["general_gain_nats"]),
                    interval(row["general_ci_low"], row["general_ci_high"]),
                    small(row["dominated_by"]) if row["dominated_by"] else ABSENT,
                ]
            )
    headings = ["arm", "on the front", "seeds", "task gain, nats", "95 % interval"]
    return table(
        [*headings, "general loss after", "general gain, nats", "95 % interval", "surpassed by"],
        rows,
        caption="The front of the task's loss and of general loss after fine-tuning, by the means of paired differences "
        "from the control (positive: lower loss). An arm is surpassed by another that is at least as good in both and "
        "better in one; where the intervals overlap, that may be chance, and arms on one seed have none."
        + (f" Arms with {where}." if where else ""),
    )
