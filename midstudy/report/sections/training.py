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
    return report.figure(
        training_figure(trunks, names=names, seed=report.seed),
        "training",
        caption="Loss of training batches before their update, as logged. "
        + (
            f"Thin: single values of {readable(report.seed)}; thick: their mean, where there are several. "
            if report.seed
            else ""
        )
        + "A run that leaves a trunk is drawn from its own first logged step on; n counts its seeds. "
        + _measured(trunks)
        + "Levels of the lines are those of the text that a run reads: a mix with easier text has a lower line without "
        "being a better model of general text.",
    )


def _measured(trunks: pd.DataFrame) -> str:
    measured = trunks.loc[trunks["split"] != BATCHES, ["data", "split"]].drop_duplicates()
    names = [f"{readable(row['data'])}, {row['split']} split" for _, row in measured.iterrows()]
    return f"Rings: loss on {' and on '.join(names)}, which compares runs. " if names else ""
