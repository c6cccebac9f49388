"""Mixtures: exact token shares over corpora.

One corpus may be the base: it is read by slot position, so every arm that keeps a slot reads the same text there. The
others are specialists: a specialist draw replaces the base's slot and advances its own corpus by count. Shares are exact
fractions (0.12 is 3/25), a corpus with a zero share is dropped, and the order in which corpora are written does not matter:
a mixture with 0 % code *is* the general mixture.

A corpus may also count for less in the loss than its share of the tokens says. Loss weights are relative, since the mean
loss is divided by their sum: the heaviest corpus has weight 1, and weights that are all equal are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from midstudy.recipe.canonical import added_field, canonical_text
from midstudy.recipe.data import Corpus
from midstudy.recipe.errors import RecipeError


def exact_share(path: str, value: float | int | str | Fraction) -> Fraction:
    """`value` as the fraction its decimal digits say.

    Raises:
        RecipeError: not a number in [0, 1].
    """
    try:
        share = value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise RecipeError(path, found=value, allowed="a share in [0, 1]") from None
    if isinstance(value, bool) or not 0 <= share <= 1:
        raise RecipeError(path, found=value, allowed="a share in [0, 1]")
    return share


def _exact_weight(path: str, value: float | int | str | Fraction) -> Fraction:
    allowed = "a number above 0"
    try:
        weight = value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise RecipeError(path, found=value, allowed=allowed) from None
    if isinstance(value, bool) or weight <= 0:
        raise RecipeError(path, found=value, allowed=allowed, fix="A corpus that is not to be learnt is left out.")
    return weight


@dataclass(frozen=True, kw_only=True)
class Share:
    """One corpus of a mixture with its share of the tokens read, and what each of its tokens weighs in the loss."""

    corpus: Corpus
    share: Fraction
    loss_weight: Fraction = added_field(omit_at=Fraction(1))


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Token shares that add up to one; build it with `Mixture.blend` or `Mixture.only`."""

    base: Share | None
    specialists: tuple[Share, ...]

    def __post_init__(self) -> None:
        total = sum((part.share for part in self.parts), Fraction(0))
        if total != 1:
            raise RecipeError("mixture", found=f"shares that add up to {float(total):g}", allowed="a sum of exactly 1")
        weights = [part.loss_weight for part in self.parts]
        if min(weights) <= 0 or max(weights) != 1:
            raise RecipeError(
                "mixture.loss_weights",
                found=", ".join(f"{float(weight):g}" for weight in weights),
                allowed="numbers above 0, the largest of them 1",
                fix="Mixture.blend divides them by the largest.",
            )

    @classmethod
    def blend(
        cls,
        base: Corpus,
        specialists: Mapping[Corpus, float | str | Fraction],
        *,
        loss_weights: Mapping[Corpus, float | str | Fraction] | None = None,
    ) -> Mixture:
        """`specialists` at their shares, the base at what is left.

        Args:
            loss_weights: what a token of a corpus weighs in the loss, 1 where it is not said; only their ratios count.

        Raises:
            RecipeError: a share outside [0, 1], shares that add up to more than 1, a weight that is not above 0, or a
                weight of a corpus that is not in the mixture.
        """
        shares = {c: exact_share(f"mixture.{c.name}", value) for c, value in specialists.items()}
        if base in shares:
            raise RecipeError(f"mixture.{base.name}", found="the base as a specialist", allowed="each corpus once")
        rest = 1 - sum(shares.values(), Fraction(0))
        if rest < 0:
            raise RecipeError(
                "mixture", found=f"specialist shares that add up to {float(1 - rest):g}", allowed="at most 1 in all"
            )
        weights = {c: _exact_weight(f"mixture.loss_weights.{c.name}", value) for c, value in (loss_weights or {}).items()}
        for corpus in weights.keys() - shares.keys() - {base}:
            raise RecipeError(
                f"mixture.loss_weights.{corpus.name}",
                found="a corpus that is not in the mixture",
                allowed=", ".join(one.name for one in (base, *shares)),
            )
        kept = {corpus: share for corpus, share in ({base: rest} | shares).items() if share > 0}
        heaviest = max(weights.get(corpus, Fraction(1)) for corpus in kept)
        parts = {
            corpus: Share(corpus=corpus, share=share, loss_weight=weights.get(corpus, Fraction(1)) / heaviest)
            for corpus, share in kept.items()
        }
        return cls(
            base=parts.pop(base, None),
            specialists=tuple(sorted(parts.values(), key=lambda part: canonical_text(part.corpus))),
        )

    @classmethod
    def only(cls, base: Corpus) -> Mixture:
        """All of one corpus, read by slot position."""
        return cls.blend(base, {})

    @property
    def parts(self) -> tuple[Share, ...]:
        return ((self.base,) if self.base else ()) + self.specialists
