"""The first screen: the question, the answer with its uncertainty, what it rests on, and what is missing."""

from __future__ import annotations

import re

import pandas as pd

from midstudy.analysis.arms import CONTROL, describe_arm
from midstudy.report.html import Html, bold, bullets, code, details, element, paragraph, table
from midstudy.report.numbers import correlation, number, tokens
from midstudy.report.report import Report
from midstudy.report.sections.left_out import trained_shares

#: Columns of the table of arms → what their loss is called in the report.
LOSS_NAMES = {
    "sft_loss": "task loss after SFT",
    "general_loss": "general loss after SFT",
    "sft_loss_before": "task loss before SFT",
    "general_loss_before": "general loss before SFT",
}


MAX_ROWS_IN_VIEW = 12
"""A longer list of what is missing is folded: the results come first."""


def summary(report: Report) -> Html:
    """Question, answer, whether closeness predicts the gain, what was run and what it took."""
    study, cost = report.study, report.study.cost
    parts = [
        paragraph(study.question, css="question"),
        bullets(_sentences(report.results.answer), css="answer"),
        paragraph(bold("Does closeness predict the gain? "), _closeness(report)),
        paragraph(bold("Runs: "), _runs(report)),
        paragraph(
            bold("Cost: "),
            f"{duration(cost.cpu_s)} of CPU time, {tokens(cost.num_tokens)} tokens, {number(cost.useful_steps)} "
            f"training steps; each arm trained on its own would take {number(cost.unshared_steps)}.",
        ),
    ]
    if shares := trained_shares(report):
        parts.append(paragraph(bold("Target tokens that training sees: "), f"{shares}."))
    if not is_complete(report):
        parts.insert(0, paragraph(bold("This study is not finished. "), "What is missing is listed below.", css="warning"))
    return element("div", *parts, css="summary")


def missing(report: Report) -> Html:
    """What is not finished or failed; a line where nothing is."""
    study, unfinished = report.study, report.results.unfinished
    if is_complete(report):
        return paragraph(f"Nothing: all {len(study.arms)} runs and all {number(study.cost.num_stages)} stages are finished.")
    shown = Html("")
    if report.study.similarity is None:
        shown += paragraph("Token counts are not finished: there are no similarities and no correlation yet.")
    if study.cost.failed:
        shown += paragraph(f"Failed stages: {len(study.cost.failed)}.")
        shown += bullets(
            element("span", code(stage.label), f" ({stage.id}): ", _first_line(stage.cause)) for stage in study.cost.failed
        )
    if len(unfinished):
        key = ["size", "mix", "weight", "start_step", "task", "lacks"]
        groups = unfinished.fillna({"start_step": 0}).groupby(key, sort=False)
        rows = [[describe_arm(runs.iloc[0]), _seeds(runs), _lost(str(names[-1]))] for names, runs in groups]
        counted = f"Runs that lack a loss: {len(unfinished)} of {len(study.arms)}."
        listed = table(
            ["arm", "trunk seed / SFT seeds", "lacks"],
            rows,
            caption=f"{counted} An effect is stated only from runs finished together with their control.",
            num_text_columns=3,
        )
        shown += listed if len(rows) <= MAX_ROWS_IN_VIEW else paragraph(counted) + details("Which", listed)
    left = study.cost.num_stages - study.cost.num_finished
    return shown + paragraph(f"{number(left)} of {number(study.cost.num_stages)} stages are not finished.")


def is_complete(report: Report) -> bool:
    """Whether every run, count and stage of the study is finished."""
    cost = report.study.cost
    return not (
        len(report.results.unfinished)
        or report.study.similarity is None
        or report.study.proximity is None
        or cost.failed
        or cost.num_finished < cost.num_stages
    )


def duration(seconds: float) -> str:
    """'45 s', '8.5 min', '2.4 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5_400 else f"{seconds / 3_600:,.1f} h"


def _sentences(answer: str) -> list[str]:
    return re.split(r"(?<=\.) (?=[A-Z0-9])", answer)


def _closeness(report: Report) -> str:
    found = report.results.correlations
    if found is None:
        return "Not known yet: token counts are not finished."
    sentences = []
    for _, row in found[found["measure"] == "combined"].iterrows():
        where = f"At size {row['size']}: " if len(report.sizes) > 1 else ""
        if pd.isna(row["r"]):
            sentences.append(f"{where}no correlation ({row['reason']}).")
            continue
        sentences.append(
            f"{where}Pearson r = {correlation(row['r'])} over {number(row['n_pairs'])} (mix, task) pairs (95 % "
            f"interval {correlation(row['ci_low'])} to {correlation(row['ci_high'])}); "
            f"{correlation(row['r_unmatched'])} over the {number(row['n_unmatched'])} unmatched pairs alone."
        )
    return " ".join(sentences) or "Not known yet: no effect can be stated."


def _runs(report: Report) -> str:
    arms, unfinished = report.study.arms, report.results.unfinished
    num_arms = len(arms[arms["mix"] != CONTROL].drop_duplicates(["size", "mix", "weight", "start_step", "task"]))
    seeds = f"{arms['trunk_seed'].nunique()} trunk seeds and {arms['sft_seed'].nunique()} SFT seeds at most"
    return (
        f"{len(arms) - len(unfinished)} of {len(arms)} fine-tuning runs finished, of {num_arms} arms and their "
        f"controls, on {seeds} ({', '.join(report.sizes)}). The tables give the seeds behind every number."
    )


def _lost(lacks: str) -> str:
    names = lacks.split(", ")
    return "all losses" if len(names) == len(LOSS_NAMES) else ", ".join(LOSS_NAMES[name] for name in names)


def _seeds(runs: pd.DataFrame) -> str:
    """'0 / 1337, 895; 1 / 895'."""
    return "; ".join(
        f"{trunk} / {', '.join(str(seed) for seed in of_trunk['sft_seed'])}"
        for trunk, of_trunk in runs.groupby("trunk_seed")
    )


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no cause was recorded")
