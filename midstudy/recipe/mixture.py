"""Mixtures: exact token shares over corpora, constant or going linearly from one to another.

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
from functools import cached_property

from midstudy.recipe.canonical import added_field, canonical_text
from midstudy.recipe.data import Corpus
from midstudy.recipe.errors import RecipeError, require_kind, require_positive
from midstudy.recipe.plain import hold_plain_numbers, plain


def exact_share(path: str, value: float | int | str | Fraction) -> Fraction:
    """`value` as the fraction its decimal digits say.

    Raises:
        RecipeError: not a number in [0, 1].
    """
    value = plain(value)
    try:
        share = value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise RecipeError(path, expected="a share in [0, 1]", got=value) from None
    if isinstance(value, bool) or not 0 <= share <= 1:
        raise RecipeError(path, expected="a share in [0, 1]", got=value)
    return share


def _exact_weight(path: str, value: float | int | str | Fraction) -> Fraction:
    allowed = "a number above 0"
    value = plain(value)
    try:
        weight = value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise RecipeError(path, expected=allowed, got=value) from None
    if isinstance(value, bool) or weight <= 0:
        raise RecipeError(path, expected=allowed, got=value, fix="A corpus that is not to be learnt is left out.")
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
        hold_plain_numbers(self)
        total = sum((part.share for part in self.parts), Fraction(0))
        if total != 1:
            raise RecipeError("mixture", expected="a sum of exactly 1", got=f"shares that add up to {float(total):g}")
        weights = [part.loss_weight for part in self.parts]
        if min(weights) <= 0 or max(weights) != 1:
            raise RecipeError(
                "mixture.loss_weights",
                expected="numbers above 0, the largest of them 1",
                got=", ".join(f"{float(weight):g}" for weight in weights),
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
        require_kind("mixture.base", base, Corpus, expected="a Corpus")
        for path, given in (("specialists", specialists), ("loss_weights", {} if loss_weights is None else loss_weights)):
            require_kind(f"mixture.{path}", given, Mapping, expected="a mapping from each Corpus to a number")
            for corpus in given:
                require_kind(f"mixture.{path}", corpus, Corpus, expected="a Corpus as each key, not its name")
        shares = {c: exact_share(f"mixture.{c.name}", value) for c, value in specialists.items()}
        if base in shares:
            raise RecipeError(f"mixture.{base.name}", expected="each corpus once", got="the base as a specialist")
        rest = 1 - sum(shares.values(), Fraction(0))
        if rest < 0:
            raise RecipeError(
                "mixture", expected="at most 1 in all", got=f"specialist shares that add up to {float(1 - rest):g}"
            )
        weights = {c: _exact_weight(f"mixture.loss_weights.{c.name}", value) for c, value in (loss_weights or {}).items()}
        for corpus in weights.keys() - shares.keys() - {base}:
            raise RecipeError(
                f"mixture.loss_weights.{corpus.name}",
                expected=", ".join(one.name for one in (base, *shares)),
                got="a corpus that is not in the mixture",
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

    def loss_weight(self, corpus: Corpus) -> Fraction:
        """What a token of a corpus of this mixture weighs in the loss."""
        return self._loss_weights[corpus]

    @cached_property
    def _shares(self) -> dict[Corpus, Fraction]:
        return {part.corpus: part.share for part in self.parts}

    @cached_property
    def _loss_weights(self) -> dict[Corpus, Fraction]:
        return {part.corpus: part.loss_weight for part in self.parts}


@dataclass(frozen=True, kw_only=True)
class MixtureRamp:
    """Shares that go linearly from one mixture to another over `num_steps` steps, beginning at the phase's first.

    The share in force during update j is its mean over that update, so that the whole ramp draws exactly the mean of its
    ends. A phase that is longer than its ramp stays at `to_mixture`. The length sets the slope and is identity.

    Loss weights stay what they are along a ramp: corpora that both ends read have one ratio to each other. A corpus that
    only one end reads may be the heaviest.
    """

    from_mixture: Mixture
    to_mixture: Mixture
    num_steps: int

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_positive("mixture.num_steps", self.num_steps, unit="steps")
        before, after = self.from_mixture.base_corpus, self.to_mixture.base_corpus
        if before and after and before != after:
            raise RecipeError(
                "mixture.to_mixture.base",
                expected="one base for both ends of a ramp",
                got=f"{after.name}, with {before.name} in from_mixture",
                fix="Make one of the two a specialist.",
            )
        if self.base_corpus in self.specialist_corpora:
            raise RecipeError(
                "mixture.to_mixture",
                expected="one role a corpus",
                got=f"{self.corpora[0].name} as the base at one end and as a specialist at the other",
            )
        shared = self._shared_corpora
        for corpus in shared[1:]:
            one, other = (
                float(end.loss_weight(corpus) / end.loss_weight(shared[0])) for end in (self.from_mixture, self.to_mixture)
            )
            if one != other:
                raise RecipeError(
                    f"mixture.to_mixture.loss_weights.{corpus.name}",
                    expected="one ratio between two corpora that both ends read",
                    got=f"{other:g} times that of {shared[0].name}, with {one:g} times in from_mixture",
                    fix=f"Give {shared[0].name} and {corpus.name} the same loss_weights at both ends.",
                )

    @property
    def base_corpus(self) -> Corpus | None:
        """The corpus that is read by slot position, if there is one."""
        return self.from_mixture.base_corpus or self.to_mixture.base_corpus

    @cached_property
    def specialist_corpora(self) -> tuple[Corpus, ...]:
        both = {*self.from_mixture.specialist_corpora, *self.to_mixture.specialist_corpora}
        return tuple(sorted(both, key=canonical_text))

    @cached_property
    def corpora(self) -> tuple[Corpus, ...]:
        """Every corpus that is read, the base first."""
        return ((self.base_corpus,) if self.base_corpus else ()) + self.specialist_corpora

    def mean_share(self, corpus: Corpus, num_steps: int) -> Fraction:
        """The corpus's share over the first `num_steps` steps of the ramp, exactly; at 0 steps, the share it begins at."""
        assert 0 <= num_steps <= self.num_steps
        before, after = (mixture.mean_share(corpus, 0) for mixture in (self.from_mixture, self.to_mixture))
        return before + (after - before) * Fraction(num_steps, 2 * self.num_steps)

    def loss_weight(self, corpus: Corpus) -> Fraction:
        """What a token of a corpus of either end weighs in the loss, all along the ramp: 1 for the heaviest of both ends."""
        return self._loss_weights[corpus]

    @property
    def _shared_corpora(self) -> tuple[Corpus, ...]:
        """Those of both ends, the base first."""
        return tuple(corpus for corpus in self.from_mixture.corpora if corpus in self.to_mixture.corpora)

    @cached_property
    def _loss_weights(self) -> dict[Corpus, Fraction]:
        """Both ends' weights in one scale, which the corpora that they share give."""
        before, after = ({one: end.loss_weight(one) for one in end.corpora} for end in (self.from_mixture, self.to_mixture))
        scale = next((before[one] / after[one] for one in self._shared_corpora), Fraction(1))
        both = {one: weight * scale for one, weight in after.items()} | before
        heaviest = max(both.values())
        return {one: weight / heaviest for one, weight in both.items()}

    @property
    def goes_nowhere(self) -> bool:
        """Both ends are one mixture."""
        return canonical_text(self.from_mixture) == canonical_text(self.to_mixture)
