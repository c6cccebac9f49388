"""Claims that were fixed before the run, each with what the study measured and the test that decides it."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.phrases import RELATIVE
from midstudy.analysis.power import ClaimPower
from midstudy.recipe.study import Claim
from midstudy.report.cells import readable
from midstudy.report.html import Html, Row, Text, bold, bullets, element, lines, paragraph, small, table
from midstudy.report.numbers import ABSENT, counted, number, p_value, with_minus
from midstudy.report.report import Report
from midstudy.report.sections.power import needed, power_of

VERDICTS = {"yes": "yes", "no": "NO", "inconclusive": "undecided"}


def claims(report: Report) -> Html:
    """Show every claim with the source's and this study's numbers, its seeds and the verdict; nothing if there are none.

    Below a claim stands its margin, below undecided claims' seeds how many they need, below a verdict what it is about if
    that is less than the claim's words. Above the table: when the claims were registered, what was changed later, and the
    looks so far.
    """
    if not report.manifest.claims:
        return Html("")
    judged = report.judged
    planned = report.manifest.looks
    rows: list[Row] = []
    powers = {one.number: one for one in power_of(report)}
    for place, (claim, row) in enumerate(zip(report.manifest.claims, judged.itertuples(), strict=True), start=1):
        verdict = [element("span", VERDICTS[str(row.verdict)], css=f"verdict-{row.verdict}")]
        verdict += [Html(f"look {row.look}")] if planned else []
        verdict += [small(str(row.scope))] if row.scope else []
        margin = _margin(claim, str(row.unit))
        spent = lines([p_value(float(row.p_value)), f"level {p_value(float(row.level))}", f"{row.num_seeds} seeds"])
        rows.append(
            [
                lines([readable(row.text), small(margin)]) if margin else readable(row.text),
                lines(with_minus(str(row.cited or row.source)).split("; ")),
                with_minus(readable(row.ours)),
                _seeds(powers.get(place), is_open=row.verdict == "inconclusive"),
                p_value(float(row.p_holm)),
                *([spent] if planned else []),
                lines(verdict),
            ]
        )
    counts = {verdict: int((judged["verdict"] == verdict).sum()) for verdict in VERDICTS}
    sources = ", ".join(dict.fromkeys(str(source) for source in judged["source"]))
    caption = (
        f"{counted(len(judged), 'claim')} of {sources}: yes {counts['yes']}, no {counts['no']}, undecided "
        f"{counts['inconclusive']}. A verdict is a test: a claim is decided, in either direction, if its p value is below "
        f"0.05 after Holm's correction within its family of claims (tested claims: {_families(judged)}). Claims with a "
        "direction: two-sided t test over seeds at the margin. Claims of no change: two one-sided tests (TOST) that the "
        "effect lies within the margins, each at 5 %. A claim on several arms holds only if it holds for each (the largest "
        "p); to reject it, the smallest p is multiplied by their number. Intervals are uncorrected 95 % intervals. "
        "A single seed decides nothing, except about the items of its own state, as the verdict then says. A quantity "
        "without sampling error is judged by its value and has no p. Differences are positive where the arm is better, that "
        "is, where its loss is lower. Seeds: the fewest behind the test, and for an undecided claim those that would decide "
        "it (see the table on power); a dash where a claim is not decided over seeds. Directions are compared, not levels: "
        "models, data and tokenizer differ from the source's."
    )
    p_names = ["p, looks and Holm", "p at this look"] if planned else ["p, Holm"]
    columns = ["claim", "the source", "this study", "seeds", *p_names, "holds"]
    return _registration(report) + _looks(report, judged) + table(columns, rows, caption=caption, num_text_columns=3)


def _margin(claim: Claim, unit: str) -> str:
    """Return what an effect must be for the claim to hold, where that is more than a direction: 'holds within ±1 %'."""
    amount = f"{100 * claim.margin:g} %" if unit == RELATIVE else f"{claim.margin:g} {unit}".rstrip()
    if claim.holds == "within":
        return f"holds within ±{amount}"
    return with_minus(f"holds {claim.holds} {amount}") if claim.margin else ""


def _seeds(power: ClaimPower | None, *, is_open: bool) -> Text:
    """Return the seeds behind a claim and, while it is undecided, those that it needs."""
    if power is None or power.num_seeds is None:
        return ABSENT
    has, needs = number(power.num_seeds), needed(power)
    return lines([has, small(f"{needs} needed" if needs != ABSENT else "more needed")]) if is_open else has


def _registration(report: Report) -> Html:
    """Say whether the claims were registered before the first result, and list what was changed later."""
    registered = report.study.registration
    shown = paragraph(bold("Registration: "), f"claims, families, margins and looks were {registered.sentence}.")
    if registered.problem is not None or not registered.entries:
        shown = paragraph(bold("Registration: "), f"{registered.sentence}.", css="warning" if registered.problem else "note")
    if registered.later:
        shown += paragraph("Changed later:") + bullets(registered.later)
    return shown


def _looks(report: Report, judged: pd.DataFrame) -> Html:
    """Say how the error is spent over planned looks, or that it is not if reports have judged several numbers of seeds."""
    planned, looks = report.manifest.looks, report.tables.looks
    so_far = ", ".join(str(look.num_seeds) for look in looks)
    if planned:
        return paragraph(
            bold("Looks: "),
            f"planned at {', '.join(map(str, planned))} seeds; looked at with {so_far or 'no'} seeds so far. The 5 % of a "
            "claim are spent by the fraction of the planned seeds (Lan and DeMets, like O'Brien and Fleming); p values are "
            "corrected for the looks, then by Holm's method. Below each p stands the level that it has to lie below if the "
            "claim is alone in its family. A claim that an earlier look decided stays decided; the look is named.",
        )
    if len(looks) > 1:
        return paragraph(
            bold("Looks: "),
            f"the claims were judged with {so_far} seeds, each time at 5 %, since no looks were planned (Study.looks). Over "
            "all looks, a false verdict is more likely than that.",
            css="warning",
        )
    return Html("")


def _families(judged: pd.DataFrame) -> str:
    """Name the families with the number of tested claims in each: 'task loss: 7; proximity: 1'."""
    tested = judged[judged["p_value"].notna()]
    counts = tested.groupby("family", sort=False).size()
    return "; ".join(f"{family or 'no family'}: {number}" for family, number in counts.items()) or "none is tested"
