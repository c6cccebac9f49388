"""Study manifests: frozen whole, earlier ones kept, the only study found without its name, other versions refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from builders.small_study import plan_in, small_study

from midstudy.files.errors import StoreError
from midstudy.plan.manifest import manifest_of
from midstudy.recipe.manifest import Manifest
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze, load


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


@pytest.fixture(scope="module")
def manifest(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """That of the small study, called `one`."""
    store = Store.open(tmp_path_factory.mktemp("planned") / "store", create=True)
    made = manifest_of(plan_in(store, small_study(text)), command="midstudy run small.py")
    return dataclasses.replace(made, name="one")


def test_the_last_frozen_manifest_is_the_studys_and_the_earlier_are_kept(store: Store, manifest: Manifest) -> None:
    two = dataclasses.replace(manifest, question="Another one?")
    for one in (manifest, two, manifest):
        freeze(store, one)
    assert load(store, "one") == manifest
    history = [json.loads(path.read_text()) for path in (store.paths.study("one") / "history").iterdir()]
    assert sorted(kept["question"] for kept in history) == sorted([manifest.question, two.question])


def test_the_only_study_needs_no_name(store: Store, manifest: Manifest) -> None:
    with pytest.raises(StoreError, match="0 studies"):
        load(store, None)
    freeze(store, manifest)
    assert load(store, None) == manifest
    freeze(store, dataclasses.replace(manifest, name="two"))
    with pytest.raises(StoreError, match="name one of: one, two"):
        load(store, None)
    with pytest.raises(StoreError, match=r"no study called 'three'; there are: one, two"):
        load(store, "three")


def test_a_study_whose_name_is_no_folder_is_refused(store: Store, manifest: Manifest) -> None:
    with pytest.raises(StoreError, match="allowed are letters"):
        freeze(store, dataclasses.replace(manifest, name="../elsewhere"))
    assert [path.name for path in store.root.iterdir()] == ["store.json"]


def test_a_damaged_manifest_points_to_the_earlier_ones(store: Store, manifest: Manifest) -> None:
    freeze(store, manifest)
    store.paths.manifest("one").write_text("{")
    with pytest.raises(StoreError, match=r"damaged.*history"):
        load(store, "one")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda fields: fields.pop("steps"), "steps: Field required"),
        (lambda fields: fields.update(arms={}), "arms: Input should be a valid array"),
        (lambda fields: fields.update(name="two"), "the manifest of study 'two'"),
        (lambda fields: fields["arms"].append(7), r"arms\.2: Input should be an object"),
        (lambda fields: fields["arms"][1].update(state=None), r"arms\.1\.state: Input should be a valid string"),
        (lambda fields: fields["arms"][1].update(state="0" * 16), r"arms\[1\]: no stage '0{16}'"),
        (lambda fields: fields["arms"][1]["measures"].update(sft_loss=["0" * 16]), r"arms\[1\]: no stage '0{16}'"),
        (lambda fields: fields["comparisons"][0].update(arms=[2]), r"comparisons\.main: a row that is not there"),
        (lambda fields: first(fields).update(parents=["../../etc"]), r"parents: expected ids, got '../../etc'"),
        (lambda fields: first(fields).update(label="\x1b[2Jgone"), "odd characters in its id or label"),
        (lambda fields: first(fields).update(cost_s=True), r"cost_s: Input should be a valid number"),
        (lambda fields: fields["stages"].update({"../a": first(fields)}), "odd characters in its id or label"),
    ],
)
def test_a_manifest_edited_by_hand_is_refused_with_the_field(
    store: Store, manifest: Manifest, edit: Any, message: str
) -> None:
    freeze(store, manifest)
    path = store.paths.manifest("one")
    fields = json.loads(path.read_text())
    edit(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(StoreError, match=message) as caught:
        load(store, "one")
    assert "Earlier manifests are in" in str(caught.value)


@pytest.mark.parametrize("schema", [None, 1, 3])
def test_a_manifest_of_another_version_says_what_to_run(store: Store, manifest: Manifest, schema: int | None) -> None:
    freeze(store, manifest)
    path = store.paths.manifest("one")
    fields = json.loads(path.read_text())
    fields |= {"schema": schema} if schema else {}
    if schema is None:
        del fields["schema"]
    path.write_text(json.dumps(fields))
    found = schema or "an older one"
    with pytest.raises(StoreError, match=f"expected schema 2, got {found}. Run the study again: midstudy run small.py"):
        load(store, "one")


def first(fields: dict[str, Any]) -> dict[str, Any]:
    """The entry of the first stage."""
    found: dict[str, Any] = next(iter(fields["stages"].values()))
    return found
