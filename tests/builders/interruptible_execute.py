"""The real `execute_stage` with rolling checkpoints far closer together than studies want them, for tests that kill jobs."""

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


def every_step(store: Store, identity: str, **options: Any) -> None:
    state.ROLLING_INTERVAL_S, state.ROLLING_MOST_OF_TIME = 0.0, math.inf
    stage.execute_stage(store, identity, **options)


def every_50_ms(store: Store, identity: str, **options: Any) -> None:
    state.ROLLING_INTERVAL_S, state.ROLLING_MOST_OF_TIME = 0.05, math.inf
    stage.execute_stage(store, identity, **options)


def slowly(store: Store, identity: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    """Every update takes 50 ms more, and what is saved on the way was saved because the job was told to stop."""
    state.ROLLING_INTERVAL_S = math.inf
    trains = store.requested(identity)["kind"] == "state"

    def ask() -> bool:
        time.sleep(0.05 if trains else 0.0)
        return should_stop()

    stage.execute_stage(store, identity, should_stop=ask, **options)


TOLD_AT = 20
"""Training asks twice an update whether it should stop; with the so-manieth question it waits, in its tenth update."""


def until_told(store: Store, identity: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    """Pretraining, when it is tried for the first time, waits in its middle until it is told to stop."""
    pretrains = store.requested(identity)["label"].startswith("pretrain")
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        if pretrains and asked == TOLD_AT and len(store.previous_attempts(identity)) == 1:
            wait_until(should_stop)
        return should_stop()

    stage.execute_stage(store, identity, should_stop=ask, **options)


KILLED_AT = 5
"""Training asks before every update whether it should stop; with the so-manieth question its process is killed."""


def killed_as_often_as_allowed(store: Store, identity: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    """Every stage that trains has its job killed as often as the driver runs it again, each time some steps further."""
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        if asked == KILLED_AT and len(store.interruptions(identity)) < MAX_RUNS_AGAIN["killed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return should_stop()

    every_step(store, identity, should_stop=ask, **options)
