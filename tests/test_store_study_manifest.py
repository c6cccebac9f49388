"""Study manifests: frozen whole, former ones kept, the only study found without its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_study import synthetic_study

from midstudy.files.errors import StoreError
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze, load


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def test_the_last_frozen_manifest_is_the_studys_and_the_former_are_kept(store: Store) -> None:
    one, two = (synthetic_study("bridging", trunk_seeds=seeds).manifest for seeds in (1, 2))
    for manifest in (one, two, one):
        freeze(store, manifest)
    assert load(store, "bridging") == one
    history = [json.loads(path.read_text()) for path in (store.paths.study("bridging") / "history").iterdir()]
    assert sorted(history, key=lambda manifest: len(manifest["arms"])) == [one, two]


def test_the_only_study_needs_no_name(store: Store) -> None:
    with pytest.raises(StoreError, match="0 studies"):
        load(store, None)
    one = synthetic_study("one").manifest
    freeze(store, one)
    assert load(store, None) == one
    freeze(store, synthetic_study("two").manifest)
    with pytest.raises(StoreError, match="name one of: one, two"):
        load(store, None)
    with pytest.raises(StoreError, match=r"no study called 'three'; there are: one, two"):
        load(store, "three")


def test_a_study_whose_name_is_no_folder_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="allowed are letters"):
        freeze(store, {"name": "../elsewhere"})
    assert [path.name for path in store.root.iterdir()] == ["store.json"]


def test_a_damaged_manifest_points_to_the_former_ones(store: Store) -> None:
    freeze(store, synthetic_study("one").manifest)
    store.paths.manifest("one").write_text("{")
    with pytest.raises(StoreError, match=r"damaged.*history"):
        load(store, "one")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda manifest: manifest.pop("steps"), "steps: found nothing, allowed is an object"),
        (lambda manifest: manifest.update(arms={}), "arms: found an object, allowed is an array"),
        (lambda manifest: manifest.update(name="two"), "the manifest of study 'two'"),
        (lambda manifest: manifest["arms"].append(7), r"arms\[6\]: found a whole number, allowed is an object"),
        (lambda manifest: manifest["arms"][1].update(task=None), r"arms\[1\].task: found null, allowed is text"),
        (lambda manifest: manifest["arms"][1].update(final_state="0" * 16), r"arms\[1\].final_state: no stage '0{16}'"),
        (lambda manifest: first(manifest).update(parents=["../../etc"]), r"parents: found '../../etc', allowed are ids"),
        (lambda manifest: first(manifest).update(label="\x1b[2Jgone"), "odd characters in its id or label"),
        (lambda manifest: first(manifest).update(cost_s=True), "cost_s: found true or false, allowed is a number"),
        (lambda manifest: manifest["stages"].update({"../a": first(manifest)}), "odd characters in its id or label"),
    ],
)
def test_a_manifest_edited_by_hand_is_refused_with_the_field(store: Store, edit: Any, message: str) -> None:
    manifest = synthetic_study("one").manifest
    freeze(store, manifest)
    edit(manifest)
    store.paths.manifest("one").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=message) as caught:
        load(store, "one")
    assert "Former manifests are in" in str(caught.value)


def first(manifest: dict[str, Any]) -> dict[str, Any]:
    """The entry of the first stage."""
    return next(iter(manifest["stages"].values()))
