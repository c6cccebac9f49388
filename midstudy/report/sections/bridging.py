"""Similarity and what it predicts: the matrix, proximity advantage against improvement, and all that r leans on."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from midstudy.report.figures.proximity import MEASURE_NAMES, proximity_figure
from midstudy.report.figures.similarity import similarity_figure
from midstudy.report.figures.style import spoken
from midstudy.report.html import Html, Text, lines, paragraph, small, table
from midstudy.report.numbers import correlation, number, p_value
from midstudy.report.report import Report

_COLUMN_NAMES = {"combined": "combined", "cosine": "cosine", "jaccard": "Jaccard", "js": "1 / (1 + JSD)"}
_UNCOUNTED = paragraph("Nothing to show yet: token counts are not finished.", css="note")


def similarity(report: Report) -> Html:
    """The similarity matrix."""
    if report.study.similarity is None:
        return _UNCOUNTED
    return report.figure(
        similarity_figure(report.study.similarity, report.study.arms),
        "similarity",
        caption="Combined token similarity (0.4 cosine + 0.3 Jaccard + 0.3 / (1 + Jensen-Shannon divergence in "
        "nats)); distributions without a common token have 0.18. Samples are compared between disjoint halves, so "
        "the diagonal is not 1 but what two draws of the same text reach: the ceiling for its row. Mixtures hold "
        "their specialists at the share shown and general text at the rest, weighted exactly; the general corpus is the "
        "control. One sample each, no interval.",
    )


def proximity(report: Report) -> Html:
    """Proximity advantage against improvement, and the correlation with everything it leans on, for every measure."""
    pairs, found = report.results.pairs, report.results.correlations
    if pairs is None or found is None:
        return _UNCOUNTED
    if pairs.empty:
        return paragraph("Nothing to show yet: no arm is finished together with its control.", css="note")
    shown = Html("")
    for size, where in report.by_size():
        here = found[found["size"] == size]
        if here.empty:
            shown += paragraph(f"Size {size}: no arm is finished together with its control.", css="note")
            continue
        row = here[here["measure"] == "combined"].iloc[0]
        shown += report.figure(
            proximity_figure(pairs, row, report.study.arms),
            "proximity",
            size=size,
            caption="Proximity advantage of a mix to a task (how much closer the mix is than general text) against "
            f"how far it lowers the task's loss; one point per mix and task ({number(row['n_pairs'])}), the control "
            "excluded. Left: all pairs with the least-squares line. Right: the pairs in the dotted frame, inside "
            "Tukey's fences on both axes, on their own scale, named by task. Bars, on the left only: 95 % "
            f"t-intervals over trunk seeds; hollow: one trunk seed, no interval.{where}",
        ) + _statistics(here, where)
    return shown


def _statistics(rows: pd.DataFrame, where: str) -> Html:
    by_measure = {str(row["measure"]): row for _, row in rows.iterrows()}
    statistics: list[tuple[str, Callable[[pd.Series], Text]]] = [
        ("pairs", lambda row: number(row["n_pairs"])),
        ("Pearson r", lambda row: correlation(row["r"])),
        ("95 % interval (Fisher z)", lambda row: _range(row["ci_low"], row["ci_high"])),
        ("95 % interval (bootstrap over pairs)", lambda row: _range(row["bootstrap_low"], row["bootstrap_high"])),
        ("p", lambda row: p_value(row["p_value"])),
        ("Spearman ρ", lambda row: correlation(row["spearman_rho"])),
        ("p of ρ", lambda row: p_value(row["spearman_p"])),
        ("r, lowest with a pair left out", lambda row: _without(row, "low")),
        ("r, highest with a pair left out", lambda row: _without(row, "high")),
        ("r without the pair that gains most", lambda row: _value_and_pair(row["r_without_best_pair"], row["best_pair"])),
        ("r of the unmatched pairs alone", _unmatched),
    ]
    reasons = [f"{MEASURE_NAMES[name]}: {row['reason']}" for name, row in by_measure.items() if row["reason"]]
    return table(
        ["", *(_COLUMN_NAMES[name] for name in by_measure)],
        [[name, *(write(row) for row in by_measure.values())] for name, write in statistics],
        caption="Correlation of proximity advantage with relative improvement, by measure of similarity. A few "
        "matched pairs can carry all of r: compare it with what is left without them (small print: the pair left "
        "out). Pairs share mixes, tasks and one control, so intervals and p, which treat pairs as independent, are "
        f"too narrow.{where}",
    ) + (paragraph("Not defined: " + "; ".join(reasons) + ".", css="note") if reasons else Html(""))


def _range(low: float, high: float) -> str:
    return f"{correlation(low)} to {correlation(high)}"


def _unmatched(row: pd.Series) -> str:
    return f"{correlation(row['r_unmatched'])} ({number(row['n_unmatched'])} pairs)"


def _value_and_pair(value: float, pair: str) -> Html:
    return lines([correlation(value), small(spoken(pair))])


def _without(row: pd.Series, end: str) -> Html:
    return _value_and_pair(row[f"leave_one_out_{end}"], row[f"leave_one_out_{end}_without"])
