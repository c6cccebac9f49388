"""Looks at a study whose seeds grow: which level each claim is judged at, what is recorded, and what stays decided."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders.analysis_tables import tables_of

from midstudy.analysis.claims import judge
from midstudy.analysis.recorded_look import record_look
from midstudy.analysis.spending import corrected_for_looks, levels
from midstudy.analysis.tables import Tables
from midstudy.files.errors import StoreError
from midstudy.recipe.study import Claim
from midstudy.store.looks import looks_of
from midstudy.store.store import Store

PLANNED = (3, 5, 8)
GAINS: Mapping[str, tuple[float, ...]] = {
    "strong": (1.000, 1.001, 0.999, 1.000, 1.001, 0.999, 1.000, 1.000),
    "fair": (0.50, 0.70, 0.30, 0.55, 0.40, 0.60, 0.45, 0.50),
    "none": (0.10, -0.10, 0.05, -0.05, 0.00, 0.02, -0.03, 0.01),
}
"""Effects by seed: one that is decided at the first look, one later, one never."""


def claim(recipe: str, **fields: Any) -> Claim:
    given = {"text": f"{recipe} helps", "source": "here", "estimator": "paired_effect", "comparison": "main"}
    options = {"scale": "difference"}
    return Claim(**given | {"column": "score", "arms": {"recipe": recipe}, "options": options} | fields)


CLAIMS = tuple(claim(recipe) for recipe in GAINS)


def study(num_seeds: int | Mapping[str, int], *claims: Claim, looks: tuple[int, ...] = PLANNED) -> Tables:
    """Return the study with so many seeds of every recipe, or of each."""
    numbers = num_seeds if isinstance(num_seeds, Mapping) else dict.fromkeys(GAINS, num_seeds)
    rows = [
        {"recipe": recipe, "seed": seed, "score": 3.0 + (GAINS[recipe][seed] if recipe in GAINS else 0.0)}
        for recipe in ("base", *GAINS)
        for seed in range(numbers.get(recipe, max(numbers.values())))
    ]
    comparison = {"name": "main", "arms": {"recipe": tuple(GAINS)}, "references": {"recipe": "base"}, "columns": ("score",)}
    tables = tables_of(rows, [comparison], columns={"score": "higher"}, seeds=("seed",), claims=claims or CLAIMS)
    return replace(tables, manifest=replace(tables.manifest, looks=looks))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def look_at(store: Store, tables: Tables) -> pd.DataFrame:
    """Do what a report does: judge with the looks so far, record this one, and judge again when the page is made."""
    tables = replace(tables, looks=looks_of(store, "synthetic"))
    before = judge(tables)
    tables = record_look(store, tables)
    assert tables.looks == looks_of(store, "synthetic")
    pd.testing.assert_frame_equal(judge(tables), before)
    return before


def test_the_level_of_each_look_is_the_spent_one(store: Store) -> None:
    expected = levels(0.05, [3 / 8, 5 / 8, 1], [3, 5, 8])
    for number, seeds in enumerate(PLANNED):
        judged = look_at(store, study(seeds))
        assert judged["level"].tolist() == pytest.approx([expected[number]] * 3)
        assert judged["num_seeds"].tolist() == [seeds] * 3
    assert [look.num_seeds for look in looks_of(store, "synthetic")] == [3, 5, 8]
    assert [look.fraction for look in looks_of(store, "synthetic")] == [3 / 8, 5 / 8, 1]


def test_verdicts_use_the_spent_level(store: Store) -> None:
    """The p of `fair` at the first look is below 0.05 and above what may be spent there."""
    first = look_at(store, study(3))
    assert first["verdict"].tolist() == ["yes", "inconclusive", "inconclusive"]
    fair = first.iloc[1]
    assert 0.01 < fair["p_value"] < 0.06
    alone = corrected_for_looks([fair["p_value"]], [3 / 8], [3])[0]
    assert fair["p_holm"] == pytest.approx(min(1.0, 2 * alone))
    assert look_at(store, study(8))["verdict"].tolist() == ["yes", "yes", "inconclusive"]


def test_a_study_that_plans_no_looks_is_judged_as_before(store: Store) -> None:
    for seeds in PLANNED:
        unlooked = judge(study(seeds, looks=()))
        judged = look_at(store, study(seeds, looks=()))
        assert judged["level"].tolist() == [0.05] * 3
        pd.testing.assert_frame_equal(judged.drop(columns="look"), unlooked.drop(columns="look"))
    assert [look.is_planned for look in looks_of(store, "synthetic")] == [False] * 3


def test_a_report_without_more_seeds_is_no_look(store: Store) -> None:
    look_at(store, study(3))
    written = store.paths.looks("synthetic").read_bytes()
    look_at(store, study(3))
    assert store.paths.looks("synthetic").read_bytes() == written


def test_a_report_without_a_test_is_no_look(store: Store) -> None:
    look_at(store, study(1))
    assert not store.paths.looks("synthetic").exists()


def test_an_unplanned_look_costs_error_too(store: Store) -> None:
    for seeds in (3, 4, 5):
        last = look_at(store, study(seeds))
    assert last["level"][0] == pytest.approx(levels(0.05, [3 / 8, 4 / 8, 5 / 8], [3, 4, 5])[-1])
    assert last["level"][0] < levels(0.05, [3 / 8, 5 / 8], [3, 5])[-1]


def test_a_claim_is_corrected_by_the_seeds_of_its_own_test(store: Store) -> None:
    numbers = {"strong": 3, "fair": 3, "none": 2}
    look_at(store, study(numbers))
    judged = look_at(store, study({"strong": 5, "fair": 3, "none": 4}))
    expected = [
        levels(0.05, [3 / 8, 5 / 8], [3, 5])[-1],
        levels(0.05, [5 / 8], [3])[-1],
        levels(0.05, [3 / 8, 5 / 8], [2, 4])[-1],
    ]
    assert judged["level"].tolist() == pytest.approx(expected)


def test_what_an_earlier_look_decided_stays_decided_and_names_the_look(store: Store) -> None:
    look_at(store, study(3))
    for seeds in (5, 8):
        look_at(store, study(seeds))
    beyond = replace(study(8), manifest=replace(study(8).manifest, looks=(3, 5)))
    judged = judge(replace(beyond, looks=looks_of(store, "synthetic")))
    assert judged["verdict"].tolist() == ["yes", "yes", "inconclusive"]
    spoiled = study(8)
    spoiled.arms.loc[spoiled.arms["recipe"] == "strong", "score"] = [3, 5, 1, 3, 4, 2, 3, 3]
    later = judge(replace(spoiled, looks=looks_of(store, "synthetic")))
    assert (later["verdict"][0], later["look"][0]) == ("yes", 3)


def test_a_changed_claim_keeps_no_verdict_of_the_claim_before(store: Store) -> None:
    look_at(store, study(3))
    changed = (claim("strong", margin=1.0), *CLAIMS[1:])
    assert look_at(store, study(5, *changed))["verdict"][0] == "inconclusive"


def test_error_that_is_spent_stays_spent_when_more_seeds_are_planned(store: Store) -> None:
    look_at(store, study(5, looks=(5,)))
    judged = look_at(store, study(8, looks=(5, 8)))
    assert judged["level"].tolist() == [0.0] * 3
    assert judged["verdict"].tolist() == ["yes", "yes", "inconclusive"], "those of the first look"


def test_looks_planned_after_a_look_at_the_whole_level_have_nothing_left(store: Store) -> None:
    look_at(store, study(3, looks=()))
    judged = look_at(store, study(8, looks=(3, 8)))
    assert judged["level"].tolist() == [0.0] * 3
    assert judged["verdict"].tolist() == ["inconclusive"] * 3


def test_a_claim_of_no_change_spends_one_sided_error(store: Store) -> None:
    same = claim("none", holds="within", margin=0.3)
    judged = look_at(store, study(3, same))
    assert judged["level"][0] == pytest.approx(levels(0.05, [3 / 8], [3], sides=1)[0])
    assert judged["p_holm"][0] == pytest.approx(corrected_for_looks([judged["p_value"][0]], [3 / 8], [3], sides=1)[0])


def test_tests_of_several_cells_each_spend_their_share(store: Store) -> None:
    """The p of a rejection is a number of tests times the smallest p: that p is corrected, then multiplied."""
    best = claim("none", estimator="best_of")
    row = look_at(store, study(5, best)).iloc[0]
    (smallest,) = corrected_for_looks([row["p_value"] / 3], [5 / 8], [5])
    assert row["p_holm"] == pytest.approx(3 * smallest)


@pytest.mark.parametrize("text", ["{", '{"looks": []}'])
def test_a_damaged_record_of_looks_is_an_error_that_names_it(store: Store, text: str) -> None:
    look_at(store, study(3))
    store.paths.looks("synthetic").write_text(text)
    with pytest.raises(StoreError, match=r"looks\.json: damaged.*Restore it"):
        looks_of(store, "synthetic")


def test_a_look_records_claims_with_their_seeds_and_verdicts(store: Store) -> None:
    look_at(store, study(3))
    (look,) = json.loads(store.paths.looks("synthetic").read_text())["looks"]
    assert [(one["text"], one["num_seeds"], one["verdict"]) for one in look["claims"]] == [
        ("strong helps", 3, "yes"),
        ("fair helps", 3, "inconclusive"),
        ("none helps", 3, "inconclusive"),
    ]
