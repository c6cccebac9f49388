"""The ability table: what base, midtraining and SFT can do, each seed with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator

from midstudy.analysis.phrases import capitalised
from midstudy.report.html import Html, Row, Text, bold, lines, paragraph, small, table
from midstudy.report.numbers import ABSENT, decimal, interval, number, whole_percent
from midstudy.report.report import Report
from midstudy.studies.nanochat.abilities import ANSWERS, FORMAT, LETTERS, TITLES
from midstudy.studies.nanochat.chain import STATES, rows_of, shares_of

CHANCE = {"knowledge": 0.25, "mmlu": 0.25}
"""Shares that guessing gives."""

WORTH_SAYING = 0.05
"""The share of the commonest right answer from which it is said beside an ability."""


def abilities(report: Report) -> Html:
    """Show the share of right answers of every ability at every state, by seed; nothing before anything is measured."""
    if report.tables.shares is None:
        return Html("")
    columns = [name for name in (FORMAT, *LETTERS, *ANSWERS) if name in report.manifest.columns]
    states = [state for state in STATES if len(rows_of(report, state))]
    shown = table(
        ["ability", *states],
        [_row(report, column, states) for column in columns],
        caption="Share of test items, greedy answers with the calculator: the mean over seeds, and below it each seed in "
        "percent with Wilson's 95 % interval over the items, for those weights. Chat format: the answer ends its turn and "
        "holds no stray mark; it need not make sense. Knowledge and MMLU: the largest logit among the letters of four "
        "choices. All else is exact: the whole spelling, or the number after ####. The commonest answer is what a "
        "state reaches that always says the same.",
    )
    return shown + _losses(report, states)


def changes(report: Report) -> list[str]:
    """Return a sentence for every ability on what midtraining changes, from the means over seeds."""
    sentences = []
    for column in (FORMAT, *ANSWERS, *LETTERS):
        means = [_mean(report, state, column) for state in ("base", "base → SFT", "base → mid", "base → mid → SFT")]
        if not any(map(math.isnan, means)):
            base, direct, mid, tuned = map(whole_percent, means)
            sentences.append(
                f"{capitalised(TITLES[column])}: {base} after the base, {mid} after midtraining, {tuned} after SFT on it, "
                f"{direct} after SFT without it."
            )
    return sentences


def _row(report: Report, column: str, states: list[str]) -> Row:
    shares = {state: list(shares_of(report, state, column)) for state in states}
    sizes = sorted({one.num_items for found in shares.values() for one in found})
    same = max((one.commonest for found in shares.values() for one in found), default=math.nan)
    guessed = [f"chance {CHANCE[column]:.0%}"] if column in CHANCE else []
    guessed += [f"commonest answer {whole_percent(same)}"] if same >= WORTH_SAYING else []
    cells: list[Text] = []
    for state in states:
        mean = _mean(report, state, column)
        each = [small(f"{_points(one.share)} {interval(one.low, one.high, _points)}") for one in shares[state]]
        cells.append(lines([bold(whole_percent(mean)), *each]) if each else ABSENT)
    items = " to ".join(number(size) for size in dict.fromkeys((sizes[0], sizes[-1]))) if sizes else ""
    asked = [f"{items} items"] if items else []
    return [lines([TITLES[column], *map(small, [*asked, *guessed])]), *cells]


def _points(share: float) -> str:
    return f"{100 * share:.0f}"


def _mean(report: Report, state: str, column: str) -> float:
    found = [one.share for one in shares_of(report, state, column)]
    return sum(found) / len(found) if found else math.nan


def _losses(report: Report, states: list[str]) -> Html:
    """Return the table of losses in bits per byte; they say more than a share of zero."""
    columns = [name for name, one in report.manifest.columns.items() if name.endswith("_bits") and not one.is_curve]
    chain = {state: rows_of(report, state) for state in states}
    columns = [name for name in columns if all(rows[name].notna().any() for rows in chain.values())]
    if not columns:
        return Html("")
    listed = list(_loss_rows(report, columns, chain))
    caption = "Bits per byte, means over seeds: of general text, and of the replies of each task."
    return paragraph("The losses behind them:") + table(["test text", *states], listed, caption=caption)


def _loss_rows(report: Report, columns: list[str], chain: dict[str, object]) -> Iterator[Row]:
    for column in columns:
        title = report.manifest.title_of(column).removeprefix("bits per byte, ")
        yield [title, *(decimal(float(rows_of(report, state)[column].mean())) for state in chain)]
