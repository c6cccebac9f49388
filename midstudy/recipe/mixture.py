"""Mixtures: exact token shares over corpora, either constant or changing linearly from one mixture to another.

One corpus may be the base. It is read by slot position, so every arm that keeps a slot reads the same text there. The
other corpora are specialists: a specialist draw replaces the base in a slot and advances its own corpus by one. Shares are
exact fractions (0.12 is 3/25), corpora with a zero share are dropped, and the order of corpora does not matter. Hence a
mixture with 0 % code has the same id as the general mixture.

Each corpus may also have a loss weight. Loss weights are relative, since the mean loss is divided by their sum: the
heaviest corpus has weight 1, and equal weights have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from midstudy.recipe.canonical import added_field, canonical_text
from midstudy.recipe.data import Corpus
from midstudy.recipe.errors import RecipeError, require_kind, require_positive
from midstudy.recipe.exact_share import exact_share
from midstudy.recipe.plain import hold_plain_numbers, plain


def _exact_weight(path: str, value: float | int | str | Fraction) -> Fraction:
    expected = "a number above 0"
    value = plain(value)
    try:
        weight = value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise RecipeError(path, expected=expected, got=value) from None
    if isinstance(value, bool) or weight <= 0:
        fix = "To exclude a corpus, leave it out of the mixture."
        raise RecipeError(path, expected=expected, got=value, fix=fix)
    return weight


@dataclass(frozen=True, kw_only=True)
class Share:
    """One corpus of a mixture with its share of the tokens read and the loss weight of its tokens."""

    corpus: Corpus
    share: Fraction
    loss_weight: Fraction = added_field(omit_at=Fraction(1))


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Token shares that add up to 1; build it with `Mixture.blend` or `Mixture.only`."""

    base: Share | None
    specialists: tuple[Share, ...]

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        total = sum((part.share for part in self.parts), Fraction(0))
        if total != 1:
            raise RecipeError("mixture", expected="shares that add up to exactly 1", got=f"{float(total):g}")
        weights = [part.loss_weight for part in self.parts]
        if min(weights) <= 0 or max(weights) != 1:
            raise RecipeError(
                "mixture.loss_weights",
                expected="numbers above 0, the largest of them 1",
                got=", ".join(f"{float(weight):g}" for weight in weights),
                fix="Use Mixture.blend, which divides the weights by the largest.",
            )

    @classmethod
    def blend(
        cls,
        base: Corpus,
        specialists: Mapping[Corpus, float | str | Fraction],
        *,
        loss_weights: Mapping[Corpus, float | str | Fraction] | None = None,
    ) -> Mixture:
        """Return the mixture of `specialists` at their shares, with the rest of the tokens from `base`.

        Args:
            loss_weights: loss weight of a token of each corpus, 1 by default; only the ratios matter.

        Raises:
            RecipeError: a share is outside [0, 1], the shares add up to more than 1, a weight is not above 0, or a
                weighted corpus is not in the mixture.
        """
        require_kind("mixture.base", base, Corpus, expected="a Corpus")
        for path, given in (("specialists", specialists), ("loss_weights", {} if loss_weights is None else loss_weights)):
            require_kind(f"mixture.{path}", given, Mapping, expected="a mapping from each Corpus to a number")
            for corpus in given:
                require_kind(f"mixture.{path}", corpus, Corpus, expected="a Corpus, not its name, as each key")
        shares = {c: exact_share(f"mixture.{c.name}", value) for c, value in specialists.items()}
        if base in shares:
            raise RecipeError(
                f"mixture.{base.name}", expected="each corpus at most once", got="the base as a specialist too"
            )
        rest = 1 - sum(shares.values(), Fraction(0))
        if rest < 0:
            raise RecipeError("mixture", expected="specialist shares that add up to at most 1", got=f"{float(1 - rest):g}")
        weights = {c: _exact_weight(f"mixture.loss_weights.{c.name}", value) for c, value in (loss_weights or {}).items()}
        for corpus in weights.keys() - shares.keys() - {base}:
            raise RecipeError(
                f"mixture.loss_weights.{corpus.name}",
                expected=f"one of {', '.join(known.name for known in (base, *shares))}",
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
        """Return the mixture that reads one corpus only, by slot position."""
        return cls.blend(base, {})

    @property
    def parts(self) -> tuple[Share, ...]:
        return ((self.base,) if self.base else ()) + self.specialists

    @property
    def base_corpus(self) -> Corpus | None:
        """The corpus that is read by slot position; `None` if there is none."""
        return self.base.corpus if self.base else None

    @property
    def specialist_corpora(self) -> tuple[Corpus, ...]:
        return tuple(part.corpus for part in self.specialists)

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """Every corpus that is read, the base first."""
        return tuple(part.corpus for part in self.parts)

    def mean_share(self, corpus: Corpus, num_steps: int) -> Fraction:
        """Return the corpus's share over the first `num_steps` steps; 0 if it is not read."""
        return self._shares.get(corpus, Fraction(0))

    def loss_weight(self, corpus: Corpus) -> Fraction:
        """Return the loss weight of a token of a corpus of this mixture."""
        return self._loss_weights[corpus]

    @cached_property
    def _shares(self) -> dict[Corpus, Fraction]:
        return {part.corpus: part.share for part in self.parts}

    @cached_property
    def _loss_weights(self) -> dict[Corpus, Fraction]:
        return {part.corpus: part.loss_weight for part in self.parts}


@dataclass(frozen=True, kw_only=True)
class MixtureRamp:
    """Shares that change linearly from one mixture to another over the first `num_steps` steps of the phase.

    The share during update j is the mean over that update, so the whole ramp draws exactly the mean of its two ends. A
    phase that is longer than its ramp stays at `to_mixture`. The length sets the slope and is part of the id.

    Loss weights are constant along a ramp, so two corpora in both mixtures must have the same ratio of loss weights in
    both. A corpus in only one of the mixtures may be the heaviest.
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
                expected="the same base in both mixtures of a ramp",
                got=f"{after.name}, with {before.name} in from_mixture",
                fix="Make one of the two a specialist.",
            )
        if self.base_corpus in self.specialist_corpora:
            raise RecipeError(
                "mixture.to_mixture",
                expected="the same role for a corpus in both mixtures",
                got=f"{self.corpora[0].name} as the base in one and as a specialist in the other",
            )
        shared = self._shared_corpora
        for corpus in shared[1:]:
            from_ratio, to_ratio = (
                float(end.loss_weight(corpus) / end.loss_weight(shared[0])) for end in (self.from_mixture, self.to_mixture)
            )
            if from_ratio != to_ratio:
                raise RecipeError(
                    f"mixture.to_mixture.loss_weights.{corpus.name}",
                    expected=f"{from_ratio:g} times the loss weight of {shared[0].name}, as in from_mixture",
                    got=f"{to_ratio:g} times",
                    fix=f"Give {shared[0].name} and {corpus.name} the same loss_weights in both mixtures.",
                )

    @property
    def base_corpus(self) -> Corpus | None:
        """The corpus that is read by slot position; `None` if there is none."""
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
        """Return the corpus's exact mean share over the first `num_steps` steps of the ramp; for 0, its initial share."""
        assert 0 <= num_steps <= self.num_steps
        before, after = (mixture.mean_share(corpus, 0) for mixture in (self.from_mixture, self.to_mixture))
        return before + (after - before) * Fraction(num_steps, 2 * self.num_steps)

    def loss_weight(self, corpus: Corpus) -> Fraction:
        """Return the loss weight of a token of a corpus of either mixture, constant along the ramp; 1 for the heaviest."""
        return self._loss_weights[corpus]

    @property
    def _shared_corpora(self) -> tuple[Corpus, ...]:
        """The corpora in both mixtures, the base first."""
        return tuple(corpus for corpus in self.from_mixture.corpora if corpus in self.to_mixture.corpora)

    @cached_property
    def _loss_weights(self) -> dict[Corpus, Fraction]:
        """The loss weights of both mixtures on one scale, which is set by a corpus in both."""
        before, after = (
            {corpus: end.loss_weight(corpus) for corpus in end.corpora} for end in (self.from_mixture, self.to_mixture)
        )
        scale = next((before[corpus] / after[corpus] for corpus in self._shared_corpora), Fraction(1))
        both = {corpus: weight * scale for corpus, weight in after.items()} | before
        heaviest = max(both.values())
        return {corpus: weight / heaviest for corpus, weight in both.items()}

    @property
    def is_constant(self) -> bool:
        """True if both mixtures are equal."""
        return canonical_text(self.from_mixture) == canonical_text(self.to_mixture)
