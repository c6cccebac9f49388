"""The id of a state is a hash of the training up to it, and of nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from builders.small_recipes import CODE, GENERAL, MATH, PYCODE, TOKENIZER, code_branch, phase, sft, source_of, start, trunk
from hypothesis import given
from hypothesis import strategies as st

from midstudy.recipe import (
    Anneal,
    Continued,
    Cosine,
    Curriculum,
    Exponential,
    HoldThenLinear,
    Linear,
    Mixture,
    MixtureRamp,
    Power,
    RecipeError,
    Sequential,
    State,
    WarmupStableDecay,
    piecewise,
)
from midstudy.recipe.canonical import added_field, canonical, canonical_text, expanded, identify, label_field
from midstudy.recipe.decode import decode
from midstudy.recipe.explain import differences


def ids(curriculum: Curriculum) -> list[str]:
    return [curriculum.state_id(step) for step in range(curriculum.num_steps + 1)]


def test_a_branch_shares_ids_with_the_trunk_only_up_to_where_it_leaves():
    whole, branch = trunk(), code_branch(trunk(), 6)
    assert ids(branch)[:7] == ids(whole)[:7]
    assert not set(ids(branch)[7:]) & set(ids(whole)[7:])


def test_a_branch_with_a_zero_weight_is_the_control():
    assert ids(code_branch(trunk(), 6, weight=0.0)) == ids(trunk())


@pytest.mark.parametrize("field", ["optimizer_state", "data_positions"])
def test_a_branch_where_a_phase_begins_takes_over_what_the_trunk_does_there(field: str):
    """A branch with the trunk's own data, taken where the second phase resets something, is the trunk itself."""
    second = phase(Mixture.only(GENERAL), 40, schedule=None, **{field: "reset"})
    whole = trunk(20).then(second)
    assert ids(whole.branch(start_step=20, data=Mixture.only(GENERAL), name="same")) == ids(whole)
    assert ids(whole.branch(start_step=30, data=Mixture.only(GENERAL), name="same")) == ids(whole)
    other = whole.branch(start_step=20, data=Mixture.blend(GENERAL, {CODE: 0.2}), name="code")
    assert getattr(other.stretches[1].phase, field) == "reset"


@pytest.mark.parametrize("start_step", [6, 60, 62])
def test_a_branch_before_the_end_of_fine_tuning_is_rejected(start_step: int):
    tuned = trunk().then(sft(PYCODE))
    message = rf"start_step: expected a step .*, got {start_step}, before the end of phase sft on task pycode"
    with pytest.raises(RecipeError, match=message):
        code_branch(tuned, start_step)


def test_equal_neighbouring_phases_are_merged():
    first = phase(Mixture.only(GENERAL), 20)
    second = phase(Mixture.only(GENERAL), 40, schedule=None)
    assert ids(Curriculum.of(start(), first, second)) == ids(trunk(60))


def test_a_phase_that_resets_something_is_not_merged():
    first = phase(Mixture.only(GENERAL), 20)
    for field in ("optimizer_state", "data_positions"):
        second = phase(Mixture.only(GENERAL), 40, schedule=None, **{field: "reset"})
        assert Curriculum.of(start(), first, second).state_id(60) != trunk(60).state_id(60)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (
            lambda: Curriculum.of(start(), phase(Mixture.only(GENERAL), 10), phase(Mixture.only(GENERAL), 10)),
            lambda: trunk(20),
        ),
        (
            lambda: trunk(10).then(phase(Mixture.only(GENERAL), 10, data_positions="reset")),
            lambda: trunk(10).then(phase(Mixture.only(GENERAL), 10, data_positions="reset", schedule=None)),
        ),
        (
            lambda: trunk(10).branch(start_step=0, data=Mixture.only(CODE), name="x"),
            lambda: trunk(10, data_positions="reset", optimizer_state="reset").branch(
                start_step=0, data=Mixture.only(CODE), name="y"
            ),
        ),
        (lambda: trunk(10, optimizer_state="reset"), lambda: trunk(10, optimizer_state="continue")),
    ],
    ids=["same rate twice", "same rate after a reset", "branch at step 0", "nothing to take over"],
)
def test_equivalent_curricula_have_equal_ids_and_recipes(left, right):
    assert ids(left()) == ids(right())
    assert left().state().text() == right().state().text()


def test_a_phase_with_zero_steps_changes_no_id():
    assert ids(Curriculum.of(start(), phase(Mixture.only(MATH), 0), phase(Mixture.only(GENERAL), 60))) == ids(trunk())
    from_start = trunk().branch(start_step=0, data=Mixture.only(CODE), name="midtrain")
    assert ids(from_start) == ids(Curriculum.of(start(), phase(Mixture.only(CODE), 60)))


def test_a_longer_run_at_a_constant_rate_changes_no_id():
    assert ids(trunk(90))[:61] == ids(trunk(60))


def test_stable_decay_runs_of_different_length_share_their_stable_part():
    def run(total_steps: int) -> Curriculum:
        schedule = WarmupStableDecay(peak_lr=1e-3, floor_lr=0.0, warmup_steps=5, decay_steps=20, total_steps=total_steps)
        return trunk(total_steps, schedule=schedule)

    short, long = ids(run(60)), ids(run(90))
    assert short[:41] == long[:41]  # the shorter one decays from step 40 on
    assert not set(short[41:]) & set(long[41:])


def test_a_cosine_depends_on_its_horizon_only_once_the_warmup_is_over():
    def run(total_steps: int) -> Curriculum:
        schedule = Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=6, total_steps=total_steps)
        return trunk(60, schedule=schedule)

    short, long = ids(run(60)), ids(run(90))
    assert short[:7] == long[:7]
    assert short[7] != long[7]


@given(cut=st.integers(1, 59), rest=st.integers(0, 30))
def test_ids_do_not_depend_on_where_a_curriculum_is_cut_or_how_it_continues(cut: int, rest: int):
    whole = code_branch(trunk(), 6)
    cut_short = whole.until(cut)
    extended = cut_short.then(sft(PYCODE, rest))
    assert ids(cut_short) == ids(whole)[: cut + 1] == ids(extended)[: cut + 1]
    assert cut_short.state().text() == whole.state(cut).text()


@pytest.mark.parametrize(
    "schedule",
    [
        Power(peak_lr=1e-3, warmup_steps=5, exponent=-0.5),
        Sequential(
            first=Power(peak_lr=1e-3, warmup_steps=5, exponent=-0.51), at_step=30, then=Exponential(half_life_steps=9)
        ),
    ],
)
def test_ids_under_an_open_ended_schedule_do_not_depend_on_what_follows(schedule):
    """With or without an anneal from step 40, the ids up to step 40 are the same."""
    annealed = trunk(40, schedule=schedule).then(
        phase(Mixture.only(GENERAL), 20, schedule=Anneal(floor_lr=0.0, num_steps=20, shape="linear"))
    )
    whole = trunk(60, schedule=schedule)
    assert ids(annealed)[:41] == ids(whole)[:41]
    assert not set(ids(annealed)[41:]) & set(ids(whole)[41:])


CODE_FIFTH = Mixture.blend(GENERAL, {CODE: 0.2})


def ramped(num_steps: int = 20, *, start_step: int = 10) -> Curriculum:
    """Return 60 steps whose mixture ramps from plain to one fifth code over `num_steps` steps from `start_step` on."""
    ramp = MixtureRamp(from_mixture=Mixture.only(GENERAL), to_mixture=CODE_FIFTH, num_steps=num_steps)
    return trunk().branch(start_step=start_step, data=ramp, name="ramp")


def test_the_length_of_a_ramp_changes_the_ids_inside_it_but_not_before_it():
    short, long = ids(ramped(20)), ids(ramped(30))
    assert short[:11] == long[:11] == ids(trunk())[:11]
    assert not set(short[11:]) & set(long[11:])


@given(start_step=st.integers(1, 59), mix=st.sampled_from([CODE_FIFTH, Mixture.blend(GENERAL, {MATH: 0.5})]))
def test_a_branch_inside_a_ramp_does_not_change_earlier_ids(start_step: int, mix: Mixture):
    whole = ramped(40)
    branch = whole.branch(start_step=start_step, data=mix, name="branch")
    assert ids(branch)[: start_step + 1] == ids(whole)[: start_step + 1]
    same = start_step >= 50 and mix == CODE_FIFTH  # after the ramp, the trunk has this mixture too
    assert (branch.state_id(60) == whole.state_id(60)) == same
    cut = whole.until(start_step)
    assert cut.state().text() == whole.state(start_step).text()


def test_a_ramp_is_read_back_exactly():
    state = ramped(40).state(33)
    read = decode(json.loads(json.dumps(state.expanded())))
    assert (read.id, read.text(), read.step) == (state.id, state.text(), 33)
    assert read.curriculum.stretches == state.recipe().curriculum.stretches


def test_decayed_parameters_are_part_of_the_id_and_all_is_the_omitted_default():
    every = trunk().stretches[0].phase.optimizer
    matrices = dataclasses.replace(every, decayed="matrices")
    assert "decayed" not in canonical_text(every)
    assert trunk(optimizer=matrices).state_id(60) != trunk(optimizer=every).state_id(60) == trunk().state_id(60)
    assert decode(expanded(matrices)) == matrices


GOLDEN_IDS = {
    "constant": ("757de16212a79969", "eb2659fc87e93640"),
    "cosine": ("980bfab925a3b2f0", "df835af53180966f"),
    "stable decay": ("9267d8256237904f", "cc7fd3bb3dd488da"),
}
"""Ids of a branch and of its fine-tuned state, at MODEL 3, ORDER 1, TOKENIZER 2 and TRAINING 3."""


def test_golden_ids():
    """Pinned: additions to recipes must not change these ids; raising a version in `versions.py` does, on purpose."""
    schedules = {
        "constant": trunk().stretches[0].phase.schedule,
        "cosine": Cosine(peak_lr=1e-3, floor_lr=1e-5, warmup_steps=6, total_steps=50),
        "stable decay": WarmupStableDecay(peak_lr=1e-3, floor_lr=1e-5, warmup_steps=6, decay_steps=20, total_steps=55),
    }
    now = {}
    for name, schedule in schedules.items():
        branch = code_branch(trunk(schedule=schedule), 13)
        now[name] = (branch.state_id(60), branch.then(sft(PYCODE)).state().id)
    assert now == GOLDEN_IDS


def test_every_field_of_a_phase_except_its_name_and_length_changes_the_id():
    base = trunk().state_id(60)
    changes: list[dict[str, Any]] = [
        {"num_sequences": 16},
        {"seq_len": 32},
        {"precision": "bf16_true"},
        {"seed": 1},
        {"optimizer": dataclasses.replace(trunk().stretches[0].phase.optimizer, weight_decay=0.0)},
        {"schedule": Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=0, total_steps=60)},
        {"order_version": 99},
        {"training_version": 99},
    ]
    seen = {base} | {trunk(**change).state_id(60) for change in changes}
    assert len(seen) == len(changes) + 1
    assert trunk(name="another name").state_id(60) == base


def test_revisions_of_data_change_ids_but_names_and_locations_do_not():
    elsewhere = dataclasses.replace(
        GENERAL, name="prose", source=dataclasses.replace(source_of(GENERAL), location="elsewhere", note="carved")
    )
    revised = dataclasses.replace(GENERAL, source=dataclasses.replace(source_of(GENERAL), revision="r2"))
    assert identify(elsewhere) == identify(GENERAL) != identify(revised)


def test_a_decoded_state_is_exactly_the_one_that_was_hashed():
    state = code_branch(trunk(), 6).then(sft(PYCODE)).state()
    read = decode(json.loads(json.dumps(state.expanded())))
    assert isinstance(read, State)
    assert (read.id, read.text(), read.step) == (state.id, state.text(), state.step)
    assert [read.curriculum.curve.lr(s) for s in range(65)] == [state.curriculum.curve.lr(s) for s in range(65)]


def test_the_recipe_of_a_state_holds_nothing_about_later_steps():
    long = trunk(60, schedule=WarmupStableDecay(peak_lr=1e-3, floor_lr=0.0, warmup_steps=5, decay_steps=20, total_steps=60))
    text = long.state(30).text()
    assert long.until(30).state().text() == text
    assert "60" not in text


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(peak_lr=1e-3, floor_lr=1e-5, warmup_steps=4, total_steps=50),
        HoldThenLinear(peak_lr=1e-3, floor_lr=0.0, hold_share="4/5", total_steps=57),
        WarmupStableDecay(peak_lr=1e-3, floor_lr=0.0, warmup_steps=5, decay_steps=20, total_steps=60, shape="1-sqrt"),
        Continued(schedule=Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=6, total_steps=90), from_step=30),
        Sequential(
            first=Power(peak_lr=1e-3, warmup_steps=5, exponent=-0.51),
            at_step=20,
            then=Sequential(
                first=Exponential(half_life_steps=7), at_step=20, then=Anneal(floor_lr=0.0, num_steps=9, shape="1-sqrt")
            ),
        ),
    ],
)
def test_every_schedules_curve_is_read_back_exactly(schedule):
    state = trunk(60, schedule=schedule).state()
    read = decode(json.loads(json.dumps(state.expanded())))
    assert (read.id, read.curriculum.curve) == (state.id, state.recipe().curriculum.curve)
    assert decode(expanded(schedule)) == schedule


@dataclasses.dataclass(frozen=True)
class Widget:
    size: float
    name: str = label_field(default="")
    colour: str = added_field(omit_at="grey")


def test_canonical_form_by_hand():
    assert canonical_text(Widget(1.0, "shown only")) == '{"is":"Widget","size":1}'
    assert canonical_text(Widget(0.5, colour="red")) == '{"colour":"red","is":"Widget","size":0.5}'
    assert expanded(Widget(1.0, "shown"))["name"] == "shown"
    assert identify({"a": 1}) == "015abd7f5cc57a2d"  # printf '{"a":1}' | sha256sum


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, len, object(), {1: "one"}, b"bytes"])
def test_values_without_a_stable_form_are_rejected_with_their_path(value: object):
    with pytest.raises(RecipeError, match=r"recipe\.outer\[1\]"):
        canonical({"outer": ["fine", value]})


def test_ids_are_the_same_in_another_process_with_another_hash_seed():
    code = "from builders.small_recipes import *; print(code_branch(trunk(), 6).then(sft(PYCODE)).state().id)"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert printed == {code_branch(trunk(), 6).then(sft(PYCODE)).state().id}


def test_explain_names_the_fields_that_differ():
    left = canonical(code_branch(trunk(), 6).state().recipe())
    right = canonical(code_branch(trunk(), 6, weight=0.5).state().recipe())
    differing = differences(left, right)
    assert [(d.left, d.right) for d in differing] == [("4/5", "1/2"), ("1/5", "1/2")]
    assert differing[1].path == "curriculum.stretches[1].phase.data.specialists[0].share"
    assert differences(left, left) == []


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: Mixture.blend(GENERAL, {CODE: 1.5}), "mixture.code"),
        (lambda: Mixture.blend(GENERAL, {CODE: -0.1}), "mixture.code"),
        (lambda: Mixture.blend(GENERAL, {CODE: 0.6, MATH: 0.6}), "mixture"),
        (lambda: code_branch(trunk(), 60), "start_step"),
        (lambda: code_branch(trunk(), -1), "start_step"),
        (lambda: trunk(schedule=None), "phases.pretrain.schedule"),
        (lambda: trunk(seq_len=65), "phases.pretrain.seq_len"),
        (lambda: trunk().then(phase(Mixture.only(CODE), 5, seed=7)), "phases.pretrain.seed"),
        (lambda: code_branch(trunk(), 6).then(phase(Mixture.only(CODE), 5)), "phases.pretrain.data"),
        (lambda: sft(PYCODE, data_positions="continue"), "phases.sft.data_positions"),
        (lambda: trunk().then(phase(Mixture.only(CODE), 5, seq_len=32)), "phases.pretrain.seq_len"),
        (lambda: dataclasses.replace(phase(CODE_FIFTH, 1).optimizer, decayed="none"), "optimizer.decayed"),
        (
            lambda: dataclasses.replace(phase(CODE_FIFTH, 1).optimizer, decayed="matrices", weight_decay=0),
            "optimizer.decayed",
        ),
        (lambda: dataclasses.replace(phase(CODE_FIFTH, 1).optimizer, beta1="x"), "optimizer.beta1"),  # type: ignore[arg-type]
        (lambda: dataclasses.replace(phase(CODE_FIFTH, 1).optimizer, beta2=math.nan), "optimizer.beta2"),
        (lambda: dataclasses.replace(phase(CODE_FIFTH, 1).optimizer, weight_decay=math.nan), "optimizer.weight_decay"),
        (lambda: dataclasses.replace(phase(CODE_FIFTH, 1).optimizer, clip_norm=math.inf), "optimizer.clip_norm"),
        (lambda: dataclasses.replace(phase(CODE_FIFTH, 1).optimizer, epsilon=None), "optimizer.epsilon"),  # type: ignore[arg-type]
        (lambda: trunk(optimizer="adamw"), "phases.pretrain.optimizer"),
        (lambda: sft(PYCODE, loss="target_tokens", prompt_weight="x"), "phases.sft.prompt_weight"),
        (lambda: sft(PYCODE, loss="target_tokens", prompt_weight=math.nan), "phases.sft.prompt_weight"),
        (lambda: dataclasses.replace(TOKENIZER, vocab_size=100), "tokenizer.vocab_size"),
    ],
)
def test_an_invalid_recipe_is_rejected_with_the_path_of_its_field(build, path: str):
    with pytest.raises(RecipeError) as raised:
        build()
    assert raised.value.path == path


def test_an_error_about_data_of_the_wrong_type_shows_only_the_type():
    """The `repr` of a data set would fill the screen."""
    for build, kind in [
        (lambda: phase(GENERAL, 5), "Corpus"),
        (lambda: phase(trunk(), 5), "Curriculum"),
        (lambda: piecewise(sft(PYCODE), [(0.5, CODE_FIFTH)]), "Task"),
    ]:
        with pytest.raises(RecipeError, match=rf"^phases\.\w+\.data: expected \w.*, got a value of type {kind}\."):
            build()


def test_a_change_of_sequence_length_needs_a_reset_of_data_positions():
    """Blocks of a different length hold different text; the error says so and how to fix it."""
    longer = phase(Mixture.only(GENERAL), 20, seq_len=32, schedule=None)
    with pytest.raises(RecipeError, match=r'data positions continue.*Set data_positions="reset" to start a new data order'):
        trunk().then(longer)
    extended = trunk().then(dataclasses.replace(longer, data_positions="reset"))
    assert [placed.phase.seq_len for placed in extended.stretches] == [64, 32]
    assert ids(extended)[:61] == ids(trunk())
