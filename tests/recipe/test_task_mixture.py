"""Mixtures of tasks as recipes: what they accept, what enters ids, and how a phase and a packing hold them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders.small_recipes import GENERAL, PYCODE, TOKENIZER, WORDS, phase, sft, start, task, trunk

from midstudy.recipe import Curriculum, Mixture, Packing, Phase, PiecewiseLinear, RecipeError, TaskMixture, TaskPart
from midstudy.recipe.canonical import expanded, identify
from midstudy.recipe.decode import decode
from midstudy.recipe.schedule import HoldThenLinear

PARTS = (TaskPart(task=PYCODE), TaskPart(task=WORDS, repeats=2))


def mixed(data: TaskMixture, **changes: Any) -> Phase:
    return phase(data, 10, **({"name": "mid", "optimizer_state": "reset", "data_positions": "reset"} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ()}, r"parts: expected at least one task, each once and with its own name, got nothing"),
        ({"parts": (PARTS[0], PARTS[0])}, r"parts: expected .*, got pycode, pycode\. repeats=2 gives the items"),
        (
            {"parts": (PARTS[0], TaskPart(task=replace(PYCODE, name="other")))},
            r"parts: expected .* each once and with its own name, got pycode",
        ),
        ({"parts": [PARTS[0]]}, r"parts: expected a tuple of TaskPart, got a value of type list"),
        ({"parts": (PYCODE,)}, r"parts: expected a TaskPart, got a value of type Task"),
        ({"order": "random"}, r"order: expected one of shuffled, sequential, got random"),
        ({"packing": "bins"}, r"packing: expected one of stream, best_fit, rows, got bins"),
        ({"packing": "rows", "streams": 2}, r"streams: expected 1 with packing rows, got 2"),
        ({"streams": 0}, r"streams: expected a whole number of streams, at least 1, got 0"),
        ({"num_epochs": 0.5}, r"num_epochs: expected a whole number of epochs, at least 1, got 0\.5"),
    ],
    ids=str,
)
def test_a_wrong_mixture_is_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"task_mixture\.{message}"):
        TaskMixture(**({"parts": PARTS} | changes))
    with pytest.raises(RecipeError, match=r"task_mixture\.pycode\.repeats: expected a whole number of times an epoch"):
        TaskPart(task=PYCODE, repeats=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_positions": "continue"}, r"data_positions: expected reset for tasks"),
        ({"document_mask": True}, r"document_mask: expected False for tasks"),
        ({"loss": "target_tokens", "prompt_weight": 0.5}, r"prompt_weight: expected 0 with a mixture of tasks, got 0\.5"),
        ({"num_sequences": 6}, r"num_sequences: expected a multiple of the 4 streams of the task mixture, got 6"),
        ({"loss": "some"}, r"loss: expected one of"),
    ],
    ids=str,
)
def test_a_phase_rejects_what_a_mixture_of_tasks_cannot_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"phases\.mid\.{message}"):
        mixed(TaskMixture(parts=PARTS, streams=4), **changes)
    assert mixed(TaskMixture(parts=PARTS, streams=4), loss="target_tokens").datasets == (PYCODE, WORDS)


def test_one_item_a_row_is_tuning_and_a_packed_mixture_is_not() -> None:
    tuned = {name: mixed(TaskMixture(parts=PARTS, packing=name)).is_tuning for name in ("stream", "best_fit", "rows")}
    assert tuned == {"stream": False, "best_fit": False, "rows": True}
    assert sft(PYCODE).is_tuning
    assert not phase(Mixture.only(GENERAL), 3).is_tuning


def test_a_branch_and_a_continued_corpus_do_not_follow_a_mixture_of_tasks() -> None:
    whole = trunk(10).then(mixed(TaskMixture(parts=PARTS)))
    with pytest.raises(RecipeError, match=r"start_step: expected a step after which the trunk is not fine-tuned"):
        whole.branch(start_step=5, data=Mixture.only(GENERAL), name="other")
    with pytest.raises(RecipeError, match=r"data_positions: expected reset after a task, got continue"):
        whole.then(phase(Mixture.only(GENERAL), 5, schedule=None))
    assert whole.datasets_of(whole.stretches[-1]) == (PYCODE, WORDS)


def test_every_field_but_the_number_of_epochs_changes_the_ids_of_states() -> None:
    """The batches of one epoch are the first batches of two, so the states of its steps are the same."""
    data = TaskMixture(parts=PARTS, streams=2)
    variants = {
        "order": replace(data, order="sequential"),
        "packing": replace(data, packing="best_fit", streams=1),
        "streams": replace(data, streams=4),
        "repeats": replace(data, parts=(PARTS[0], replace(PARTS[1], repeats=3))),
        "part": replace(data, parts=(PARTS[0], TaskPart(task=task("other"), repeats=2))),
        "version": replace(data, packing_version=data.packing_version + 1),
    }
    states = {name: trunk(10).then(mixed(one)).state_id(20) for name, one in ({"": data} | variants).items()}
    assert len(set(states.values())) == len(states)
    longer = replace(data, num_epochs=2)
    assert trunk(10).then(mixed(longer)).state_id(20) == states[""]


def test_a_packing_is_that_of_its_phase_and_its_number_of_epochs_is_in_its_id() -> None:
    data = TaskMixture(parts=PARTS)
    packing = Packing(mixture=data, tokenizer=TOKENIZER, seq_len=64, num_sequences=8, seed=0)
    assert Packing.of(mixed(data), TOKENIZER) == packing
    longer = Packing.of(mixed(replace(data, num_epochs=2)), TOKENIZER)
    assert longer.num_epochs == 2
    changed = [replace(packing, seq_len=16), replace(packing, num_sequences=16), replace(packing, seed=16)]
    assert len({one.id for one in (packing, longer, *changed)}) == 5
    assert [one.data for one in packing.tokenized] == [PYCODE, WORDS]
    with pytest.raises(RecipeError, match=r"packing\.num_epochs: expected 1, as in the mixture, got 2"):
        replace(packing, num_epochs=2)
    with pytest.raises(RecipeError, match=r"packing\.num_sequences: expected a multiple of the 3 streams"):
        replace(packing, mixture=replace(data, streams=3))
    with pytest.raises(RecipeError, match=r"phases\.sft\.data: expected a TaskMixture, got a value of type Task"):
        Packing.of(sft(PYCODE), TOKENIZER)


def test_recipes_survive_their_json() -> None:
    data = TaskMixture(parts=PARTS, order="sequential", streams=2, num_epochs=3)
    schedule = PiecewiseLinear(knots=((0, 1e-3), (6, 1e-3), (10, 0.0)))
    for recipe in (Packing.of(mixed(data), TOKENIZER), mixed(data, schedule=schedule)):
        again = decode(expanded(recipe))
        assert again == recipe
        assert identify(again) == identify(recipe)


def test_a_piecewise_linear_rate_goes_through_its_knots() -> None:
    curve = PiecewiseLinear(knots=((0, 0.1), (4, 0.1), (6, 0.04), (10, 0.0))).curve()
    rates = [0.1, 0.1, 0.1, 0.1, 0.1, 0.07, 0.04, 0.03, 0.02, 0.01, 0.0, 0.0]
    assert [curve.lr(step) for step in range(12)] == pytest.approx(rates)
    held = HoldThenLinear(peak_lr=0.1, floor_lr=0.0, hold_share="4/10", total_steps=10)
    assert PiecewiseLinear(knots=((0, 0.1), (4, 0.1), (10, 0.0))).curve() == held.curve()
    assert PiecewiseLinear(knots=((0, 0.1),)).curve().lr(99) == 0.1
    for knots in ((), ((1, 0.1),), ((0, 0.1), (0, 0.2))):
        with pytest.raises(RecipeError, match=r"schedule\.knots: expected growing steps, the first of them 0"):
            PiecewiseLinear(knots=knots)
    with pytest.raises(RecipeError, match=r"schedule\.knots: expected a learning rate of at least 0"):
        PiecewiseLinear(knots=((0, -0.1),))


def test_a_start_and_a_curriculum_take_a_mixture_first() -> None:
    curriculum = Curriculum.of(start(), mixed(TaskMixture(parts=PARTS)))
    assert curriculum.num_steps == 10
