"""The section on proximity: proximity advantage against improvement, their correlation and its robustness."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from midstudy.analysis.correlations import MEASURES, correlations
from midstudy.report.cells import readable
from midstudy.report.html import Html, Text, bold, lines, paragraph, small, table
from midstudy.report.numbers import correlation, number, p_value
from midstudy.report.report import Report
from midstudy.report.sections.similarity import UNCOUNTED
from midstudy.studies.bridging.proximity import proximity_pairs
from midstudy.studies.bridging.proximity_figure import MEASURE_NAMES, numbered, proximity_figure

_COLUMN_NAMES = {"combined": "combined", "cosine": "cosine", "jaccard": "Jaccard", "js": "1 / (1 + JSD)"}


def closeness(report: Report) -> Html:
    """Show the correlation of proximity with improvement in one sentence per size."""
    pairs = proximity_pairs(report.tables)
    if pairs is None or pairs.empty:
        text = "Not known yet: token counts or effects are not finished."
    else:
        by_size = correlations(pairs, measure="combined", by="size")
        text = " ".join(_sentence(row, by_size["size"].nunique() > 1) for _, row in by_size.iterrows())
    return paragraph(bold("Does closeness predict the gain? "), text)


def proximity(report: Report) -> Html:
    """Show proximity advantage against improvement, and a table of correlations for every similarity measure."""
    pairs = proximity_pairs(report.tables)
    if pairs is None:
        return UNCOUNTED
    if pairs.empty:
        return paragraph("No results yet: no arm is finished together with its control.", css="note")
    shown = Html("")
    rows = pd.concat([correlations(pairs, measure=measure, by="size") for measure in MEASURES], ignore_index=True)
    sizes = list(dict.fromkeys(pairs["size"]))
    for size in sizes:
        rows_of_size, pairs_of_size = rows[rows["size"] == size], pairs[pairs["size"] == size]
        row = rows_of_size[rows_of_size["measure"] == "combined"].iloc[0]
        where = f" Size {size}." if len(sizes) > 1 else ""
        shown += report.figure(
            proximity_figure(pairs, row),
            "proximity" if len(sizes) == 1 else f"proximity-{size}",
            caption="Proximity advantage of a mix to a task (how much closer the mix is than general text) against "
            f"how far it lowers the task's loss; one point per mix and task ({number(row['n_pairs'])}), without the "
            "control. Left: all pairs with the least-squares line. Right: the pairs in the dotted frame, those inside "
            "Tukey's fences on both axes, enlarged. Bars, on the left only: 95 % t-intervals over trunk seeds; "
            f"hollow: one trunk seed, no interval. {numbered(pairs_of_size)}.{where}",
        ) + _statistics(rows_of_size, where)
    return shown


def _sentence(row: pd.Series, has_sizes: bool) -> str:
    where = f"At size {row['size']}: " if has_sizes else ""
    if pd.isna(row["r"]):
        return f"{where}no correlation ({row['reason']})."
    return (
        f"{where}Pearson r = {correlation(row['r'])} over {number(row['n_pairs'])} (mix, task) pairs (95 % "
        f"interval {correlation(row['ci_low'])} to {correlation(row['ci_high'])}); "
        f"{correlation(row['r_unmatched'])} over the {number(row['n_unmatched'])} unmatched pairs alone."
    )


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
        ("r, lowest with one pair left out", lambda row: _without(row, "low")),
        ("r, highest with one pair left out", lambda row: _without(row, "high")),
        ("r without the pair that improves most", lambda row: _value_and_pair(row["r_without_best_pair"], row["best_pair"])),
        ("r of the unmatched pairs alone", _unmatched),
    ]
    reasons = [f"{MEASURE_NAMES[name]}: {row['reason']}" for name, row in by_measure.items() if row["reason"]]
    return table(
        ["", *(_COLUMN_NAMES[name] for name in by_measure)],
        [[name, *(write(row) for row in by_measure.values())] for name, write in statistics],
        caption="Correlation of proximity advantage with relative improvement, by similarity measure. A few matched pairs "
        "can dominate r: compare it with r without them (small print: the pair left out). Pairs share mixes, tasks and "
        "one control, so they are not independent; the intervals are too narrow and the p values too small."
        f"{where}",
    ) + (paragraph("Not defined: " + "; ".join(reasons) + ".", css="note") if reasons else Html(""))


def _range(low: float, high: float) -> str:
    return f"{correlation(low)} to {correlation(high)}"


def _unmatched(row: pd.Series) -> str:
    return f"{correlation(row['r_unmatched'])} ({number(row['n_unmatched'])} pairs)"


def _value_and_pair(value: float, pair: str) -> Html:
    return lines([correlation(value), small(readable(pair))])


def _without(row: pd.Series, end: str) -> Html:
    return _value_and_pair(row[f"leave_one_out_{end}"], row[f"leave_one_out_{end}_without"])
