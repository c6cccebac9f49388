"""Planned looks of a study: growing numbers of seeds, kept in the manifest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from builders.seeded_study import seeded_study
from builders.small_study import plan_in

from midstudy.plan.manifest import manifest_of
from midstudy.recipe.errors import RecipeError
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze, load


@pytest.mark.parametrize("looks", [(), (8,), (3, 5, 8)])
def test_looks_are_in_the_manifest(looks: tuple[int, ...], text: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    planned = manifest_of(plan_in(store, seeded_study(text, trunk_seeds=(0,), looks=looks)), command="")
    freeze(store, planned)
    assert load(store, "seeded") == planned
    assert load(store, "seeded").looks == looks


def test_a_manifest_from_before_looks_plans_none(text: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    freeze(store, manifest_of(plan_in(store, seeded_study(text, trunk_seeds=(0,))), command=""))
    path = store.paths.manifest("seeded")
    fields = json.loads(path.read_text())
    del fields["looks"]
    path.write_text(json.dumps(fields))
    assert load(store, "seeded").looks == ()


@pytest.mark.parametrize("looks", [(1, 3), (3, 3), (5, 3), (3.0, 5), (True, 3), [3, 5], 4])
def test_looks_that_do_not_grow_are_rejected(looks: Any, text: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"study\.looks: expected growing numbers of seeds of at least 2, such as \(3, 5, 8\)"
    ):
        seeded_study(text, trunk_seeds=(0,), looks=looks)


def test_a_study_without_seeds_has_no_looks(text: Path) -> None:
    study = seeded_study(text, trunk_seeds=(0,))
    with pytest.raises(RecipeError, match="expected nothing in a study without seeds"):
        dataclasses.replace(study, seeds=(), looks=(3,))
