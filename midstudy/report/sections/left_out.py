"""Data that training and evaluation leave out: a sentence for each large loss, and a table of every use of every split."""

from __future__ import annotations

from midstudy.data.tally import MUCH, Tally
from midstudy.report.cells import readable
from midstudy.report.html import Heading, Html, Row, bold, bullets, details, paragraph, table
from midstudy.report.numbers import number, percent
from midstudy.report.report import Report


def left_out(report: Report) -> Html:
    """Show the uses that lose more than `MUCH` of their data, then a table of all counts."""
    counts = report.study.left_out
    much = counts.sentences
    shown = Html("")
    if much:
        shown += paragraph(f"More than {percent(MUCH)} of the following is not trained on or not measured:") + bullets(much)
    elif counts.tallies:
        shown += paragraph(f"Apart from the limits of the recipe, no use of the data loses more than {percent(MUCH)}.")
    if counts.not_counted:
        shown += paragraph(
            f"Not counted: {', '.join(counts.not_counted)}. These stages were made by a version without counts.", css="note"
        )
    if not counts.tallies:
        return shown + paragraph("There are no counts yet: no data stage is finished.", css="note")
    return shown + details(f"All {len(counts.tallies)} uses of the data", _table(counts.tallies))


def target_shares(report: Report) -> Html:
    """Show the shares of each task's target tokens that are trained on, and that are scored on the test split.

    A warning if one is below 90 %; nothing if no task has counts.
    """
    shares: dict[str, dict[str, Tally]] = {}
    for tally in report.study.left_out.tallies:
        use = {"training": "trained", "evaluation": "scored"}.get(tally.use)
        if use and tally.share_seen is not None and (tally.use == "training" or tally.split == "test"):
            worst = shares.setdefault(tally.data, {}).setdefault(use, tally)
            if tally.share_seen < (worst.share_seen or 0):
                shares[tally.data][use] = tally
    if not shares:
        return Html("")
    texts = []
    for data, of_data in shares.items():
        limits = dict.fromkeys(tally.limit for tally in of_data.values())
        seen = ", ".join(f"{tally.percent_seen} {use}" for use, tally in of_data.items())
        texts.append(f"{readable(data)} {seen} (within {' and '.join(str(limit) for limit in limits)} tokens)")
    text = f"{'; '.join(texts)}."
    if all((tally.share_seen or 0) >= 1 - MUCH for of_data in shares.values() for tally in of_data.values()):
        return paragraph(bold("Target tokens: "), text)
    text += " Less than 90 % of a task's target tokens count: its loss is about the beginnings of its items."
    return paragraph(bold("Target tokens: "), text, css="warning")


def _table(tallies: tuple[Tally, ...]) -> Html:
    rows: list[Row] = []
    for index, tally in enumerate(tallies):
        if index == 0 or tallies[index - 1].data != tally.data:
            rows.append(Heading(readable(tally.data)))
        use = tally.use if tally.limit is None else f"{tally.use} at {tally.limit} tokens"
        at_least = "" if tally.is_whole else "at least "
        rows.append(
            [
                f"{tally.split}, {use}",
                tally.reasons or "–",
                f"{number(tally.used)} {tally.unit}",
                at_least + number(sum(tally.left_out.values())),
                tally.percent_seen,
                number(tally.num_cut) if tally.share_seen is not None else "–",
            ]
        )
    return table(
        ["split and use", "reason for leaving out", "used", "left out", "target tokens seen", "targets cut"],
        rows,
        caption="How much of a split each use takes and leaves out. A target is cut if its item is longer than the "
        "sequence. Target tokens seen are a share of the target tokens of all items read, including those left out. "
        "Documents without text are kept as their end-of-text token.",
        num_text_columns=2,
    )
