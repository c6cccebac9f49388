"""Mixtures: exact token shares over corpora.

One corpus may be the base: it is read by slot position, so every arm that keeps a slot reads the same text there. The
others are specialists: a specialist draw replaces the base's slot and advances its own corpus by count. Shares are exact
fractions (0.12 is 3/25), a corpus with a zero share is dropped, and the order in which corpora are written does not matter:
a mixture with 0 % code *is* the general mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from midstudy.recipe.canonical import canonical_text
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


@dataclass(frozen=True, kw_only=True)
class Share:
    """One corpus of a mixture with its token share."""

    corpus: Corpus
    share: Fraction


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Token shares that add up to one; build it with `Mixture.blend` or `Mixture.only`."""

    base: Share | None
    specialists: tuple[Share, ...]

    def __post_init__(self) -> None:
        total = sum((part.share for part in self.parts), Fraction(0))
        if total != 1:
            raise RecipeError("mixture", found=f"shares that add up to {float(total):g}", allowed="a sum of exactly 1")

    @classmethod
    def blend(cls, base: Corpus, specialists: Mapping[Corpus, float | str | Fraction]) -> Mixture:
        """`specialists` at their shares, the base at what is left.

        Raises:
            RecipeError: a share outside [0, 1], or shares that add up to more than 1.
        """
        shares = {c: exact_share(f"mixture.{c.name}", value) for c, value in specialists.items()}
        if base in shares:
            raise RecipeError(f"mixture.{base.name}", found="the base as a specialist", allowed="each corpus once")
        rest = 1 - sum(shares.values(), Fraction(0))
        if rest < 0:
            raise RecipeError(
                "mixture", found=f"specialist shares that add up to {float(1 - rest):g}", allowed="at most 1 in all"
            )
        kept = [Share(corpus=corpus, share=share) for corpus, share in shares.items() if share > 0]
        return cls(
            base=Share(corpus=base, share=rest) if rest > 0 else None,
            specialists=tuple(sorted(kept, key=lambda part: canonical_text(part.corpus))),
        )

    @classmethod
    def only(cls, base: Corpus) -> Mixture:
        """All of one corpus, read by slot position."""
        return cls.blend(base, {})

    @property
    def parts(self) -> tuple[Share, ...]:
        return ((self.base,) if self.base else ()) + self.specialists
