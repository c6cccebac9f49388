"""The first screen: the question, the answer with its uncertainty, the runs and cost behind it, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from midstudy.report.cells import cell_factors, differing, label, readable
from midstudy.report.html import Html, Text, bold, bullets, code, details, element, paragraph, table
from midstudy.report.numbers import duration, number, tokens, with_minus
from midstudy.report.report import Report
from midstudy.report.sections.left_out import target_shares

MAX_ROWS_IN_VIEW = 12
"""A longer list of unfinished arms is collapsed, so that the results come first."""


def summary(report: Report, *more: Html, answers: Sequence[Text] | None = None) -> Html:
    """Show question, answer, what the answer is about, runs and cost.

    Args:
        more: further paragraphs of a study-specific report.
        answers: the answer as sentences; by default those of the study's `answer.txt`.
    """
    cost = report.study.cost
    parts = [bullets(sentences(report.study.answer) if answers is None else answers, css="answer"), *more]
    if (seen := target_shares(report)).markup:
        parts.append(seen)
    if report.manifest.arms:
        parts.append(paragraph(bold("Runs: "), _runs(report)))
    parts.append(
        paragraph(
            bold("Cost: "),
            f"{duration(cost['cpu_s'])} of CPU time, {tokens(cost['num_tokens'])} tokens, {number(cost['useful_steps'])} "
            "training steps"
            + (f"; training each arm alone would take {number(cost['unshared_steps'])}" if report.manifest.arms else "")
            + ".",
        )
    )
    if not is_complete(report):
        parts.insert(0, paragraph(bold("This study is not finished. "), "What is missing is listed below.", css="warning"))
    return element("h1", report.manifest.question or report.manifest.name) + element("div", *parts, css="summary")


def missing(report: Report) -> Html:
    """Show the unfinished arms and failed stages; nothing if everything is finished."""
    study, unfinished = report.study, report.unfinished
    num_arms, cost = len(report.manifest.arms), study.cost
    if is_complete(report):
        return Html("")
    shown = Html("")
    if report.manifest.counts and report.tables.similarity is None:
        shown += paragraph("Token counts are not finished: there are no similarities yet.")
    if cost["failed"]:
        shown += paragraph(f"Failed stages: {len(cost['failed'])}.")
        shown += bullets(
            element("span", code(stage["label"]), f" ({stage['id']}): ", _first_line(stage["cause"]))
            for stage in cost["failed"]
        )
    if len(unfinished):
        names = differing(report.tables.arms, cell_factors(report.manifest))
        groups = unfinished.groupby([*names, "lacks"], sort=False, dropna=False)
        rows = [[label(arms.iloc[0], names), _seeds(report, arms), readable(arms["lacks"].iloc[0])] for _, arms in groups]
        counted = f"Arms that lack a value: {len(unfinished)} of {num_arms}."
        listed = table(
            ["arm", " / ".join(readable(name) for name in report.manifest.seeds) or "seeds", "lacks"],
            rows,
            caption=f"{counted} Effects are computed only from arms that are finished together with their reference.",
            num_text_columns=3,
        )
        shown += listed if len(rows) <= MAX_ROWS_IN_VIEW else paragraph(counted) + details("List them", listed)
    left = cost["num_stages"] - cost["num_finished"]
    return shown + paragraph(f"{number(left)} of {number(cost['num_stages'])} stages are not finished.")


def is_complete(report: Report) -> bool:
    """Return whether every arm, count and stage of the study is finished."""
    cost = report.study.cost
    counted = not report.manifest.counts or report.tables.similarity is not None
    return counted and not (len(report.unfinished) or cost["failed"] or cost["num_finished"] < cost["num_stages"])


def sentences(answer: str) -> list[str]:
    """Return the sentences of an answer, with true minus signs."""
    return re.split(r"(?<=\.) (?=[A-Z0-9])", with_minus(answer))


def _runs(report: Report) -> str:
    arms, manifest = report.tables.arms, report.manifest
    cells = arms.drop_duplicates(cell_factors(manifest)) if cell_factors(manifest) else arms.head(1)
    finished = f"{len(arms) - len(report.unfinished)} of {len(arms)} arms finished"
    if not manifest.seeds:
        return f"{finished}, none repeated with another seed."
    seeds = " and ".join(f"{arms[name].nunique()} values of {readable(name)}" for name in manifest.seeds)
    return (
        f"{finished}, {len(cells)} distinct apart from seeds, on at most {seeds}. The tables give the number of seeds of "
        "every result."
    )


def _seeds(report: Report, arms: pd.DataFrame) -> str:
    """Return the seeds of arms as '0 / 1337, 895; 1 / 895': each first seed with its other seeds."""
    if not report.manifest.seeds:
        return "–"
    first, *others = report.manifest.seeds
    if not others:
        return ", ".join(str(seed) for seed in arms[first])
    return "; ".join(
        f"{value} / {', '.join(' / '.join(str(row[name]) for name in others) for _, row in rows.iterrows())}"
        for value, rows in arms.groupby(first, sort=False)
    )


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no cause recorded")
