"""Power: what the grid can decide, and how many seeds would decide the rest."""

from __future__ import annotations

import math

from midstudy.analysis.claims import estimates
from midstudy.analysis.phrases import RELATIVE
from midstudy.analysis.power import MAX_SEEDS, ClaimPower, claims_power
from midstudy.analysis.rehearsal import rehearse
from midstudy.report.cells import readable
from midstudy.report.html import Html, Row, table
from midstudy.report.numbers import ABSENT, number
from midstudy.report.report import Report


def power_of(report: Report) -> tuple[ClaimPower, ...]:
    """Return the power of the study's claims, with the standard deviations of its finished seeds."""
    manifest = report.manifest
    if not manifest.claims or not manifest.arms:
        return ()
    measured, before = estimates(report.tables), report.tables.looks
    return claims_power(manifest.claims, rehearse(manifest), measured, looks=manifest.looks, before=before)


def power(report: Report) -> Html:
    """Show for each claim that is decided over seeds what its seeds detect and how many it needs; nothing without claims."""
    powers = [one for one in power_of(report) if one.num_seeds is not None]
    if not powers:
        return Html("")
    verdicts = dict(zip(range(1, len(report.judged) + 1), report.judged["verdict"], strict=True))
    rows: list[Row] = [
        [
            readable(one.text),
            number(one.num_seeds or 0),
            _amount(one.sd_upper, one.unit),
            _amount(one.detectable_sd_holm * one.sd_upper, one.unit),
            needed(one),
            "undecided" if verdicts[one.number] == "inconclusive" else "decided",
        ]
        for one in powers
    ]
    looks = report.manifest.looks
    spent = (
        f" The error is spent over looks at {', '.join(map(str, looks))} seeds: detectable is at the level of a look "
        "at these seeds, and seeds needed are those of the first planned look that decides."
        if looks
        else ""
    )
    few = sum(one.can_be_decided is False for one in powers)
    return table(
        ["claim", "seeds", "sd, at most", "detectable", "seeds needed", "here"],
        rows,
        caption=f"What this grid can decide. {few} of {len(powers)} claims have fewer than two seeds in a cell that they "
        "need, and cannot be decided. Sd: upper 80 % bound of the standard deviation of the paired effect over seeds. "
        "Detectable: the smallest distance of the effect from the margin of the claim that is found with 80 % power at "
        "0.05/m, as Holm asks; for a claim of no change, the smallest margin. Seeds needed: to decide the claim with 80 % "
        "power at 0.05/m, if the effect found here is the true one and its sd is at the bound; a claim can be decided with "
        "fewer, only less surely. A dash: not known from these seeds." + spent,
    )


def _amount(value: float, unit: str) -> str:
    if math.isnan(value):
        return ABSENT
    return f"{100 * value:.2g} %" if unit == RELATIVE else f"{value:.2g} {unit}"


def needed(one: ClaimPower) -> str:
    """Return the seeds that a claim needs at 0.05/m; a dash if that is not known from the seeds so far."""
    if one.seeds_needed_holm is not None:
        return number(one.seeds_needed_holm)
    if math.isnan(one.sd_upper):
        return ABSENT
    return f"more than {number(one.last_look or MAX_SEEDS)}"
