"""Choose the largest of an experiment's nested grids that a budget of device hours allows.

An experiment whose `study(...)` has the keyword `cuts` has nested grids: 0 is all of it, and each further cut leaves a part
of the arms before. Which arms go first is the experiment's decision, and its notes say what was cut.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midstudy.store.store import Store

KEYWORD = "cuts"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One of the nested grids: its cuts, what was cut last, and what it costs."""

    cuts: int
    cut: str
    arms: int
    device_hours: float


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The grids that were tried, largest first; the last one is within the budget. `settings` plan and run it."""

    tried: tuple[Tried, ...]
    budget_hours: float
    device: str
    settings: tuple[str, ...]
    command: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the lines that a plan shows."""
        last = self.tried[-1]
        how = f"after {last.cuts} cuts:" if last.cuts else "without a cut"
        budget = f"{self.budget_hours:,.0f} h of one {self.device}"
        lines = [f"  budget   {budget} allow {last.arms} arms, {last.device_hours:,.1f} h, {how}"]
        for before, one in zip(self.tried, self.tried[1:], strict=False):
            what = f"{one.cut}: {before.arms - one.arms} arms, {before.device_hours - one.device_hours:,.1f} h"
            lines.append(f"             cut {one.cuts}  {what}; {one.device_hours:,.1f} h are left")
        return [*lines, f"           {self.command}"]


def choose(
    experiment: str, store: Store | None, *, data: Sequence[str], settings: Sequence[str], price_on: str, budget_hours: float
) -> Chosen:
    """Return the first of the nested grids whose unfinished stages cost no more device hours than the budget.

    Args:
        data, settings: `--data` and `--set` arguments of the experiment.
        price_on: name of the device whose hours are counted.

    Raises:
        ValueError: the experiment has no nested grids, or the smallest costs more.
    """
    from midstudy.plan.cost import Throughput, measured_throughput
    from midstudy.plan.device import DEVICES
    from midstudy.plan.experiment import load_study, study_parameters
    from midstudy.plan.packed import counts_in
    from midstudy.plan.planner import make_plan
    from midstudy.plan.published import PublishedStates, published_states
    from midstudy.plan.steps_of import StepsOf
    from midstudy.recipe.errors import RecipeError

    path = Path(experiment)
    if KEYWORD not in study_parameters(path) or any(one.partition("=")[0] == KEYWORD for one in settings):
        raise ValueError(
            f"--budget-gpu-hours: expected an experiment whose study(...) has a keyword {KEYWORD}, how often its grid is "
            f"cut, and no --set {KEYWORD}, got {path.name}."
        )
    device = DEVICES[price_on]
    states = published_states(store, processor=None, num_threads=1) if store else PublishedStates()
    throughput = Throughput(device, measured_throughput(states.rates.get(price_on, ())))
    counts_of = counts_in(store)
    tried: list[Tried] = []
    while not tried or tried[-1].device_hours > budget_hours:
        now = [*settings, f"{KEYWORD}={len(tried)}"]
        try:
            study = load_study(path, data=data, settings=now, steps_of=StepsOf(counts_of))
        except RecipeError as error:
            if not tried or error.path != KEYWORD:
                raise
            least = f"{tried[-1].device_hours:,.1f} h of one {device.title}"
            raise ValueError(
                f"--budget-gpu-hours: expected at least {least}, for the smallest grid, got {budget_hours:g} h."
            ) from None
        plan = make_plan(
            study,
            throughput=throughput,
            published=store.published if store else lambda ids: set(),
            kept_states=states.kept,
            counts_of=counts_of,
        )
        notes = [note.partition(": ")[2] for note in study.notes if note.startswith(f"cut {len(tried)}: ")]
        tried.append(Tried(cuts=len(tried), cut="".join(notes), arms=len(study.arms), device_hours=plan.missing_s / 3600))
    parts = [part for name, values in (("--data", data), ("--set", now)) for value in values for part in (name, value)]
    return Chosen(
        tried=tuple(tried),
        budget_hours=budget_hours,
        device=device.title,
        settings=tuple(now),
        command=shlex.join(["midstudy", "run", experiment, *parts]),
    )
