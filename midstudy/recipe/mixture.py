"""Mixtures: exact token shares over corpora, constant or going linearly from one to another.

One corpus may be the base: it is read by slot position, so every arm that keeps a slot reads the same text there. The
others are specialists: a specialist draw replaces the base's slot and advances its own corpus by count. Shares are exact
fractions (0.12 is 3/25), a corpus with a zero share is dropped, and the order in which corpora are written does not matter:
a mixture with 0 % code *is* the general mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from midstudy.recipe.canonical import canonical_text
from midstudy.recipe.data import Corpus
from midstudy.recipe.errors import RecipeError, require_positive


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

    @property
    def base_corpus(self) -> Corpus | None:
        """The corpus that is read by slot position, if there is one."""
        return self.base.corpus if self.base else None

    @property
    def specialist_corpora(self) -> tuple[Corpus, ...]:
        return tuple(part.corpus for part in self.specialists)

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """Every corpus that is read, the base first."""
        return tuple(part.corpus for part in self.parts)

    def mean_share(self, corpus: Corpus, num_steps: int) -> Fraction:
        """The corpus's share over the first `num_steps` steps; 0 where it is not read."""
        return self._shares.get(corpus, Fraction(0))

    @cached_property
    def _shares(self) -> dict[Corpus, Fraction]:
        return {part.corpus: part.share for part in self.parts}


@dataclass(frozen=True, kw_only=True)
class MixtureRamp:
    """Shares that go linearly from one mixture to another over `num_steps` steps, beginning at the phase's first.

    The share in force during update j is its mean over that update, so that the whole ramp draws exactly the mean of its
    ends. A phase that is longer than its ramp stays at `to_mixture`. The length sets the slope and is identity.
    """

    from_mixture: Mixture
    to_mixture: Mixture
    num_steps: int

    def __post_init__(self) -> None:
        require_positive("mixture.num_steps", self.num_steps, unit="steps")
        before, after = self.from_mixture.base_corpus, self.to_mixture.base_corpus
        if before and after and before != after:
            raise RecipeError(
                "mixture.to_mixture.base",
                found=f"{after.name}, with {before.name} in from_mixture",
                allowed="one base for both ends of a ramp",
                fix="Make one of the two a specialist.",
            )
        if self.base_corpus in self.specialist_corpora:
            raise RecipeError(
                "mixture.to_mixture",
                found=f"{self.corpora[0].name} as the base at one end and as a specialist at the other",
                allowed="one role a corpus",
            )

    @property
    def base_corpus(self) -> Corpus | None:
        """The corpus that is read by slot position, if there is one."""
        return self.from_mixture.base_corpus or self.to_mixture.base_corpus

    @property
    def specialist_corpora(self) -> tuple[Corpus, ...]:
        both = {*self.from_mixture.specialist_corpora, *self.to_mixture.specialist_corpora}
        return tuple(sorted(both, key=canonical_text))

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """Every corpus that is read, the base first."""
        return ((self.base_corpus,) if self.base_corpus else ()) + self.specialist_corpora

    def mean_share(self, corpus: Corpus, num_steps: int) -> Fraction:
        """The corpus's share over the first `num_steps` steps of the ramp, exactly; at 0 steps, the share it begins at."""
        assert 0 <= num_steps <= self.num_steps
        before, after = (mixture.mean_share(corpus, 0) for mixture in (self.from_mixture, self.to_mixture))
        return before + (after - before) * Fraction(num_steps, 2 * self.num_steps)

    @property
    def goes_nowhere(self) -> bool:
        """Both ends are one mixture."""
        return canonical_text(self.from_mixture) == canonical_text(self.to_mixture)
