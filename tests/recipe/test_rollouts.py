"""Rollouts as the data of a phase: what is allowed with them, their canonical form, and their price."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders.small_recipes import GENERAL, phase, sft, start, task, trunk, wrong

from midstudy.recipe import Curriculum, Evaluation, Mixture, Phase, RecipeError, Rollouts, Source, Task, versions
from midstudy.recipe.canonical import canonical, expanded
from midstudy.recipe.curriculum import State
from midstudy.recipe.decode import decode

CHAT = Task(name="chat", source=Source(kind="files", part="", revision="r1", fields=(("messages", "messages"),)))


def rollouts(**changes: Any) -> Rollouts:
    fields: dict[str, Any] = {"prompts": CHAT, "score": "exact_number", "num_samples": 4, "max_new_tokens": 16, "tool": True}
    return Rollouts(**fields | changes)


def rl(data: Any, num_steps: int = 5, **changes: Any) -> Phase:
    return sft(data, num_steps, **{"name": "rl", "loss": "policy_gradient"} | changes)


def test_the_decoding_the_score_and_the_versions_are_part_of_the_identity() -> None:
    form = canonical(rollouts())
    assert form["version"] == versions.ROLLOUTS
    assert form["generation_version"] == versions.GENERATION
    changes: list[dict[str, Any]] = [
        {"score": "exact_text"},
        {"num_samples": 8},
        {"max_new_tokens": 8},
        {"tool": False},
        {"temperature": 0.5},
        {"top_k": 50},
    ]
    ids = {trunk(3).then(rl(replace(rollouts(), **change))).state().id for change in ({}, *changes)}
    assert len(ids) == len(changes) + 1


def test_a_state_after_rollouts_is_decoded_from_its_record() -> None:
    state = trunk(3).then(rl(rollouts(top_k=50))).state()
    again = decode(expanded(state.recipe()))
    assert isinstance(again, State)
    assert again.id == state.id
    assert again.curriculum.stretches[-1].phase.data == rollouts(top_k=50)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": task("pairs")}, r"rollouts\.pairs\.prompts: expected a task of conversations"),
        ({"prompts": GENERAL}, r"rollouts\.prompts: expected a task of conversations, got a value of type Corpus"),
        ({"score": "almost"}, r"rollouts\.chat\.score: expected one of exact_number, exact_text"),
        ({"num_samples": 1}, r"rollouts\.chat\.num_samples: expected at least 2 samples"),
        ({"num_samples": 0}, r"rollouts\.chat\.num_samples: expected a whole number"),
        ({"temperature": 0}, r"rollouts\.chat\.temperature: expected a number above 0"),
        ({"temperature": -1}, r"rollouts\.chat\.temperature"),
        ({"max_new_tokens": 0}, r"rollouts\.chat\.max_new_tokens"),
        ({"top_k": 0}, r"rollouts\.chat\.top_k"),
        ({"tool": "yes"}, r"rollouts\.chat\.tool: expected True or False"),
    ],
)
def test_rollouts_that_cannot_be_are_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        rollouts(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "all_tokens"}, r"phases\.rl\.loss: expected one of policy_gradient, got all_tokens"),
        ({"data": CHAT}, r"phases\.rl\.loss: expected one of all_tokens, target_tokens, got policy_gradient"),
        ({"num_sequences": 6}, r"phases\.rl\.num_sequences: expected a multiple of the 4 samples of each prompt, got 6"),
        ({"seq_len": 16}, r"phases\.rl\.seq_len: expected more than the 16 new tokens"),
        ({"data_positions": "continue"}, r"phases\.rl\.data_positions: expected reset"),
        ({"document_mask": True}, r"phases\.rl\.document_mask"),
        ({"prompt_weight": 0.5}, r"phases\.rl\.prompt_weight"),
    ],
)
def test_a_phase_that_contradicts_its_rollouts_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        rl(**{"data": rollouts()} | changes)


def test_an_evaluation_has_no_policy_gradient() -> None:
    with pytest.raises(RecipeError, match=r"loss: expected one of all_tokens, target_tokens"):
        Evaluation(data=CHAT, split="test", loss=wrong("policy_gradient"), seq_len=64, max_sequences=8)


def test_rollouts_start_their_data_and_nothing_branches_before_their_end() -> None:
    tuned = trunk(3).then(rl(rollouts()))
    with pytest.raises(RecipeError, match=r"data_positions: expected reset after a task"):
        tuned.then(phase(Mixture.only(GENERAL), 2))
    with pytest.raises(RecipeError, match=r"start_step: .* before the end of phase rl on task chat"):
        tuned.branch(start_step=2, data=Mixture.only(GENERAL), name="branch")
    after = tuned.then(phase(Mixture.only(GENERAL), 2, data_positions="reset"))
    assert after.stretches[-1].phase.data_positions == "reset"
    assert after.datasets_of(after.stretches[1]) == (CHAT,)


def test_two_neighbouring_phases_of_rollouts_stay_two() -> None:
    """The second begins its prompts again, so it is another training than one of double length."""
    twice = Curriculum.of(start(), rl(rollouts()), rl(rollouts(), optimizer_state="continue", schedule=None))
    assert len(twice.stretches) == 2


def test_a_generated_token_costs_a_third_more_than_one_that_is_read() -> None:
    model = start().model
    read, generated = sft(CHAT).flops_per_token(model), rl(rollouts()).flops_per_token(model)
    assert generated - read == pytest.approx(model.flops_per_token(seq_len=64) / 3)
