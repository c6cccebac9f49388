"""`fake_execute`, with an attempt begun before the work, as the real stages do: a stage is shown as running from then on."""

from __future__ import annotations

from collections.abc import Callable

import fake_execute

from midstudy.store.store import Store

ENTRY = "begun_execute:execute_stage"


def execute_stage(
    store: Store, identity: str, *, start_from: str | None, keeps_optimizer: bool, should_stop: Callable[[], bool]
) -> None:
    store.attempt(identity).close()
    fake_execute.execute_stage(
        store, identity, start_from=start_from, keeps_optimizer=keeps_optimizer, should_stop=should_stop
    )
