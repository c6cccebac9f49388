"""`fake_execute` with an attempt that starts before the work, as in real stages, so that the stage is shown as running."""

from __future__ import annotations

from typing import Any

from builders import fake_execute
from midstudy.store.store import Store

ENTRY = "builders.begun_execute:execute_stage"


def execute_stage(store: Store, stage_id: str, **options: Any) -> None:
    store.attempt(stage_id).close()
    fake_execute.execute_stage(store, stage_id, **options)
