"""Starts whose weights are a release or an average: their ids depend only on the weights and how they were trained."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from builders.small_recipes import CODE, GENERAL, PYCODE, TOKENIZER, code_branch, phase, sft, start, trunk

from midstudy.recipe import (
    Average,
    Constant,
    Curriculum,
    Mixture,
    RecipeError,
    Release,
    ReleasedTokenizer,
    Source,
    Start,
    State,
    pythia,
)
from midstudy.recipe.canonical import canonical, identify
from midstudy.recipe.decode import decode
from midstudy.recipe.explain import differences

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MICRO = pythia("micro", vocab_size=512, max_seq_len=64)
HUB = Source(kind="hub", part="EleutherAI/pythia-70m", revision=COMMIT)


TOKENIZER_70M = ReleasedTokenizer(name="pythia-70m", digest="d" * 64, vocab_size=512, source=HUB)


def released(**changes) -> Start:
    fields: dict[str, Any] = {
        "model": start().model,
        "tokenizer": TOKENIZER_70M,
        "seed": None,
        "weights": Release(name="pythia-70m", source=HUB, step=71_000),
    }
    return Start(**(fields | changes))


def anneal(seed: int) -> Curriculum:
    """Return a 60-step run whose last 20 steps read code in an order drawn from `seed`."""
    return trunk(40).then(phase(Mixture.only(CODE), 20, seed=seed, data_positions="reset", schedule=Constant(lr=1e-4)))


def last_three() -> Average:
    return Average.last(trunk(60), num_states=3, every_steps=10)


def test_the_id_of_a_start_with_drawn_weights_is_pinned():
    assert start().id == "c8c70f0d75cc5a01"
    assert "weights" not in canonical(start())


def test_ids_of_starts_with_given_weights_are_pinned():
    assert released().id == "da4b04715439cbf9"
    assert Start.averaged(last_three()).id == "fb8ac0bbec85d7e3"


def test_a_release_is_identified_by_its_revision_and_its_tokenizer_by_its_digest():
    base = released()
    named = Release(name="another name", source=dataclasses.replace(HUB, location="/elsewhere"), step=None)
    elsewhere = ReleasedTokenizer(
        name="copy", digest="d" * 64, vocab_size=512, source=Source(kind="files", part="", revision="r", location="/copy")
    )
    assert released(weights=named, tokenizer=elsewhere).id == base.id
    other = Release(name="pythia-70m", source=dataclasses.replace(HUB, revision=COMMIT[::-1]), step=71_000)
    assert released(weights=other).id != base.id
    assert released(tokenizer=dataclasses.replace(TOKENIZER_70M, digest="e" * 64)).id != base.id


def test_an_average_does_not_depend_on_the_order_of_its_states_or_on_later_steps_of_their_runs():
    long, short = trunk(60), trunk(40)
    states = [long.state(20), long.state(30), code_branch(long, 6).state(40)]
    average = Average.of(*states)
    assert identify(Average.of(*reversed(states))) == identify(average)
    assert identify(Average.of(short.state(20), states[2], short.state(30))) == identify(average)
    assert {state.id for state in average.states} == {state.id for state in states}
    assert identify(Average.of(long.state(20), long.state(31), states[2])) != identify(average)


def test_the_last_states_of_a_run_include_its_final_state():
    assert sorted(state.step for state in last_three().states) == [40, 50, 60]
    assert {state.id for state in last_three().states} == {trunk(60).state_id(step) for step in (40, 50, 60)}


@pytest.mark.parametrize("begin", [released, lambda: Start.averaged(last_three())], ids=["a release", "an average"])
def test_a_decoded_state_is_exactly_the_one_that_was_hashed(begin):
    curriculum = Curriculum.of(begin(), phase(Mixture.only(GENERAL), 10)).then(sft(PYCODE))
    # An average of states that start from given weights themselves: recipes nest.
    nested = Curriculum.of(
        Start.averaged(
            Average.of(curriculum.state(10), curriculum.state(0).curriculum.then(phase(Mixture.only(CODE), 10)).state())
        ),
        phase(Mixture.only(GENERAL), 5),
    )
    for state in (curriculum.state(0), curriculum.state(), nested.state(0), nested.state()):
        read = decode(json.loads(json.dumps(state.expanded())))
        assert isinstance(read, State)
        assert (read.id, read.text(), read.step) == (state.id, state.text(), state.step)


def test_step_0_of_a_start_with_given_weights_has_the_id_of_the_start():
    curriculum = Curriculum.of(released(), phase(Mixture.only(GENERAL), 10))
    assert curriculum.state(0).id == curriculum.start.id
    assert curriculum.state(0).precision == "fp32"
    bf16 = Average.of(*(trunk(60, precision="bf16_true").state(step) for step in (50, 60)))
    assert Curriculum.of(Start.averaged(bf16)).state(0).precision == "bf16_true"


def test_explain_names_the_state_that_differs():
    left, right = (Average.of(trunk(60).state(), anneal(seed).state()) for seed in (1, 2))
    [difference] = differences(canonical(Start.averaged(left)), canonical(Start.averaged(right)))
    assert difference.path.partition("]")[2] == ".curriculum.stretches[1].phase.seed"
    assert (difference.path.partition("[")[0], difference.left, difference.right) == ("weights.states", 1, 2)


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: released(seed=0), "start.seed"),
        (lambda: Start(model=start().model, tokenizer=TOKENIZER, seed=None), "start.seed"),
        (lambda: Average.of(trunk().state()), "average.states"),
        (lambda: Average.of(trunk(), trunk(seed=1)), "average.states"),  # type: ignore[arg-type]
        (lambda: Average.of(trunk().state(), trunk().state()), "average.states"),
        (lambda: Average.of(trunk(60).state(30), trunk(40).state(30)), "average.states"),
        (lambda: Average.of(trunk().state(), trunk(precision="bf16_true").state()), "average.states.precision"),
        (
            lambda: Average.of(trunk().state(), Curriculum.of(start(model=MICRO), phase(Mixture.only(CODE), 5)).state()),
            "average.states.model",
        ),
        (
            lambda: Average.of(trunk().state(), Curriculum.of(released(), phase(Mixture.only(CODE), 5)).state()),
            "average.states.tokenizer",
        ),
        (lambda: Average.of(trunk().state(), trunk().state(0)), "average.states.step"),
        (lambda: Average.last(trunk(60), num_states=4, every_steps=20), "average.num_states"),
        (lambda: Average.last(trunk(60), num_states=0, every_steps=20), "average.num_states"),
        (lambda: dataclasses.replace(Start.averaged(last_three()), model=start(model=MICRO).model), "start.model"),
        (lambda: Release(name="x", source=Source(kind="wheels", part="code", revision="r")), "release.source.kind"),
        (lambda: released(tokenizer=dataclasses.replace(TOKENIZER_70M, vocab_size=513)), "model.vocab_size"),
        (lambda: dataclasses.replace(TOKENIZER_70M, vocab_size=2**31 + 1), "tokenizer.vocab_size"),
    ],
)
def test_invalid_weights_are_rejected_with_the_path_of_their_field(build, path: str):
    with pytest.raises(RecipeError) as raised:
        build()
    assert raised.value.path == path
