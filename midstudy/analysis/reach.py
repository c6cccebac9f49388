"""How far a correlation over pairs of a mix and a task reaches: to these mixes and tasks, or to others as well.

Two questions have two answers. Are the labels of mixes and tasks exchangeable? The permutation p value (`qap`) answers for
the mixes and tasks of the study. Would other mixes and tasks correlate? The interval that resamples both (`pigeonhole`)
answers for those of which the study's are a sample. A small p value beside an interval that includes 0 is no contradiction.
"""

from __future__ import annotations

import math

from midstudy.analysis.decisions import ALPHA

NEAR_ZERO = 0.05
"""An interval of r that excludes 0 touches it if its nearer end is at most this far away."""

INCLUDES, TOUCHES, EXCLUDES = "includes 0", "touches 0", "excludes 0"


def interval_and_zero(low: float, high: float) -> str:
    """Return whether the interval of an r includes 0, touches it (`NEAR_ZERO`) or excludes it; empty if it is NaN."""
    if math.isnan(low) or math.isnan(high):
        return ""
    if low <= 0 <= high:
        return INCLUDES
    return TOUCHES if min(abs(low), abs(high)) <= NEAR_ZERO else EXCLUDES


def scope(low: float, high: float) -> str:
    """Return what a verdict by relabelling is about, whatever the verdict is: these mixes and tasks, not others.

    Empty if there is no interval.
    """
    relation = interval_and_zero(low, high)
    if not relation:
        return ""
    open_ = "" if relation == EXCLUDES else " open, as"
    return f"in these mixes and tasks; for others{open_} the interval {relation}"


def two_answers(p_value: float, low: float, high: float) -> str:
    """Return both answers as sentences, for a two-sided p value by relabelling and a 95 % interval by resampling.

    Empty if either is NaN.
    """
    relation = interval_and_zero(low, high)
    if not relation or math.isnan(p_value):
        return ""
    is_associated = p_value < ALPHA
    here = (
        "In this set of mixes and tasks the two are associated: few relabellings of mixes and tasks give an r so far from 0."
        if is_associated
        else "In this set of mixes and tasks no association is shown: many relabellings give an r so far from 0."
    )
    others = {
        INCLUDES: "the interval includes 0, so the sign is open",
        TOUCHES: "the interval touches 0, so the sign is barely settled and the size is open",
        EXCLUDES: "the interval excludes 0, so the sign is settled as far as these are a sample of them",
    }[relation]
    link = "Whether it holds for other mixes and tasks is another question" if is_associated else "For other mixes and tasks"
    return f"{here} {link}: {others}."
