"""Limitations that only the bridging study can have: synthetic tasks, and fine-tuning of one length."""

from __future__ import annotations

from midstudy.report.html import Html
from midstudy.report.report import Report
from midstudy.report.sections import limitations as general

SYNTHETIC = {"math", "word_problems"}
"""Parts of the built-in text that templates generate."""


def limitations(report: Report) -> Html:
    """Show the limitations of the study, with those of its text and of its fine-tuning."""
    return general.limitations(report, more=[*_synthetic(report), *_one_length(report)])


def _synthetic(report: Report) -> list[str]:
    sources = report.study.reproduction["sources"]
    if {name for name in SYNTHETIC if str(sources.get(name, "")).startswith("wheels:")} != SYNTHETIC:
        return []
    return [
        "The built-in math corpus and the word problems come from one template engine, with the same marks in their worked "
        "answers: the gain of math on word problems is one on a task written for it, and real problems may show much less. "
        "Test problems have templates of their own."
    ]


def _one_length(report: Report) -> list[str]:
    arms = report.tables.arms
    if "sft_steps" not in arms or arms["sft_steps"].nunique() != 1:
        return []
    rate = "one learning rate for all arms"
    if any(arm.choices for arm in report.manifest.arms):
        rate = "for each arm the learning rate that was best on dev with the first seeds"
    return [
        f"Fine-tuning has one length, {arms['sft_steps'].iloc[0]} steps, and {rate}: whether a gain lasts through longer "
        "fine-tuning is not known."
    ]
