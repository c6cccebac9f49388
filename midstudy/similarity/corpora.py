"""Every pair of several corpora by every measure: at equal sizes, with bootstrap intervals and the ceiling of own halves.

Plug-in measures depend on the size of the samples: two samples of one text grow more alike as they grow. So both sides of
every comparison are rarefied to one number of units, and the diagonal is not 1 but the similarity of two random halves of a
corpus, rarefied to the same number: the ceiling for all other values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from midstudy.similarity.grouped_counts import NUM_GROUPS, GroupedCounts
from midstudy.similarity.measures import BOUNDS, MEASURES, NUM_SUMS, Side, block_sums, from_sums

NUM_REPLICATES = 200
LEVEL = 0.95
_BLOCK_NUMBERS = 2**21
"""Numbers of all corpora in a block of units: the arrays of a block take about 100 MB."""


@dataclass(frozen=True)
class Value:
    """A measure with the bounds of its interval, or `None` where it has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Compared:
    """All pairs of corpora: `pairs[left, right][measure]`, each pair once, and `ceilings[corpus][measure]`.

    `units_per_side` is the number of units that each corpus has in a comparison, `num_units` in all; one number for each
    order of n-grams. A corpus whose documents are in one group has no ceiling.
    """

    pairs: dict[tuple[str, str], dict[str, Value]]
    ceilings: dict[str, dict[str, float]]
    units_per_side: dict[str, list[int]]
    num_units: dict[str, list[int]]
    num_distinct: dict[str, list[int]]

    def value(self, left: str, right: str, measure: str) -> Value:
        """Return the measure of a pair in either order; of KL, the divergence of the first from the second."""
        if (left, right) in self.pairs:
            return self.pairs[left, right][measure]
        swapped = {"kl_nats": "reverse_kl_nats", "reverse_kl_nats": "kl_nats"}
        return self.pairs[right, left][swapped.get(measure, measure)]


def compare_corpora(
    counts: Mapping[str, Sequence[GroupedCounts]],
    *,
    equal: str,
    group_bytes: Mapping[str, NDArray[np.int64]],
    seed: int = 0,
    num_replicates: int = NUM_REPLICATES,
    on_done: Callable[[float], None] = lambda share: None,
) -> Compared:
    """Compare every pair of corpora, which are given by name with the counts of each order of n-grams.

    With several orders each measure is the mean over them (the paper's "multilevel"). An interval is the value ± t · the
    standard deviation over bootstrap replicates of the groups of documents (Efron and Tibshirani 1993, section 12), cut at
    the measure's bounds. Percentiles would lie beside the value, since a resample repeats documents and has fewer different
    units. Pairs with a corpus whose documents are in one group have no interval.

    Args:
        equal: `units` (both sides have equally many units), `bytes` (as many units as stand in equally many bytes) or
            `none` (whole corpora; the halves of a ceiling are then smaller than the sides of other comparisons).
        group_bytes: UTF-8 bytes of each group of documents, int64 of shape (64,), by corpus.
        seed: of the draws of rarefaction and bootstrap.
        on_done: called with the fraction that is done.

    Raises:
        ValueError: fewer than two corpora, one without units (named), or another `equal`.
    """
    if len(counts) < 2:
        raise ValueError(f"expected at least two corpora, got {len(counts)}")
    if equal not in ("units", "bytes", "none"):
        raise ValueError(f"equal: expected units, bytes or none, got {equal!r}")
    names, orders = list(counts), range(len(next(iter(counts.values()))))
    for name in names:
        for order in orders:
            if not counts[name][order].num_units:
                raise ValueError(f"{name}: expected documents with at least one unit, got none")
    rng = np.random.default_rng(seed)
    halves = {name: _halves(counts[name][0].units_by_group()) for name in names}
    present = {name: counts[name][0].units_by_group() > 0 for name in names}
    weights = {name: _weights(present[name], num_replicates, rng) for name in names}
    sides: dict[str, list[int]] = {name: [] for name in names}
    pair_values: dict[tuple[str, str], list[NDArray[np.float64]]] = {pair: [] for pair in combinations(names, 2)}
    ceilings: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for order in orders:
        whole = {name: counts[name][order] for name in names}
        parts = {name: [whole[name].in_groups(mask) for mask in halves[name] or ()] for name in names}
        sizes = _sizes(whole, parts, equal, group_bytes, halves)
        drawn = {name: whole[name].rarefied(sizes[name], rng) for name in names}
        drawn_parts = {
            name: [part.rarefied(min(sizes[name], part.num_units), rng) for part in parts[name]] for name in names
        }
        for name in names:
            sides[name].append(drawn[name].num_units)

        def on_order(done: float, order: int = order) -> None:
            on_done((order + done) / len(orders))

        _add_order(drawn, drawn_parts, weights, pair_values, ceilings, on_order)
    num_groups = {name: int(present[name].sum()) for name in names}
    return Compared(
        pairs={
            (left, right): _values(np.mean(rows, axis=0), min(num_groups[left], num_groups[right]))
            for (left, right), rows in pair_values.items()
        },
        ceilings={
            name: dict(zip(MEASURES, np.mean(rows, axis=0).tolist(), strict=True)) for name, rows in ceilings.items() if rows
        },
        units_per_side=sides,
        num_units={name: [one.num_units for one in counts[name]] for name in names},
        num_distinct={name: [int(np.unique(one.keys).size) for one in counts[name]] for name in names},
    )


def _halves(units: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Return two masks of groups of about equal size: the largest group first, each to the lighter half."""
    present = np.flatnonzero(units)
    if present.size < 2:
        return None
    masks, sizes = np.zeros((2, NUM_GROUPS), np.bool_), [0, 0]
    for group in present[np.argsort(-units[present], kind="stable")]:
        lighter = int(sizes[1] < sizes[0])
        masks[lighter, group] = True
        sizes[lighter] += int(units[group])
    return masks[0], masks[1]


def _weights(present: NDArray[np.bool_], num_replicates: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how often each group counts: once in the first row, in the others by resampling the groups with replacement."""
    num_groups = int(present.sum())
    weights = np.ones((1 + num_replicates, NUM_GROUPS))
    if num_groups > 1:
        weights[1:] = 0
        weights[1:, present] = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num_replicates)
    return weights


def _sizes(
    whole: Mapping[str, GroupedCounts],
    parts: Mapping[str, Sequence[GroupedCounts]],
    equal: str,
    group_bytes: Mapping[str, NDArray[np.int64]],
    halves: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]] | None],
) -> dict[str, int]:
    """Return the number of units of each corpus in a comparison: what the smallest half of all corpora allows."""
    all_units = {name: one.num_units for name, one in whole.items()}
    if equal == "none":
        return all_units
    if equal == "units":
        fewest = min(min([part.num_units for part in parts[name]] or [all_units[name]]) for name in whole)
        return dict.fromkeys(whole, max(1, fewest))
    fewest_bytes = min(
        min([int(group_bytes[name][mask].sum()) for mask in halves[name] or ()] or [int(group_bytes[name].sum())])
        for name in whole
    )
    share = {name: fewest_bytes / max(1, int(group_bytes[name].sum())) for name in whole}
    return {name: max(1, round(units * min(1.0, share[name]))) for name, units in all_units.items()}


def _add_order(
    drawn: Mapping[str, GroupedCounts],
    parts: Mapping[str, Sequence[GroupedCounts]],
    weights: Mapping[str, NDArray[np.float64]],
    pair_values: dict[tuple[str, str], list[NDArray[np.float64]]],
    ceilings: dict[str, list[NDArray[np.float64]]],
    on_done: Callable[[float], None],
) -> None:
    """Append the measures of one order of n-grams, of shape (measures, 1 + replicates), to each pair and each ceiling."""
    vocabulary = np.unique(np.concatenate([one.keys for one in drawn.values()]))
    matrices = {name: one.matrix(vocabulary) for name, one in drawn.items()}
    totals = {name: weights[name] @ one.units_by_group().astype(np.float64) for name, one in drawn.items()}
    sums = {pair: np.zeros((NUM_SUMS, totals[pair[0]].size)) for pair in pair_values}
    for start, stop in _blocks(vocabulary.size, rows=len(drawn) * next(iter(totals.values())).size):
        sides = {name: Side.of(_resampled(matrices[name], weights[name], start, stop), totals[name]) for name in drawn}
        for left, right in sums:
            sums[left, right] += block_sums(sides[left], sides[right])
        on_done(stop / vocabulary.size)
    for (left, right), values in pair_values.items():
        values.append(_rows(from_sums(sums[left, right], totals[left], totals[right])))
    for name, halves in parts.items():
        if halves:
            ceilings[name].append(_of_two(*halves)[:, 0])


def _of_two(first: GroupedCounts, second: GroupedCounts) -> NDArray[np.float64]:
    vocabulary = np.unique(np.concatenate([first.keys, second.keys]))
    rows = [np.asarray(one.matrix(vocabulary).sum(axis=0)).reshape(1, -1) for one in (first, second)]
    totals = [row.sum(axis=1) for row in rows]
    a, b = (Side.of(row, total) for row, total in zip(rows, totals, strict=True))
    return _rows(from_sums(block_sums(a, b), *totals))


def _blocks(num_units: int, *, rows: int) -> list[tuple[int, int]]:
    width = max(1, _BLOCK_NUMBERS // rows)
    return [(start, min(start + width, num_units)) for start in range(0, num_units, width)]


def _resampled(matrix: sparse.csc_array, weights: NDArray[np.float64], start: int, stop: int) -> NDArray[np.float64]:
    return np.ascontiguousarray((matrix[:, start:stop].T @ weights.T).T)


def _rows(values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.stack([values[name] for name in MEASURES])


def _values(rows: NDArray[np.float64], num_groups: int) -> dict[str, Value]:
    """Return the value of each measure, in the first column, with its interval over the other columns."""
    found = {}
    for name, row in zip(MEASURES, rows, strict=True):
        value = float(row[0])
        if num_groups < 2 or row.size < 3:
            found[name] = Value(value)
            continue
        half_width = float(stats.t.ppf((1 + LEVEL) / 2, num_groups - 1) * row[1:].std(ddof=1))
        low, high = BOUNDS[name]
        found[name] = Value(value, max(low, value - half_width), min(high, value + half_width))
    return found
