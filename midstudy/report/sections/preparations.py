"""Prepared text: what each step read and kept, what it left out and why, with an example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from midstudy.report.html import Heading, Html, Row, code, lines, small, table
from midstudy.report.numbers import number, percent
from midstudy.report.report import Report

_CHARACTERS, _MOST_REASONS = 80, 4


def preparations(report: Report) -> Html:
    """Show a row for each step of every finished preparation; nothing where text is read as it is."""
    yields = report.study.left_out.yields
    if not yields:
        return Html("")
    return table(
        ["step", "documents read", "kept", "bytes kept", "left out, by reason, with an example"],
        [row for label, steps in yields.items() for row in _rows(label, steps)],
        caption="Steps in order, over the train split. Dev and test are those of the corpora that are read, so that what is "
        "prepared and what is not are measured on the same text. A step that cuts documents keeps more than it reads.",
        num_text_columns=1,
    )


def _rows(label: str, steps: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    yield Heading(label)
    for one in steps:
        share = one["bytes_out"] / one["bytes_in"] if one["bytes_in"] else float("nan")
        commonest = sorted(one["left_out"].items(), key=lambda item: -item[1])
        shown = [_reason(reason, count, one["examples"]) for reason, count in commonest[:_MOST_REASONS]]
        if len(commonest) > _MOST_REASONS:
            shown.append(small(f"and {len(commonest) - _MOST_REASONS} other reasons"))
        yield [
            one["step"],
            number(one["documents_in"]),
            number(one["documents_out"]),
            percent(share),
            lines(shown) if shown else "–",
        ]


def _reason(reason: str, count: int, examples: Mapping[str, Sequence[str]]) -> Html:
    text = " ".join(examples[reason][0].split()) if examples.get(reason) else ""
    return Html(f"{number(count)} ") + small(reason) + Html(" ") + code(text[:_CHARACTERS])
