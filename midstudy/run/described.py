"""A plan as text and as JSON, with what its grid can decide: the power of every claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midstudy.analysis.power import ClaimPower
    from midstudy.plan.planner import Plan
    from midstudy.store.store import Store


def plan_text(plan: Plan, store: Store | None, *, forecast_s: float | None = None) -> str:
    """Return the plan as text, ending on the section about power if the study makes claims.

    Args:
        store: finished seeds in it give the standard deviations.
        forecast_s: expected wall-clock seconds of the run, if its jobs are known.
    """
    from midstudy.plan import summary

    lines = power_lines(power_of(plan, store), seeds=plan.study.seeds)
    return "\n".join([summary.plan_text(plan, forecast_s=forecast_s), *lines])


def plan_facts(plan: Plan, store: Store | None, *, forecast_s: float | None = None) -> dict[str, Any]:
    """Return the plan's numbers as JSON-serialisable data, with those about power under `power`, one entry for each claim.

    For the arguments see `plan_text`; for the entries `midstudy.analysis.power.ClaimPower`. Unknown numbers are `None`.
    """
    from midstudy.plan import summary

    power = [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(one).items()}
        for one in power_of(plan, store)
    ]
    return {**summary.plan_facts(plan, forecast_s=forecast_s), "power": power}


def power_of(plan: Plan, store: Store | None) -> tuple[ClaimPower, ...]:
    """Return the power of the study's claims on the planned grid.

    Raises:
        ValueError: a claim cannot be judged; see `midstudy.analysis.rehearsal.rehearse`.
    """
    if not plan.study.claims:
        return ()
    from midstudy.analysis.claims import estimates
    from midstudy.analysis.power import claims_power
    from midstudy.analysis.rehearsal import rehearse
    from midstudy.analysis.tables import Tables, arms_table, curves_table
    from midstudy.plan.manifest import manifest_of
    from midstudy.store.looks import looks_of

    manifest = manifest_of(plan, command="")
    measured = None
    if store is not None and any(one in plan.published for arm in plan.arms for ids in arm.measures.values() for one in ids):
        tables = Tables(manifest, arms_table(store, manifest), curves_table(store, manifest), None, None)
        measured = estimates(tables)
    before = () if store is None else looks_of(store, manifest.name)
    return claims_power(manifest.claims, rehearse(manifest), measured, looks=manifest.looks, before=before)


def power_lines(power: Sequence[ClaimPower], *, seeds: Sequence[str]) -> list[str]:
    """Return the section about power: a line for the claims that cannot be decided, and one for each that can."""
    if not power:
        return []
    seed = seeds[0].replace("_", " ") if seeds else "seed"
    lines = []
    for num_seeds in (0, 1):
        few = [one for one in power if one.can_be_decided is False and min(1, one.num_seeds or 0) == num_seeds]
        if few:
            verb = "has" if len(few) == 1 else "have"
            number = f"one {seed}" if num_seeds else f"no common {seed}"
            lines.append(f"{_listed(few)} {verb} {number} and cannot be decided on this grid")
    if other := [one for one in power if one.num_seeds is None]:
        lines.append(f"{_listed(other)} {'is' if len(other) == 1 else 'are'} not decided over {seed}s")
    tested = [one for one in power if one.can_be_decided]
    if tested:
        lines.append(
            f"{'the others, ' if lines else ''}with 80 % power at 0.05 (and at Holm's 0.05/m over m claims of a family); "
            f"sd: the standard deviation of an effect over {seed}s"
            + (
                f"; both levels are spent over looks, the last at {tested[0].last_look} {seed}s"
                if tested[0].last_look
                else ""
            )
        )
    lines += [f"  claim {one.number} ({one.text}): {_line(one, seed)}" for one in tested]
    return [f"{'  power    ' if number == 0 else ' ' * 11}{line}" for number, line in enumerate(lines)]


def _line(one: ClaimPower, seed: str) -> str:
    has = f"{one.num_seeds} {seed}s"
    if one.seeds_needed is not None:
        none = "no planned look" if one.last_look else "more than are searched for"
        holm = none if one.seeds_needed_holm is None else f"{one.seeds_needed_holm}"
        return f"{has}, needs {one.seeds_needed} ({holm}, m = {one.family_size}) at sd {one.sd_upper:.2g} {one.unit}"
    if not math.isnan(one.sd_upper) and one.last_look:
        return f"{has}, no planned look decides it at sd {one.sd_upper:.2g} {one.unit}"
    if not math.isnan(one.sd_upper):
        return f"{has}, too close to its margin to be decided at sd {one.sd_upper:.2g} {one.unit}"
    if math.isnan(one.detectable_sd):
        return f"{has} are too few for the level that their look is given"
    shows = "show no change within" if one.holds == "within" else "detect"
    return f"{has} {shows} {one.detectable_sd:.1f} sd ({one.detectable_sd_holm:.1f} sd, m = {one.family_size})"


def _listed(claims: Sequence[ClaimPower]) -> str:
    numbers = [str(one.number) for one in claims]
    if len(numbers) == 1:
        return f"claim {numbers[0]}"
    return f"claims {', '.join(numbers[:-1])} and {numbers[-1]}"
