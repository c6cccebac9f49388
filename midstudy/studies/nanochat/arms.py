"""The arms of a nanochat study: a base, what midtraining, SFT and RL make of it, variants of each, and their comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from midstudy.plan.steps_of import StepsOf
from midstudy.recipe import AdamW, Arm, Comparison, Curriculum, where
from midstudy.recipe.task_mixture import TaskPart
from midstudy.studies.nanochat.abilities import FRESH, TRAINED_ON, Abilities, pass_column
from midstudy.studies.nanochat.scale import Rewards, Scale
from midstudy.studies.nanochat.text import Text

MIXED, SEQUENTIAL, NONE = "mixed", "sequential", "none"
RECOMMENDED, OWN_ROWS = "recommended shares", "own rows"
MASKED, UNMASKED = "masked", "unmasked"

REWARDED = ("mathematics", "counting")
"""Columns of `ANSWERS` whose right answers RL rewards: word problems as in the source, and the letters of a word."""

RECOMMENDED_SHARES = {
    "chat": 5_793,
    "choices": 5_530,
    "calculation": 948,
    "sums": 948,
    "spelling": 4_740,
    "spelling_bee": 1_896,
    "identity": 79,
}
"""Items for 31,600 rows an epoch, chat thrice and identity twice: 55 % chat, 17.5 % knowledge, 3 % mathematics, 3 % use of a
tool, 21 % spelling and counting, 0.5 % identity, within the ranges of section 6.4 of the walk-through."""

SHARES_OF_OWN_ROWS = {
    "chat": 5_700,
    "choices": 3_717,
    "calculation": 297,
    "spelling": 7_435,
    "spelling_bee": 2_974,
    "identity": 37,
}
"""The same for 460K, 100K, 8K, 200K, 80K and twice 1K rows of 850K, the source's own: less knowledge (11.8 %) and
mathematics (0.9 %), and more spelling (32.9 %), than it recommends."""

ALONG_MID = (0.1, 0.3, 0.6, 0.9, 1.0)
"""Where in midtraining losses are measured as curves, as shares of its steps, beside its start."""


@dataclass(frozen=True, kw_only=True)
class Mid:
    """A midtraining by name: the parts that it mixes, and arguments of `Scale.midtrain`; `tunings` are the SFTs after it."""

    name: str
    parts: tuple[TaskPart, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    tunings: tuple[str, ...] = ()
    is_curve: bool = False


def orders(text: Text, *, is_full: bool) -> list[Mid]:
    """Return midtraining with the tasks shuffled, and with one task after another.

    Args:
        is_full: whether SFT on all tokens follows the first, too, and SFT the second.
    """
    tunings = (MASKED, UNMASKED) if is_full else (MASKED,)
    return [
        Mid(name=MIXED, parts=text.parts, tunings=tunings, is_curve=True),
        Mid(
            name=SEQUENTIAL,
            parts=text.parts,
            options={"order": "sequential"},
            tunings=(MASKED,) if is_full else (),
            is_curve=True,
        ),
    ]


def variants(text: Text, *, other_optimizer: AdamW) -> list[Mid]:
    """Return midtraining varied in its loss, packing, epochs, optimizer and shares of tasks."""
    shares = {
        name: text.parts_with(rows, repeats={"chat": 3, "identity": 2}, name=f"at {name}")
        for name, rows in ((RECOMMENDED, RECOMMENDED_SHARES), (OWN_ROWS, SHARES_OF_OWN_ROWS))
    }
    return [
        Mid(name="masked mid", parts=text.parts, options={"loss": "target_tokens"}, tunings=(MASKED,)),
        Mid(name="best fit", parts=text.parts, options={"packing": "best_fit"}),
        Mid(name="three epochs", parts=text.parts, options={"num_epochs": 3}),
        Mid(name="AdamW", parts=text.parts, options={"optimizer": other_optimizer}),
        *(Mid(name=name, parts=parts) for name, parts in shares.items()),
    ]


def arms_of(
    scale: Scale,
    text: Text,
    abilities: Abilities,
    mids: Sequence[Mid],
    *,
    seeds: Sequence[int],
    steps_of: StepsOf,
    rewards: Rewards | None = None,
) -> list[Arm]:
    """Return the arms of all seeds: the base, each midtraining, SFT after them and after the base itself, and RL.

    Where SFT is both masked and not, the losses on its questions and on fresh ones are measured.

    Args:
        rewards: with it, RL on each of `REWARDED` follows the usual SFT; answers are drawn at both.
    """
    arms = []
    for seed in seeds:
        base = scale.base(text, seed=seed)
        arms += [_arm(base, abilities), _arm(scale.finetune(base, text, steps_of=steps_of), abilities)]
        for mid in mids:
            run = scale.midtrain(base, mid.parts, steps_of=steps_of, mid=mid.name, **mid.options)
            asks = len(mid.tunings) > 1
            arms.append(_arm(run, abilities, asks=asks, along=_along(base, run) if mid.is_curve else ()))
            for sft in mid.tunings:
                loss = "all_tokens" if sft == UNMASKED else "target_tokens"
                tuned = scale.finetune(run, text, steps_of=steps_of, loss=loss, sft=sft)
                if rewards is None or (mid.name, sft) != (MIXED, MASKED):
                    arms.append(_arm(tuned, abilities, asks=asks))
                    continue
                learned = [scale.reward(tuned, abilities.answers(column), rewards, rl=column) for column in REWARDED]
                arms += [_arm(tuned, abilities, asks=asks, drawn=REWARDED)]
                arms += [_arm(end, abilities, drawn=REWARDED) for end in learned]
    return arms


def comparisons_of(arms: Sequence[Arm]) -> list[Comparison]:
    """Return the comparisons that these arms allow."""
    columns = tuple(name for name, measure in arms[0].measures.items() if not measure.is_curve)
    tuned = where(arms, after="sft", sft=MASKED)
    mixed = (*where(arms, mid=MIXED, after="mid"), *where(tuned, mid=MIXED))
    after_mixed = where(tuned, mid=MIXED)
    chain = (*mixed, *where(tuned, mid=NONE))
    variants = [arm for arm in arms if arm.factors["mid"] not in (MIXED, SEQUENTIAL, NONE, RECOMMENDED, OWN_ROWS)]
    sequential = where(arms, mid=SEQUENTIAL)
    in_order = [arm for arm in mixed if where(sequential, after=arm.factors["after"])]
    recommended, own_rows = where(arms, mid=RECOMMENDED), where(arms, mid=OWN_ROWS)
    unmasked, after = where(arms, sft=UNMASKED), ("after",)
    asked = (*columns, TRAINED_ON, FRESH)
    learned = where(arms, after="rl")
    drawn = (*columns, *(pass_column(column) for column in REWARDED))
    wanted: list[tuple[str, str, Sequence[Arm], Sequence[Arm], tuple[str, ...], tuple[str, ...]]] = [
        ("stages", "What midtraining and SFT teach a base", chain, where(arms, after="base"), (), columns),
        ("repair", "SFT after midtraining, or after the base", after_mixed, where(tuned, mid=NONE), (), columns),
        ("order", "Tasks shuffled, or one after another", in_order, sequential, after, columns),
        ("tuning", "What SFT changes after midtraining", after_mixed, where(mixed, after="mid"), (), columns),
        ("variants", "Midtraining varied", variants, mixed, after, columns),
        ("unmasked", "SFT on all tokens, or on replies", unmasked, after_mixed, (), asked),
        ("shares", "The recommended shares, or its own rows", recommended, own_rows, (), columns),
        ("rewards", "What RL adds to SFT", learned, after_mixed, (), drawn),
    ]  # fmt: skip
    return [
        Comparison(
            name=name, title=title, arms=compared, references=list(_needed(compared, others, match)), columns=of, match=match
        )
        for name, title, compared, others, match, of in wanted
        if compared and others
    ]


def _arm(
    run: Curriculum, abilities: Abilities, *, asks: bool = False, drawn: Sequence[str] = (), along: tuple[Any, ...] = ()
) -> Arm:
    state = run.state()
    measures = {**abilities.of(state), **abilities.losses(state)}
    if asks:
        measures |= abilities.questions(state)
    for column in drawn:
        measures |= abilities.drawn(column, state)
    if along:
        measures |= abilities.over(along)
    return Arm(curriculum=run, measures=measures)


def _along(base: Curriculum, run: Curriculum) -> tuple[Any, ...]:
    start, steps = base.num_steps, run.num_steps - base.num_steps
    return (base.state(), *(run.state(start + max(1, round(share * steps))) for share in ALONG_MID))


def _needed(arms: Sequence[Arm], references: Sequence[Arm], match: tuple[str, ...]) -> Iterator[Arm]:
    """Yield the references that an arm has."""
    keys = {tuple(arm.factors[name] for name in match) for arm in arms}
    yield from (arm for arm in references if tuple(arm.factors[name] for name in match) in keys)
