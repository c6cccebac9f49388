"""The real `execute_stage` with rolling checkpoints far closer together than studies want them, for tests that kill jobs."""

from __future__ import annotations

import math
from typing import Any

from midstudy.execute import stage, state
from midstudy.store.store import Store


def every_step(store: Store, identity: str, **options: Any) -> None:
    state.ROLLING_INTERVAL_S, state.ROLLING_MOST_OF_TIME = 0.0, math.inf
    stage.execute_stage(store, identity, **options)


def every_50_ms(store: Store, identity: str, **options: Any) -> None:
    state.ROLLING_INTERVAL_S, state.ROLLING_MOST_OF_TIME = 0.05, math.inf
    stage.execute_stage(store, identity, **options)
