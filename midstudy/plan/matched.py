"""Branches of equal amount: what another start or another share needs to give a branch as much of its specialists.

A share from an early start gives more specialist tokens than the same share from a late one, at higher learning rates. Arms
that differ in start, share or both can be compared only at equal amount. There are two amounts, and few pairs are equal in
both: the specialist tokens, and the dose, the sum of learning rate × share over the steps of the branch (`plan/dose.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstudy.plan.dose import learning_rates, one_scale
from midstudy.recipe.curriculum import Curriculum
from midstudy.recipe.errors import RecipeError, require_choice
from midstudy.recipe.mixture import exact_share

AMOUNTS = ("tokens", "lr_dose")
SHARE_DIGITS = 4
"""Significant digits of a share that is solved for, such as 8.983 %: the amounts then agree to within 0.05 %."""

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Branching:
    """Where a branch leaves its trunk, and the share of its specialists from there on."""

    start_step: int
    share: float


def matched(
    trunk: Curriculum, like: Branching, *, on: str, start_step: int | None = None, share: float | None = None
) -> Branching:
    """Return the branching with the amount of `like` at another start step, or at another share.

    Args:
        trunk: the run that both branches leave, whose batches and learning rates they keep.
        on: the amount that is equal, `tokens` or `lr_dose`.
        start_step: solve for the share from this step, rounded to `SHARE_DIGITS` significant digits.
        share: solve for the start step, the nearest one with this share.

    Raises:
        RecipeError: `on` is neither, not exactly one of `start_step` and `share` is given, or no share up to 1 or no start
            of the trunk gives the amount.
    """
    require_choice("matched.on", on, AMOUNTS)
    if (start_step is None) == (share is None):
        raise RecipeError("matched", expected="either start_step or share", got=f"start_step={start_step}, share={share}")
    rest = _rest(trunk, on)
    wanted = float(exact_share("matched.like.share", like.share)) * rest[_step(trunk, like.start_step)]
    description = f"the {on} of a share {like.share:g} from step {like.start_step}"
    if start_step is not None:
        available = rest[_step(trunk, start_step)]
        if wanted > available * (1 + _ROUNDING):
            raise RecipeError(
                "matched.start_step",
                expected=f"a step early enough for {description}",
                got=f"{start_step}, from which even a share of 1 gives only {available / wanted:.0%} of it",
            )
        return Branching(start_step=start_step, share=float(f"{min(wanted / available, 1.0):.{SHARE_DIGITS}g}"))
    exact = float(exact_share("matched.share", share if share is not None else 0))
    amounts = exact * rest
    if amounts[0] < wanted * (1 - _ROUNDING):
        raise RecipeError(
            "matched.share",
            expected=f"a share large enough for {description}",
            got=f"{exact:g}, which gives only {amounts[0] / wanted:.0%} of it even from step 0",
        )
    return Branching(start_step=int(np.abs(amounts - wanted).argmin()), share=exact)


def matched_stop(trunk: Curriculum, like: Branching) -> int:
    """Return the step up to which a share of 1 from the start of `like` has the dose of `like`, the nearest one.

    Raises:
        RecipeError: `like` does not start within the trunk, or its share is not in [0, 1].
    """
    rest = np.append(_rest(trunk, "lr_dose"), 0.0)
    start = _step(trunk, like.start_step)
    wanted = float(exact_share("matched_stop.like.share", like.share)) * rest[start]
    return start + int(np.abs(rest[start] - rest[start:] - wanted).argmin())


def _step(trunk: Curriculum, step: int) -> int:
    if not 0 <= step < trunk.num_steps:
        raise RecipeError("matched.start_step", expected=f"a step of the trunk, [0, {trunk.num_steps})", got=step)
    return step


def _rest(trunk: Curriculum, on: str) -> NDArray[np.float64]:
    """Return the tokens, or the sum of learning rates, from each step of the trunk to its end; of shape (num_steps,)."""
    if on == "tokens":
        parts = [
            np.full(placed.stop_step - placed.start_step, placed.phase.tokens_per_step, dtype=np.float64)
            for placed in trunk.stretches
        ]
        amounts = np.concatenate(parts)
    elif not one_scale(trunk):
        raise RecipeError(
            "matched.on",
            expected="tokens for a trunk whose phases have different parameter groups, so that their rates have no sum",
            got=on,
        )
    else:
        amounts = learning_rates(trunk.curve, 0, trunk.num_steps)
    return amounts[::-1].cumsum()[::-1]
