"""A stand-in for `midstudy.execute.stage.execute_stage`: does what a stage's label says, in a real job process.

A label is a name followed by words: `sleep=0.5` and `until=NAME` (wait that long, or until NAME has started, and stop on
request), `starts=3` (wait for a stop request, except on the third start), `first=60` (wait that long on the first start
only), `stubborn=0.5` (wait and ignore stop requests), `raise`, `kill` (SIGKILL to its own process), `kill_once`, `exit` (the
process exits silently), `eat=400` (allocate so many MB for a minute), `boom` (of several ranks, all but the first raise).
Every start adds one line to `starts.txt` next to the store, so that a test can count what really ran.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from midstudy.recipe import Corpus, Source, Tokenizer
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.store import Store
from midstudy.train.placement import Placement

ENTRY = "builders.fake_execute:execute_stage"


def execute_stage(
    store: Store,
    stage_id: str,
    *,
    start_from: str | None,
    keeps_optimizer: bool,
    should_stop: Callable[[], bool],
    placement: Placement,
    ranks: Any = None,
) -> None:
    wanted = store.requested(stage_id)
    name, *words = wanted["label"].split()
    if "boom" in words and ranks is not None:
        if ranks.is_first:
            ranks.any(False)  # waits for the other one
        raise ValueError(f"boom on rank {ranks.rank}")
    if ranks is not None and not ranks.is_first:
        return
    missing = [parent for parent in wanted["parents"] if not store.has(parent)]
    with (store.root.parent / "starts.txt").open("a") as file:
        file.write(f"{name} {os.getpid()} {','.join(missing)}\n")
    print(f"making {name}", flush=True)
    for word in words:
        kind, _, value = word.partition("=")
        if kind == "sleep" or (kind == "first" and len(starts(store, name)) == 1):
            until = time.monotonic() + float(value)
            while time.monotonic() < until:
                if should_stop():
                    raise RuntimeError("told to stop")
                time.sleep(0.01)
        elif kind == "until" or (kind == "starts" and len(starts(store, name)) < int(value)):
            while value not in starts(store):
                if should_stop():
                    raise RuntimeError("told to stop")
                time.sleep(0.01)
        elif kind == "stubborn":
            time.sleep(float(value))
        elif kind == "raise":
            raise ValueError(f"{name} cannot be made")
        elif kind == "kill" or (kind == "kill_once" and len(starts(store, name)) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "eat":
            held = b"x" * (int(value) * 2**20)
            time.sleep(60.0 if held else 0.0)
        elif kind == "exit":
            os._exit(3)
    attempt = store.attempt(stage_id)
    (attempt.result / "made.txt").write_text(name)
    attempt.publish(
        kind=wanted["kind"],
        label=wanted["label"],
        recipe=wanted["recipe"],
        canonical=wanted["canonical"],
        parents=tuple(wanted["parents"]),
        metrics={"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")},
        placement=dataclasses.asdict(placement),
    )


def let_go(store: Store, name: str) -> None:
    """Let the stages continue that wait `until=name`."""
    with (store.root.parent / "starts.txt").open("a") as file:
        file.write(f"{name} 0 \n")


def starts(store: Store, name: str | None = None) -> list[str]:
    """Return the names of the started stages, in order, once per start."""
    path = Path(store.root.parent / "starts.txt")
    names = [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []
    return [started for started in names if name is None or started == name]


def fake_stage(
    label: str, *parents: Stage, cost_s: float = 1.0, trunk: bool = False, role: str = "data", model: str = ""
) -> Stage:
    """Return a stage that does what its label says; with `trunk`, the next milestone after its first parent."""
    source = Source(kind="wheels", part=label.split()[0], revision="r1")
    recipe = Tokenizer(corpus=Corpus(name="fake", source=source), vocab_size=512, max_bytes=1000)
    return Stage(
        id=stage_id(recipe),
        label=label,
        recipe=recipe,
        parents=tuple(parent.id for parent in parents),
        start_from=parents[0].id if trunk else None,
        continues_trunk=trunk,
        cost_s=cost_s,
        role=role,
        model=model,
    )
