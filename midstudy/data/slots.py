"""Assign a corpus and a position to each slot of a curriculum: exact quotas, in closed form.

A slot is one sequence of the global batch. Slots are numbered from the last reset of the data positions. The base corpus is
read at the slot number. A specialist draw replaces the base in its slot and reads the specialist at the count of its
previous draws. Arms therefore agree in every slot where both read the base, and a branch continues where its trunk was.

Quotas. Let T(t) be the exact number of specialist sequences due after t slots; then floor(T(t) + 1/2) of these slots have
gone to specialists. The draws are divided among the specialists by splitting off one specialist after the other; each
follows its ideal count as a function of the draws so far. T covers the whole curriculum, so deficits carry over phase
boundaries and nothing is rounded twice. In a ramp, shares are constant within a step, so both counts are piecewise linear
with breakpoints at step boundaries; at these boundaries they are quadratic in the step, and exact. Bisection finds the step
of a given number of draws. Every count is monotone, no count depends on a later phase, and with K corpora the error of each
count is below K. The obvious alternative, largest remainder, is not monotone: a corpus can lose a slot it already had.

The work is a loop over phases and corpora, not over past slots or steps: the paper's trunk has 62 million slots.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from math import floor, lcm

from midstudy.recipe.canonical import canonical_text
from midstudy.recipe.curriculum import Curriculum, Stretch
from midstudy.recipe.data import Corpus
from midstudy.recipe.mixture import MixtureRamp
from midstudy.recipe.task_data import TaskData


@dataclass(frozen=True)
class Draw:
    """The content of one slot: block `position` of the endless sequence of epochs of `corpus`."""

    corpus: Corpus
    position: int


class _SlotRange:
    """The slots [first, last) of a placed phase; `num_ramp_steps` is 1 if its shares are constant."""

    def __init__(self, placed: Stretch, first: int) -> None:
        data = placed.phase.data
        assert not isinstance(data, TaskData)
        self.data = data
        self.num_sequences = placed.phase.num_sequences
        self.num_steps = placed.stop_step - placed.start_step
        self.num_ramp_steps = data.num_steps if isinstance(data, MixtureRamp) else 1
        self.first, self.last = first, first + self.num_steps * self.num_sequences


class _Ideal:
    """The ideal count: the exact number of sequences due to one or several corpora, at step boundaries."""

    def __init__(self, parts: list[tuple[Fraction, Fraction, Fraction]]) -> None:
        self._parts = parts

    @classmethod
    def of(cls, phases: list[_SlotRange], corpus: Corpus) -> _Ideal:
        ideal, start = cls([]), Fraction(0)
        for index, phase in enumerate(phases):
            at_first, over_first = phase.data.mean_share(corpus, 0), phase.data.mean_share(corpus, 1)
            ideal._parts.append((start, phase.num_sequences * at_first, phase.num_sequences * (over_first - at_first)))
            start = ideal.at(index, phase.num_steps)
        return ideal

    def __add__(self, other: _Ideal) -> _Ideal:
        return _Ideal([(a + d, b + e, c + f) for (a, b, c), (d, e, f) in zip(self._parts, other._parts, strict=True)])

    def at(self, index: int, step: int) -> Fraction:
        """Return the ideal count after `step` steps of a phase: quadratic, since mean shares are linear."""
        start, linear, quadratic = self._parts[index]
        return start + step * (linear + step * quadratic)


class _Line:
    """floor(y + 1/2) on the line through (x0, y0), in integers, for x up to `last`; `None`: to the end of the phase."""

    def __init__(self, x0: Fraction | int, y0: Fraction, slope: Fraction, last: int | None) -> None:
        offset = y0 - slope * x0
        self._scale = lcm(2, slope.denominator, offset.denominator)
        self._slope, self._offset = int(slope * self._scale), int((offset + Fraction(1, 2)) * self._scale)
        self.last = last

    def __call__(self, x: int) -> int:
        return (self._slope * x + self._offset) // self._scale

    def reaches(self, count: int) -> int:
        """Return the least x at which the line reaches `count`."""
        return -((self._offset - count * self._scale) // self._slope)


class _Split:
    """Assigns one corpus its draws; the remaining corpora share the rest.

    Within a phase, the ideal count is linear between its exact values at step boundaries. The count follows it, but does
    not fall below the count at the start of the phase and does not exceed it by more than the draws since then.
    """

    def __init__(self, phases: list[_SlotRange], own: _Ideal, draws: _Ideal) -> None:
        self._phases = phases
        self._ideal_own, self._ideal_draws = own, draws
        self._draws_at, self._own_at = [0], [0]

    def close_phase(self, draws: int, own: int) -> None:
        """Record the number of draws, and of the corpus's own draws, at the end of a phase."""
        self._draws_at.append(draws)
        self._own_at.append(own)

    def line(self, index: int, draws: int) -> _Line:
        """Return the line that the ideal count of phase `index` follows at `draws` draws.

        A phase that is cut short uses its whole ramp, so that no count depends on where it is cut.
        """
        num_steps = self._phases[index].num_ramp_steps
        step = bisect_right(range(1, num_steps), Fraction(draws), key=lambda at: self._ideal_draws.at(index, at))
        draws_from, draws_to = (self._ideal_draws.at(index, at) for at in (step, step + 1))
        own_from, own_to = (self._ideal_own.at(index, at) for at in (step, step + 1))
        # When a phase allots no draws, outstanding deficits are settled. A corpus without a deficit gets none: corpora of a
        # later phase must not affect the counts here.
        all_own = Fraction(own_from == draws_from)
        slope = (own_to - own_from) / (draws_to - draws_from) if draws_to != draws_from else all_own
        return _Line(draws_from, own_from, slope, floor(draws_to) if step + 1 < num_steps else None)

    def count(self, index: int, draws: int, line: _Line) -> int:
        """Return how many of the first `draws` draws are the corpus's own."""
        most = self._own_at[index] + draws - self._draws_at[index]
        return min(max(line(draws), self._own_at[index]), most)


class Slots:
    """The slots of consecutive placed phases over which data positions continue."""

    def __init__(self, placed_phases: tuple[Stretch, ...]) -> None:
        self._phases: list[_SlotRange] = []
        self.num_slots = 0
        for placed in placed_phases:
            self._phases.append(_SlotRange(placed, self.num_slots))
            self.num_slots = self._phases[-1].last
        corpora = {corpus for phase in self._phases for corpus in phase.data.specialist_corpora}
        self.specialists = sorted(corpora, key=canonical_text)
        self._ideal = _Ideal([(Fraction(0), Fraction(0), Fraction(0))] * len(self._phases))
        self._splits: list[_Split] = []
        for corpus in reversed(self.specialists):
            ideal = _Ideal.of(self._phases, corpus)
            self._ideal += ideal
            self._splits.insert(0, _Split(self._phases, ideal, self._ideal))
        self._splits = self._splits[:-1]  # the last specialist takes the rest
        for index, phase in enumerate(self._phases):
            draws = self._specialist_line(index, phase.last)(phase.last)
            for split, own in zip(self._splits, self._counts(index, draws), strict=False):
                split.close_phase(draws, own)
                draws -= own

    def _phase_of(self, slot: int) -> int:
        """Return the index of the phase that `slot` lies in; the end belongs to the last phase."""
        return min(bisect_right(self._phases, slot, key=lambda phase: phase.last), len(self._phases) - 1)

    def _specialist_line(self, index: int, slot: int) -> _Line:
        """Return the line of the number of specialist draws over slots, at `slot` of phase `index`."""
        slots = self._phases[index]
        step = min((slot - slots.first) // slots.num_sequences, slots.num_ramp_steps - 1)
        x0, y0 = slots.first + step * slots.num_sequences, self._ideal.at(index, step)
        slope = (self._ideal.at(index, step + 1) - y0) / slots.num_sequences
        return _Line(x0, y0, slope, x0 + slots.num_sequences if step + 1 < slots.num_ramp_steps else None)

    def _counts(self, index: int, draws: int) -> list[int]:
        """Return each specialist's count among the first `draws` specialist draws, which end in phase `index`."""
        counts = []
        for split in self._splits:
            counts.append(split.count(index, draws, split.line(index, draws)))
            draws -= counts[-1]
        return [*counts, draws] if self.specialists else []

    def counts(self, slot: int) -> dict[Corpus, int]:
        """Return how many of the first `slot` slots each corpus fills.

        The base corpus of a phase fills the slots of the phase that no specialist fills.
        """
        assert 0 <= slot <= self.num_slots
        total: dict[Corpus, int] = {}
        counts: list[int] = []
        for index, phase in enumerate(self._phases):
            if phase.first >= slot:
                break
            stop, drawn_before = min(slot, phase.last), sum(counts)
            counts = self._counts(index, self._specialist_line(index, stop)(stop))
            if phase.data.base_corpus is not None:
                filled = stop - phase.first - (sum(counts) - drawn_before)
                total[phase.data.base_corpus] = total.get(phase.data.base_corpus, 0) + filled
        total.update(zip(self.specialists, counts, strict=False))
        return {corpus: count for corpus, count in total.items() if count}

    def draws(self, first_slot: int, num_slots: int) -> list[Draw]:
        """Return the content of slots [first_slot, first_slot + num_slots)."""
        assert 0 <= first_slot <= self.num_slots - num_slots
        out: list[Draw] = []
        slot, stop = first_slot, first_slot + num_slots
        while slot < stop:
            index = self._phase_of(slot)
            line = self._specialist_line(index, slot)
            last = min(stop, self._phases[index].last, line.last or stop)
            out += self._draws_along(line, index, slot, last)
            slot = last
        return out

    def _draws_along(self, line: _Line, index: int, first: int, last: int) -> list[Draw]:
        """Return the content of slots [first, last) of phase `index`, where the specialist draws follow `line`."""
        base = self._phases[index].data.base_corpus
        out: list[Draw | None] = [Draw(base, slot) for slot in range(first, last)] if base else [None] * (last - first)
        drawn = line(first)
        counts = self._counts(index, drawn)
        lines: list[_Line | None] = [None] * len(self._splits)
        for draw in range(drawn + 1, line(last) + 1):
            among, specialist = draw, 0
            for split in self._splits:  # the draw goes to the first specialist whose count grows with it, else to the last
                own = lines[specialist]
                if own is None or (own.last is not None and among > own.last):
                    own = lines[specialist] = split.line(index, among)
                if split.count(index, among, own) != counts[specialist]:
                    break
                among -= counts[specialist]
                specialist += 1
            out[line.reaches(draw) - 1 - first] = Draw(self.specialists[specialist], counts[specialist])
            counts[specialist] += 1
        filled = [draw for draw in out if draw is not None]
        assert len(filled) == last - first
        return filled


def slots_at(curriculum: Curriculum, step: int) -> tuple[Slots, int]:
    """Return the slots that the update from state `step` reads from, and the number of its first slot."""
    index = next(i for i, s in enumerate(curriculum.stretches) if s.start_step <= step < s.stop_step)
    begin = index
    while begin > 0 and curriculum.stretches[begin].phase.data_positions == "continue":
        begin -= 1
    chain = [s for s in curriculum.stretches[begin:] if s.start_step <= step]
    first = sum((s.stop_step - s.start_step) * s.phase.num_sequences for s in chain[:-1])
    first += (step - chain[-1].start_step) * chain[-1].phase.num_sequences
    return Slots(tuple(chain)), first


def drawn_tokens(curriculum: Curriculum) -> dict[Corpus, int]:
    """Return the exact number of tokens that each corpus contributes over a curriculum's mixture phases."""
    totals: dict[Corpus, int] = {}
    chain: list[Stretch] = []
    for placed in (*curriculum.stretches, None):
        if chain and (placed is None or placed.phase.data_positions == "reset"):
            slots = Slots(tuple(chain))
            for corpus, count in slots.counts(slots.num_slots).items():
                totals[corpus] = totals.get(corpus, 0) + count * chain[0].phase.seq_len
            chain = []
        if placed is not None and not isinstance(placed.phase.data, TaskData):
            chain.append(placed)
    return totals
