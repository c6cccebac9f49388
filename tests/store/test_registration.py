"""Registrations: claims are fixed before the first result, later changes are listed, and nothing about them stops a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.analysis_tables import bridging_tables

from midstudy.files.sealed import is_whole
from midstudy.recipe.manifest import Manifest
from midstudy.recipe.registration import definitions_of, digest_of
from midstudy.recipe.study import Claim
from midstudy.store import registration as module
from midstudy.store.registration import Registration, registration
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze, load

CODE = Claim(
    text="code helps",
    source="here",
    estimator="paired_effect",
    comparison="main",
    column="sft_loss",
    arms={"mix": "code", "task": "pycode"},
    family="losses",
)
MATH = replace(CODE, text="math helps", arms={"mix": "math", "task": "word_problems"})


def manifest(*claims: Claim, **study: Any) -> Manifest:
    return bridging_tables(claims=claims, **study).manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def registered(store: Store) -> Registration:
    return registration(store, "synthetic")


def publish_a_result(store: Store, of: Manifest) -> None:
    evaluation = min(of.evaluations)
    attempt = store.attempt(evaluation)
    attempt.publish(kind="evaluation", label="one", recipe={}, canonical={}, parents=(), metrics={"loss_nats": 1.0})


def test_a_run_registers_its_claims_before_the_first_result(store: Store) -> None:
    frozen = manifest(CODE, MATH)
    freeze(store, frozen)
    (only,) = registered(store).entries
    assert (only.when, only.num_results, only.num_evaluations) == ("before the first result", 0, len(frozen.evaluations))
    assert [claim["text"] for claim in only.definitions["claims"]] == ["code helps", "math helps"]
    assert [*only.definitions["comparisons"]] == ["main"], "a comparison without claims is not registered"
    assert only.digest == digest_of(only.definitions)
    assert registered(store).sentence.startswith("registered before the first result (2")
    assert is_whole(store.paths.registration("synthetic").read_bytes())


def test_running_an_unchanged_study_again_adds_nothing(store: Store) -> None:
    freeze(store, manifest(CODE))
    before = store.paths.registration("synthetic").read_bytes()
    publish_a_result(store, manifest(CODE))
    freeze(store, manifest(CODE))
    assert store.paths.registration("synthetic").read_bytes() == before


def test_another_seed_changes_no_registration(store: Store) -> None:
    freeze(store, manifest(CODE, trunk_seeds=(0, 1)))
    freeze(store, manifest(CODE, trunk_seeds=(0, 1, 2)))
    assert len(registered(store).entries) == 1


def test_claims_of_a_study_with_results_are_registered_after_them(store: Store) -> None:
    freeze(store, manifest())
    assert registered(store).entries == ()
    assert registered(store).sentence == "not registered"
    publish_a_result(store, manifest())
    freeze(store, manifest(CODE))
    total = len(manifest().evaluations)
    assert registered(store).sentence.startswith(f"registered after 1 of {total} results (2")


def test_results_of_the_arms_before_the_change_count(store: Store) -> None:
    """Otherwise a study could be registered a second time, with other arms, as if nothing had been seen."""
    seen = manifest(CODE, sizes=("micro",))
    freeze(store, seen)
    publish_a_result(store, seen)
    other = manifest(CODE, MATH)
    renamed = {one: f"x{one}" for one in other.evaluations}
    arms = tuple(
        replace(arm, measures={name: tuple(renamed[one] for one in ids) for name, ids in arm.measures.items()})
        for arm in other.arms
    )
    stages = {renamed.get(one, one): stage for one, stage in other.stages.items()}
    freeze(store, replace(other, arms=arms, stages=stages))
    assert registered(store).entries[-1].num_results == 1


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((CODE, MATH, replace(CODE, text="it all helps")), "claim added: it all helps"),
        ((CODE,), "claim removed: math helps"),
        ((CODE, replace(MATH, margin=0.02)), "claim changed: math helps: margin 0.0 → 0.02"),
        ((CODE, replace(MATH, family="other")), 'claim changed: math helps: family "losses" → "other"'),
        ((CODE, replace(MATH, holds="below")), 'claim changed: math helps: holds "above" → "below"'),
    ],
)
def test_a_later_change_of_the_claims_is_listed(store: Store, after: tuple[Claim, ...], expected: str) -> None:
    freeze(store, manifest(CODE, MATH))
    publish_a_result(store, manifest(CODE, MATH))
    freeze(store, manifest(*after))
    first, second = registered(store).entries
    assert (first.changes, second.changes) == ((), (expected,))
    assert registered(store).later[0].startswith(f"{expected} (after 1 of ")
    assert registered(store).sentence.startswith("registered before"), "the first registration stays"
    freeze(store, manifest(CODE, MATH))
    assert len(registered(store).entries) == 3, "going back is a change, too"


def test_a_change_of_a_comparison_or_of_the_looks_is_listed(store: Store) -> None:
    one = manifest(CODE)
    freeze(store, one)
    (main, *others) = one.comparisons
    fewer = replace(main, arms=main.arms[: len(main.arms) // 2])
    freeze(store, replace(one, comparisons=(fewer, *others), looks=(3, 5)))
    cells, looks = registered(store).entries[-1].changes
    assert cells.startswith("comparison changed: main: arms ")
    assert cells.endswith(" cells removed")
    assert looks == "looks changed: [] → [3, 5]"


def test_two_claims_of_one_text_are_two_claims(store: Store) -> None:
    freeze(store, manifest(CODE, CODE))
    freeze(store, manifest(CODE))
    assert registered(store).entries[-1].changes == ("claim removed: code helps (2)",)


@pytest.mark.parametrize("text", ["", "{", '{"study": "synthetic", "entries": []}', '{"study": 1}'])
def test_a_damaged_registration_stops_no_run_and_is_reported(store: Store, text: str) -> None:
    freeze(store, manifest(CODE))
    path = store.paths.registration("synthetic")
    path.write_text(text)
    freeze(store, manifest(MATH))
    assert load(store, "synthetic").claims == (MATH,)
    assert path.read_text() == text, "it is kept"
    assert "registration unknown: " in registered(store).sentence
    assert registered(store).as_json()["problem"]


def test_a_registration_changed_by_hand_is_reported(store: Store) -> None:
    freeze(store, manifest(CODE))
    path = store.paths.registration("synthetic")
    path.write_text(path.read_text().replace('"margin": 0.0', '"margin": 0.1'))
    assert "was changed after it was written" in registered(store).sentence


def test_a_run_killed_between_registration_and_manifest_is_registered_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(module, "write_bytes", lambda path, content: written.append(path))
    monkeypatch.setattr("midstudy.store.study_manifest.write_json", lambda path, value: written.append(path))
    freeze(store, manifest(CODE))
    assert written[0] == store.paths.registration("synthetic"), "before the manifest, without which no stage runs"
    monkeypatch.undo()
    freeze(store, manifest(CODE))
    freeze(store, manifest(CODE))
    assert len(registered(store).entries) == 1


def test_the_json_has_every_entry_without_its_definitions(store: Store) -> None:
    freeze(store, manifest(CODE))
    freeze(store, manifest(MATH))
    facts = json.loads(json.dumps(registered(store).as_json()))
    assert [one["changes"] for one in facts["entries"]] == [[], ["claim added: math helps", "claim removed: code helps"]]
    assert "definitions" not in facts["entries"][0]


def test_definitions_do_not_depend_on_the_order_of_the_arms() -> None:
    one = manifest(CODE)
    (main, *others) = one.comparisons
    turned = replace(one, comparisons=(replace(main, arms=main.arms[::-1]), *others))
    assert definitions_of(one) == definitions_of(turned)
