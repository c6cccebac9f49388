"""Remaining time of simulated runs whose stages take longer or shorter than forecast."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from builders.synthetic_study import stage_entry

from midstudy.launch.forecast import Forecast
from midstudy.launch.time_left import Seen, time_left_s
from midstudy.run.watch import FINISHED, End, Watch

TICK_S = 0.5
NUM_JOBS = 2
STAGES = {
    **{f"tokens {n}": stage_entry("tokens", "data", f"tokens {n}", cost_s=2.0) for n in range(8)},
    **{f"state {n}": stage_entry("state", "pretrain", f"state {n}", cost_s=10.0 + n % 3) for n in range(50)},
    **{f"look {n}": stage_entry("evaluation", "evaluation", f"look {n}", cost_s=0.5) for n in range(60)},
}
WORK_S = sum(stage.cost_s for stage in STAGES.values())


def history(took_s: Callable[[str, float], float]) -> list[tuple[float, float]]:
    """Run the stages in order on two slots; return (elapsed_s, elapsed_s + left_s) at every tick.

    Args:
        took_s: returns a stage's actual seconds, given its name and its expected seconds.
    """
    now = 0.0
    watch = Watch(STAGES, max_jobs=NUM_JOBS, clock=lambda: now)
    waiting, running = list(STAGES), dict[str, float]()
    points = []
    while waiting or running:
        for name, end_s in list(running.items()):
            if end_s <= now:
                del running[name]
                watch.end(name, End(FINISHED, took_s=took_s(name, STAGES[name].cost_s)))
        while waiting and len(running) < NUM_JOBS:
            name = waiting.pop(0)
            watch.begin(name)
            running[name] = now + took_s(name, STAGES[name].cost_s)
        points.append((now, now + watch.progress().left_s))
        now += TICK_S
    return points


def at(points: list[tuple[float, float]], share: float) -> float:
    """Return the total time estimated at this fraction of the run, relative to the actual total."""
    whole_s = points[-1][0]
    return next(estimate_s for now_s, estimate_s in points if now_s >= share * whole_s) / whole_s


def largest_rise(points: list[tuple[float, float]]) -> float:
    return max(after / before for (_, before), (_, after) in pairwise(points))


def times(factor: float, *kinds: str) -> Callable[[str, float], float]:
    return lambda name, cost_s: cost_s * (factor if not kinds or name.split()[0] in kinds else 1.0)


def test_the_estimate_stays_right_for_a_run_that_goes_as_forecast() -> None:
    points = history(times(1.0))
    assert points[0][1] == pytest.approx(WORK_S / NUM_JOBS)
    whole_s = points[-1][0]
    assert all(estimate_s == pytest.approx(whole_s, rel=0.1) for _, estimate_s in points)


@pytest.mark.parametrize(
    "took_s",
    [times(10.0), times(10.0, "state"), times(10.0, "state", "look"), times(3.0), times(3.0, "state")],
    ids=["all ten times", "training ten times", "models ten times", "all three times", "training three times"],
)
def test_a_slower_machine_is_noticed_early_and_the_estimate_rises_steadily(
    took_s: Callable[[str, float], float],
) -> None:
    points = history(took_s)
    assert at(points, 0.1) > 0.5
    assert 0.7 < at(points, 0.25) < 1.4
    assert all(0.8 < at(points, share) < 1.25 for share in (0.5, 0.7, 0.9))
    assert largest_rise(points) < 1.2, "of half a second"


def test_a_faster_machine_is_noticed_early() -> None:
    points = history(times(0.2))
    assert all(0.8 < at(points, share) < 1.5 for share in (0.3, 0.5, 0.7, 0.9))


def test_slow_data_stages_do_not_make_training_look_slow() -> None:
    points = history(times(10.0, "tokens"))
    assert all(0.7 < at(points, share) < 1.4 for share in (0.05, 0.25, 0.5, 0.9))


def test_a_disk_that_hung_does_not_make_the_rest_look_slow() -> None:
    """Two running stages hang for an hour, and all stages after them wait."""
    as_usual = history(times(1.0))[-1][0]
    points = history(lambda name, cost_s: 3_600.0 if name in ("state 25", "state 26") else cost_s)
    assert max(estimate_s for _, estimate_s in points) < 3_600 + 5 * as_usual


def test_a_run_without_work_has_no_time_left_and_the_fixed_end_follows_the_last_stage() -> None:
    assert time_left_s(Forecast((0.0,), (0.0,)), {}) == 0
    last = Seen(remaining_s=1.0, running=[(1.0, 0.5)])
    outlook = Forecast((0.0, 10.0), (0.0, 10.0), end_s=7.0)
    assert time_left_s(outlook, {"state": last}) == pytest.approx(7.5)


def test_a_serial_part_ahead_counts_in_full() -> None:
    """The estimate follows the forecast's progress: the same work takes longer if fewer jobs can share it."""
    outlook = Forecast((0.0, 50.0, 60.0), (0.0, 50.0, 100.0))
    assert time_left_s(outlook, {"state": Seen(remaining_s=100.0)}) == pytest.approx(60)
    assert time_left_s(outlook, {"state": Seen(remaining_s=50.0)}) == pytest.approx(10)
    assert time_left_s(outlook, {"state": Seen(remaining_s=75.0)}) == pytest.approx(35)
