"""The first screen of the bridging report: what dose, placebo and fine-tuning say of the answer, and what it is about."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from midstudy.analysis.claims import INCONCLUSIVE, NO, YES
from midstudy.analysis.effects import cells
from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import readable
from midstudy.report.html import Html, bold, paragraph
from midstudy.report.numbers import interval, number, signed_percent
from midstudy.report.report import Report
from midstudy.report.sections import overview
from midstudy.studies.bridging.scale import COLUMNS
from midstudy.studies.bridging.sections.compared import described
from midstudy.studies.bridging.sections.proximity import closeness
from midstudy.studies.bridging.text import PLACEBO

_LEADS = {
    YES: "At equal dose the start leaves the task loss as it is (within the margin of the claim)",
    NO: "At equal dose the start matters for the task loss",
    INCONCLUSIVE: "Whether the start matters for the task loss at equal dose is undecided",
}


def first_screen(report: Report) -> Html:
    """Show the answer and what it is an answer about; equal dose comes first if the start does not matter there."""
    verdict, dose = equal_dose(report)
    answers = [*overview.sentences(report.study.answer)]
    answers = [*dose, *answers] if verdict == YES else [*answers, *dose]
    about = [
        ("Fine-tuning: ", fine_tuning(report)),
        ("Text: ", text_sources(report)),
        ("Intervals: ", population(report)),
    ]
    more = [paragraph(bold(lead), text) for lead, text in about if text]
    return overview.summary(report, closeness(report), *more, answers=[*answers, *placebo(report)])


def equal_dose(report: Report) -> tuple[str, list[str]]:
    """Return the verdict on the claim, of the first size, that the start leaves the task loss unchanged at equal dose, and a
    sentence per cell.

    The sentences are empty if the study has no such comparison or no result of it.
    """
    entry = _comparison(report, "equal_dose")
    if entry is None:
        return INCONCLUSIVE, []
    verdicts = {
        claim.arms.get("size"): str(judged)
        for claim, judged in zip(report.manifest.claims, report.judged["verdict"], strict=True)
        if claim.comparison == entry.name and claim.column == COLUMNS[0]
    }
    sentences = []
    for cell in cells(report.tables, entry):
        changes = [
            f"{_name(report, column, str(cell.factors['task']))} by {_change(row)}"
            for column in COLUMNS
            for row in _rows(report, entry, column, cell.factors)
        ]
        if changes:
            sides = f"{described(cell.arms)} instead of {described(cell.references)}"
            lead = _LEADS[verdicts.get(cell.factors["size"], INCONCLUSIVE)] + _size(report, cell.factors["size"])
            sentences.append(f"{lead}: {sides} changes {_and(changes)}. Dose is Σ learning rate × share.")
    return next(iter(verdicts.values()), INCONCLUSIVE), sentences


def placebo(report: Report) -> list[str]:
    """Return a sentence on the placebo, and one on the matched mixes against it."""
    sentences = []
    for name, words in ((PLACEBO, "A placebo, unseen general text mixed in like code, changes"), ("against_placebo", "")):
        if (entry := _comparison(report, name)) is None:
            continue
        parts = []
        for row in _rows(report, entry, COLUMNS[0]):
            mix = "" if words else f"{readable(row['mix'])} changes "
            parts.append(f"{mix}{_name(report, COLUMNS[0], row['task'])} by {_change(row)}{_size(report, row['size'])}")
        if parts:
            sentences.append(f"{words} {_and(parts)}." if words else f"Against the placebo, {_and(parts)}.")
    return sentences


def fine_tuning(report: Report) -> str:
    """Return the length of fine-tuning, and what a longer one does to the effects if the study measures it."""
    entry = _comparison(report, "main") or next(iter(report.manifest.comparisons), None)
    arms = report.tables.arms
    if entry is None or "sft_steps" not in arms:
        return ""
    main = arms.iloc[list(entry.arms)]
    passes = [
        float(of_task[f"epochs:{task}"].mean()) for task, of_task in main.groupby("task") if f"epochs:{task}" in of_task
    ]
    steps = " or ".join(str(one) for one in sorted(set(main["sft_steps"])))
    items = sorted(
        {int(of_task[f"items:{task}"].iloc[0]) for task, of_task in main.groupby("task") if f"items:{task}" in main}
    )
    text = f"{steps} steps"
    if items:
        text += f", {' or '.join(number(one) for one in items)} items"
    if passes and pd.notna(passes).all():
        ends = dict.fromkeys(f"{end:.2g}" for end in (min(passes), max(passes)))
        text += f", {' to '.join(ends)} epochs of the train split"
    longer = [*_longer(report)]
    return f"{text}. " + (" ".join(longer) if longer else "What longer fine-tuning does to the effects was not measured.")


def text_sources(report: Report) -> str:
    """Return which text the study reads: the sources with the names of their data."""
    by_source: dict[str, list[str]] = {}
    for name, source in report.study.reproduction["sources"].items():
        kind = "built-in text (wheels)" if source.startswith("wheels:") else source.partition(",")[0]
        by_source.setdefault(kind, []).append(readable(name))
    return "; ".join(f"{', '.join(names)} from {source}" for source, names in by_source.items()) + "."


def population(report: Report) -> str:
    """Return what a repetition changes and what it does not: the population that the intervals are about."""
    arms = report.tables.arms
    if not {"trunk_seed", "sft_seed"} <= {*arms.columns} or not len(arms):
        return ""
    is_nested = arms.groupby("trunk_seed")["sft_seed"].nunique().max() == 1
    sft = "and the SFT seed with them, one to each trunk" if is_nested else "and SFT seeds are averaged within a trunk"
    return (
        f"over at most {arms['trunk_seed'].nunique()} trunk seeds. A trunk seed moves initial weights, data order and batch "
        f"slots, {sft}. Text, test items and tokenizer do not move: an interval says nothing about other text."
    )


def _longer(report: Report) -> Iterator[str]:
    entry = _comparison(report, "sft_length")
    if entry is None:
        return
    rows = pd.DataFrame(list(_rows(report, entry, COLUMNS[0])))
    for (size, mix, task), lengths in rows.groupby(["size", "mix", "task"], sort=False) if len(rows) else ():
        by_length = [
            f"{signed_percent(row['relative_improvement'])} % at {row['sft_steps']} steps" for _, row in lengths.iterrows()
        ]
        yield f"The gain of {readable(mix)} on {readable(task)}{_size(report, size)} is {', '.join(by_length)}."


def _comparison(report: Report, name: str) -> ComparisonEntry | None:
    return next((entry for entry in report.manifest.comparisons if entry.name == name), None)


def _rows(report: Report, entry: ComparisonEntry, column: str, factors: object = None) -> Iterator[pd.Series]:
    """Yield the rows of a comparison's effects, of one cell if its factors are given."""
    if column not in entry.columns:
        return
    wanted = dict(factors) if isinstance(factors, dict) else {}
    for _, row in report.effects(entry, column).table.iterrows():
        if all(row[name] == value for name, value in wanted.items()):
            yield row


def _name(report: Report, column: str, task: str) -> str:
    """Return the name of a loss, of which that on the task is called by the task: 'pycode loss'."""
    return f"{readable(task)} loss" if column == COLUMNS[0] else report.manifest.title_of(column)


def _size(report: Report, size: object) -> str:
    """Return ' (size nano)' in a study of several sizes."""
    return f" (size {size})" if report.tables.arms["size"].nunique() > 1 else ""


def _change(row: pd.Series) -> str:
    """Return the change of a loss, negative if it is lower: '−0.3 % [−0.6, −0.1]'."""
    ends = interval(-row["relative_ci_high"], -row["relative_ci_low"], signed_percent)
    change = f"{signed_percent(-row['relative_improvement'])} %"
    return f"{change} {ends}" if pd.notna(row["relative_ci_low"]) else f"{change} (one seed, no interval)"


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
