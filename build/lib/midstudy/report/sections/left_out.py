"""What the data left out: sentences for losses above a tenth, and a table of every use of every split."""

from __future__ import annotations

from midstudy.data.tally import MUCH, Tally
from midstudy.report.cells import spoken
from midstudy.report.html import Heading, Html, Row, bullets, details, paragraph, table
from midstudy.report.numbers import number, percent
from midstudy.report.report import Report


def left_out(report: Report) -> Html:
    """Losses above a tenth, then a table of all counts."""
    found = report.study.left_out
    much = found.sentences
    shown = Html("")
    if much:
        shown += paragraph(f"More than {percent(MUCH)} of these is not trained on or not measured:") + bullets(much)
    elif found.tallies:
        shown += paragraph(f"Nothing beyond the limits of the recipe loses more than {percent(MUCH)}.")
    if found.not_counted:
        shown += paragraph(
            f"Not counted: {', '.join(found.not_counted)}. These stages were made before there were counts.", css="note"
        )
    if not found.tallies:
        return shown + paragraph("Nothing is counted yet: no data stage is finished.", css="note")
    return shown + details(f"All {len(found.tallies)} uses of the data", _table(found.tallies))


def trained_shares(report: Report) -> str:
    """Tasks of which training sees few target tokens, with the percentage seen; empty if there are none."""
    shares = {
        (tally.data, tally.limit): f"{spoken(tally.data)} {tally.percent_seen} within {tally.limit} tokens"
        for tally in report.study.left_out.tallies
        if tally.use == "training" and tally.share_seen is not None and tally.is_much
    }
    return ", ".join(shares.values())


def _table(tallies: tuple[Tally, ...]) -> Html:
    rows: list[Row] = []
    for index, tally in enumerate(tallies):
        if index == 0 or tallies[index - 1].data != tally.data:
            rows.append(Heading(spoken(tally.data)))
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
        ["split and use", "why something is left out", "used", "left out", "target tokens seen", "targets cut"],
        rows,
        caption="What each use takes of a split and what it leaves out. A target is cut where its item is longer than the "
        "sequence; target tokens seen are a share of those of all items that were looked at, left out or not. Documents "
        "without text are kept as their end-of-text token.",
        num_text_columns=2,
    )
