"""A model of a study and of training: stages with some steps and checkpoints, some of which fail or kill their job."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from builders.fake_execute import fake_stage

from midstudy.execute.stopped import StoppedError
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from simulation.world import Actor, World

ENTRY = "simulation.study:execute_stage"
STEP_S = 8.0
CHECKPOINT_EVERY = 3


class Making:
    """Tracks which process runs which stage, and violations of invariants. `now` belongs to the current history."""

    now: ClassVar[Making]

    def __init__(self, world: World) -> None:
        self.world = world
        self.at_work: dict[str, list[Actor]] = {}
        self.num_starts: dict[str, int] = {}
        self.lied_about: Callable[[], set[str]] = set
        self.wrong: list[str] = []

    def begin(self, store: Store, stage_id: str, parents: list[str]) -> None:
        me = self.world.current
        assert me is not None
        self.world.say(f"runs {stage_id}")
        self.num_starts[stage_id] = self.num_starts.get(stage_id, 0) + 1
        at_work = [actor for actor in self.at_work.get(stage_id, []) if not actor.has_ended and not actor.is_doomed]
        others = [actor for actor in at_work if actor is not me]
        names = {actor.name.split()[-1] for actor in others}
        if others and not (names | {me.name.split()[-1]}) & self.lied_about():
            self.wrong.append(f"{stage_id} is run by {me.name} while {', '.join(sorted(names))} runs it")
        self.at_work[stage_id] = [*others, me]
        if missing := [parent for parent in parents if not store.has(parent)]:
            self.wrong.append(f"{stage_id} is run before {missing}")

    def end(self, stage_id: str) -> None:
        me = self.world.current
        self.at_work[stage_id] = [actor for actor in self.at_work.get(stage_id, []) if actor is not me]


def execute_stage(
    store: Store, stage_id: str, *, should_stop: Callable[[], bool], start_from: str | None, **options: Any
) -> None:
    """Execute a stage as `midstudy.execute.stage` does: an attempt, steps with metrics, checkpoints, publication."""
    wanted = store.requested(stage_id)
    _, num_steps, *words = wanted["label"].split()
    making = Making.now
    making.begin(store, stage_id, wanted["parents"])
    try:
        previous = store.previous_attempts(stage_id)
        attempt = store.attempt(stage_id)
        for step in range(_last_checkpoint(previous) + 1, int(num_steps) + 1):
            making.world.sleep(STEP_S)
            attempt.log_metrics({"step": step})
            if "kill" in words:
                assert making.world.current is not None
                making.world.current.kill()
            if should_stop():
                _save(attempt.checkpoints, step)
                raise StoppedError("asked to stop")
            if step % CHECKPOINT_EVERY == 0:
                _save(attempt.checkpoints, step)
        if "raise" in words:
            raise ValueError("cannot be made")
        (attempt.result / "made.txt").write_text(_content(store, stage_id, wanted["parents"]), "utf-8")
        attempt.publish(
            kind=wanted["kind"],
            label=wanted["label"],
            recipe=wanted["recipe"],
            canonical=wanted["canonical"],
            parents=tuple(wanted["parents"]),
            metrics={"step": int(num_steps)},
        )
    finally:
        making.end(stage_id)


def _content(store: Store, stage_id: str, parents: list[str]) -> str:
    """Return the stage's content: the same for every process that runs it, and dependent on its parents' content."""
    digest = hashlib.sha256(stage_id.encode())
    for parent in parents:
        digest.update((store.published_folder(parent) / "made.txt").read_bytes())
    return digest.hexdigest()


def _save(folder: Path, step: int) -> None:
    folder.mkdir(exist_ok=True)
    temporary = folder / f".step-{step:08d}.tmp"
    with temporary.open("w") as file:
        file.write(f"{step}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / f"step-{step:08d}")


def _last_checkpoint(attempts: list[Path]) -> int:
    """Return the highest step that has a complete checkpoint; 0 if there is none."""
    steps = [0]
    for attempt in attempts:
        folder = attempt / "checkpoints"
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            try:
                text = path.read_text("utf-8")
            except OSError:
                continue
            if text == f"{int(path.name.rpartition('-')[2].removesuffix('.tmp'))}\n":
                steps.append(int(text))
    return max(steps)


_STAGES: dict[tuple[str, ...], Stage] = {}


def drawn_study(draw: random.Random) -> dict[str, Stage]:
    """Draw a study: a trunk with milestones, branches, and leaves on those; a few stages fail or kill their job."""
    made: list[Stage] = []

    def stage(name: str, *parents: Stage, trunk: bool = False) -> Stage:
        words = [name, str(draw.randint(1, 8))]
        if draw.random() < 0.05:
            words.append(draw.choice(("raise", "kill")))
        key = (*words, *(parent.label for parent in parents), str(trunk))
        if key not in _STAGES:  # cached: building the recipes takes longer than a whole history
            _STAGES[key] = fake_stage(" ".join(words), *parents, cost_s=float(words[1]) * STEP_S, trunk=trunk)
        made.append(_STAGES[key])
        return made[-1]

    data = stage("data")
    milestones = [stage("m0", data)]
    for number in range(1, draw.randint(1, 3)):
        milestones.append(stage(f"m{number}", milestones[-1], trunk=True))
    for number in range(draw.randint(1, 3)):
        branch = stage(f"b{number}", draw.choice(milestones))
        for leaf in range(draw.randint(0, 2)):
            stage(f"l{number}{leaf}", branch, data)
    return {stage.id: stage for stage in made}
