"""The phases of a run as its manifest keeps them: shares of the data sets, and the learning rate at a few steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from midstudy.plan.dose import whole_run
from midstudy.plan.packed import CountsOf, estimated_counts
from midstudy.recipe.curriculum import Curriculum, Stretch
from midstudy.recipe.curve import Curve
from midstudy.recipe.data import Task
from midstudy.recipe.manifest import PhaseEntry
from midstudy.recipe.mixture import MixtureRamp
from midstudy.recipe.packing import Packing
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.task_mixture import TaskMixture

PIECES = 8
"""Pieces in which a segment of the learning-rate curve, or a changing mixture, is kept."""


def phases_of(curriculum: Curriculum, counts_of: CountsOf = estimated_counts) -> tuple[PhaseEntry, ...]:
    """Return the phases of a run in order; adjacent phases of equal shares are one. A changing mixture is kept in pieces.

    Args:
        counts_of: what the packings of mixtures of tasks read.
    """
    entries: list[PhaseEntry] = []
    offset = 0
    for part in whole_run(curriculum):
        for placed in part.stretches:
            for start, stop, shares in _pieces(part, placed, counts_of):
                is_decided = part.curve.window(start, stop).is_decided
                knots = _knots(part.curve, start, stop) if is_decided else ()
                rates = tuple((offset + step, part.curve.lr(step)) for step in knots)
                entry = PhaseEntry(start_step=offset + start, stop_step=offset + stop, shares=shares, rates=rates)
                entries.append(entry)
                if len(entries) > 1 and entries[-2].shares == shares:
                    later, before = entries.pop(), entries.pop()
                    entries.append(_joined(before, later))
        offset += part.num_steps
    return tuple(entries)


def _joined(before: PhaseEntry, later: PhaseEntry) -> PhaseEntry:
    return PhaseEntry(
        start_step=before.start_step,
        stop_step=later.stop_step,
        shares=later.shares,
        rates=(*before.rates, *later.rates),
    )


def _pieces(curriculum: Curriculum, placed: Stretch, counts_of: CountsOf) -> Iterator[tuple[int, int, Mapping[str, float]]]:
    """Yield the first step, the step after the last one, and the shares of the pieces of a placed phase."""
    data, start = placed.phase.data, placed.start_step
    length = placed.stop_step - start
    if isinstance(data, Task | Rollouts):
        yield start, placed.stop_step, {data.name: 1.0}
    elif isinstance(data, TaskMixture):
        counts = counts_of(Packing.of(placed.phase, curriculum.start.tokenizer))
        num_pieces = PIECES if data.order == "sequential" else 1
        for begin, end in pairwise(sorted({length * piece // num_pieces for piece in range(num_pieces + 1)})):
            yield start + begin, start + end, counts.shares(begin, end)
    elif not isinstance(data, MixtureRamp):
        yield start, placed.stop_step, {part.corpus.name: float(part.share) for part in data.parts}
    else:
        ends = sorted({length * piece // PIECES for piece in range(PIECES + 1)})
        for begin, end in pairwise(ends):
            sums = {one.name: data.mean_share(one, end) * end - data.mean_share(one, begin) * begin for one in data.corpora}
            yield start + begin, start + end, {name: float(total / (end - begin)) for name, total in sums.items()}


def _knots(curve: Curve, start: int, stop: int) -> Sequence[int]:
    """Return steps of [start, stop) between which the rate is about linear: ends of segments, and pieces of each."""
    ends = sorted({start, stop - 1, *(one.start_step for one in curve.segments if start < one.start_step < stop)})
    pieces = {begin + round((end - begin) * piece / PIECES) for begin, end in pairwise(ends) for piece in range(PIECES)}
    return sorted(pieces | {start, stop - 1})
