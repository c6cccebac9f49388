"""`midstudy` for the chaos run: stages pause, so that faults can hit them halfway, and SIGUSR1 prints stacks."""

from __future__ import annotations

import faulthandler
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from midstudy.store.store import Store

ENTRY = "builders.chaos_command:execute_stage"
_SHORT_S = 0.05
_PAUSES = 6


def pause_file(store: Store) -> Path:
    """Return the path of a file with the seconds that a stage waits before each poll of its stop flag."""
    return store.root.parent / "pause"


def execute_stage(store: Store, stage_id: str, *, should_stop: Callable[[], bool], **options: Any) -> None:
    """Run the real function with checkpoints every few seconds and pauses: between updates, or first if there are none."""
    from midstudy.execute import stage, state

    state.ROLLING_INTERVAL_S, state.ROLLING_MOST_OF_TIME = 5.0, math.inf

    def ask() -> bool:
        try:
            time.sleep(float(pause_file(store).read_text("utf-8")))
        except (FileNotFoundError, ValueError):
            time.sleep(_SHORT_S)
        return should_stop()

    trains = store.requested(stage_id)["kind"] == "state"
    for _ in range(0 if trains else _PAUSES):
        if ask():
            break
    stage.execute_stage(store, stage_id, should_stop=ask if trains else should_stop, **options)


if __name__ == "__main__":
    from midstudy.launch import job_file

    faulthandler.register(signal.SIGUSR1, all_threads=True)
    job_file.EXECUTE_STAGE = ENTRY  # before the import of the launchers, whose default it is
    from midstudy.cli.main import main

    sys.exit(main())
