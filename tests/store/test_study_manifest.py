"""Study manifests: earlier ones are kept, the only study needs no name, damage and other schemas are reported."""

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
    """Return the manifest of the small study, renamed to `one`."""
    store = Store.open(tmp_path_factory.mktemp("planned") / "store", create=True)
    made = manifest_of(plan_in(store, small_study(text)), command="midstudy run small.py")
    return dataclasses.replace(made, name="one")


def test_the_last_frozen_manifest_is_current_and_earlier_ones_are_kept(store: Store, manifest: Manifest) -> None:
    two = dataclasses.replace(manifest, question="Another one?")
    for frozen in (manifest, two, manifest):
        freeze(store, frozen)
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


def test_a_study_whose_name_is_not_safe_as_a_folder_name_is_rejected(store: Store, manifest: Manifest) -> None:
    with pytest.raises(StoreError, match=r"that start with a letter or digit, got '\.\./elsewhere'"):
        freeze(store, dataclasses.replace(manifest, name="../elsewhere"))
    assert [path.name for path in store.root.iterdir()] == ["store.json"]


def test_the_error_for_a_damaged_manifest_names_the_history(store: Store, manifest: Manifest) -> None:
    freeze(store, manifest)
    store.paths.manifest("one").write_text("{")
    with pytest.raises(StoreError, match=r"damaged.*history"):
        load(store, "one")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda fields: fields.pop("steps"), "steps: Field required"),
        (lambda fields: fields.update(arms={}), "arms: Input should be a valid array"),
        (lambda fields: fields.update(name="two"), "expected the manifest of study 'one', got that of 'two'"),
        (lambda fields: fields["arms"].append(7), r"arms\.2: Input should be an object"),
        (lambda fields: fields["arms"][1].update(state=None), r"arms\.1\.state: Input should be a valid string"),
        (lambda fields: first(fields).update(cost_s=True), r"cost_s: Input should be a valid number"),
    ],
)
def test_a_manifest_edited_by_hand_is_rejected_with_the_path_of_the_field(
    store: Store, manifest: Manifest, edit: Any, message: str
) -> None:
    freeze(store, manifest)
    path = store.paths.manifest("one")
    fields = json.loads(path.read_text())
    edit(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(StoreError, match=message) as caught:
        load(store, "one")
    assert f"Restore it from {path.parent / 'history'}" in str(caught.value)


@pytest.mark.parametrize("schema", [None, 1, 3])
def test_the_error_for_a_manifest_of_another_schema_says_what_to_run(
    store: Store, manifest: Manifest, schema: int | None
) -> None:
    freeze(store, manifest)
    path = store.paths.manifest("one")
    fields = json.loads(path.read_text())
    fields |= {"schema": schema} if schema else {}
    if schema is None:
        del fields["schema"]
    path.write_text(json.dumps(fields))
    got = schema or "an older one"
    with pytest.raises(StoreError, match=f"expected schema 2, got {got}. Run the study again: midstudy run small.py"):
        load(store, "one")


def first(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of the first stage."""
    entry: dict[str, Any] = next(iter(fields["stages"].values()))
    return entry
