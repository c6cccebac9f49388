"""Factors label what a phase fixes; they stay with the phase and do not change any id."""

from __future__ import annotations

from typing import Any

import pytest
from builders.small_recipes import CODE, GENERAL, PYCODE, code_branch, phase, sft, start, trunk, wrong

from midstudy.recipe import Arm, Average, Curriculum, Mixture, Phase, RecipeError, Start, Study, factors
from midstudy.recipe.curriculum import State
from midstudy.recipe.decode import decode
from midstudy.recipe.factors import selects


def labelled(**values: Any) -> Curriculum:
    return trunk(factors=factors(**values))


def test_factors_do_not_change_ids():
    plain, with_factors = trunk(), labelled(mix="control", weight=0.0)
    assert with_factors.state_id(60) == plain.state_id(60)
    assert with_factors.state().text() == plain.state().text()
    branches = [
        whole.branch(start_step=20, data=Mixture.blend(GENERAL, {CODE: 0.2}), name=name, factors=given).state_id(60)
        for whole, name, given in ((plain, "a", ()), (with_factors, "b", factors(mix="code")))
    ]
    assert branches[0] == branches[1]


def test_a_later_phase_replaces_the_value_of_a_factor():
    branch = labelled(mix="control", weight=0.0, trunk_seed=0).branch(
        start_step=20, data=Mixture.blend(GENERAL, {CODE: 0.2}), name="midtrain", factors=factors(mix="code", weight=0.2)
    )
    tuned = branch.then(sft(PYCODE, factors=factors(task="pycode")))
    assert dict(tuned.factors) == {"mix": "code", "weight": 0.2, "trunk_seed": 0, "task": "pycode"}
    assert dict(tuned.state(20).factors) == {"mix": "control", "weight": 0.0, "trunk_seed": 0}
    assert dict(tuned.state(21).factors) == {"mix": "code", "weight": 0.2, "trunk_seed": 0}


def test_a_branch_at_step_0_keeps_the_factors_of_the_phase_it_replaces():
    branch = labelled(mix="control", trunk_seed=3).branch(
        start_step=0, data=Mixture.blend(GENERAL, {CODE: 0.2}), name="midtrain", factors=factors(mix="code")
    )
    assert dict(branch.factors) == {"mix": "code", "trunk_seed": 3}


def test_a_phase_that_is_merged_into_its_neighbour_adds_its_factors():
    same = labelled(mix="control").branch(
        start_step=20, data=Mixture.only(GENERAL), name="placebo", factors=factors(arm="p")
    )
    assert len(same.stretches) == 1
    assert dict(same.factors) == {"mix": "control", "arm": "p"}


@pytest.mark.parametrize("before", [labelled(mix="control"), Curriculum.of(start())], ids=["a phase", "a start"])
def test_a_phase_with_zero_steps_adds_only_its_factors(before: Curriculum):
    longer = before.then(phase(Mixture.only(CODE), 0, factors=factors(mix="code")))
    assert dict(longer.factors) == {"mix": "code"}
    assert longer.state_id(longer.num_steps) == before.state_id(before.num_steps)


def test_an_average_keeps_the_factors_on_which_its_states_agree():
    seeds = [labelled(mix="code", trunk_seed=seed).state(60 - seed) for seed in (0, 1)]
    averaged = Start.averaged(Average.of(*seeds), factors=factors(averaged_states=2))
    assert dict(averaged.factors) == {"mix": "code", "averaged_states": 2}
    assert averaged.id == Start.averaged(Average.of(*seeds)).id


def test_a_record_keeps_the_factors_and_a_record_from_before_factors_has_none():
    state = code_branch(labelled(mix="control"), 20).state()
    form = state.expanded()
    read: State = decode(form)
    assert read.factors == (("mix", "control"),)
    for placed in form["curriculum"]["stretches"]:
        del placed["phase"]["factors"]
    del form["curriculum"]["start"]["factors"]
    older: State = decode(form)
    assert (older.id, older.factors) == (state.id, ())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Mix": "code"}, "expected a name of lower-case letters, .*, got 'Mix'"),
        ({"mix": ""}, r"factors\.mix: expected .*, got ''"),
        ({"mix": "a\nb"}, r"factors\.mix"),
        ({"weight": float("nan")}, r"factors\.weight: expected text .*, or a finite number, got nan"),
        ({"averaged": True}, r"factors\.averaged: expected .*, got True"),
        ({"mix": None}, r"factors\.mix: expected .*, got None"),
    ],
)
def test_a_factor_is_text_or_a_finite_number(values: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        factors(**values)


def test_factors_given_as_a_mapping_are_rejected_and_the_message_names_the_phase():
    with pytest.raises(
        RecipeError, match=r"phases\.pretrain\.factors: expected the result of factors\(name=value, \.\.\.\), got \{'mix'"
    ):
        Phase(**{**vars(phase(Mixture.only(GENERAL), 5)), "factors": wrong({"mix": "code"})})


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, True),
        ({"mix": "code"}, True),
        ({"mix": ("math", "code")}, True),
        ({"mix": "math"}, False),
        ({"task": "code"}, False),
    ],
)
def test_a_selection_matches_factors_by_value(wanted: dict[str, Any], expected: bool):
    assert selects(wanted, {"mix": "code", "weight": 0.2}) is expected


@pytest.mark.parametrize("name", ["stage", "step", "num_tokens"])
def test_a_factor_may_not_have_the_name_of_a_column_that_stands_beside_it(name: str):
    """Of the tables of arms, items and training: two columns of one name cannot be written."""
    arm = Arm(curriculum=labelled(**{name: "a"}), measures={})
    message = rf"study.arms\[0\].factors.{name}: expected a name that no other column of a table has"
    with pytest.raises(RecipeError, match=message):
        Study(name="clash", question="", arms=[arm], seeds=())
