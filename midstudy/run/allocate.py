"""Propose the next seeds of a study: price one more seed by planning it, and say which claims how many seeds would decide.

The price of a seed is the difference of two plans, so what seeds share costs nothing more. The proposal is planned as well:
its cost is that of the run that its command starts.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midstudy.analysis.allocation import Allocation, ClaimNeed, ClaimState, allocate, rows_of
from midstudy.plan.planner import Plan, device_s
from midstudy.plan.summary import hours
from midstudy.recipe.manifest import Manifest
from midstudy.run.study import command_line, plan_experiment

if TYPE_CHECKING:
    from midstudy.store.store import Store


@dataclass(frozen=True, kw_only=True)
class ProposedSeeds:
    """Which claims further seeds decide, and the command of the proposal, `None` if none is worth its cost.

    `keyword` is that of `study(...)`, `seeds` are its values now and `proposed` those proposed. `cost_s` is the cost of
    the run that the command starts, in seconds of one `device`.
    """

    study: str
    device: str
    factor: str
    keyword: str
    seeds: tuple[int, ...]
    seed_s: float
    unfinished_s: float
    budget_s: float | None
    allocation: Allocation
    proposed: tuple[int, ...] | None
    cost_s: float | None
    command: str | None

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as JSON-serialisable data; unknown ones are `None`."""
        facts = asdict(self)
        facts["claims"] = [_without_nan(asdict(one)) for one in self.allocation.needs]
        facts["steps"] = [{**asdict(one), "cost_per_claim_s": one.cost_per_claim_s} for one in self.allocation.steps]
        del facts["allocation"]
        return facts

    def as_text(self) -> str:
        """Return the claims, the ranked numbers of seeds, and the command."""
        needs = self.allocation.needs
        undecided = [one for one in needs if one.verdict == "inconclusive"]
        seed = self.factor.replace("_", " ")
        lines = [
            f"{self.study}: {len(undecided)} of {len(needs)} claims are undecided with the {seed}s "
            f"{', '.join(map(str, self.seeds))}",
            f"  one more  {_cost(self.seed_s)} of one {self.device} for each further {seed}; what seeds share costs nothing",
        ]
        if self.unfinished_s:
            lines.append(f"  to finish {_cost(self.unfinished_s)} for the seeds that are planned and not finished")
        lines += [f"  claim {one.number:<3} {_need(one, seed)}" for one in undecided]
        for step in self.allocation.steps:
            lines.append(
                f"  option    {step.more_seeds} more, {_cost(step.cost_s)}: expected to decide {_listed(step.claims)}, "
                f"{_cost(step.cost_per_claim_s)} a claim"
            )
        if self.command is None or self.cost_s is None:
            within = "" if self.budget_s is None else f" within {_cost(self.budget_s)}"
            lines.append(f"  proposal  none: no further {seed} is expected to decide a claim{within}")
        else:
            lines.append(f"  proposal  {_cost(self.cost_s)} (80 % power at the measured effects, upper bounds of their sd)")
            lines.append(f"    {self.command}")
        return "\n".join(lines)


def allocation_of(
    experiment: str,
    store: Store,
    *,
    data: Sequence[str],
    settings: Sequence[str],
    price_on: str | None,
    budget_hours: float | None,
) -> ProposedSeeds:
    """Return the proposal for the study of an experiment file, from its finished seeds in the store.

    Args:
        data, settings, price_on: as in `plan_experiment`.
        budget_hours: limit on the cost of the next run, in hours of one device; `None` for no limit.

    Raises:
        RecipeError, ValueError, StoreError: as `plan_experiment`; also if the study makes no claims, or if no keyword of the
            experiment gives its seeds.
    """
    from midstudy.plan.manifest import manifest_of
    from midstudy.plan.seed_keyword import seed_keyword

    def planned(seeds: tuple[int, ...] | None = None) -> Plan:
        more = [] if seeds is None else [keyword.setting(seeds)]
        return plan_experiment(experiment, store, data=data, settings=[*settings, *more], price_on=price_on)

    plan = planned()
    if not plan.study.claims:
        raise ValueError(f"{experiment}: expected a study with claims to decide, got {plan.study.name} without any")
    keyword = seed_keyword(Path(experiment), plan.study, data=data, settings=settings)
    grown = planned(keyword.with_more(1))
    budget_s = None if budget_hours is None else 3600 * budget_hours
    found = allocate(
        _states(store, plan, manifest_of(plan, command=""), grown, keyword.with_more(1)[-1]),
        seed_s=device_s(plan.throughput.device, _new(plan, grown)),
        unfinished_s=plan.missing_s,
        looks=plan.study.looks,
        budget_s=budget_s,
    )
    proposed = command = cost_s = None
    if found.proposed is not None:
        proposed = keyword.with_more(found.proposed.more_seeds)
        kept = [setting for setting in settings if setting.partition("=")[0] != keyword.name]
        command = command_line(experiment, data=data, settings=[*kept, keyword.setting(proposed)])
        command += f" --store {shlex.quote(str(store.root))}"
        cost_s = planned(proposed).missing_s
    return ProposedSeeds(
        study=plan.study.name,
        device=plan.throughput.device.title,
        factor=plan.study.seeds[0],
        keyword=keyword.name,
        seeds=keyword.seeds,
        seed_s=device_s(plan.throughput.device, _new(plan, grown)),
        unfinished_s=plan.missing_s,
        budget_s=budget_s,
        allocation=found,
        proposed=proposed,
        cost_s=cost_s,
        command=command,
    )


def _states(store: Store, plan: Plan, manifest: Manifest, grown: Plan, seed: int) -> list[ClaimState]:
    """Return what is known of every claim; `grown` is the plan with `seed` more."""
    from midstudy.analysis.claims import estimates, judge
    from midstudy.analysis.looks import history, this_look
    from midstudy.analysis.rehearsal import rehearse
    from midstudy.analysis.tables import Tables, arms_table, curves_table, similarity_tables
    from midstudy.plan.manifest import manifest_of
    from midstudy.store.looks import looks_of

    before = looks_of(store, manifest.name)
    similarity = similarity_tables(store, manifest)
    tables = Tables(manifest, arms_table(store, manifest), curves_table(store, manifest), *similarity, looks=before)
    measured, judged = estimates(tables), judge(tables)
    grown_manifest = manifest_of(grown, command="")
    fraction = this_look(manifest.looks, measured, before)[1]
    return [
        ClaimState(
            claim=claim,
            verdict=str(judged["verdict"].iloc[row]),
            measured=measured[row],
            planned=now,
            grown=then,
            history=history(claim, int(judged["num_seeds"].iloc[row]), fraction, planned=manifest.looks, before=before),
            own_seed_s=_own_seed_s(plan, grown, rows_of(grown_manifest, claim), seed),
        )
        for row, (claim, now, then) in enumerate(
            zip(manifest.claims, rehearse(manifest), rehearse(grown_manifest), strict=True)
        )
    ]


def _new(plan: Plan, grown: Plan) -> list[Any]:
    """Return the stages to be run that only the larger plan has."""
    return [stage for stage in grown.missing if stage.id not in plan.stages]


def _own_seed_s(plan: Plan, grown: Plan, rows: Iterable[int], seed: int) -> float:
    """Return the seconds of the new stages that the arms of `rows` with this seed need."""
    factor = grown.study.seeds[0]
    arms = [grown.arms[row] for row in rows if grown.arms[row].arm.factors[factor] == seed]
    pending = [stage for arm in arms for stages in ((arm.state,), *arm.measures.values()) for stage in stages]
    needed = dict.fromkeys(pending)
    for stage_id in pending:  # grows while it is read
        for parent in grown.stages[stage_id].parents:
            if parent in grown.stages and parent not in needed:
                needed[parent] = None
                pending.append(parent)
    return device_s(grown.throughput.device, [stage for stage in _new(plan, grown) if stage.id in needed])


def _need(one: ClaimNeed, seed: str) -> str:
    """Return one line on what a claim needs."""
    if one.seeds_needed is None:
        return f"({one.text}): {one.problem}"
    effect = f"{one.value:+.3g} {one.unit}, sd at most {one.sd_upper:.2g}"
    needs = f"needs {one.seeds_needed} {seed}s, {one.more_seeds} more, {_cost(one.cost_s or 0.0)}"
    own = f"its own cells cost {_cost(one.own_seed_s)} a seed"
    return f"({one.text}): {effect}; {needs}; {own}" + (f"; {one.problem}" if one.problem else "")


def _cost(seconds: float) -> str:
    return hours(seconds / 3600)


def _listed(numbers: Sequence[int]) -> str:
    return f"claim{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def _without_nan(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in facts.items()}
