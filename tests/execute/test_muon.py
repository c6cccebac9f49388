"""Stages trained with Muon: interrupted at random polls and resumed through the store, they publish the same bits."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from builders.small_recipes import with_muon
from builders.small_study import make_study, plan_in, small_study
from safetensors.torch import load_file

from midstudy.execute.stage import StoppedError, execute_stage
from midstudy.recipe.stage import Stage
from midstudy.store.attempt import read_metrics
from midstudy.store.store import Store


def execute(store: Store, stage: Stage, *, stop_at_poll: int | None) -> None:
    polls = itertools.count()
    execute_stage(
        store,
        stage.id,
        start_from=stage.start_from,
        keeps_optimizer=stage.keeps_optimizer,
        should_stop=lambda: next(polls) == stop_at_poll,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16_true"])
def test_stages_interrupted_at_random_publish_the_same_tensors(text: Path, tmp_path: Path, precision: str) -> None:
    """A trunk cut where a branch leaves it, the branch, which continues the momentum, and fine-tuning, which does not."""
    study = small_study(text, optimizer=with_muon(weight_decay=0.1), precision=precision)
    calm, store = (Store.open(tmp_path / name / "store", create=True) for name in ("calm", "stopped"))
    plan = make_study(calm, study)
    draw, num_stopped = random.Random(precision), 0
    for stage in plan_in(store, study).missing:
        store.request(stage)
        while not store.has(stage.id):
            try:  # an update asks twice: before it, and after its forward pass
                execute(store, stage, stop_at_poll=draw.randrange(1, 9) if stage.kind == "state" else None)
            except StoppedError:
                num_stopped += 1
    assert num_stopped >= 4
    states = [stage for stage in plan.stages.values() if stage.kind == "state"]
    assert len(states) == 5
    for stage in states:
        ours, theirs = (each.record(stage.id).files for each in (store, calm))
        tensors = [name for name in theirs if name.startswith("checkpoint/") and name.endswith(".safetensors")]
        assert len(tensors) == 1 + stage.keeps_optimizer
        assert {name: ours[name] for name in tensors} == {name: theirs[name] for name in tensors}, stage.label
        files = [load_file(calm.published_folder(stage.id) / name) for name in tensors]
        assert stage.disk_bytes == sum(tensor.nbytes for file in files for tensor in file.values())
        logged = list(read_metrics(store.published_folder(stage.id) / "metrics.jsonl"))
        assert logged
        assert all(row["lr_matrices"] == pytest.approx(0.02 * row["lr"]) for row in logged)
