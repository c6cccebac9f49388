"""Specialist shares of the text before fine-tuning, exactly: what an arm's weight means, and what its mix is compared as."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from midstudy.recipe.curriculum import Curriculum
from midstudy.recipe.data import Corpus, Task
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.start_weights import Average
from midstudy.recipe.study import CONTROL, Arm

_ROUNDING = 5e-10
"""An arm's weight is a float and is compared with nine decimals: a third of the tokens is 0.333333333."""


def check_weights(arms: Sequence[Arm]) -> None:
    """An arm's weight must be the specialist share of the tokens after its start step: effects and proximity meet there.

    Raises:
        RecipeError: it is not.
    """
    known: dict[tuple[str, int], dict[Corpus, Fraction]] = {}
    for index, arm in enumerate(arms):
        if arm.mix == CONTROL:
            continue
        key = (arm.curriculum.state_id(arm.pretrain_steps), arm.start_step)
        if key not in known:
            known[key] = specialist_shares(arm.curriculum.until(arm.pretrain_steps), arm.start_step)
        total = sum(known[key].values(), Fraction(0))
        if abs(arm.weight - total) > _ROUNDING:
            of_each = ", ".join(f"{corpus.name} {float(share):.4g}" for corpus, share in known[key].items())
            raise RecipeError(
                f"study.arms[{index}].weight",
                found=f"{arm.weight:.12g} of {arm}",
                allowed=f"{float(total):.12g}, the specialist share of the tokens after step {arm.start_step} "
                f"({of_each or 'no specialist is read'})",
                fix=f"Write weight={float(total)!r}, or change the mixture or start_step."
                if total
                else "Change the mixture.",
            )


def specialist_shares(curriculum: Curriculum, start_step: int) -> dict[Corpus, Fraction]:
    """Each specialist's share of the tokens from `start_step` to the end, those of tasks apart.

    Where an average is fine-tuned at once, the mean over its states, each from where its own run begins to read
    specialists: the runs may do so at different steps.
    """
    weights = curriculum.start.weights
    if not curriculum.stretches and isinstance(weights, Average):
        shares: dict[Corpus, Fraction] = {}
        for state in weights.states:
            of_state = specialist_shares(state.curriculum, max(start_step, _first_specialist_step(state.curriculum)))
            for corpus, share in of_state.items():
                shares[corpus] = shares.get(corpus, Fraction(0)) + share / len(weights.states)
        return shares
    num_tokens, read = 0, dict[Corpus, Fraction]()
    for stretch in curriculum.stretches:
        data = stretch.phase.data
        if isinstance(data, Task) or stretch.stop_step <= start_step:
            continue
        skipped, num_steps = max(0, start_step - stretch.start_step), stretch.stop_step - stretch.start_step
        num_tokens += (num_steps - skipped) * stretch.phase.tokens_per_step
        for corpus in data.specialist_corpora:
            steps = data.mean_share(corpus, num_steps) * num_steps - data.mean_share(corpus, skipped) * skipped
            read[corpus] = read.get(corpus, Fraction(0)) + steps * stretch.phase.tokens_per_step
    return {corpus: tokens / num_tokens for corpus, tokens in read.items() if tokens}


def _first_specialist_step(curriculum: Curriculum) -> int:
    for stretch in curriculum.stretches:
        if not isinstance(stretch.phase.data, Task) and stretch.phase.data.specialist_corpora:
            return stretch.start_step
    return 0


def trained_before(curriculum: Curriculum) -> Curriculum:
    """The training before fine-tuning; where an average is fine-tuned at once, that of its furthest state."""
    weights = curriculum.start.weights
    if curriculum.stretches or not isinstance(weights, Average):
        return curriculum
    return trained_before(max(weights.states, key=lambda state: state.step).curriculum)
