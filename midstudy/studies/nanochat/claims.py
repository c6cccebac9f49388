"""The claims of a walk-through of nanochat's midtraining as data, and the controls that belong to them.

Each is decided over trunk seeds. Margins and families were fixed before the first study that judges them, as the history of
this file shows. Shares are shares of items: 0.1 is ten points.
"""

from __future__ import annotations

from collections.abc import Iterable

from midstudy.recipe import Claim, Comparison
from midstudy.recipe.factors import Value, selects
from midstudy.studies.nanochat.abilities import FORMAT, FRESH
from midstudy.studies.nanochat.arms import MIXED, RECOMMENDED, UNMASKED

CANNOT = 0.1
"""A state that does something in fewer of its answers than this cannot do it."""

TEACHES = 0.1
"""The least rise of a share that counts as learning."""

KNOWS = 0.05
"""The same of questions with four choices, a quarter of which are right by chance."""

SAME_LOSS = 0.02
"""Relative change of a loss that counts as none, as in the bridging study."""

OWN = "midstudy"
"""The source of the claims that the walk-through does not make."""

ESTIMATORS = "midstudy.studies.nanochat.estimators"

_DIFFERENCE: dict[str, Value] = {"scale": "difference"}


def claims_for(comparisons: Iterable[Comparison]) -> list[Claim]:
    """Return the claims that can be judged from these comparisons, in the order of the walk-through."""
    by_name = {comparison.name: comparison for comparison in comparisons}
    every = [
        *_stages(),
        *_repair(),
        *_order(),
        *_losses(),
        *_optional(),
        *_masks(),
        *_variants(),
        *_shares(),
        *_rewards(),
        *_controls(),
    ]
    return [claim for claim in every if _can_be_judged(claim, by_name)]


def _can_be_judged(claim: Claim, comparisons: dict[str, Comparison]) -> bool:
    comparison = comparisons.get(claim.comparison)
    return (
        comparison is not None
        and claim.column in comparison.columns
        and any(selects(claim.arms, arm.factors) for arm in comparison.arms)
    )


def _walk(section: str) -> str:
    return f"walk-through of nanochat's mid_train, section {section}"


def _stages() -> list[Claim]:
    """Return what the base cannot do and midtraining teaches."""
    cited = "✗ after the base, ✓ after mid; one prompt each"
    abilities = {
        FORMAT: ("reply in the chat format", "the chat format", TEACHES),
        "sums": ("calculate with the tool", "sums with the tool", TEACHES),
        "spelling": ("spell", "spelling", TEACHES),
        "counting": ("count letters", "counting letters", TEACHES),
        "mathematics": ("", "word problems with the tool", TEACHES),
        "knowledge": ("", "answers to questions of four choices", KNOWS),
    }
    cannot = [
        Claim(
            text=f"The base cannot {verb}: it does so in fewer than {CANNOT:.0%} of its answers",
            source=_walk("5.1"),
            estimator=f"{ESTIMATORS}:share_of_items",
            comparison="stages",
            column=column,
            holds="below",
            margin=CANNOT,
            family="what a base cannot do",
            cited=cited,
        )
        for column, (verb, _, _) in abilities.items()
        if verb
    ]
    teaches = [
        Claim(
            text=f"Midtraining teaches {what}: the share rises by more than {margin:.2g}",
            source=_walk("5.1, 5.4, 9.3"),
            estimator="paired_effect",
            comparison="stages",
            column=column,
            arms={"after": "mid", "mid": MIXED},
            options=_DIFFERENCE,
            margin=margin,
            family="what midtraining teaches",
            cited=cited,
        )
        for column, (_, what, margin) in abilities.items()
    ]
    return cannot + teaches


def _repair() -> list[Claim]:
    names = {FORMAT: "the chat format", "sums": "sums with the tool", "spelling": "spelling", "counting": "counting letters"}
    return [
        Claim(
            text=f"SFT alone does not repair a base: SFT ends better at {name} after midtraining, by over {TEACHES:.2g}",
            source=_walk("1.2"),
            estimator="paired_effect",
            comparison="repair",
            column=column,
            options=_DIFFERENCE,
            margin=TEACHES,
            family="SFT without midtraining",
        )
        for column, name in names.items()
    ]


def _order() -> list[Claim]:
    early = {"chat": "first", "choices": "second", "calculation": "third", "identity": "fourth"}
    return [
        Claim(
            text=f"Shuffled tasks leave a lower loss on {task}, {place} in sequence, than one task after another",
            source=_walk("3.2"),
            estimator="paired_effect",
            comparison="order",
            column=f"{task}_bits",
            arms={"after": "mid"},
            margin=SAME_LOSS,
            family="order of tasks",
            cited="early tasks are forgotten",
        )
        for task, place in early.items()
    ]


def _losses() -> list[Claim]:
    return [
        Claim(
            text="Midtraining lowers the loss on replies of chat",
            source=_walk("5.3, C Q4"),
            estimator="paired_effect",
            comparison="stages",
            column="chat_bits",
            arms={"after": "mid", "mid": MIXED},
            family="losses",
            cited="all tokens of the mixture: 2.3 to 1.8 nats during midtraining, −22 %",
        ),
        Claim(
            text=f"General text is not forgotten in midtraining: its loss changes by less than {SAME_LOSS:.0%}",
            source=_walk("6.1"),
            estimator="paired_effect",
            comparison="stages",
            column="general_bits",
            arms={"after": "mid", "mid": MIXED},
            holds="within",
            margin=SAME_LOSS,
            family="losses",
            cited="general ability plus skills; not measured there",
        ),
    ]


def _optional() -> list[Claim]:
    return [
        Claim(
            text=f"Midtraining is optional: without it, SFT ends within {TEACHES:.2g} of {name}",
            source=_walk("C Q1"),
            estimator="paired_effect",
            comparison="repair",
            column=column,
            options=_DIFFERENCE,
            holds="within",
            margin=TEACHES,
            family="midtraining is optional",
            cited="optional, advised below 1B parameters",
        )
        for column, name in {FORMAT: "the chat format", "knowledge": "the same knowledge"}.items()
    ]


def _masks() -> list[Claim]:
    masked = Claim(
        text="With the loss on replies alone, midtraining teaches the chat format worse",
        source=_walk("9.6"),
        estimator="paired_effect",
        comparison="variants",
        column=FORMAT,
        arms={"after": "mid", "mid": "masked mid"},
        options=_DIFFERENCE,
        holds="below",
        family="masks",
        cited="a conjecture: stops at wrong places",
    )
    unmasked = {"mid": MIXED, "sft": UNMASKED}
    return [
        masked,
        Claim(
            text="SFT on all tokens remembers its questions: fresh ones cost more beside them than after SFT on replies",
            source=_walk("9.6"),
            estimator=f"{ESTIMATORS}:remembered_questions",
            comparison="unmasked",
            column=FRESH,
            arms=unmasked,
            family="masks",
            cited="a conjecture",
        ),
        Claim(
            text="SFT on all tokens harms the knowledge of midtraining, compared with SFT on replies",
            source=_walk("9.6"),
            estimator="paired_effect",
            comparison="unmasked",
            column="knowledge",
            arms=unmasked,
            options=_DIFFERENCE,
            holds="below",
            family="masks",
            cited="a conjecture",
        ),
        Claim(
            text="SFT on all tokens generalises worse: replies of chat that are fresh cost more than after SFT on replies",
            source=_walk("9.6"),
            estimator="paired_effect",
            comparison="unmasked",
            column="chat_bits",
            arms=unmasked,
            holds="below",
            family="masks",
            cited="a conjecture",
        ),
    ]


def _variants() -> list[Claim]:
    def variant(
        text: str, source: str, mid: str, column: str, *, options: dict[str, Value] | None = None, **rest: float | str
    ):
        return Claim(
            text=text,
            source=source,
            estimator="paired_effect",
            comparison="variants",
            column=column,
            arms={"after": "mid", "mid": mid},
            options=options or {},
            family="variants of midtraining",
            **rest,  # type: ignore[arg-type]
        )

    return [
        variant("Three epochs overfit: fresh replies of chat cost more than after one", _walk("C Q2"), "three epochs",
                "chat_bits", holds="below", cited="may overfit"),
        variant(f"Three epochs teach spelling better than one, by more than {TEACHES:.2g}", OWN, "three epochs", "spelling",
                options=_DIFFERENCE, margin=TEACHES),
        variant(f"Best fit leaves the loss on chat within {SAME_LOSS:.0%} of a stream", "karpathy/nanochat 43c29dd",
                "best fit", "chat_bits", holds="within", margin=SAME_LOSS),
        variant(f"AdamW for all groups teaches spelling worse than Muon for matrices, by more than {TEACHES:.2g}",
                "karpathy/nanochat muon.py", "AdamW", "spelling", options=_DIFFERENCE, holds="below", margin=-TEACHES),
    ]  # fmt: skip


def _shares() -> list[Claim]:
    slip = "its own rows have less knowledge and mathematics, and more spelling, than it recommends"
    return [
        Claim(
            text=f"The recommended shares leave a lower loss on {name} than the source's own rows",
            source=_walk("6.4"),
            estimator="paired_effect",
            comparison="shares",
            column=f"{task}_bits",
            arms={"after": "mid", "mid": RECOMMENDED},
            family="shares",
            cited=slip,
        )
        for task, name in {"choices": "questions of four choices", "calculation": "word problems"}.items()
    ]


def _rewards() -> list[Claim]:
    return [
        Claim(
            text=f"RL teaches {name}: the share of right answers rises by more than {TEACHES:.2g}",
            source="karpathy/nanochat chat_rl.py",
            estimator="paired_effect",
            comparison="rewards",
            column=column,
            arms={"rl": column},
            options=_DIFFERENCE,
            margin=TEACHES,
            family="RL",
            cited="optional there, on GSM8K alone",
        )
        for column, name in {"mathematics": "word problems", "counting": "counting letters"}.items()
    ]


def _controls() -> list[Claim]:
    return [
        Claim(
            text="MMLU stays at chance: midtraining changes its share by less than 0.1",
            source=OWN,
            estimator="paired_effect",
            comparison="stages",
            column="mmlu",
            arms={"after": "mid", "mid": MIXED},
            options=_DIFFERENCE,
            holds="within",
            margin=0.1,
            family="control",
        )
    ]
