"""Which corpus fills each slot of a curriculum, and at which position: exact quotas, in closed form.

A slot is one sequence of the global batch. Slots are numbered from where data positions last started anew. The base
corpus is read at the slot's own number; a specialist draw replaces it and advances the specialist by count, so arms agree
in every slot that neither replaces and a branch goes on where its trunk was.

Quotas. With T(t) the exact number of specialist tokens owed after t slots, in sequences, floor(T(t) + 1/2) slots have gone
to specialists. Among the draws the specialists are split off one by one, each following its own ideal count as a function
of the draws so far. T runs along the whole curriculum, so debts carry over phase boundaries, and nothing is rounded twice.
Where a mixture changes, the shares are constant during a step, so that both counts are lines between the boundaries of
steps; there they are quadratic in the step, and exact. The step that a number of draws lies in is found by bisection.
Every count is monotone, none looks at a later phase, and with K corpora none is ever off by as much as K. Largest
remainder, the obvious alternative, is not monotone: a corpus can lose a slot it was already given.

Work is a loop over phases and corpora, never over past slots or steps: the paper's trunk has 62 million slots.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from math import floor, lcm

from midstudy.recipe.canonical import canonical_text
from midstudy.recipe.curriculum import Curriculum, Stretch
from midstudy.recipe.data import Corpus, Task
from midstudy.recipe.mixture import MixtureRamp


@dataclass(frozen=True)
class Draw:
    """What fills one slot: block number `position` of the endless sequence of epochs of `corpus`."""

    corpus: Corpus
    position: int


class _Leg:
    """A stretch in slots: [first, last). Its shares change for `num_ramp_steps` steps; 1 where they are constant."""

    def __init__(self, stretch: Stretch, first: int) -> None:
        data = stretch.phase.data
        assert not isinstance(data, Task)
        self.data = data
        self.num_sequences = stretch.phase.num_sequences
        self.num_steps = stretch.stop_step - stretch.start_step
        self.num_ramp_steps = data.num_steps if isinstance(data, MixtureRamp) else 1
        self.first, self.last = first, first + self.num_steps * self.num_sequences


class _Ideal:
    """The exact number of sequences that some corpora together are owed, at the steps' boundaries."""

    def __init__(self, parts: list[tuple[Fraction, Fraction, Fraction]]) -> None:
        self._parts = parts

    @classmethod
    def of(cls, legs: list[_Leg], corpus: Corpus) -> _Ideal:
        ideal, start = cls([]), Fraction(0)
        for index, leg in enumerate(legs):
            at_first, over_first = leg.data.mean_share(corpus, 0), leg.data.mean_share(corpus, 1)
            ideal._parts.append((start, leg.num_sequences * at_first, leg.num_sequences * (over_first - at_first)))
            start = ideal.at(index, leg.num_steps)
        return ideal

    def __add__(self, other: _Ideal) -> _Ideal:
        return _Ideal([(a + d, b + e, c + f) for (a, b, c), (d, e, f) in zip(self._parts, other._parts, strict=True)])

    def at(self, leg: int, step: int) -> Fraction:
        """After `step` steps of `leg`: a mean share is linear in the steps it is taken over, so a count is quadratic."""
        start, linear, quadratic = self._parts[leg]
        return start + step * (linear + step * quadratic)


class _Line:
    """floor(y + 1/2) along the line through (x0, y0) in integers, for x up to `last`; none: to the end of the leg."""

    def __init__(self, x0: Fraction | int, y0: Fraction, slope: Fraction, last: int | None) -> None:
        offset = y0 - slope * x0
        self._scale = lcm(2, slope.denominator, offset.denominator)
        self._slope, self._offset = int(slope * self._scale), int((offset + Fraction(1, 2)) * self._scale)
        self.last = last

    def __call__(self, x: int) -> int:
        return (self._slope * x + self._offset) // self._scale

    def reaches(self, count: int) -> int:
        """The least x at which the line has come to `count`."""
        return -((self._offset - count * self._scale) // self._slope)


class _Split:
    """Splits one specialist off a row of draws, of which it and the corpora behind it fill all.

    Within a leg the ideal count is a chain of lines through the ideal points at the steps' boundaries; the count follows
    it, never falls below what was given before, and never takes more than the draws made since.
    """

    def __init__(self, legs: list[_Leg], own: _Ideal, draws: _Ideal) -> None:
        self._legs = legs
        self._ideal_own, self._ideal_draws = own, draws
        self._draws_at, self._own_at = [0], [0]

    def close_leg(self, draws: int, own: int) -> None:
        """Note how many draws, and how many of its own, there were at the end of a leg."""
        self._draws_at.append(draws)
        self._own_at.append(own)

    def line(self, leg: int, draws: int) -> _Line:
        """The line that the ideal count of `leg` follows at `draws` draws.

        A leg that is cut short knows its ramp's whole course, so that no count depends on where it is cut.
        """
        num_steps = self._legs[leg].num_ramp_steps
        step = bisect_right(range(1, num_steps), Fraction(draws), key=lambda at: self._ideal_draws.at(leg, at))
        draws_from, draws_to = (self._ideal_draws.at(leg, at) for at in (step, step + 1))
        own_from, own_to = (self._ideal_own.at(leg, at) for at in (step, step + 1))
        # Where no draws are owed, debts are paid. They are never due to corpora that were owed nothing so far: those of a
        # later phase must leave no trace here.
        all_own = Fraction(own_from == draws_from)
        slope = (own_to - own_from) / (draws_to - draws_from) if draws_to != draws_from else all_own
        return _Line(draws_from, own_from, slope, floor(draws_to) if step + 1 < num_steps else None)

    def count(self, leg: int, draws: int, line: _Line) -> int:
        """How many of the first `draws` draws are its own."""
        most = self._own_at[leg] + draws - self._draws_at[leg]
        return min(max(line(draws), self._own_at[leg]), most)


class Slots:
    """The slots of one run of a curriculum over which data positions continue."""

    def __init__(self, stretches: tuple[Stretch, ...]) -> None:
        self._legs: list[_Leg] = []
        self.num_slots = 0
        for stretch in stretches:
            self._legs.append(_Leg(stretch, self.num_slots))
            self.num_slots = self._legs[-1].last
        corpora = {corpus for leg in self._legs for corpus in leg.data.specialist_corpora}
        self.specialists = sorted(corpora, key=canonical_text)
        self._owed = _Ideal([(Fraction(0), Fraction(0), Fraction(0))] * len(self._legs))
        self._splits: list[_Split] = []
        for corpus in reversed(self.specialists):
            ideal = _Ideal.of(self._legs, corpus)
            self._owed += ideal
            self._splits.insert(0, _Split(self._legs, ideal, self._owed))
        self._splits = self._splits[:-1]  # the last specialist takes what is left
        for index, leg in enumerate(self._legs):
            draws = self._owed_line(index, leg.last)(leg.last)
            for split, own in zip(self._splits, self._counts(index, draws), strict=False):
                split.close_leg(draws, own)
                draws -= own

    def _leg_of(self, slot: int) -> int:
        """The leg that slot number `slot` lies in; the end belongs to the last."""
        return min(bisect_right(self._legs, slot, key=lambda leg: leg.last), len(self._legs) - 1)

    def _owed_line(self, leg: int, slot: int) -> _Line:
        """Specialist draws by the number of slots, at `slot` of `leg`."""
        here = self._legs[leg]
        step = min((slot - here.first) // here.num_sequences, here.num_ramp_steps - 1)
        x0, y0 = here.first + step * here.num_sequences, self._owed.at(leg, step)
        slope = (self._owed.at(leg, step + 1) - y0) / here.num_sequences
        return _Line(x0, y0, slope, x0 + here.num_sequences if step + 1 < here.num_ramp_steps else None)

    def _counts(self, leg: int, draws: int) -> list[int]:
        """How many of the first `draws` specialist draws, the last of them in `leg`, each specialist has."""
        counts = []
        for split in self._splits:
            counts.append(split.count(leg, draws, split.line(leg, draws)))
            draws -= counts[-1]
        return [*counts, draws] if self.specialists else []

    def counts(self, slot: int) -> dict[Corpus, int]:
        """How many of the first `slot` slots each corpus has filled.

        A base that is read by slot number has filled what no specialist has; where phases have different bases, each has
        filled its own phases' slots.
        """
        assert 0 <= slot <= self.num_slots
        total: dict[Corpus, int] = {}
        counts: list[int] = []
        for index, leg in enumerate(self._legs):
            if leg.first >= slot:
                break
            stop, drawn_before = min(slot, leg.last), sum(counts)
            counts = self._counts(index, self._owed_line(index, stop)(stop))
            if leg.data.base_corpus is not None:
                filled = stop - leg.first - (sum(counts) - drawn_before)
                total[leg.data.base_corpus] = total.get(leg.data.base_corpus, 0) + filled
        total.update(zip(self.specialists, counts, strict=False))
        return {corpus: count for corpus, count in total.items() if count}

    def draws(self, first_slot: int, num_slots: int) -> list[Draw]:
        """What fills slots [first_slot, first_slot + num_slots)."""
        assert 0 <= first_slot <= self.num_slots - num_slots
        out: list[Draw] = []
        slot, stop = first_slot, first_slot + num_slots
        while slot < stop:
            index = self._leg_of(slot)
            line = self._owed_line(index, slot)
            last = min(stop, self._legs[index].last, line.last or stop)
            out += self._draws_along(line, index, slot, last)
            slot = last
        return out

    def _draws_along(self, line: _Line, leg: int, first: int, last: int) -> list[Draw]:
        """What fills slots [first, last) of `leg`, over which the specialist draws follow `line`."""
        base = self._legs[leg].data.base_corpus
        out: list[Draw | None] = [Draw(base, slot) for slot in range(first, last)] if base else [None] * (last - first)
        drawn = line(first)
        counts = self._counts(leg, drawn)
        lines: list[_Line | None] = [None] * len(self._splits)
        for draw in range(drawn + 1, line(last) + 1):
            among, specialist = draw, 0
            for split in self._splits:  # the first whose count grows with this draw; the last specialist takes the rest
                own = lines[specialist]
                if own is None or (own.last is not None and among > own.last):
                    own = lines[specialist] = split.line(leg, among)
                if split.count(leg, among, own) != counts[specialist]:
                    break
                among -= counts[specialist]
                specialist += 1
            out[line.reaches(draw) - 1 - first] = Draw(self.specialists[specialist], counts[specialist])
            counts[specialist] += 1
        filled = [draw for draw in out if draw is not None]
        assert len(filled) == last - first
        return filled


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
        if stretch is not None and not isinstance(stretch.phase.data, Task):
            chain.append(stretch)
    return totals
