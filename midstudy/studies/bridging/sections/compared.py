"""The comparisons of the bridging report, each with what its two sides differ in."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.corpus_dose import corpus_dose
from midstudy.analysis.effects import Cell, cells
from midstudy.analysis.phrases import capitalised
from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import readable
from midstudy.report.html import Html, element, paragraph
from midstudy.report.numbers import percent, tokens
from midstudy.report.report import Report
from midstudy.report.sections.comparisons import comparison
from midstudy.studies.bridging.scale import CONTROL

DIFFER = {
    "main": "Each mix against general text alone. Both leave the same trunk, read the same general text in the batch "
    "slots that the mix leaves free, end at the same step and are fine-tuned alike. The sides differ in the text of the "
    "mix's slots, so a mix also reads less general text. Mixes may differ from each other in start and share.",
    "placebo": "General text that the control never reads, mixed in at the start and share of code. The sides differ "
    "only in which general documents fill these slots: the effect of mixing as such.",
    "against_placebo": "Each matched mix against the placebo. A mix with the placebo's start and share differs from it "
    "in the kind of text alone, as code does; math may have another start and share.",
    "equal_dose": "The same mix from an early and from a late start, with a larger share later, so that the dose (Σ "
    "learning rate × share) is equal. The sides differ in when the specialist is read, and in how many of its tokens.",
    "equal_tokens": "The same mix from an early and from a late start, with a larger share later, so that the "
    "specialist tokens are equally many. The sides differ in when they are read, and therefore in dose.",
    "continued": "A mix against its specialist alone, as in the paper. The sides differ in start, share, tokens and "
    "dose at once; at equal dose they are compared below, if the study has those runs.",
    "alone_equal_dose": "A mix against its specialist alone, at equal dose. The sides differ in share, in start or in "
    "the number of specialist tokens, and in how much general text is read beside them.",
    "block": "A mix against its specialist alone, from the same step and at equal dose: the reference reads the specialist "
    "alone for a while, then general text to the end. The sides differ in how the specialist is spread, and in how long "
    "before the end it is last read.",
    "starts": "Code from the first and from the last start against the middle one, each with the share that gives the same "
    "dose. The sides differ in when the specialist is read, and in how many of its tokens.",
    "starts_cosine": "The same with the cosine schedule, on few seeds: what the schedule does. No claim rests on it.",
    "equal_dose_cosine": "The same with the cosine schedule, on few seeds: what the schedule does. No claim rests on it.",
    "timing": "The same share from several start steps, each against the control. An earlier start also reads more "
    "specialist tokens at higher learning rates: the points differ in dose and in tokens.",
    "weight": "Several shares from the same start step, each against the control. A larger share reads more "
    "specialist tokens and less general text.",
    "crossed": "Several shares from several start steps, each against the control. Points differ in dose and in tokens.",
    "ramp": "A share that rises in thirds against a constant share with the same mean, from the same step. The sides "
    "read equally many specialist tokens; the rising share reads more of them at low learning rates.",
    "cut": "A midtrained run against the trunk that is fine-tuned from the mix's start step. The sides differ in "
    "everything after that step: the reference is trained for fewer steps, and its learning rate has not decayed.",
    "after": "A mix against the control that reads as many tokens of the specialist after pretraining, trained like "
    "fine-tuning. The sides differ in when they are read, at which learning rate and with which optimizer, and the "
    "reference takes more steps in all.",
    "sft_length": "The matched mixes against the control, with both sides fine-tuned for each number of steps.",
    "earliest_latest": "The earliest against the latest start at one share. The sides differ in dose and in tokens.",
}
"""What the two sides of each comparison differ in, by the name of the comparison."""


def compared(report: Report) -> Html:
    """Show every comparison in the order of the study, each with what its sides differ in; nothing if there are none."""
    shown = Html("")
    for entry in report.manifest.comparisons:
        if entry.name in DIFFER:
            text = " ".join([DIFFER[entry.name], *amounts(report, entry)])
            shown += element("h3", entry.title) + paragraph(text) + comparison(report, entry)
    return shown


def amounts(report: Report, entry: ComparisonEntry) -> list[str]:
    """Return a sentence for each cell of a comparison of two mixes: specialist tokens and dose of both sides.

    The dose is that of the training on corpora. Empty if the references are controls, which read no specialist.
    """
    sentences = [_amounts(cell) for cell in cells(report.tables, entry) if specialist(cell.references) is not None]
    return list(dict.fromkeys(sentences))


def specialist(arms: pd.DataFrame) -> str | None:
    """Return the corpus that a mix of arms reads beside general text, `None` if it reads none."""
    mix = str(arms["mix"].iloc[0]) if len(arms) else CONTROL
    corpus = mix.partition(" ")[0]
    return corpus if f"dose:{corpus}" in arms.columns else None


def described(arms: pd.DataFrame) -> str:
    """Return the run of arms that differ in seeds and tasks: 'code 20 % from step 16'."""
    first = arms.iloc[0]
    if first["mix"] == CONTROL:
        return CONTROL
    return f"{readable(first['mix'])} {percent(first['weight'])} from step {first['start_step']:.0f}"


def _amounts(cell: Cell) -> str:
    sides = []
    for arms in (cell.arms, cell.references):
        corpus = str(specialist(arms))
        drawn, dose = float(arms[f"tokens:{corpus}"].mean()), float(corpus_dose(arms, [corpus]).mean())
        sides.append(f"{described(arms)} ({tokens(drawn)} tokens of {corpus}, dose {percent(dose)})")
    return capitalised(" against ".join(sides)) + "."
