"""Study manifests: frozen whole, former ones kept, the only study found without its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from midstudy.store.errors import StoreError
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze, load


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def test_the_last_frozen_manifest_is_the_studys_and_the_former_are_kept(store: Store) -> None:
    for stages in (1, 2, 1):
        freeze(store, {"name": "bridging", "stages": stages})
    assert load(store, "bridging") == {"name": "bridging", "stages": 1}
    history = [json.loads(path.read_text())["stages"] for path in (store.paths.study("bridging") / "history").iterdir()]
    assert sorted(history) == [1, 2]


def test_the_only_study_needs_no_name(store: Store) -> None:
    with pytest.raises(StoreError, match="0 studies"):
        load(store, None)
    freeze(store, {"name": "one"})
    assert load(store, None) == {"name": "one"}
    freeze(store, {"name": "two"})
    with pytest.raises(StoreError, match="name one of: one, two"):
        load(store, None)
    with pytest.raises(StoreError, match=r"no study called 'three'; there are: one, two"):
        load(store, "three")


def test_a_study_whose_name_is_no_folder_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="allowed are letters"):
        freeze(store, {"name": "../elsewhere"})
    assert [path.name for path in store.root.iterdir()] == ["store.json"]


def test_a_damaged_manifest_points_to_the_former_ones(store: Store) -> None:
    freeze(store, {"name": "one"})
    store.paths.manifest("one").write_text("{")
    with pytest.raises(StoreError, match=r"damaged.*history"):
        load(store, "one")
