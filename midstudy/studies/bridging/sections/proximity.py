"""The section on proximity: proximity advantage against improvement, their correlation and its robustness."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from midstudy.analysis.correlations import correlations
from midstudy.analysis.mix_task import MEASURES
from midstudy.analysis.reach import two_answers
from midstudy.report.cells import readable
from midstudy.report.html import Html, Text, bold, lines, paragraph, small, table
from midstudy.report.numbers import ABSENT, correlation, interval, number, p_value
from midstudy.report.report import Report
from midstudy.report.sections.similarity import UNCOUNTED
from midstudy.studies.bridging.proximity import proximity_pairs
from midstudy.studies.bridging.proximity_figure import proximity_figure

_ROW_NAMES = {"combined": "combined", "cosine": "cosine", "jaccard": "Jaccard", "js": "1 / (1 + JSD)"}


def closeness(report: Report) -> Html:
    """Show how well proximity predicts the improvement, over all pairs and within tasks, in a few sentences per size."""
    pairs = proximity_pairs(report.tables)
    if pairs is None or pairs["relative_improvement"].isna().all():
        text = "Not known yet: token counts or effects are not finished."
    else:
        by_size = correlations(pairs, measure="combined", by="size")
        text = " ".join(_sentences(row, by_size["size"].nunique() > 1) for _, row in by_size.iterrows())
    return paragraph(bold("Does closeness predict the gain? "), text)


def proximity(report: Report) -> Html:
    """Show proximity advantage against improvement, and a table of correlations for every similarity measure."""
    pairs = proximity_pairs(report.tables)
    if pairs is None:
        return UNCOUNTED
    if pairs["relative_improvement"].isna().all():
        return paragraph("No results yet: no arm is finished together with its control.", css="note")
    shown = Html("")
    rows = pd.concat([correlations(pairs, measure=measure, by="size") for measure in MEASURES], ignore_index=True)
    sizes = list(dict.fromkeys(pairs["size"]))
    for size in sizes:
        rows_of_size = rows[rows["size"] == size]
        row = rows_of_size[rows_of_size["measure"] == "combined"].iloc[0]
        where = f" Size {size}." if len(sizes) > 1 else ""
        if row["num_pairs"]:
            shown += report.figure(
                proximity_figure(pairs, row),
                "proximity" if len(sizes) == 1 else f"proximity-{size}",
                caption="Proximity advantage of a mix to a task (how much closer the mix is than general text) against "
                f"how far it lowers the task's loss; one point per mix and task ({number(row['num_pairs'])}), without the "
                "control. Left: all pairs with the least-squares line. Right: the pairs in the dotted frame, those inside "
                "Tukey's fences on both axes, enlarged. Vertical bars: 95 % t-intervals over trunk seeds, cut with an arrow "
                "where they leave the panel; hollow: one trunk seed, no interval. Proximity is measured once, without bars."
                f"{where}",
            )
        if answers := _reach(row):
            shown += paragraph(
                bold("Two questions. "),
                f"QAP p = {p_value(row['p_directed'])}: are the labels of mixes and tasks exchangeable? 95 % interval "
                f"{interval(row['ci_low'], row['ci_high'], correlation)}: what would r be with other mixes and tasks? "
                f"{answers} The claim on this correlation is judged by the first.{where}",
            )
        shown += _statistics(rows_of_size, where)
    return shown


def _sentences(row: pd.Series, has_sizes: bool) -> str:
    where = f"At size {row['size']}: " if has_sizes else ""
    if math.isnan(row["r"]):
        return f"{where}no correlation ({row['reason']})."
    pairs = f"{number(row['num_pairs'])} pairs of {number(row['num_mixes'])} mixes and {number(row['num_tasks'])} tasks"
    if math.isnan(row["ci_low"]):
        text = f"{where}Pearson r = {correlation(row['r'])} over {pairs}, without an interval ({row['reason']})."
    else:
        text = (
            f"{where}Pearson r = {correlation(row['r'])} over {pairs} (95 % interval {correlation(row['ci_low'])} to "
            f"{correlation(row['ci_high'])} over mixes and tasks; QAP p = {p_value(row['p_directed'])}). {_reach(row)}"
        )
    ranges = [f"one {kind} left out {_range(row, kind)}" for kind in ("mix", "task") if not math.isnan(_lowest(row, kind))]
    if ranges:
        text += f" With {', with '.join(ranges)}."
    if not math.isnan(row["rank_rho"]):
        text += (
            f" Within a task, mixes rank by closeness as by gain with ρ = {correlation(row['rank_rho'])}; {_ceiling(row)}."
        )
    if not math.isnan(row["regret_points"]):
        text += (
            f" The closest mix is the best in {number(row['num_named'])} of {number(row['num_regret_tasks'])} tasks, and "
            f"taking it loses {row['regret_points']:.1f} points of percent of improvement on average."
        )
    return text


def _reach(row: pd.Series) -> str:
    return two_answers(float(row["p_directed"]), float(row["ci_low"]), float(row["ci_high"]))


def _statistics(rows: pd.DataFrame, where: str) -> Html:
    statistics: list[tuple[str, Callable[[pd.Series], Text]]] = [
        ("Pearson r", lambda row: _with(row["r"], interval(row["ci_low"], row["ci_high"], correlation))),
        ("QAP p", lambda row: p_value(row["p_directed"])),
        ("Spearman ρ", lambda row: _with(row["spearman_rho"], f"p {p_value(row['spearman_p'])}")),
        ("without one mix", lambda row: _ends(row, "mix")),
        ("without one task", lambda row: _ends(row, "task")),
        ("without one pair", lambda row: _ends(row, "pair")),
        ("r given dose", lambda row: _with(row["partial_r"], f"p {p_value(row['partial_p'])}")),
        (
            "ρ within tasks",
            lambda row: _with(row["rank_rho"], f"p {p_value(row['rank_p'])}; {p_value(row['rank_p_labels'])}"),
        ),
        ("best named", lambda row: f"{number(row['num_named'])} of {number(row['num_regret_tasks'])}"),
        ("regret, points", lambda row: ABSENT if math.isnan(row["regret_points"]) else f"{row['regret_points']:.2f}"),
    ]
    first = rows.iloc[0]
    reasons = dict.fromkeys(rows["reason"])
    if len(reasons) > 1:
        reasons = {f"{_ROW_NAMES[row['measure']]}: {row['reason']}": None for _, row in rows.iterrows() if row["reason"]}
    notes = [reason for reason in reasons if reason]
    dropped = int(first["num_degenerate"])
    return table(
        ["measure", *(name for name, _ in statistics)],
        [[_ROW_NAMES[row["measure"]], *(write(row) for _, write in statistics)] for _, row in rows.iterrows()],
        caption=f"How well proximity advantage predicts relative improvement, by similarity measure, over "
        f"{number(first['num_pairs'])} pairs of {number(first['num_mixes'])} mixes and {number(first['num_tasks'])} tasks. "
        "Pairs share mixes and tasks: the 95 % interval below r resamples both (pigeonhole bootstrap"
        + (f", {number(dropped)} resamples without a correlation dropped" if dropped else "")
        + "), and p values relabel both (QAP; for r twice the smaller one-sided p, as for the claim, else two-sided"
        + (f", {number(first['num_relabellings'])} relabellings" if first["num_relabellings"] else "")
        + "). Without one mix, task or pair: the lowest and the highest r, and what is left out. Given dose: partial "
        "correlation given the mix's learning-rate-weighted share of specialist text. ρ within tasks: mean Spearman "
        f"correlation of the mixes of a task over {number(first['num_ranked_tasks'])} tasks, with p for mixes permuted in "
        f"every task on its own; in all tasks alike. Its noise ceiling: {_ceiling(first)}. Best named: tasks whose closest "
        f"mix improves most. Regret: points of percent of improvement lost by taking it, mean over tasks.{where}",
    ) + (paragraph("Notes: " + "; ".join(notes) + ".", css="note") if notes else Html(""))


def _lowest(row: pd.Series, kind: str) -> float:
    return float(row[f"without_{kind}_low"])


def _range(row: pd.Series, kind: str) -> str:
    low, high = (
        f"{correlation(row[f'without_{kind}_{end}'])} ({readable(row[f'without_{kind}_{end}_name'])})"
        for end in ("low", "high")
    )
    return f"it is {low} to {high}"


def _ends(row: pd.Series, kind: str) -> Text:
    if math.isnan(_lowest(row, kind)):
        return ABSENT
    ends = [(correlation(row[f"without_{kind}_{end}"]), row[f"without_{kind}_{end}_name"]) for end in ("low", "high")]
    return lines([part for value, name in ends for part in (value, small(readable(name)))])


def _ceiling(row: pd.Series) -> str:
    if math.isnan(row["ceiling_rho"]):
        return "how well trunk seeds agree on the rank is not known"
    tasks = f"{number(row['num_ceiling_tasks'])} task" + ("s" if row["num_ceiling_tasks"] > 1 else "")
    return f"trunk seeds agree with each other with ρ = {correlation(row['ceiling_rho'])} ({tasks})"


def _with(value: float, below: str) -> Text:
    return ABSENT if math.isnan(value) else lines([correlation(value), small(below)])
