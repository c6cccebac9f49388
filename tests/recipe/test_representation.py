"""A comparison of two states is identified by the other state's past alone, and refuses states that cannot be compared."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from builders.small_recipes import GENERAL, PYCODE, TOKENIZER, sft, start, trunk, wrong

from midstudy.recipe import Curriculum, Measure, RecipeError, RepresentationSimilarity, Start, State, pythia
from midstudy.recipe.canonical import canonical, expanded, identify
from midstudy.recipe.decode import decode
from midstudy.recipe.measure import StateEvaluation

BEFORE, AFTER = trunk().state(), trunk().then(sft(PYCODE)).state()


def comparison(**changes: Any) -> RepresentationSimilarity:
    usual: dict[str, Any] = {"data": PYCODE, "split": "test", "seq_len": 64, "max_sequences": 8, "examples": "tokens"}
    return RepresentationSimilarity(**(usual | {"other": BEFORE} | changes))


def measure(**changes: Any) -> Measure:
    usual: dict[str, Any] = {"state": AFTER, "evaluation": comparison(), "metric": "last_layer_cka", "better": "higher"}
    return Measure(**(usual | changes))


def test_the_forms_hold_only_the_id_of_the_other_state() -> None:
    for form in (canonical(comparison()), expanded(comparison())):
        assert form["other"] == BEFORE.id
    assert comparison().id == identify(comparison()) == comparison(other=BEFORE.id).id
    assert comparison().other_id == BEFORE.id


def test_what_happens_to_the_other_state_later_and_its_labels_change_nothing() -> None:
    whole = trunk(90)
    assert whole.state(60).id == BEFORE.id
    assert comparison(other=whole.state(60)) == comparison()
    assert len({comparison(), comparison(other=whole.state(60)), comparison(other=BEFORE.id)}) == 1


def test_every_field_changes_the_id() -> None:
    changes: list[dict[str, Any]] = [
        {"data": GENERAL},
        {"split": "dev"},
        {"seq_len": 32},
        {"max_sequences": 9},
        {"examples": "sequences"},
        {"other": trunk().state(59)},
        {"version": 99},
    ]
    assert {field.name for field in fields(comparison())} == {name for change in changes for name in change}
    ids = {StateEvaluation(state_id=AFTER.id, evaluation=comparison(**change)).id for change in ({}, *changes)}
    assert len(ids) == 1 + len(changes)


def test_golden_id() -> None:
    """Changes only with the canonical form: finished comparisons would be made again."""
    assert comparison(other="0123456789abcdef", version=1).id == "9a7bd08c2a67f7be"


def test_a_job_decodes_a_comparison_with_the_same_id() -> None:
    recipe = StateEvaluation(state_id=AFTER.id, evaluation=comparison())
    found = decode(json.loads(json.dumps(expanded(recipe))))
    assert found == recipe
    assert (found.id, found.evaluation.other) == (recipe.id, BEFORE.id)
    assert found.state_ids == (AFTER.id, BEFORE.id)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "tests"}, r"pycode\.split: expected one of .*, got tests"),
        ({"seq_len": 0}, r"pycode\.seq_len: expected a whole number of tokens, at least 1, got 0"),
        ({"max_sequences": 2.5}, r"pycode\.max_sequences: expected a whole number of sequences"),
        ({"examples": "documents"}, r"pycode\.examples: expected one of tokens, sequences, got documents"),
        ({"other": "the trunk"}, r"pycode\.other: expected a State, or in a store its id, got 'the trunk'"),
        ({"other": wrong(trunk())}, r"pycode\.other: expected a State, .*, got a value of type Curriculum"),
    ],
)
def test_an_invalid_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"representation_similarity\.{message}"):
        comparison(**changes)


def _state_of(start: Start) -> State:
    run = trunk()
    return Curriculum.of(start, replace(run.stretches[0].phase, schedule=sft(PYCODE).schedule, num_steps=3)).state()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": comparison(other=AFTER)}, r"other: expected a state other than the measured one, got state \w+ for"),
        (
            {"evaluation": comparison(other=BEFORE.id)},
            r"other: expected a State, such as curriculum\.state\(\), got \w{16}\.",
        ),
        (
            {
                "evaluation": comparison(
                    other=_state_of(replace(start(), model=pythia("micro", vocab_size=512, max_seq_len=64)))
                )
            },
            r"other\.model: expected the model of the measured state, got a different one",
        ),
        (
            {"evaluation": comparison(other=_state_of(replace(start(), tokenizer=replace(TOKENIZER, vocab_size=400))))},
            r"other\.tokenizer: expected the tokenizer of the measured state, got a different one",
        ),
    ],
    ids=["itself", "an id", "another model", "another tokenizer"],
)
def test_states_that_cannot_be_compared_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"measure\.evaluation\.{message}"):
        measure(**changes)


def test_a_curve_is_compared_state_by_state() -> None:
    whole = trunk()
    evaluation = comparison(other=whole.state(20))
    with pytest.raises(RecipeError, match="a state other than the measured one"):
        measure(state=None, states=(whole.state(20), whole.state(60)), evaluation=evaluation)
    curve = measure(state=None, states=(whole.state(40), whole.state(60)), evaluation=evaluation)
    assert [state.step for state in curve.read_states] == [40, 60, 20]


def test_a_measure_names_a_metric_of_the_comparison() -> None:
    for metric, better in (("mean_diagonal_cka", "higher"), ("last_layer_cka", "higher"), ("layer_distortion", "lower")):
        assert measure(metric=metric, better=better).metric == metric
    with pytest.raises(
        RecipeError, match="expected one of mean_diagonal_cka, last_layer_cka, layer_distortion, got loss_nats"
    ):
        measure(metric="loss_nats", better="lower")
