"""A choice hashes its rule and not its outcome; the best finite value wins; a decided recipe is the plain one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from builders.small_recipes import GENERAL, PYCODE, phase, sft, trunk, wrong
from hypothesis import assume, given
from hypothesis import strategies as st

from midstudy.recipe import (
    Anneal,
    Arm,
    Average,
    Choice,
    Chosen,
    Constant,
    Cosine,
    Curriculum,
    Evaluation,
    Exponential,
    HoldThenLinear,
    Linear,
    LinearWarmup,
    Mixture,
    Power,
    RecipeError,
    Sequential,
    Start,
    WarmupStableDecay,
)
from midstudy.recipe.canonical import canonical_text, expanded
from midstudy.recipe.choice import Decidable, chosen_in, with_outcomes
from midstudy.recipe.decode import decode
from midstudy.recipe.measure import Metric
from midstudy.recipe.study import choices_of

RATES = (3e-4, 1e-3, 3e-3)
DEV = Evaluation(data=PYCODE, split="dev", loss="all_tokens", seq_len=64, max_sequences=8)
TRUNK = trunk(10)


def tuned(peak_lr: Decidable, run: Curriculum = TRUNK) -> Curriculum:
    return run.then(sft(PYCODE, schedule=Cosine(peak_lr=peak_lr, floor_lr=0.0, warmup_steps=1, total_steps=5)))


def choice(rates: tuple[float, ...] = RATES, *, evaluation: Evaluation = DEV, name: str = "sft_peak_lr") -> Choice:
    return Choice.between(name, {rate: tuned(rate).state() for rate in rates}, evaluation=evaluation)


# -- what wins --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Accuracy(Evaluation):
    """An evaluation whose metric is better when it is higher."""

    METRICS: ClassVar[tuple[Metric, ...]] = (Metric(name="accuracy", unit="share", better="higher"),)


MEASURED = st.lists(st.one_of(st.floats(), st.sampled_from([1.0, 2.0])), min_size=3, max_size=3)


@given(MEASURED)
def test_the_first_of_the_lowest_finite_losses_wins(measured: list[float]):
    assume(np.isfinite(measured).any())
    expected = int(np.argmin(np.where(np.isfinite(measured), measured, math.inf)))
    assert choice().best(measured) == expected


@given(MEASURED)
def test_the_first_of_the_highest_finite_values_wins_where_higher_is_better(measured: list[float]):
    assume(np.isfinite(measured).any())
    dev = Accuracy(**{field.name: getattr(DEV, field.name) for field in dataclasses.fields(DEV)})
    by_accuracy = Choice(name="lr", options=choice().options, evaluation=dev, metric="accuracy")
    assert by_accuracy.rule == "highest"
    assert by_accuracy.best(measured) == int(np.argmax(np.where(np.isfinite(measured), measured, -math.inf)))


@pytest.mark.parametrize("measured", [[math.nan] * 3, [math.inf, math.nan, -math.inf]])
def test_without_a_finite_value_the_choice_is_refused_by_name(measured: list[float]):
    expected = r"choice sft_peak_lr: expected a finite loss_nats on pycode dev for at least one of 0\.0003, 0\.001, 0\.003"
    with pytest.raises(ValueError, match=expected):
        choice().best(measured)


# -- ids --------------------------------------------------------------------------------------------------------------


def test_ids_are_recorded():
    """Pinned: a change of recipes must not change them; raising a version in `versions.py` does, on purpose."""
    made = choice()
    assert (made.id, tuned(Chosen(made)).state().id) == ("22877b4f7d4ed42c", "ae888249481f6ee3")


@given(st.sampled_from((None, *RATES)))
def test_the_outcome_changes_no_id_and_the_canonical_form_does_not_show_it(value: float | None):
    plain = tuned(Chosen(choice()))
    decided = with_outcomes(plain, lambda one: value)
    assert [decided.state_id(step) for step in range(16)] == [plain.state_id(step) for step in range(16)]
    assert canonical_text(decided) == canonical_text(plain)


def test_only_states_that_use_a_decided_rate_depend_on_the_rule():
    """The id of the trunk's last state is shared; each state of the decided phase differs from every candidate's."""
    decided = tuned(Chosen(choice()))
    assert decided.state_id(10) == TRUNK.state_id(10)
    assert decided.until(10).choices == ()
    assert [one.name for one in decided.until(11).choices] == ["sft_peak_lr"]
    for rate in RATES:
        assert decided.state_id(11) != tuned(rate).state_id(11)


@pytest.mark.parametrize(
    "other",
    [
        lambda: choice((3e-4, 1e-3)),
        lambda: choice((1e-3, 3e-4, 3e-3)),  # of equal values the first one wins
        lambda: choice(evaluation=dataclasses.replace(DEV, max_sequences=9)),
        lambda: Choice.between("sft_peak_lr", {rate: tuned(rate, trunk(9)).state() for rate in RATES}, evaluation=DEV),
    ],
    ids=["options", "order", "evaluation", "candidates"],
)
def test_the_rule_changes_the_id(other: Callable[[], Choice]):
    assert other().id != choice().id
    assert tuned(Chosen(other())).state().id != tuned(Chosen(choice())).state().id


def test_the_name_is_for_display():
    assert choice(name="rate").id == choice().id


def test_two_decided_phases_of_one_choice_merge_like_plain_ones():
    hold = phase(Mixture.only(GENERAL), 4, schedule=Constant(lr=Chosen(choice())))
    assert len(TRUNK.then(hold).then(hold).stretches) == len(TRUNK.then(dataclasses.replace(hold, num_steps=8)).stretches)
    assert TRUNK.then(hold).then(hold).state().id == TRUNK.then(dataclasses.replace(hold, num_steps=8)).state().id


# -- the decided recipe -----------------------------------------------------------------------------------------------

SCHEDULES: dict[str, Callable[[Decidable], Any]] = {
    "constant": lambda lr: Constant(lr=lr),
    "warmup": lambda lr: LinearWarmup(peak_lr=lr, warmup_steps=2),
    "warmup from": lambda lr: LinearWarmup(peak_lr=0.5, from_lr=lr, warmup_steps=2),
    "linear": lambda lr: Linear(peak_lr=lr, floor_lr=1e-5, warmup_steps=1, total_steps=9),
    "cosine": lambda lr: Cosine(peak_lr=lr, floor_lr=0.0, warmup_steps=1, total_steps=9),
    "floor": lambda lr: Cosine(peak_lr=0.5, floor_lr=lr, warmup_steps=1, total_steps=9),
    "stable": lambda lr: WarmupStableDecay(peak_lr=lr, floor_lr=0.0, warmup_steps=1, decay_steps=3, total_steps=9),
    "1-sqrt": lambda lr: WarmupStableDecay(
        peak_lr=lr, floor_lr=0.0, warmup_steps=1, decay_steps=3, total_steps=9, shape="1-sqrt"
    ),
    "power": lambda lr: Power(peak_lr=lr, warmup_steps=2, exponent=-0.5),
    "sequential": lambda lr: Sequential(first=LinearWarmup(peak_lr=lr, warmup_steps=2), at_step=4, then=Constant(lr=1e-4)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("value", RATES)
def test_decided_rates_equal_those_of_the_plain_recipe_to_the_bit(schedule: str, value: float):
    def run(lr: Decidable) -> Curriculum:
        return TRUNK.then(sft(PYCODE, 9, schedule=SCHEDULES[schedule](lr)))

    read = decode(run(Chosen(choice())).state().expanded())  # as a job reads it
    decided = with_outcomes(read, lambda one: value).curriculum.curve
    assert [decided.lr(step) for step in range(19)] == [run(value).curve.lr(step) for step in range(19)]
    assert decided.is_decided
    assert not read.curriculum.curve.is_decided


def test_a_file_holds_the_rule_and_the_outcome_but_not_the_candidates():
    state = tuned(Chosen(choice())).state()
    read = decode(with_outcomes(state, lambda one: 1e-3).expanded())
    assert read.id == state.id
    assert [chosen.value for chosen in chosen_in(read.curriculum.curve)] == [1e-3, 1e-3]  # warmup and decay
    assert read.curriculum.choices == state.curriculum.choices
    assert read.curriculum.choices[0].candidates == ()
    assert decode(expanded(choice())).id == choice().id


def test_a_recipe_without_choices_is_returned_as_it_is():
    state = tuned(1e-3).state()
    assert with_outcomes(state, lambda one: pytest.fail("asked")) is state


def test_an_open_rate_cannot_be_read():
    with pytest.raises(RecipeError, match=r"choices\.sft_peak_lr: expected a decided value, got an open choice"):
        tuned(Chosen(choice())).curve.lr(12)


def test_choices_of_averaged_runs_are_found():
    mean = Average.of(tuned(Chosen(choice())).state(), tuned(Chosen(choice()), trunk(10, seed=1)).state())
    run = Curriculum.of(Start.averaged(mean), phase(Mixture.only(GENERAL), 3))
    assert run.choices == ()
    assert [one.name for one in choices_of(run)] == ["sft_peak_lr"]
    assert len(choices_of(run)[0].candidates) == 3
    decided = with_outcomes(run, lambda one: 1e-3)
    assert decided.state().id == run.state().id


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Anneal(floor_lr=0.0, num_steps=3, shape="linear"), Exponential(half_life_steps=2)])
def test_a_schedule_cannot_start_from_an_open_rate(schedule: Any):
    held = TRUNK.then(phase(Mixture.only(GENERAL), 3, schedule=Constant(lr=Chosen(choice()))))
    with pytest.raises(RecipeError, match=r"phases\.decay\.choices\.sft_peak_lr: expected a decided value"):
        held.then(phase(Mixture.only(GENERAL), 3, name="decay", schedule=schedule))


@pytest.mark.parametrize("field", ["peak_lr", "floor_lr"])
def test_a_schedule_that_computes_with_a_rate_needs_a_number(field: str):
    fields: dict[str, Any] = {"peak_lr": 0.1, "floor_lr": 0.0, "hold_share": 0.5, "total_steps": 9, field: Chosen(choice())}
    with pytest.raises(RecipeError, match=rf"schedule\.{field}: expected a number.* got a rate that sft_peak_lr decides"):
        HoldThenLinear(**fields)


def test_every_option_must_fit_the_schedule():
    with pytest.raises(RecipeError, match=r"schedule\.floor_lr: expected at most peak_lr \(0\.0003\)"):
        Cosine(peak_lr=Chosen(choice()), floor_lr=5e-4, warmup_steps=1, total_steps=5)


def test_a_rate_above_one_is_refused_in_every_option():
    two = Choice.between("lr", {0.5: tuned(1e-3).state(), 2.0: tuned(3e-3).state()}, evaluation=DEV)
    with pytest.raises(RecipeError, match=r"schedule\.peak_lr: expected a learning rate"):
        Cosine(peak_lr=Chosen(two), floor_lr=0.0, warmup_steps=1, total_steps=5)


def test_a_choice_never_reads_the_test_split():
    with pytest.raises(RecipeError, match=r"choices\.sft_peak_lr\.evaluation\.split: expected dev or train.* got test"):
        choice(evaluation=dataclasses.replace(DEV, split="test"))


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ({1e-3: tuned(1e-3).state()}, "at least two options"),
        ({1e-3: tuned(1e-3).state(), 3e-3: tuned(1e-3).state()}, "a different state in each option"),
        ({1e-3: TRUNK.state(0), 3e-3: tuned(3e-3).state()}, "a state after at least one step"),
    ],
)
def test_options_that_cannot_be_compared_are_refused(tried: Any, expected: str):
    with pytest.raises(RecipeError, match=expected):
        Choice.between("sft_peak_lr", tried, evaluation=DEV)


def test_unknown_metrics_names_and_outcomes_are_refused():
    with pytest.raises(RecipeError, match=r"metric: expected one of loss_nats, got accuracy"):
        Choice.between("lr", {rate: tuned(rate).state() for rate in RATES}, evaluation=DEV, metric="accuracy")
    with pytest.raises(RecipeError, match=r"choice\.name: expected a name of lower-case letters"):
        choice(name="Peak LR")
    with pytest.raises(RecipeError, match=r"value: expected one of 0\.0003, 0\.001, 0\.003, got 0\.1"):
        Chosen(choice(), 0.1)
    with pytest.raises(RecipeError, match=r"chosen\.choice: expected a Choice"):
        Chosen(wrong(1e-3))


def test_two_choices_of_an_arm_need_two_names():
    run = TRUNK.then(phase(Mixture.only(GENERAL), 3, schedule=Constant(lr=Chosen(choice((1e-3, 3e-3))))))
    with pytest.raises(RecipeError, match=r"arm\.choices: expected a different name for each choice"):
        Arm(curriculum=tuned(Chosen(choice()), run), measures={})
