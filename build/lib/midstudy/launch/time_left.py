"""How long a run still takes: its forecast, corrected by how long its stages took in fact.

Each kind of work has a slowdown of its own: seconds taken over seconds expected, of the stages that have ended and of
those that run longer than expected by now, beside some seconds that went as expected. So a machine that is slower than
was thought is noticed while its first stage runs, and the estimate rises with the clock instead of jumping at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from midstudy.launch.forecast import Forecast

_AS_EXPECTED_S = 5.0
_AS_EXPECTED_SHARE = 0.01
"""Of a run's expected work, at least so much speaks for the forecast, in each kind of work."""

_LARGEST_SLOWDOWN = 50.0
"""A stage that takes more than so many times as long as thought is stuck, which says nothing of those behind it."""

_LARGEST_SHARE = 0.95
"""Of a running stage: how far it is at most thought to be."""


@dataclass
class Seen:
    """Of one kind of work: expected and real seconds of the stages that have ended in this run, and what is to be done."""

    expected_s: float = 0.0
    took_s: float = 0.0
    remaining_s: float = 0.0
    """Expected seconds of the stages that have not ended, running ones included."""
    running: list[tuple[float, float]] = field(default_factory=list)
    """Of each stage that runs: its expected seconds, and those since it began."""

    def note(self, expected_s: float, took_s: float) -> None:
        """A stage of this kind has ended."""
        thought_s = expected_s * max(1.0, self.took_s / self.expected_s if self.expected_s else 1.0)
        self.expected_s += expected_s
        self.took_s += min(took_s, _LARGEST_SLOWDOWN * thought_s)


def time_left_s(forecast: Forecast, seen: Mapping[str, Seen]) -> float:
    """Expected seconds until the run is over.

    Args:
        seen: what is known of each kind of work.
    """
    work_s = forecast.done_s[-1]
    remaining_s = real_s = 0.0
    for one in seen.values():
        slowdown = _slowdown(one, as_expected_s=max(_AS_EXPECTED_S, _AS_EXPECTED_SHARE * work_s))
        left_s = one.remaining_s - sum(_done_s(stage, slowdown) for stage in one.running)
        remaining_s += left_s
        real_s += slowdown * left_s
    if remaining_s <= 0:
        return forecast.end_s if any(one.running for one in seen.values()) else 0.0
    return forecast.end_s + forecast.stages_left_s(work_s - remaining_s) * real_s / remaining_s


def _slowdown(seen: Seen, *, as_expected_s: float) -> float:
    """A running stage counts from when it takes longer than the others let expect: it will end later still."""
    expected_s, took_s = as_expected_s + seen.expected_s, as_expected_s + seen.took_s
    of_ended = took_s / expected_s
    for stage_s, so_far_s in seen.running:
        thought_s = stage_s * of_ended
        if so_far_s > thought_s:
            expected_s += stage_s
            took_s += min(so_far_s, _LARGEST_SLOWDOWN * thought_s)
    return took_s / expected_s


def _done_s(stage: tuple[float, float], slowdown: float) -> float:
    """Expected seconds of a running stage that are behind it."""
    stage_s, so_far_s = stage
    return min(so_far_s / slowdown, _LARGEST_SHARE * stage_s)
