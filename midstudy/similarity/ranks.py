"""Where two ways to count disagree about which of two corpora is closer to a third."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy import stats

from midstudy.similarity.corpora import Value


@dataclass(frozen=True)
class Disagreement:
    """By `first_view`, `closer` is closer to `corpus` than `other` is; by `second_view`, the other way round.

    `is_decided` is True if no interval of the four values overlaps the one that it is compared with.
    """

    corpus: str
    closer: str
    other: str
    first_view: str
    second_view: str
    is_decided: bool


def disagreements(names: Sequence[str], views: Mapping[str, Callable[[str, str], Value]]) -> list[Disagreement]:
    """Return every pair of views and every three corpora that they order differently.

    Args:
        views: by name, a function of two corpora that returns their similarity (larger is closer).
    """
    found = []
    for corpus in names:
        for x, y in combinations([name for name in names if name != corpus], 2):
            for first, second in combinations(views, 2):
                a, b = (_order(views[view](corpus, x), views[view](corpus, y)) for view in (first, second))
                if a[0] * b[0] < 0:
                    closer, other = (x, y) if a[0] > 0 else (y, x)
                    found.append(Disagreement(corpus, closer, other, first, second, a[1] and b[1]))
    return found


def _order(x: Value, y: Value) -> tuple[int, bool]:
    """Return 1 if x is larger, −1 if y is, and whether their intervals are apart."""
    sign = (x.value > y.value) - (x.value < y.value)
    if x.low is None or x.high is None or y.low is None or y.high is None:
        return sign, False
    return sign, x.low > y.high or y.low > x.high


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of the similarities of the same pairs in two views; `None` if it is undefined."""
    tau = float(stats.kendalltau(first, second).statistic) if len(first) > 1 else float("nan")
    return tau if tau == tau else None
