"""The Pareto front of a task: mixes that no other mix surpasses both in the task's loss and in general loss after SFT.

Both quantities are paired differences from the control, because arms run on different seeds, whose levels differ.
"""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.effects import cell_factors
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.tables import Tables
from midstudy.studies.bridging.controls import WithControl, with_controls
from midstudy.studies.bridging.scale import COLUMNS as LOSSES
from midstudy.studies.bridging.scale import CONTROL

COLUMNS = (
    "num_seeds",
    "task_gain_nats",
    "task_ci_low",
    "task_ci_high",
    "general_loss_after",
    "general_gain_nats",
    "general_ci_low",
    "general_ci_high",
    "is_on_front",
    "dominated_by",
)


def pareto_front(tables: Tables) -> pd.DataFrame:
    """Return the task gain and the general loss after SFT of every cell with a control, and which cells are on the front.

    One row per cell with a seed that is finished in both: the factors, num_seeds, task_gain_nats (control − arm, positive is
    better), general_loss_after (mean, nats per token), general_gain_nats (control − arm, positive is better), the 95 %
    intervals of both gains over seeds, is_on_front, dominated_by (the mix with the largest task gain of those that are at
    least as good in both gains and better in one; '' on the front). The control is the row with gains of 0. A front is that
    of the means, among the cells that share the control; overlapping intervals can put an equal arm beside it.
    """
    cells = [cell for cell in with_controls(tables, tables.arms) if len(cell.controls)]
    rows = [row for cell in cells if (row := _row(cell)) is not None]
    names = cell_factors(tables)
    table = pd.DataFrame(rows, columns=[*names, *COLUMNS])
    shared = [name for name in names if name not in ("mix", "weight", "start_step")]
    for _, group in table.groupby(shared, sort=False):
        gains = group[["task_gain_nats", "general_gain_nats"]]
        for index, own in gains.iterrows():
            better = gains[(gains >= own).all(axis=1) & (gains > own).any(axis=1)]
            table.loc[index, "is_on_front"] = better.empty
            if not better.empty:
                table.loc[index, "dominated_by"] = name_of_run(group.loc[better["task_gain_nats"].idxmax()])
    return table.astype({"is_on_front": bool})


def name_of_run(row: pd.Series) -> str:
    """Return the mix of a row with its share and start: 'code 20 % from step 16', 'control'."""
    if row["mix"] == CONTROL:
        return CONTROL
    return f"{row['mix']} {100 * row['weight']:.3g} % from step {row['start_step']:.0f}".replace("_", " ")


def _row(cell: WithControl) -> dict[str, object] | None:
    of_task, of_general = (cell.paired(column) for column in LOSSES)
    task, general = (mean_interval(paired["difference"]) for paired in (of_task, of_general))
    if not (task.n and general.n):
        return None
    values = (
        min(task.n, general.n),
        *(task.mean, task.low, task.high),
        float(of_general["value"].mean()),
        *(general.mean, general.low, general.high),
        True,
        "",
    )
    return cell.factors | dict(zip(COLUMNS, values, strict=True))
