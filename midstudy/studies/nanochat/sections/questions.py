"""Whether SFT remembers its questions: the loss on them beside that on fresh ones, masked and not."""

from __future__ import annotations

from midstudy.analysis.intervals import mean_interval
from midstudy.report.html import Html, table
from midstudy.report.numbers import counted, decimal, interval
from midstudy.report.report import Report
from midstudy.studies.nanochat.abilities import FRESH, TRAINED_ON
from midstudy.studies.nanochat.arms import MASKED, MIXED, NONE, UNMASKED


def questions(report: Report) -> Html:
    """Show both losses and their difference after midtraining and each SFT; nothing where they are not measured."""
    arms = report.tables.arms
    if TRAINED_ON not in arms:
        return Html("")
    rows = []
    for sft, name in ((NONE, "midtraining"), (MASKED, "SFT on replies"), (UNMASKED, "SFT on all tokens")):
        found = arms[(arms["mid"] == MIXED) & (arms["sft"] == sft) & (arms["rl"] == NONE)].dropna(subset=[TRAINED_ON, FRESH])
        if len(found):
            gap = mean_interval(found[FRESH] - found[TRAINED_ON])
            rows.append(
                [
                    f"{name} ({counted(len(found), 'seed')})",
                    decimal(float(found[TRAINED_ON].mean())),
                    decimal(float(found[FRESH].mean())),
                    decimal(gap.mean),
                    interval(gap.low, gap.high),
                ]
            )
    return table(
        ["after", "questions of SFT", "fresh questions", "fresh less trained on", "95 % interval"],
        rows,
        caption="Bits per byte over all tokens of questions with four choices, whose reply is one letter. Midtraining has "
        "read the questions of SFT once, so that they cost a little less than fresh ones before it; what SFT adds is the "
        "difference between the rows.",
    )
