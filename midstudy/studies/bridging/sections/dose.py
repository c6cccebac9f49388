"""The section on dose: gain on a task against Σ learning rate × share, beside specialist tokens."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.effects import cells
from midstudy.analysis.phrases import capitalised
from midstudy.report.cells import readable
from midstudy.report.html import Html, paragraph
from midstudy.report.numbers import correlation, interval
from midstudy.report.report import Report
from midstudy.studies.bridging.dose import MIN_ARMS, explained, gains
from midstudy.studies.bridging.dose_figure import RUN, Run, dose_figure
from midstudy.studies.bridging.scale import CONTROL


def dose(report: Report) -> Html:
    """Show whether dose or tokens explain the gains, in a sentence per corpus and task, and the figure of both."""
    if not report.manifest.seeds or not {*RUN, "size", "task"} <= set(report.manifest.factor_names):
        return Html("")
    points = gains(report.tables)
    if points.empty:
        return Html("")
    seed, shown = str(report.seed), Html("")
    sizes, found = list(dict.fromkeys(points["size"])), explained(points, seed=str(report.seed))
    for size in sizes:
        where = f"size {size}, " if len(sizes) > 1 else ""
        sentences = [f"{capitalised(where)}{_sentence(row)}" for _, row in found[found["size"] == size].iterrows()]
        if not sentences:
            sentences = [
                f"{capitalised(where)}r² of dose and of tokens is not computed: expected at least {MIN_ARMS} arms of one "
                "corpus and task with different doses."
            ]
        shown += paragraph(" ".join(sentences))
        shown += report.figure(
            dose_figure(points[points["size"] == size], joined=_joined(report, str(size)), seed=seed),
            "dose" if len(sizes) == 1 else f"dose-{size}",
            caption="How much lower each mix makes the task loss than the control, against the dose of the mix before "
            "fine-tuning (left) and against the tokens of its specialist (right). Bars: 95 % t-intervals over trunk seeds; "
            "rings: single seeds; hollow: one seed. Lines join, and names give share and start step of, the two sides of "
            "comparisons of mixes: upright on the left at equal dose, on the right at equal tokens. "
            + capitalised(f"{where}each mix inside pretraining, with the shortest fine-tuning."),
        )
    return shown


def _sentence(row: pd.Series) -> str:
    about = f"{readable(row['corpus'])} on {readable(row['task'])} ({row['num_arms']} arms, {row['num_seeds']} trunk seeds)"
    both = f"r² = {correlation(row['r2_dose'])} for dose and {correlation(row['r2_tokens'])} for tokens"
    ends = interval(row["ci_low"], row["ci_high"], correlation)
    gap = f"difference {correlation(row['difference'])} {ends}" if pd.notna(row["ci_low"]) else "one seed, no interval"
    if pd.notna(row["ci_low"]) and row["ci_low"] > 0:
        verdict = "dose explains more of the gain than tokens do"
    elif pd.notna(row["ci_high"]) and row["ci_high"] < 0:
        verdict = "tokens explain more of the gain than dose does"
    else:
        verdict = "it is undecided whether dose or tokens explain more of the gain"
    return f"{verdict}: {about}, {both} ({gap})."


def _joined(report: Report, size: str) -> list[tuple[str, Run, Run]]:
    """Return task, arm and reference of the cells of all comparisons of two mixes."""
    pairs = []
    for entry in report.manifest.comparisons:
        if entry.along is not None:
            continue
        for cell in cells(report.tables, entry):
            first = cell.references.iloc[0]
            if first["mix"] == CONTROL or cell.factors["size"] != size or cell.factors["mix"] != first["mix"]:
                continue
            one, other = (
                (str(side["mix"]), float(side["weight"]), float(side["start_step"])) for side in (cell.factors, first)
            )
            pairs.append((str(cell.factors["task"]), one, other))
    return list(dict.fromkeys(pairs))
