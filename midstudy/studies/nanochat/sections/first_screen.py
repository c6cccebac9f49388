"""The first screen of nanochat's report: what each stage taught, the verdicts, and what the model is not."""

from __future__ import annotations

from midstudy.report.html import Html, bold, paragraph
from midstudy.report.report import Report
from midstudy.report.sections import overview
from midstudy.studies.nanochat.sections.abilities import changes

MODEL = (
    "The model is this project's Pythia at micro scale, with parallel blocks, LayerNorm and GELU, not nanochat's; the text "
    "is built in. What is tested is the recipe: tasks, renderer, loaders, optimizer, schedules and losses."
)


def first_screen(report: Report) -> Html:
    """Show the abilities as sentences, the count of verdicts, and what the answer is about."""
    judged = report.judged["verdict"] if report.manifest.claims else []
    counts = [f"{sum(verdict == one for verdict in judged)} {word}" for one, word in _WORDS.items()]
    verdicts = paragraph(bold("Claims: "), f"{len(judged)}: {', '.join(counts)}. The table of claims gives each test.")
    about = paragraph(bold("Scale: "), MODEL)
    return overview.summary(report, verdicts, about, answers=changes(report) or None)


_WORDS = {"yes": "hold", "no": "do not", "inconclusive": "undecided"}
