"""Estimate the remaining time of a run: its forecast, corrected by the observed durations of its stages.

Each kind of work has its own slowdown: observed seconds divided by expected seconds, over the stages that have ended and the
running stages that are already overdue, with a few seconds at ratio 1 added as a prior. A machine that is slower than
expected is therefore noticed during its first stage, and the estimate rises steadily instead of jumping when it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from midstudy.launch.forecast import Forecast

_PRIOR_S = 5.0
_PRIOR_SHARE = 0.01
"""Weight of the forecast in each slowdown: the larger of `_PRIOR_S` and this share of the run's expected work."""

_LARGEST_SLOWDOWN = 50.0
"""Cap on the slowdown of one stage. A stage beyond it is stuck, which says nothing about the stages after it."""

_LARGEST_SHARE = 0.95
"""Largest share of a running stage that is counted as done."""


@dataclass
class Seen:
    """Observations of one kind of work: expected and actual seconds of stages ended in this run, and the work left."""

    expected_s: float = 0.0
    took_s: float = 0.0
    remaining_s: float = 0.0
    """Expected seconds of all stages that have not ended, including running ones."""
    running: list[tuple[float, float]] = field(default_factory=list)
    """For each running stage: its expected seconds and the seconds since it began."""

    def note(self, expected_s: float, took_s: float) -> None:
        """Record a stage of this kind that has ended."""
        predicted_s = expected_s * max(1.0, self.took_s / self.expected_s if self.expected_s else 1.0)
        self.expected_s += expected_s
        self.took_s += min(took_s, _LARGEST_SLOWDOWN * predicted_s)


def time_left_s(forecast: Forecast, seen: Mapping[str, Seen]) -> float:
    """Return the expected seconds until the run is over.

    Args:
        forecast: the run's forecast, made before it started.
        seen: observations by kind of work.
    """
    work_s = forecast.done_s[-1]
    remaining_s = slowed_s = 0.0
    for kind in seen.values():
        slowdown = _slowdown(kind, prior_s=max(_PRIOR_S, _PRIOR_SHARE * work_s))
        left_s = kind.remaining_s - sum(_done_s(stage, slowdown) for stage in kind.running)
        remaining_s += left_s
        slowed_s += slowdown * left_s
    if remaining_s <= 0:
        return forecast.end_s if any(kind.running for kind in seen.values()) else 0.0
    return forecast.end_s + forecast.stages_left_s(work_s - remaining_s) * slowed_s / remaining_s


def _slowdown(seen: Seen, *, prior_s: float) -> float:
    """Return actual seconds per expected second. A running stage counts only once it is overdue by the ended ones' ratio."""
    expected_s, took_s = prior_s + seen.expected_s, prior_s + seen.took_s
    of_ended = took_s / expected_s
    for stage_s, so_far_s in seen.running:
        predicted_s = stage_s * of_ended
        if so_far_s > predicted_s:
            expected_s += stage_s
            took_s += min(so_far_s, _LARGEST_SLOWDOWN * predicted_s)
    return took_s / expected_s


def _done_s(stage: tuple[float, float], slowdown: float) -> float:
    """Return how many of a running stage's expected seconds are done."""
    stage_s, so_far_s = stage
    return min(so_far_s / slowdown, _LARGEST_SHARE * stage_s)
