"""Factors say what a phase fixes; they travel with it and change no id."""

from __future__ import annotations

from typing import Any

import pytest
from builders.small_recipes import CODE, GENERAL, PYCODE, code_branch, phase, sft, start, trunk, wrong

from midstudy.recipe import Average, Curriculum, Mixture, Phase, RecipeError, Start, factors
from midstudy.recipe.curriculum import State
from midstudy.recipe.decode import decode
from midstudy.recipe.factors import selects


def labelled(**values: Any) -> Curriculum:
    return trunk(factors=factors(**values))


def test_factors_change_no_id():
    plain, told = trunk(), labelled(mix="control", weight=0.0)
    assert told.state_id(60) == plain.state_id(60)
    assert told.state().text() == plain.state().text()
    branches = [
        one.branch(start_step=20, data=Mixture.blend(GENERAL, {CODE: 0.2}), name=name, factors=given).state_id(60)
        for one, name, given in ((plain, "a", ()), (told, "b", factors(mix="code")))
    ]
    assert branches[0] == branches[1]


def test_the_last_word_counts():
    branch = labelled(mix="control", weight=0.0, trunk_seed=0).branch(
        start_step=20, data=Mixture.blend(GENERAL, {CODE: 0.2}), name="midtrain", factors=factors(mix="code", weight=0.2)
    )
    tuned = branch.then(sft(PYCODE, factors=factors(task="pycode")))
    assert dict(tuned.factors) == {"mix": "code", "weight": 0.2, "trunk_seed": 0, "task": "pycode"}
    assert dict(tuned.state(20).factors) == {"mix": "control", "weight": 0.0, "trunk_seed": 0}
    assert dict(tuned.state(21).factors) == {"mix": "code", "weight": 0.2, "trunk_seed": 0}


def test_a_branch_from_the_very_beginning_keeps_the_factors_of_the_phase_it_replaces():
    branch = labelled(mix="control", trunk_seed=3).branch(
        start_step=0, data=Mixture.blend(GENERAL, {CODE: 0.2}), name="midtrain", factors=factors(mix="code")
    )
    assert dict(branch.factors) == {"mix": "code", "trunk_seed": 3}


def test_a_phase_that_continues_its_neighbour_leaves_its_factors_behind():
    same = labelled(mix="control").branch(
        start_step=20, data=Mixture.only(GENERAL), name="placebo", factors=factors(arm="p")
    )
    assert len(same.stretches) == 1
    assert dict(same.factors) == {"mix": "control", "arm": "p"}


@pytest.mark.parametrize("before", [labelled(mix="control"), Curriculum.of(start())], ids=["a phase", "a start"])
def test_of_a_phase_without_steps_the_factors_remain(before: Curriculum):
    longer = before.then(phase(Mixture.only(CODE), 0, factors=factors(mix="code")))
    assert dict(longer.factors) == {"mix": "code"}
    assert longer.state_id(longer.num_steps) == before.state_id(before.num_steps)


def test_an_average_keeps_the_factors_on_which_its_states_agree():
    seeds = [labelled(mix="code", trunk_seed=seed).state(60 - seed) for seed in (0, 1)]
    averaged = Start.averaged(Average.of(*seeds), factors=factors(averaged_states=2))
    assert dict(averaged.factors) == {"mix": "code", "averaged_states": 2}
    assert averaged.id == Start.averaged(Average.of(*seeds)).id


def test_a_record_keeps_the_factors_and_an_older_one_has_none():
    state = code_branch(labelled(mix="control"), 20).state()
    form = state.expanded()
    read: State = decode(form)
    assert read.factors == (("mix", "control"),)
    for stretch in form["curriculum"]["stretches"]:
        del stretch["phase"]["factors"]
    del form["curriculum"]["start"]["factors"]
    older: State = decode(form)
    assert (older.id, older.factors) == (state.id, ())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"Mix": "code"}, "'Mix'; allowed: names of lower case letters"),
        ({"mix": ""}, r"factors\.mix: found ''"),
        ({"mix": "a\nb"}, r"factors\.mix"),
        ({"weight": float("nan")}, r"factors\.weight: found nan; allowed: text .*, or a finite number"),
        ({"averaged": True}, r"factors\.averaged: found True"),
        ({"mix": None}, r"factors\.mix: found None"),
    ],
)
def test_a_factor_is_text_or_a_finite_number(values: dict[str, Any], told: str):
    with pytest.raises(RecipeError, match=told):
        factors(**values)


def test_factors_given_as_a_mapping_are_refused_with_the_phase_named():
    with pytest.raises(
        RecipeError, match=r"phases\.pretrain\.factors: found .*; allowed: what factors\(name=value, \.\.\.\)"
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
def test_a_selection_names_values_of_factors(wanted: dict[str, Any], expected: bool):
    assert selects(wanted, {"mix": "code", "weight": 0.2}) is expected
