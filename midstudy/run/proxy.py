"""`midstudy recommend --proxy`: plan the study of small models to a duration, and read what it says of each candidate."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from midstudy.analysis.convex_weights import convex_weights
from midstudy.data.named_text import NamedText
from midstudy.evaluate.items import ITEMS_FILE
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.manifest import Manifest
from midstudy.recipe.study import Study
from midstudy.run.proxy_study import BRANCH, COLUMN, EXPERT, proxy_study
from midstudy.store.store import Store

if TYPE_CHECKING:
    from midstudy.plan.planner import Plan

FEWEST_STEPS = 20
MOST_STEPS = 20_000
_PROBED_STEPS = 200
_NORMAL_95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class ProxyScore:
    """What small models say of a candidate.

    `gain`: the share of the target's dev loss that its branch saves against the branch on general text, with a 95 % interval
    over dev items; seeds are not varied. `weight`: of its expert in the mixture of experts that fits the target best.
    """

    gain: float
    low: float
    high: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """Scores by candidate. Losses are nats per token on the target's dev split, of single experts and of their mixture."""

    study: str
    num_steps: int
    num_items: int
    scores: Mapping[str, ProxyScore]
    general_weight: float
    best_expert_loss_nats: float
    mixture_loss_nats: float

    @property
    def order(self) -> list[str]:
        """The candidates by the gain of their branches, the largest first."""
        return sorted(self.scores, key=lambda name: (-self.scores[name].gain, name))


def proxy_name(
    *, target: NamedText, general: NamedText, candidates: Sequence[NamedText], share: float, duration_s: float
) -> str:
    """Return the name of the study: equal for equal text, read in the same way, share and duration, so that a second command
    continues it."""
    key = [[text.name, *text.identity] for text in (target, general, *candidates)]
    return f"proxy_{hashlib.sha256(json.dumps([key, share, duration_s]).encode('utf-8')).hexdigest()[:12]}"


def fitted_plan(study_of: Callable[[int], Study], plan_of: Callable[[Study], tuple[Plan, float]], duration_s: float) -> Plan:
    """Return the plan of the longest study whose forecast is within a duration.

    The forecast is nearly a line in the steps: two plans give it, a third checks it.

    Args:
        study_of: returns the study with this number of steps.
        plan_of: returns the plan of a study and its forecast in seconds.

    Raises:
        RecipeError: the shortest study takes longer than the duration.
    """
    shortest, least_s = plan_of(study_of(FEWEST_STEPS))
    if least_s > duration_s:
        raise RecipeError(
            "--proxy",
            expected=f"at least {math.ceil(least_s)} s on this machine for these candidates",
            got=f"{duration_s:g} s",
            fix="Give it more time, or fewer candidates.",
        )
    _, probed_s = plan_of(study_of(_PROBED_STEPS))
    step_s = (probed_s - least_s) / (_PROBED_STEPS - FEWEST_STEPS)
    num_steps = MOST_STEPS if step_s <= 0 else FEWEST_STEPS + int((duration_s - least_s) / step_s)
    num_steps = min(num_steps, MOST_STEPS)
    while num_steps > FEWEST_STEPS:
        plan, took_s = plan_of(study_of(num_steps))
        if took_s <= duration_s:
            return plan
        num_steps = max(FEWEST_STEPS, min(num_steps - 1, int(num_steps * duration_s / took_s)))
    return shortest


def study_for(
    num_steps: int,
    *,
    target: NamedText,
    general: NamedText,
    candidates: Sequence[NamedText],
    share: float,
    smallest_bytes: int,
    duration_s: float,
) -> Study:
    """Return the study with this number of steps, named by what it reads; `smallest_bytes` is that of `proxy_study`."""
    texts = {"target": target, "general": general}
    name = proxy_name(**texts, candidates=candidates, share=share, duration_s=duration_s)
    return proxy_study(
        **texts, candidates=candidates, share=share, smallest_bytes=smallest_bytes, num_steps=num_steps, name=name
    )


def read_proxy(store: Store, manifest: Manifest) -> Proxy:
    """Return what a finished study of small models says.

    Raises:
        StoreError: a stage of it is not finished or damaged.
    """
    nats: dict[tuple[str, str], NDArray[np.float64]] = {}
    num_tokens = np.zeros(0)
    branch_steps = 0
    for arm in manifest.arms:
        (stage,) = arm.measures[COLUMN]
        part, corpus = str(arm.factors["part"]), str(arm.factors["corpus"])
        nats[part, corpus], num_tokens = _items(store, stage)
        branch_steps = arm.phases[-1].stop_step - arm.phases[-1].start_step
    control = str(manifest.arms[manifest.comparisons[0].references[0]].factors["corpus"])
    names = [corpus for part, corpus in nats if part == EXPERT]
    by_expert = np.stack([nats[EXPERT, name] for name in names])
    found = convex_weights(by_expert, num_tokens)
    weights = dict(zip(names, found.weights.tolist(), strict=True))
    scores = {}
    for part, corpus in nats:
        if part == BRANCH and corpus != control:
            gain, half_width = paired_gain(nats[BRANCH, control], nats[BRANCH, corpus])
            scores[corpus] = ProxyScore(gain=gain, low=gain - half_width, high=gain + half_width, weight=weights[corpus])
    return Proxy(
        study=manifest.name,
        num_steps=branch_steps,
        num_items=num_tokens.size,
        scores=scores,
        general_weight=weights[control],
        best_expert_loss_nats=float((by_expert / num_tokens).mean(axis=1).min()),
        mixture_loss_nats=found.loss_nats,
    )


def paired_gain(reference: NDArray[np.float64], nats: NDArray[np.float64]) -> tuple[float, float]:
    """Return the share of the reference's nats that is saved, and half the width of its 95 % interval over items.

    The interval is that of a ratio of means, by the delta method; both have a value for each item.
    """
    saved = reference - nats
    gain = float(saved.sum() / reference.sum())
    if saved.size < 2:
        return gain, math.inf
    residuals = saved - gain * reference
    error = float(np.sqrt(residuals.size * residuals.var(ddof=1)) / reference.sum())
    return gain, _NORMAL_95 * error


def _items(store: Store, stage: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from pyarrow import parquet

    store.record(stage)  # raises if the stage is not finished
    table = parquet.read_table(store.published_folder(stage) / ITEMS_FILE)
    return table["nats"].to_numpy().astype(np.float64), table["target_tokens"].to_numpy().astype(np.float64)
