"""The section on representations: the paper's pairs of states, and distortion in fine-tuning against forgetting."""

from __future__ import annotations

from midstudy.report.html import Html, Row, table
from midstudy.report.numbers import correlation, interval
from midstudy.report.report import Report
from midstudy.report.sections.comparisons import comparisons
from midstudy.report.sections.representation import representations
from midstudy.studies.bridging.distortion import COLUMNS, forgotten, rank_correlations
from midstudy.studies.bridging.distortion_figure import distortion_figure

CHANGES = "changes"
"""Name of the comparison of a mix with the control by what SFT changes, if the study has one."""


def representation(report: Report) -> Html:
    """Show the pairs of states and distortion against forgetting; nothing if the study compares no states."""
    if report.tables.representation is None:
        return Html("")
    shown = Html("")
    if any(comparison.name == CHANGES for comparison in report.manifest.comparisons):
        shown += comparisons(report, CHANGES)
    shown += representations(report)
    points = forgotten(report.tables)
    if points.empty:
        return shown
    sizes = list(dict.fromkeys(points["size"]))
    for size in sizes:
        of_size, where = points[points["size"] == size], f" Size {size}." if len(sizes) > 1 else ""
        shown += report.figure(
            distortion_figure(of_size),
            "distortion" if len(sizes) == 1 else f"distortion-{size}",
            caption="What was forgotten in SFT (increase of general loss, test) against what SFT changed in the model: the "
            "output weights of the last block's MLP (left), and the last layer's states on the task's test split (right). "
            f"One point per arm and trunk seed.{where}",
        )
        statistics = rank_correlations(of_size, seed=report.manifest.seeds[0])
        rows: list[Row] = [
            [COLUMNS[row["column"]], str(row["num_arms"]), str(row["num_seeds"]), correlation(row["rho"]),
             interval(row["ci_low"], row["ci_high"], correlation)]
            for _, row in statistics.iterrows()
        ]  # fmt: skip
        shown += table(
            ["forgetting against", "arms", "trunk seeds", "Spearman", "95 % interval"],
            rows,
            caption="Spearman's rank correlation over the arms of one trunk seed, averaged over trunk seeds, with a "
            f"t-interval over them. Arms share tasks and trunks, so they are not independent.{where}",
        )
    return shown
