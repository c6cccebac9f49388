"""`fake_execute`, with an attempt begun before the work, as the real stages do: a stage is shown as running from then on."""

from __future__ import annotations

from typing import Any

from builders import fake_execute
from midstudy.store.store import Store

ENTRY = "builders.begun_execute:execute_stage"


def execute_stage(store: Store, identity: str, **options: Any) -> None:
    store.attempt(identity).close()
    fake_execute.execute_stage(store, identity, **options)
