"""The real `execute_stage` with much more frequent rolling checkpoints, for tests that kill jobs."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from builders.waiting import wait_until
from midstudy.execute import stage, state
from midstudy.launch.driver import MAX_RUNS_AGAIN
from midstudy.store.store import Store


def every_step(store: Store, stage_id: str, **options: Any) -> None:
    state.ROLLING_INTERVAL_S, state.ROLLING_MOST_OF_TIME = 0.0, math.inf
    stage.execute_stage(store, stage_id, **options)


def every_50_ms(store: Store, stage_id: str, **options: Any) -> None:
    state.ROLLING_INTERVAL_S, state.ROLLING_MOST_OF_TIME = 0.05, math.inf
    stage.execute_stage(store, stage_id, **options)


def slowly(store: Store, stage_id: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    """Add 50 ms to every update, and save rolling checkpoints only when the job is asked to stop."""
    state.ROLLING_INTERVAL_S = math.inf
    trains = store.requested(stage_id)["kind"] == "state"

    def ask() -> bool:
        time.sleep(0.05 if trains else 0.0)
        return should_stop()

    stage.execute_stage(store, stage_id, should_stop=ask, **options)


def parts_slowly(store: Store, stage_id: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    """Add 5 ms to every document of a part that is tokenised."""
    is_part = store.requested(stage_id)["kind"] == "tokens part"

    def ask() -> bool:
        time.sleep(0.005 if is_part else 0.0)
        return should_stop()

    stage.execute_stage(store, stage_id, should_stop=ask, **options)


TOLD_AT = 20
"""Poll at which training waits. Training polls the stop flag twice per update, so this is in its tenth update."""


def until_stopped(store: Store, stage_id: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    """On its first attempt, let pretraining wait halfway until it is asked to stop."""
    pretrains = store.requested(stage_id)["label"].startswith("pretrain")
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        if pretrains and asked == TOLD_AT and len(store.previous_attempts(stage_id)) == 1:
            wait_until(should_stop)
        return should_stop()

    stage.execute_stage(store, stage_id, should_stop=ask, **options)


KILLED_AT = 5
"""Poll at which the process of a training stage is killed. Training polls the stop flag before every update."""

RL_KILLED_AT = 18
"""Poll at which the process of RL is killed. It also polls after every token, so this is in the fourth of its updates."""


def killed_as_often_as_allowed(store: Store, stage_id: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    """Kill the job of every training stage as often as the driver retries it, each time some steps further."""
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        if asked == KILLED_AT and len(store.interruptions(stage_id)) < MAX_RUNS_AGAIN["killed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return should_stop()

    every_step(store, stage_id, should_stop=ask, **options)


def epoch_waits_and_rl_is_killed(store: Store, stage_id: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    """On their first attempts, let an epoch of tasks wait halfway until it is asked to stop, and kill RL's job halfway."""
    phase = store.requested(stage_id)["label"].split()[0]
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        if len(store.previous_attempts(stage_id)) == 1:
            if phase == "mid" and asked == TOLD_AT:
                wait_until(should_stop)
            if phase == "rl" and asked == RL_KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)
        return should_stop()

    every_step(store, stage_id, should_stop=ask, **options)
