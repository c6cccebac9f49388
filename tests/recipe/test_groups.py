"""Parameter groups of the optimizer: each selection in exactly one, one id for equal training, and what may continue."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders.small_recipes import CODE, GENERAL, phase, start, trunk, with_muon, wrong
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from midstudy.plan.cost import checkpoint_bytes
from midstudy.plan.dose import dose
from midstudy.plan.matched import Branching, matched
from midstudy.recipe import AdamW, Curriculum, Group, HoldThenLinear, Mixture, Muon, RecipeError, pythia
from midstudy.recipe.canonical import canonical_text, expanded, identify
from midstudy.recipe.decode import decode
from midstudy.recipe.optimizer import SELECTIONS
from midstudy.train.muon import orthogonalised

MUON = Muon(momentum=0.95, warm_from=0.85, warm_updates=300)


def groups(**changes: dict[str, Any]) -> tuple[Group, ...]:
    """Return a group for each selection with the rate 0.1; `changes` are fields by selection."""
    fields: dict[str, dict[str, Any]] = {name: {"select": name, "lr_factor": 0.1} for name in SELECTIONS}
    return tuple(Group(**(fields[name] | changes.get(name, {}))) for name in SELECTIONS)


def adamw(**changes: Any) -> AdamW:
    return AdamW(**({"beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0} | changes))


def test_an_optimizer_without_groups_has_the_text_that_it_had_before_groups_existed() -> None:
    assert json.loads(canonical_text(adamw())) == {
        "is": "AdamW",
        "beta1": 0.8,
        "beta2": 0.95,
        "clip_norm": 1,
        "epsilon": 1e-8,
        "weight_decay": 0.1,
    }


def test_ids_with_groups_are_recorded() -> None:
    assert identify(with_muon(768)) == "f3c7d77fd4e9937f"
    assert trunk(60, optimizer=with_muon(768)).state().id == "b79e649fb196e47f"


@given(st.permutations(groups(matrices={"rule": MUON}, head={"weight_decay": 0.0})))
def test_the_order_of_groups_does_not_change_the_id(order: list[Group]) -> None:
    expected = adamw(groups=groups(matrices={"rule": MUON}, head={"weight_decay": 0.0}))
    assert adamw(groups=tuple(order)) == expected
    assert [group.select for group in adamw(groups=tuple(order)).groups] == list(SELECTIONS)


@pytest.mark.parametrize("name", ["beta1", "beta2", "epsilon", "weight_decay"])
def test_a_number_that_equals_the_optimizers_is_the_same_training(name: str) -> None:
    explicit = adamw(groups=groups(head={name: getattr(adamw(), name)}))
    assert identify(explicit) == identify(adamw(groups=groups()))
    other = adamw(groups=groups(head={name: 0.5}))
    assert identify(other) != identify(explicit)
    assert other.numbers_of(other.groups[1])[name] == 0.5
    assert explicit.numbers_of(explicit.groups[1])[name] == getattr(adamw(), name)


@pytest.mark.parametrize(
    "changed",
    [
        groups(vectors={"lr_factor": 0.2}),
        groups(matrices={"rule": MUON}),
        groups(matrices={"rule": dataclasses.replace(MUON, momentum=0.9)}),
        groups(matrices={"rule": dataclasses.replace(MUON, warm_from=0.8)}),
        groups(matrices={"rule": dataclasses.replace(MUON, warm_updates=200)}),
        groups(matrices={"rule": dataclasses.replace(MUON, version=MUON.version + 1)}),
    ],
)
def test_rates_and_rules_are_part_of_the_id(changed: tuple[Group, ...]) -> None:
    others = (groups(), groups(matrices={"rule": MUON}))
    ids = {identify(adamw(groups=each)) for each in (*others, changed)}
    assert len(ids) == (2 if changed in others else 3)


def test_a_store_gives_back_the_recipe_that_it_was_given() -> None:
    optimizer = with_muon(weight_decay=0.1)
    assert decode(json.loads(json.dumps(expanded(optimizer)))) == optimizer


@pytest.mark.parametrize(
    ("build", "path", "words"),
    [
        (lambda: adamw(groups=groups()[:3]), "optimizer.groups", "got no group for vectors"),
        (lambda: adamw(groups=(*groups(), groups()[1])), "optimizer.groups", "got 2 groups for head"),
        (lambda: adamw(groups=wrong("matrices")), "optimizer.groups", "a tuple of Group"),
        (lambda: adamw(groups=wrong(("matrices",))), "optimizer.groups", "a tuple of Group"),
        (lambda: adamw(groups=groups(), decayed="matrices"), "optimizer.decayed", "Set the weight_decay of each group"),
        (lambda: groups(head={"select": "heads"}), "optimizer.groups.select", "one of embedding, head, matrices, vectors"),
        (lambda: groups(head={"lr_factor": -0.1}), "optimizer.groups.head.lr_factor", "at least 0"),
        (lambda: groups(head={"lr_factor": wrong(None)}), "optimizer.groups.head.lr_factor", "a number"),
        (lambda: groups(head={"beta2": 1.0}), "optimizer.groups.head.beta2", "in [0, 1)"),
        (lambda: groups(head={"epsilon": -1.0}), "optimizer.groups.head.epsilon", "at least 0"),
        (lambda: groups(head={"rule": MUON}), "optimizer.groups.head.rule", "Muon is for matrices"),
        (lambda: groups(matrices={"rule": "muon"}), "optimizer.groups.matrices.rule", "None for AdamW, or Muon"),
        (lambda: groups(matrices={"rule": MUON, "beta1": 0.9}), "optimizer.groups.matrices.beta1", "None with Muon"),
        (lambda: dataclasses.replace(MUON, momentum=1.0), "optimizer.groups.matrices.rule.momentum", "in [0, 1)"),
        (lambda: dataclasses.replace(MUON, warm_updates=0), "optimizer.groups.matrices.rule.warm_from", "warm_updates 0"),
        (lambda: dataclasses.replace(MUON, warm_from=0.95), "optimizer.groups.matrices.rule.warm_from", "same weights"),
        (
            lambda: dataclasses.replace(MUON, warm_updates=wrong(1.5)),
            "optimizer.groups.matrices.rule.warm_updates",
            "a whole number",
        ),
    ],
)
def test_an_invalid_group_is_rejected_with_the_path_of_its_field(build: Callable[[], Any], path: str, words: str) -> None:
    with pytest.raises(RecipeError) as raised:
        build()
    assert raised.value.path == path
    assert words in str(raised.value)


# -- the curve as a multiplier ----------------------------------------------------------------------------------------


def test_rates_are_nanochats_initial_rates_times_its_multiplier() -> None:
    """`lr = initial_lr * lrm`, with lrm 1 below 80 % of the steps, 0.75 at 85 %, 0 at the end; all of d12, 768 wide."""
    curve = HoldThenLinear(peak_lr=1.0, floor_lr=0.0, hold_share=0.8, total_steps=1_000).curve()
    initial = {"lr_embedding": 0.2, "lr_head": 0.004, "lr_matrices": 0.02}
    for step, lrm in ((0, 1.0), (800, 1.0), (850, 0.75), (1_000, 0.0)):
        rates = with_muon(768).rates(curve.lr(step))
        assert rates.pop("lr") == pytest.approx(lrm, abs=1e-12)
        assert {name: rates[name] for name in initial} == pytest.approx({name: lrm * rate for name, rate in initial.items()})
    assert adamw().rates(0.3) == {"lr": 0.3}


def test_rates_of_embedding_and_head_fall_with_the_root_of_the_width() -> None:
    by_width = {width: with_muon(width).rates(1.0) for width in (768, 3_072)}
    for name, ratio in {"lr_embedding": 0.5, "lr_head": 0.5, "lr_matrices": 1.0}.items():
        assert by_width[3_072][name] / by_width[768][name] == pytest.approx(ratio)


# -- what continues ---------------------------------------------------------------------------------------------------


def followed(before: AdamW, after: AdamW, optimizer_state: str) -> Curriculum:
    later = phase(Mixture.only(GENERAL), 5, name="mid", optimizer=after, optimizer_state=optimizer_state)
    return trunk(5, optimizer=before).then(later)


@pytest.mark.parametrize(("before", "after"), [(adamw(), with_muon()), (with_muon(), adamw(groups=groups()))])
def test_a_phase_cannot_continue_the_optimizer_state_of_another_rule(before: AdamW, after: AdamW) -> None:
    with pytest.raises(
        RecipeError, match=r'as in phase pretrain, while the optimizer .*Set optimizer_state="reset"'
    ) as raised:
        followed(before, after, "continue")
    assert raised.value.path == "phases.mid.optimizer"
    assert followed(before, after, "reset").num_steps == 10


def test_a_phase_may_continue_with_other_numbers_of_the_same_rule() -> None:
    assert len(followed(adamw(), adamw(groups=groups()), "continue").stretches) == 2
    slower = with_muon(groups=groups(matrices={"rule": dataclasses.replace(MUON, momentum=0.9)}))
    assert len(followed(with_muon(), slower, "continue").stretches) == 2
    assert len(trunk(10, optimizer=with_muon()).branch(start_step=5, data=Mixture.only(CODE), name="mid").stretches) == 2


def test_rates_of_different_groups_have_no_sum_so_the_dose_is_open() -> None:
    one = followed(with_muon(), with_muon(clip_norm=0.0), "reset")
    assert dose(one) == {"general": 1.0}
    assert matched(one, Branching(start_step=2, share=0.1), on="lr_dose", share=0.1).start_step == 2
    for other in (adamw(), with_muon(width=128), adamw(groups=with_muon(groups=groups()).groups)):
        mixed = followed(with_muon(), other, "reset")
        assert dose(mixed) == {"general": None}
        with pytest.raises(RecipeError, match=r"matched\.on: expected tokens for a trunk"):
            matched(mixed, Branching(start_step=2, share=0.1), on="lr_dose", share=0.1)
        assert matched(mixed, Branching(start_step=2, share=0.1), on="tokens", share=0.1).start_step == 2


# -- cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["nano", "70m"])
def test_flops_of_an_update_are_those_that_torch_counts(size: str) -> None:
    model = pythia(size)
    width = model.width
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        for number, rows, columns in ((3, width, width), (1, width, width), (1, 4 * width, width), (1, width, 4 * width)):
            orthogonalised(torch.empty(number, rows, columns))
    assert with_muon(width).flops_per_update(model) == model.num_layers * counter.get_total_flops()
    assert adamw(groups=groups()).flops_per_update(model) == 0


def test_flops_of_updates_are_spread_over_the_tokens_of_a_step() -> None:
    model = start().model
    with_adamw, muon = (phase(Mixture.only(GENERAL), 5, optimizer=optimizer) for optimizer in (adamw(), with_muon()))
    assert with_adamw.flops_per_token(model) == model.flops_per_token(seq_len=64)
    per_step = (muon.flops_per_token(model) - with_adamw.flops_per_token(model)) * 8 * 64
    assert per_step == pytest.approx(with_muon().flops_per_update(model))


def test_muon_keeps_one_moment_of_a_matrix() -> None:
    model = pythia("70m")
    sizes = [checkpoint_bytes(model, precision="fp32", optimizer=each) for each in (None, adamw(), with_muon(512))]
    assert sizes[0] == 4 * 70_426_624
    assert sizes[1] == 3 * sizes[0]
    assert sizes[1] - sizes[2] == 4 * 6 * 12 * 512**2
