"""What a grid can decide: for each claim, the effect that its seeds detect, and the seeds that it needs.

Power is that of the tests in `decisions.py`, at the level 0.05 and at 0.05/m, which Holm's correction asks of the first of m
claims of a family. In a study with planned looks these levels are spent over the looks (`spending.py`), and power is that
at what a look is given: early looks have nearly none. Effects are in standard deviations (sd) of the claim's paired effect
over seeds, until finished seeds give that sd.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from midstudy.analysis.decisions import ALPHA
from midstudy.analysis.estimators import Estimate
from midstudy.analysis.looks import fractions_before
from midstudy.analysis.spending import levels
from midstudy.recipe.study import Claim
from midstudy.store.looks import Look

POWER = 0.80
MAX_SEEDS = 1_000
"""More seeds than this are not searched for."""


@dataclass(frozen=True, kw_only=True)
class ClaimPower:
    """What a grid can say about one claim.

    `number` counts the study's claims from 1. `num_seeds` is the smallest number of replicating seeds in the claim's cells;
    it and `can_be_decided` are `None` if the claim is not decided over seeds. `detectable_sd` is the smallest distance of
    the effect from the margin that is detected with 80 % power; for a claim `within` a margin, the smallest margin at which
    an effect of 0 is shown to lie within. `sd_upper` is the upper 80 % bound of the effect's standard deviation, in `unit`,
    from finished seeds; `seeds_needed` are the seeds with which it decides the claim, with 80 % power, if `value` is the
    true effect, and `None` if they are unknown or more than `MAX_SEEDS`. The names in `_holm` are at the level
    0.05/`family_size`. With planned looks, `level` is what 0.05 leaves for a test at `num_seeds`, `last_look` the most
    seeds of a planned look (`None` without looks), and the seeds needed are those of the first planned look that decides. A
    claim on several cells needs more: its numbers are those of the cell that decides it. Unknown numbers are NaN.
    """

    number: int
    text: str
    holds: str
    family: str
    family_size: int
    num_seeds: int | None
    can_be_decided: bool | None
    detectable_sd: float
    detectable_sd_holm: float
    unit: str
    value: float
    sd_upper: float
    seeds_needed: int | None
    seeds_needed_holm: int | None
    level: float
    last_look: int | None


def claims_power(
    claims: Sequence[Claim],
    planned: Sequence[Estimate],
    measured: Sequence[Estimate] | None = None,
    *,
    looks: Sequence[int] = (),
    before: Sequence[Look] = (),
) -> tuple[ClaimPower, ...]:
    """Return the power of every claim.

    Args:
        planned: the claims' estimates on the planned grid, with values of no meaning (`rehearsal.rehearse`).
        measured: the claims' estimates from finished seeds, if there are any.
        looks: the seeds of the study's planned looks.
        before: the looks that are recorded so far.
    """
    measured = measured or [Estimate(unit="")] * len(claims)
    # Claims that are not decided over seeds have a test, too, once they are measured.
    is_open = [one.num_seeds is None or not math.isnan(one.p_holds) for one in planned]
    sizes = {
        claim.family: sum(open_ for open_, other in zip(is_open, claims, strict=True) if other.family == claim.family)
        for claim in claims
    }
    return tuple(
        _claim_power(
            number, claim, one, found, can_be_decided=can, family_size=sizes[claim.family], looks=looks, before=before
        )
        for number, (claim, one, found, can) in enumerate(zip(claims, planned, measured, is_open, strict=True), start=1)
    )


def _claim_power(
    number: int,
    claim: Claim,
    planned: Estimate,
    measured: Estimate,
    *,
    can_be_decided: bool,
    family_size: int,
    looks: Sequence[int],
    before: Sequence[Look],
) -> ClaimPower:
    alphas = (ALPHA, ALPHA / max(1, family_size))
    level = partial(level_at, claim, looks=looks, before=before)
    here = planned.num_seeds if can_be_decided and planned.num_seeds else 0
    smallest = detectable_margin if claim.holds == "within" else detectable_effect
    detectable = [
        smallest(num_seeds=here, alpha=spent) if here and (spent := level(here, alpha)) > 0 else math.nan for alpha in alphas
    ]
    sd = upper_sd(measured.error * math.sqrt(measured.df + 1), df=measured.df)

    def needed(alpha: float) -> int | None:
        known = {"margin": claim.margin, "effect": measured.value, "sd": sd}
        if math.isnan(sd):
            return None
        if not looks:
            return seeds_needed(claim.holds, **known, alpha=alpha)
        given = {look: level(look, alpha) for look in looks if look >= 2}
        decides = (
            look
            for look, spent in given.items()
            if spent > 0 and power_of_seeds(claim.holds, look, **known, alpha=spent) >= POWER
        )
        return next(decides, None)

    return ClaimPower(
        number=number,
        text=claim.text,
        holds=claim.holds,
        family=claim.family,
        family_size=family_size,
        num_seeds=planned.num_seeds,
        can_be_decided=None if planned.num_seeds is None else can_be_decided,
        detectable_sd=detectable[0],
        detectable_sd_holm=detectable[1],
        unit=measured.unit or planned.unit,
        value=measured.value,
        sd_upper=sd,
        seeds_needed=needed(alphas[0]),
        seeds_needed_holm=needed(alphas[1]),
        level=level(here, ALPHA) if here else math.nan,
        last_look=looks[-1] if looks else None,
    )


def level_at(claim: Claim, num_seeds: int, alpha: float, *, looks: Sequence[int], before: Sequence[Look]) -> float:
    """Return the level of a claim's p value at so many seeds: what the looks before them leave of `alpha`.

    Looks before are the recorded ones that tested the claim with fewer seeds, and the planned ones after these. Without
    planned looks it is `alpha`; 0 where nothing is left.
    """
    if not looks:
        return alpha
    fractions = fractions_before(claim, num_seeds, before)
    last = max(fractions, default=1)
    fractions |= {look: look / looks[-1] for look in looks if last < look < num_seeds}
    so_far = [look.fraction for look in before if look.num_seeds <= num_seeds]  # error once spent stays spent
    fractions[num_seeds] = min(1.0, max([num_seeds / looks[-1], *so_far]))
    seeds = sorted(fractions)
    rising = list(accumulate((fractions[one] for one in seeds), max))
    return float(levels(alpha, rising, seeds, sides=1 if claim.holds == "within" else 2)[-1])


def t_power(*, num_seeds: int, effect_sd: float, alpha: float) -> float:
    """Return the power of the two-sided one-sample t test to find an effect in its direction.

    Noncentral t with num_seeds − 1 degrees of freedom and noncentrality effect_sd · √num_seeds.
    """
    from scipy.stats import nct, t

    df = num_seeds - 1
    return float(nct.sf(t.isf(alpha / 2, df), df, abs(effect_sd) * math.sqrt(num_seeds)))


def equivalence_power(*, num_seeds: int, margin_sd: float, effect_sd: float, alpha: float) -> float:
    """Return the power of two one-sided t tests, each at `alpha`, to show that an effect lies within ± a margin.

    The probability, given the sample's standard deviation s, that the mean lies further than t·s/√n inside both margins,
    integrated over the distribution of s (Phillips, J. Pharmacokinet. Biopharm. 18, 1990).
    """
    from scipy.integrate import quad
    from scipy.special import ndtr, stdtrit

    df, root = num_seeds - 1, math.sqrt(num_seeds)
    critical = float(stdtrit(df, 1 - alpha))

    log_norm = math.log(df) / 2 - (df / 2 - 1) * math.log(2) - math.lgamma(df / 2)

    def density(s: float) -> float:
        """The density of s (√df · s has the χ distribution) times the probability of a mean inside."""
        inside = ndtr(root * (margin_sd - effect_sd) - critical * s) - ndtr(critical * s - root * (margin_sd + effect_sd))
        u = s * math.sqrt(df)
        return max(0.0, float(inside)) * math.exp(log_norm + (df - 1) * math.log(u) - u * u / 2) if u else 0.0

    widest = min(root * margin_sd / critical, 1 + 12 / math.sqrt(df))  # beyond, the interval or the density is empty
    return float(quad(density, 0, widest, limit=200)[0])


def detectable_effect(*, num_seeds: int, alpha: float) -> float:
    """Return the smallest effect, in sd, that the two-sided t test finds with 80 % power."""
    return _smallest(lambda effect: t_power(num_seeds=num_seeds, effect_sd=effect, alpha=alpha))


def detectable_margin(*, num_seeds: int, alpha: float) -> float:
    """Return the smallest margin, in sd, within which an effect of 0 is shown to lie with 80 % power."""
    return _smallest(lambda margin: equivalence_power(num_seeds=num_seeds, margin_sd=margin, effect_sd=0, alpha=alpha))


def upper_sd(sd: float, *, df: int) -> float:
    """Return the upper 80 % bound of a standard deviation by the χ² distribution of its square; NaN if it is unknown."""
    if df < 1 or math.isnan(sd):
        return math.nan
    from scipy.stats import chi2

    return sd * math.sqrt(df / float(chi2.ppf(1 - POWER, df)))


def seeds_needed(holds: str, *, margin: float, effect: float, sd: float, alpha: float) -> int | None:
    """Return the smallest number of seeds that decides a claim with 80 % power, either way, if `effect` is the true one.

    `None` if it is more than `MAX_SEEDS`, as it is for an effect at the margin. All numbers have one unit.
    """
    power = partial(power_of_seeds, holds, margin=margin, effect=effect, sd=sd, alpha=alpha)
    candidates = range(2, MAX_SEEDS + 1)
    found = bisect_left(candidates, POWER, key=power)
    return candidates[found] if found < len(candidates) else None


def power_of_seeds(holds: str, num_seeds: int, *, margin: float, effect: float, sd: float, alpha: float) -> float:
    """Return the power to decide a claim with so many seeds, either way, if `effect` is the true one; as `seeds_needed`."""
    if holds == "within" and abs(effect) < margin:
        return equivalence_power(num_seeds=num_seeds, margin_sd=margin / sd, effect_sd=effect / sd, alpha=alpha)
    distance = abs(effect) - margin if holds == "within" else effect - margin
    return t_power(num_seeds=num_seeds, effect_sd=distance / sd, alpha=alpha)


def _smallest(power: Callable[[float], float]) -> float:
    from scipy.optimize import brentq

    high = 1.0
    while power(high) < POWER:
        high *= 2
    return float(brentq(lambda value: power(value) - POWER, 1e-6, high, xtol=1e-6))
