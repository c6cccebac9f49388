"""Which corpus fills each slot of a curriculum, and at which position: exact quotas, in closed form.

A slot is one sequence of the global batch. Slots are numbered from where data positions last started anew. The base
corpus is read at the slot's own number; a specialist draw replaces it and advances the specialist by count, so arms agree
in every slot that neither replaces and a branch goes on where its trunk was.

Quotas. With T(t) the exact number of specialist tokens owed after t slots, in sequences, floor(T(t) + 1/2) slots have gone
to specialists. Among the draws the specialists are split off one by one, each following its own ideal count as a function
of the draws so far. T runs along the whole curriculum, so debts carry over phase boundaries, and nothing is rounded twice.
Every count is monotone, none looks at a later phase, and with K corpora none is ever off by as much as K. Largest
remainder, the obvious alternative, is not monotone: a corpus can lose a slot it was already given.

Work is a loop over phases and corpora, never over past slots: the paper's trunk has 62 million.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from midstudy.recipe.canonical import canonical_text
from midstudy.recipe.curriculum import Curriculum, Stretch
from midstudy.recipe.data import Corpus
from midstudy.recipe.mixture import Mixture


@dataclass(frozen=True)
class Draw:
    """What fills one slot: block number `position` of the endless sequence of epochs of `corpus`."""

    corpus: Corpus
    position: int


@dataclass(frozen=True)
class _Leg:
    """A stretch in slots: [first, last), with the share of every specialist."""

    first: int
    last: int
    base: Corpus | None
    shares: dict[Corpus, Fraction]


def _round_half_up(value: Fraction) -> int:
    return int((2 * value.numerator + value.denominator) // (2 * value.denominator))


class _Split:
    """Splits one specialist off a row of draws: count(leg, draws) of the first `draws` draws are its own.

    Within a leg the ideal count is a line through the ideal point at the leg's start; the count follows the line, never
    falls below what was given before, and never takes more than the draws made since.
    """

    def __init__(self, legs: list[_Leg], rest_shares: list[Fraction], own_shares: list[Fraction]) -> None:
        self._slope = [own / rest if rest else Fraction(0) for own, rest in zip(own_shares, rest_shares, strict=True)]
        self._ideal_draws, self._ideal_own = [Fraction(0)], [Fraction(0)]
        for leg, rest, own in zip(legs, rest_shares, own_shares, strict=True):
            num_slots = leg.last - leg.first
            self._ideal_draws.append(self._ideal_draws[-1] + rest * num_slots)
            self._ideal_own.append(self._ideal_own[-1] + own * num_slots)
        self._draws_at, self._own_at = [0], [0]

    def close_leg(self, leg: int, draws: int) -> None:
        """Note how many draws there were at the end of `leg`."""
        own = self.count(leg, draws)
        self._draws_at.append(draws)
        self._own_at.append(own)

    def count(self, leg: int, draws: int) -> int:
        line = self._ideal_own[leg] + self._slope[leg] * (draws - self._ideal_draws[leg])
        most = self._own_at[leg] + draws - self._draws_at[leg]
        return min(max(_round_half_up(line), self._own_at[leg]), most)


class Slots:
    """The slots of one run of a curriculum over which data positions continue."""

    def __init__(self, stretches: tuple[Stretch, ...]) -> None:
        legs: list[_Leg] = []
        first = 0
        for stretch in stretches:
            data = stretch.phase.data
            assert isinstance(data, Mixture)
            last = first + (stretch.stop_step - stretch.start_step) * stretch.phase.num_sequences
            shares = {part.corpus: part.share for part in data.specialists}
            legs.append(_Leg(first, last, data.base.corpus if data.base else None, shares))
            first = last
        self._legs = legs
        self.num_slots = first
        self._stretches = stretches
        corpora = {corpus for leg in legs for corpus in leg.shares}
        self.specialists = sorted(corpora, key=canonical_text)
        self._owed = [Fraction(0)]
        for leg in legs:
            self._owed.append(self._owed[-1] + sum(leg.shares.values(), Fraction(0)) * (leg.last - leg.first))
        self._splits: list[_Split] = []
        rest = [sum(leg.shares.values(), Fraction(0)) for leg in legs]
        for corpus in self.specialists[:-1]:
            own = [leg.shares.get(corpus, Fraction(0)) for leg in legs]
            self._splits.append(_Split(legs, rest, own))
            rest = [r - o for r, o in zip(rest, own, strict=True)]
        for index, leg in enumerate(legs):
            draws = self._num_drawn(index, leg.last)
            for split in self._splits:
                own_count = split.count(index, draws)
                split.close_leg(index, draws)
                draws -= own_count

    def _leg_of(self, slot: int) -> int:
        """The leg that slot number `slot` lies in; the end belongs to the last."""
        for index, leg in enumerate(self._legs):
            if slot < leg.last:
                return index
        return len(self._legs) - 1

    def _num_drawn(self, leg: int, slot: int) -> int:
        """Specialist draws in the first `slot` slots; `slot` lies in `leg` or at its end."""
        here = self._legs[leg]
        return _round_half_up(self._owed[leg] + sum(here.shares.values(), Fraction(0)) * (slot - here.first))

    def _counts(self, leg: int, slot: int) -> list[int]:
        draws = self._num_drawn(leg, slot)
        counts = []
        for split in self._splits:
            own = split.count(leg, draws)
            counts.append(own)
            draws -= own
        return [*counts, draws] if self.specialists else []

    def counts(self, slot: int) -> dict[Corpus, int]:
        """How many of the first `slot` slots each corpus has filled.

        A base that is read by slot number has filled what no specialist has; where phases have different bases, each has
        filled its own phases' slots.
        """
        assert 0 <= slot <= self.num_slots
        total: dict[Corpus, int] = {}
        filled_before = 0
        for index, leg in enumerate(self._legs):
            if leg.first >= slot and slot > 0:
                break
            stop = min(slot, leg.last)
            filled = sum(self._counts(index, stop))
            if leg.base is not None:
                total[leg.base] = total.get(leg.base, 0) + (stop - leg.first) - (filled - filled_before)
            filled_before = filled
        if self.specialists and slot > 0:
            here = next(i for i, one in enumerate(self._legs) if slot <= one.last)
            total.update(zip(self.specialists, self._counts(here, slot), strict=True))
        return {corpus: count for corpus, count in total.items() if count}

    def draws(self, first_slot: int, num_slots: int) -> list[Draw]:
        """What fills slots [first_slot, first_slot + num_slots)."""
        assert 0 <= first_slot <= self.num_slots - num_slots
        out: list[Draw] = []
        slot, stop = first_slot, first_slot + num_slots
        while slot < stop:
            index = self._leg_of(slot)
            leg = self._legs[index]
            leg_stop = min(stop, leg.last)
            before = self._counts(index, slot)
            for number in range(slot, leg_stop):
                after = self._counts(index, number + 1)
                grown = [i for i, (b, a) in enumerate(zip(before, after, strict=True)) if a != b]
                if grown:
                    assert len(grown) == 1
                    assert after[grown[0]] == before[grown[0]] + 1
                    out.append(Draw(self.specialists[grown[0]], before[grown[0]]))
                else:
                    assert leg.base is not None
                    out.append(Draw(leg.base, number))
                before = after
            slot = leg_stop
        return out


def slots_at(curriculum: Curriculum, step: int) -> tuple[Slots, int]:
    """The slots that the update from state `step` reads from, and the number of its first slot."""
    index = next(i for i, s in enumerate(curriculum.stretches) if s.start_step <= step < s.stop_step)
    begin = index
    while begin > 0 and curriculum.stretches[begin].phase.data_positions == "continue":
        begin -= 1
    chain = [s for s in curriculum.stretches[begin:] if s.start_step <= step]
    first = sum((s.stop_step - s.start_step) * s.phase.num_sequences for s in chain[:-1])
    first += (step - chain[-1].start_step) * chain[-1].phase.num_sequences
    return Slots(tuple(chain)), first


def drawn_tokens(curriculum: Curriculum) -> dict[Corpus, int]:
    """Tokens each corpus contributes over a curriculum's mixture phases: the realised shares, exactly."""
    totals: dict[Corpus, int] = {}
    chain: list[Stretch] = []
    for stretch in (*curriculum.stretches, None):
        if chain and (stretch is None or stretch.phase.data_positions == "reset"):
            slots = Slots(tuple(chain))
            for corpus, count in slots.counts(slots.num_slots).items():
                totals[corpus] = totals.get(corpus, 0) + count * chain[0].phase.seq_len
            chain = []
        if stretch is not None and isinstance(stretch.phase.data, Mixture):
            chain.append(stretch)
    return totals
