"""Lengths of whole epochs, as an experiment file asks for them: plain integers and knots, resolved before the run is frozen.

The number of steps of an epoch follows from its tokens, which exist once the data stages are done. Until then it is an
estimate, and `run` makes the packings that were asked for before it freezes the study.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from midstudy.plan.packed import CountsOf, estimated_counts
from midstudy.recipe.errors import RecipeError, require_kind
from midstudy.recipe.exact_share import exact_share
from midstudy.recipe.packing import Packing
from midstudy.recipe.schedule import PiecewiseLinear

TOLERANCE = 0.01
"""Largest difference, as a share of the peak, between a schedule by items and its piecewise linear form."""


class StepsOf:
    """The keyword `steps_of` of an experiment's `study(...)`; `asked` holds every packing that it was called with."""

    def __init__(self, counts_of: CountsOf = estimated_counts) -> None:
        self._counts_of = counts_of
        self.asked: dict[str, Packing] = {}

    def __call__(self, packing: Packing) -> int:
        """Return the number of steps of a packing: exact if the store has it, else estimated from the size of its text.

        Raises:
            RecipeError: `packing` is not a Packing.
        """
        return len(self._progress(packing)) - 1

    def step_at(self, packing: Packing, share: float | str | Fraction) -> int:
        """Return the last step before which at most this share of the packing's items was read.

        Raises:
            RecipeError: the share is outside [0, 1].
        """
        exact = exact_share("steps_of.share", share)
        return int(np.searchsorted(self._progress(packing), float(exact), side="right")) - 1

    def hold_then_linear(self, packing: Packing, *, peak_lr: float, hold_share: float | str | Fraction) -> PiecewiseLinear:
        """Return the schedule that holds the peak for a share of the items and then falls linearly to 0 by items.

        With p the share of the items read before a step, of all that the packing's steps read, the rate after the hold is
        peak_lr · (1 - p) / (1 - hold_share) (nanochat, where p is the cursor over the length of the data). Between its knots
        the schedule is within `TOLERANCE` of the peak from that.

        Raises:
            RecipeError: the share is outside [0, 1).
        """
        hold = exact_share("steps_of.hold_share", hold_share)
        if hold == 1:
            raise RecipeError("steps_of.hold_share", expected="a share in [0, 1)", got=hold_share)
        multiplier = np.minimum(1.0, (1.0 - self._progress(packing)) / float(1 - hold))
        held = self.step_at(packing, hold)
        multiplier[: held + 1] = 1.0
        knots = [*([0] if held else []), *(held + step for step in _knots(multiplier[held:]))]
        return PiecewiseLinear(knots=tuple((step, peak_lr * float(multiplier[step])) for step in knots))

    def _progress(self, packing: Packing) -> NDArray[np.float64]:
        require_kind("steps_of.packing", packing, Packing, expected="a Packing")
        self.asked[packing.id] = packing
        return self._counts_of(packing).progress


def _knots(values: NDArray[np.float64]) -> list[int]:
    """Return indices, the first and the last among them, between which linear interpolation is within `TOLERANCE`.

    Each interval is divided at its largest difference (Douglas and Peucker, 1973).
    """
    knots, pending = {0, len(values) - 1}, [(0, len(values) - 1)]
    while pending:
        first, last = pending.pop()
        line = np.linspace(values[first], values[last], last - first + 1)
        gaps = np.abs(values[first : last + 1] - line)
        at = first + int(gaps.argmax())
        if gaps.max() > TOLERANCE:
            knots.add(at)
            pending += [(first, at), (at, last)]
    return sorted(knots)
