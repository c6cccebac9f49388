"""Curves of the loss on each task over midtraining, shuffled and one task after another."""

from __future__ import annotations

from midstudy.report.html import Html, paragraph
from midstudy.report.report import Report
from midstudy.studies.nanochat.order_figure import order_figure
from midstudy.studies.nanochat.text import CONVERSATIONS


def orders(report: Report) -> Html:
    """Show a panel for each task; nothing where no curve is measured."""
    curves = report.tables.curves
    if "column" not in curves or curves["value"].notna().sum() == 0:
        return Html("")
    present = {str(column) for column in curves.dropna(subset=["value"])["column"]}
    tasks = [name for name in CONVERSATIONS if f"{name}_over_mid" in present]
    drawn = order_figure(curves, tasks, seed=str(report.seed))
    shown = report.figure(
        drawn,
        "order-of-tasks",
        caption="Bits per byte of the replies of each task's test split, over the steps of the run from the base's end. "
        "Panels are in the order in which the tasks come in sequence. Thick: means over seeds; thin: seeds. Logarithmic.",
    )
    return paragraph("A task that is forgotten falls while it is read, and rises while others are.") + shown
