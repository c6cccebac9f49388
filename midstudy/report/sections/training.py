"""Training curves: how the runs of a study trained before fine-tuning on tasks, all seeds."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.training import BATCHES
from midstudy.report.cells import cell_factors, differing, distinguishing, readable
from midstudy.report.figures.training import training_figure
from midstudy.report.html import Html
from midstudy.report.report import Report

_TRUNKS = ("pretrain", "midtrain")
"""Roles of the stages that are drawn; a loss on a task's targets has another level."""

_MOST_RUNS = 8
"""A figure of more lines cannot be read."""


def training(report: Report) -> Html:
    """Show the losses of pretraining and midtraining over steps; nothing if no such stage has a log."""
    table = report.tables.training
    if table is None:
        return Html("")
    trunks = table[table["role"].isin(_TRUNKS)]
    if trunks.empty or (trunks["split"] != BATCHES).all():
        return Html("")
    cell = cell_factors(report.manifest)
    names = distinguishing(trunks.fillna(dict.fromkeys(cell, "")), differing(trunks, cell))
    # A study may repeat fine-tuning alone: its trunks then have no value of the seed that replicates.
    seed = report.seed if report.seed and trunks[report.seed].notna().all() else None
    drawn, num_runs = _most_replicated(trunks, names, seed)
    left_out = f"Drawn are {_MOST_RUNS} of {num_runs} runs, those with the most seeds; all are in training.parquet. "
    return report.figure(
        training_figure(drawn, names=names, seed=seed),
        "training",
        caption="Loss of training batches before their update, as logged. "
        + (f"Thin: single values of {readable(seed)}; thick: their mean, where there are several. " if seed else "")
        + "A run that leaves a trunk is drawn from its own first logged step on; n counts its seeds. "
        + (left_out if num_runs > _MOST_RUNS else "")
        + _measured(drawn)
        + "Levels of the lines are those of the text that a run reads: a mix with easier text has a lower line without "
        "being a better model of general text.",
    )


def _most_replicated(trunks: pd.DataFrame, names: list[str], seed: str | None) -> tuple[pd.DataFrame, int]:
    """Return the rows of the runs with the most seeds, in the study's order, and the number of all runs."""
    if not names:
        return trunks, 1
    run = trunks.groupby(names, sort=False, dropna=False).ngroup()
    num_seeds = trunks[seed].groupby(run).nunique() if seed else pd.Series(1, index=range(run.max() + 1))
    kept = num_seeds.sort_values(ascending=False, kind="stable").index[:_MOST_RUNS]
    return trunks[run.isin(kept)], len(num_seeds)


def _measured(trunks: pd.DataFrame) -> str:
    measured = trunks.loc[trunks["split"] != BATCHES, ["data", "split"]].drop_duplicates()
    names = [f"{readable(row['data'])}, {row['split']} split" for _, row in measured.iterrows()]
    return f"Rings: loss on {' and on '.join(names)}, which compares runs. " if names else ""
