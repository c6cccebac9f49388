"""The first bridging study's numbers, as the analysis before typed comparisons gave them: effects, rivals, correlations and
claims of the same losses stay the same. `tests/data/bridging_micro_*` hold both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
from builders.analysis_tables import tables_of
from builders.places import TESTS

from midstudy.analysis.claims import judge
from midstudy.analysis.correlations import correlations
from midstudy.analysis.effects import cells, effects
from midstudy.analysis.estimators import rivals
from midstudy.analysis.mix_task import MEASURES
from midstudy.analysis.tables import Tables
from midstudy.recipe.factors import selects
from midstudy.recipe.manifest import MixEntry
from midstudy.recipe.study import Claim
from midstudy.studies.bridging import grid
from midstudy.studies.bridging.forgetting import forgetting
from midstudy.studies.bridging.proximity import proximity_pairs

DATA = TESTS / "recorded"
NUMBERS: dict[str, Any] = json.loads((DATA / "bridging_micro_numbers.json").read_text("utf-8"))
RENAMED = {
    "n_trunk_seeds": "num_seeds",
    "n_sft_seeds": "num_inner_seeds",
    "control_loss": "reference",
    "loss": "value",
    "difference_nats": "difference",
    "specialist_tokens": "tokens:specialist",
}
SAME = (
    "ci_low",
    "ci_high",
    "relative_improvement",
    "relative_ci_low",
    "relative_ci_high",
    "p_value",
    "p_holm",
    "family_size",
)
ARM = ("size", "mix", "weight", "start_step", "task")


@pytest.fixture(scope="module")
def tables() -> Tables:
    old = pd.read_csv(DATA / "bridging_micro_arms.csv")
    rows = [
        {"tokens:specialist" if name == "specialist_tokens" else str(name): value for name, value in row.items()}
        for row in old.drop(columns=["study", "groups"]).to_dict("records")
    ]
    is_control = old["mix"] == "control"
    groups = old["groups"].str.split(",")

    def group(name: str) -> list[int]:
        return [row for row in old.index if name in groups[row] and not is_control[row]]

    losses, match = ("sft_loss", "general_loss"), ("size", "task")
    controls = [row for row in old.index if is_control[row]]
    comparisons: list[dict[str, Any]] = [
        {"name": name, "arms": group(name), "references": controls, "columns": losses, "match": match, "along": along}
        for name, along in (("main", None), ("timing", "start_step"), ("weight", "weight"))
    ]
    run = old[["size", "mix", "task", "trunk_seed", "sft_seed"]].apply(tuple, axis=1)
    continued = group("continued")
    mid = [row for row in group("main") if run[row] in set(run[continued])]
    pairs = {"arms": mid, "references": continued, "columns": losses, "match": ("size", "mix", "task")}
    comparisons.append({"name": "continued", **pairs})
    proximity = pd.read_csv(DATA / "bridging_micro_proximity.csv").assign(reference="general")
    proximity.insert(0, "mix_name", proximity["mix"] + " " + proximity["weight"].astype(str))
    mixes = [
        MixEntry(name=name, shares={}, reference="general", factors={"mix": mix, "weight": weight})
        for name, mix, weight in proximity[["mix_name", "mix", "weight"]].drop_duplicates().itertuples(index=False)
    ]
    columns = dict.fromkeys((*losses, "sft_loss_before", "general_loss_before"), "lower")
    return tables_of(rows, comparisons, columns=columns, proximity=proximity, mixes=mixes, claims=CLAIMS)


def bridging(estimator: str, column: str = "sft_loss", comparison: str = "main", **fields: Any) -> Claim:
    return Claim(
        text=f"{estimator} {comparison} {column} {fields.get('arms')}",
        source="arXiv 2510.14865",
        estimator=estimator,
        comparison=comparison,
        column=column,
        **fields,
    )


MATCHED = [{"mix": mix, "task": task} for mix, task in grid.MATCHED.items()]
MIXES = ("code", "math", "instruction", "qa", "hqweb")
OTHERS = [{"mix": tuple(one for one in MIXES if one != mix), "task": task} for mix, task in grid.MATCHED.items()]
#: The claims in the order of the recorded rows. The start's was judged against the latest arm, and is a trend now; what lies
#: closer to a task is judged in the study's own package.
CLAIMS = [
    *(bridging(one, arms=arms) for arms in MATCHED for one in ("paired_effect", "best_of")),
    *(bridging("all_within", arms=arms, holds="within", margin=0.02) for arms in OTHERS),
    *(bridging("paired_effect", "general_loss", arms=arms) for arms in MATCHED),
    *(bridging("paired_effect", column, "continued", arms=a) for column in ("sft_loss", "general_loss") for a in MATCHED),
    bridging("correlation"),
]


UNDECIDED_BY_A_CORRECTED_TEST = {"mismatched mixes change pycode loss by less than 2 %"}
"""Recorded as "no" from four uncorrected intervals, one of which lay outside; corrected, p is 0.11 before Holm."""


def assert_same(found: Mapping[str, Any] | pd.Series, old: Mapping[str, Any], names: Mapping[str, str]) -> None:
    for then, now in names.items():
        expected = math.nan if old[then] is None else old[then]
        assert found[now] == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True), (then, dict(old))


@pytest.mark.parametrize(
    ("recorded", "comparison", "column"),
    [
        ("main_sft_loss", "main", "sft_loss"),
        ("main_general_loss", "main", "general_loss"),
        ("timing", "timing", "sft_loss"),
        ("weight", "weight", "sft_loss"),
    ],
)
def test_effects_are_those_recorded(tables: Tables, recorded: str, comparison: str, column: str) -> None:
    table = effects(tables, tables.manifest.comparison(comparison), column).table
    expected = {tuple(row[name] for name in ARM): row for row in NUMBERS[recorded]}
    assert len(table) == len(expected)
    for _, row in table.iterrows():
        assert_same(row, expected[tuple(row[name] for name in ARM)], RENAMED | {name: name for name in SAME})


def test_mixed_and_continued_arms_are_those_recorded(tables: Tables) -> None:
    names = {
        "n_trunk_seeds": "num_seeds",
        "mid_loss": "value",
        "continued_loss": "reference",
        "difference_nats": "difference",
        "relative_improvement": "relative_improvement",
        "ci_low": "ci_low",
    }
    for column in ("sft_loss", "general_loss"):
        table = effects(tables, tables.manifest.comparison("continued"), column).table
        rows = [row for row in NUMBERS["mid_versus_continued"] if row["loss_column"] == column]
        assert [(row["mix"], row["task"]) for row in rows] == list(zip(table["mix"], table["task"], strict=True))
        for (_, found), row in zip(table.iterrows(), rows, strict=True):
            assert_same(found, row, names)


@pytest.mark.parametrize("pair", sorted(NUMBERS["best_of"]))
def test_rivals_are_those_recorded(tables: Tables, pair: str) -> None:
    mix, _, task = pair.partition(":")
    comparison = tables.manifest.comparison("main")
    (cell,) = (one for one in cells(tables, comparison) if selects({"mix": mix, "task": task}, one.factors))
    found = rivals(tables, comparison, cell, "sft_loss").set_index("rival")
    assert set(found.index) == {row["other"] for row in NUMBERS["best_of"][pair]}
    for row in NUMBERS["best_of"][pair]:
        names = {"difference_nats": "difference", "n_trunk_seeds": "num_seeds", "other_loss": "reference"}
        assert_same(found.loc[row["other"]], row, names | {name: name for name in SAME[:6]})


@pytest.mark.parametrize("measure", MEASURES)
def test_correlations_are_those_recorded(tables: Tables, measure: str) -> None:
    pairs = proximity_pairs(tables)
    assert pairs is not None
    (old,) = NUMBERS["correlations"][measure]
    found = correlations(pairs, measure=measure, by="size").iloc[0]
    names = {"n_pairs": "num_pairs", "r": "r", "spearman_rho": "spearman_rho"}
    names |= {f"leave_one_out_{end}": f"without_pair_{end}" for end in ("low", "high")}
    assert_same(found, old, names)
    for end in ("low", "high"):
        assert found[f"without_pair_{end}_name"] == old[f"leave_one_out_{end}_without"]


#: By a script of scipy and itertools that imports nothing of midstudy: relabellings of 2,880 at least as far from 0 as r and
#: as rho; mean rho within tasks; regret in points of percent; tasks whose best mix is named.
CROSSED = {
    "combined": (14, 47, 0.475, 4.631769406468326, 1),
    "cosine": (14, 52, 0.55, 4.631769406468326, 1),
    "jaccard": (438, 1471, 0.425, 0.5995299981603461, 3),
    "js": (1, 67, 0.6, 0.3623472694020054, 3),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_crossed_statistics_are_those_of_an_independent_script(tables: Tables, measure: str) -> None:
    pairs = proximity_pairs(tables)
    assert pairs is not None
    found = correlations(pairs, measure=measure).iloc[0]
    as_far, ranks_as_far, rank, regret, named = CROSSED[measure]
    assert (found["num_relabellings"], found["num_mixes"], found["num_tasks"]) == (2_880, 5, 4)
    assert (found["p_value"], found["spearman_p"]) == pytest.approx((as_far / 2_880, ranks_as_far / 2_880))
    assert (found["rank_rho"], found["regret_points"], found["num_named"]) == (
        pytest.approx(rank),
        pytest.approx(regret),
        named,
    )
    assert (found["ceiling_rho"], found["num_ceiling_tasks"]) == (pytest.approx((2.5 / 3 + 1) / 2), 2)


def test_what_r_leans_on_is_what_an_independent_script_found(tables: Tables) -> None:
    pairs = proximity_pairs(tables)
    assert pairs is not None
    found = correlations(pairs).iloc[0]
    expected = {"mix_low": 0.8132, "mix_high": 0.9541, "task_low": 0.8144, "task_high": 0.9881}
    assert {name: round(found[f"without_{name}"], 4) for name in expected} == expected
    names = {"mix_low": "instruction", "mix_high": "math", "task_low": "long_form", "task_high": "word_problems"}
    assert {name: found[f"without_{name}_name"] for name in names} == names


def test_forgetting_is_that_recorded(tables: Tables) -> None:
    found = {tuple(row[name] for name in ARM): row for _, row in forgetting(tables).iterrows()}
    recorded = {
        (*(row[name] for name in ARM[:3]), row["start_step"] or 0, row["task"]): row for row in NUMBERS["forgetting"]
    }
    assert found.keys() == recorded.keys()
    names = ("general_loss_before", "general_loss_after", "forgetting_nats", "ci_low", "ci_high")
    for key, row in recorded.items():
        assert_same(found[key], row, {name: name for name in names})


def test_claims_have_the_values_and_verdicts_recorded(tables: Tables) -> None:
    recorded = NUMBERS["beside_paper"]
    recorded = [
        row for row in recorded if not row["claim"].startswith("an earlier start") and "closer to" not in row["claim"]
    ]
    found = judge(tables)
    assert len(found) == len(recorded)
    for (_, row), old in zip(found.iterrows(), recorded, strict=True):
        is_undecided_now = old["claim"] in UNDECIDED_BY_A_CORRECTED_TEST
        assert row["verdict"] == ("inconclusive" if is_undecided_now else old["same_direction"]), old["claim"]
        assert row["unit"] == old["unit"]
        names = {"ours_value": "value", "ours_low": "low", "ours_high": "high"}
        # The recorded interval of r was Fisher's, which takes pairs of the same mix or task as independent.
        assert_same(row, old, {"ours_value": "value"} if old["unit"] == "r" else names)
