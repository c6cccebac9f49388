"""Mixtures that change with progress: ramps, and phases made from points."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from builders.small_recipes import CODE, GENERAL, MATH, code_branch, corpus, phase, start, trunk, wrong

from midstudy.recipe import Curriculum, Mixture, MixtureRamp, RecipeError, interpolated, piecewise

PLAIN = Mixture.only(GENERAL)
CODE_FIFTH = Mixture.blend(GENERAL, {CODE: 0.2})
MATH_HALF = Mixture.blend(GENERAL, {MATH: 0.5})


def ramp(num_steps: int, before: Mixture = PLAIN, after: Mixture = CODE_FIFTH) -> MixtureRamp:
    return MixtureRamp(from_mixture=before, to_mixture=after, num_steps=num_steps)


def ids(curriculum: Curriculum) -> list[str]:
    return [curriculum.state_id(step) for step in range(curriculum.num_steps + 1)]


def test_a_ramp_draws_the_mean_of_its_ends():
    """Over 4 steps from 0 to 1/5: means of 0 to 1/20, 1/20 to 2/20, …, that is 1/40, 3/40, 5/40 and 7/40."""
    over = [num_steps * ramp(4).mean_share(CODE, num_steps) for num_steps in range(5)]
    assert [after - before for before, after in pairwise(over)] == [Fraction(n, 40) for n in (1, 3, 5, 7)]
    assert ramp(4).mean_share(CODE, 4) == Fraction(1, 10)
    assert ramp(4).mean_share(GENERAL, 4) == Fraction(9, 10)


def test_a_ramp_reads_the_corpora_of_both_mixtures():
    math_to_code = ramp(5, Mixture.blend(GENERAL, {MATH: 1}), CODE_FIFTH)
    assert (math_to_code.base_corpus, math_to_code.specialist_corpora) == (GENERAL, (CODE, MATH))
    assert math_to_code.corpora == phase(math_to_code, 5).datasets == (GENERAL, CODE, MATH)


def test_a_ramp_between_equal_mixtures_is_replaced_by_that_mixture():
    constant = trunk().branch(start_step=6, data=ramp(10, CODE_FIFTH, CODE_FIFTH), name="x")
    assert constant.state().text() == code_branch(trunk(), 6).state().text()


def test_a_phase_longer_than_its_ramp_stays_at_the_ramps_end():
    """Every way to write the same history gives the same ids."""
    long = trunk(10).then(phase(ramp(20), 50, schedule=None))
    assert [(s.start_step, s.stop_step) for s in long.stretches] == [(0, 10), (10, 30), (30, 60)]
    by_hand = trunk(10).then(phase(ramp(20), 20, schedule=None)).then(phase(CODE_FIFTH, 30, schedule=None))
    assert long.state().text() == by_hand.state().text()
    assert ids(long) == ids(by_hand) == ids(trunk(60).branch(start_step=10, data=ramp(20), name="x"))
    from_start = trunk(60).branch(start_step=0, data=ramp(20), name="x")
    assert ids(from_start) == ids(Curriculum.of(start(), phase(ramp(20), 60)))


@pytest.mark.parametrize("of_code", [Fraction(2), Fraction(1, 2), Fraction(1)])
def test_a_corpus_with_its_own_loss_weight_can_be_ramped_in_and_out(of_code: Fraction):
    """Only ratios matter and the heaviest corpus weighs 1: code at twice the base gives 1 and 1/2, at half, 1/2 and 1."""
    weighted = Mixture.blend(GENERAL, {CODE: 0.2}, loss_weights={CODE: of_code})
    heaviest = max(of_code, Fraction(1))
    for mixtures in (ramp(5, PLAIN, weighted), ramp(5, weighted, PLAIN), ramp(5, weighted, weighted)):
        assert [mixtures.loss_weight(corpus) for corpus in (GENERAL, CODE)] == [1 / heaviest, of_code / heaviest]


def test_both_mixtures_of_a_ramp_use_one_scale_of_loss_weights():
    """From code at twice the base to mathematics at four times: 1/4, 1/2 and 1 along the whole ramp."""
    code = Mixture.blend(GENERAL, {CODE: 0.5}, loss_weights={CODE: 2})
    math = Mixture.blend(GENERAL, {MATH: 0.5}, loss_weights={MATH: 4})
    for mixtures in (ramp(5, code, math), ramp(5, math, code)):
        assert [mixtures.loss_weight(corpus) for corpus in (GENERAL, CODE, MATH)] == [Fraction(1, 4), Fraction(1, 2), 1]
    no_base = ramp(5, Mixture.blend(GENERAL, {CODE: 1}), Mixture.blend(GENERAL, {MATH: 1}))
    assert [no_base.loss_weight(corpus) for corpus in (CODE, MATH)] == [1, 1]


def test_a_loss_weight_that_changes_along_a_ramp_is_rejected_with_a_fix_that_works():
    ends = CODE_FIFTH, Mixture.blend(GENERAL, {CODE: 0.4, MATH: 0.1}, loss_weights={CODE: 0.5, MATH: 3})
    with pytest.raises(
        RecipeError,
        match=r"mixture\.to_mixture\.loss_weights\.code: expected 1 times the loss weight of general, as in from_mixture, "
        r"got 0\.5 times\. Give general and code the same loss_weights in both mixtures\.",
    ):
        ramp(5, *ends)
    fixed = ramp(5, Mixture.blend(GENERAL, {CODE: 0.2}, loss_weights={CODE: 0.5}), ends[1])
    assert [fixed.loss_weight(corpus) for corpus in (GENERAL, CODE, MATH)] == [Fraction(1, 3), Fraction(1, 6), 1]


def test_the_same_ramp_twice_is_two_phases():
    twice = trunk(10).then(phase(ramp(5), 5, schedule=None)).then(phase(ramp(5), 5, schedule=None))
    assert [(s.start_step, s.stop_step) for s in twice.stretches] == [(0, 10), (10, 15), (15, 20)]


def test_yulan_minis_27_phases_are_26_points():
    mixtures = [Mixture.blend(GENERAL, {CODE: Fraction(n, 100)}) for n in range(1, 28)]
    whole = phase(mixtures[0], 262_000)
    curriculum = Curriculum.of(start(), *piecewise(whole, [(Fraction(n, 27), mixtures[n]) for n in range(1, 27)]))
    assert [s.phase.data for s in curriculum.stretches] == mixtures
    assert [s.start_step for s in curriculum.stretches] == [round(n * 262_000 / 27) for n in range(27)]
    assert curriculum.num_steps == 262_000


def test_pieces_after_the_first_continue_from_it():
    first, second = piecewise(phase(PLAIN, 10, optimizer_state="reset", data_positions="reset"), [(0.5, CODE_FIFTH)])
    assert (first.num_steps, first.data, first.schedule is None, first.optimizer_state) == (5, PLAIN, False, "reset")
    assert (second.num_steps, second.data, second.schedule) == (5, CODE_FIFTH, None)
    assert (second.optimizer_state, second.data_positions) == ("continue", "continue")


def test_interpolation_ramps_from_point_to_point_and_stays_at_the_last():
    pieces = interpolated(phase(PLAIN, 100), [("0.2", CODE_FIFTH), ("0.5", MATH_HALF)])
    assert [(piece.data, piece.num_steps) for piece in pieces] == [
        (ramp(20), 20),
        (ramp(30, CODE_FIFTH, MATH_HALF), 30),
        (MATH_HALF, 50),
    ]
    to_the_end = interpolated(phase(PLAIN, 100), [(1, CODE_FIFTH)])
    assert [(piece.data, piece.num_steps) for piece in to_the_end] == [(ramp(100), 100)]
    assert [piece.data for piece in piecewise(phase(PLAIN, 100), [])] == [PLAIN]


OTHER_BASE = Mixture.only(corpus("web"))


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: ramp(0), "mixture.num_steps"),
        (lambda: ramp(5, PLAIN, OTHER_BASE), "mixture.to_mixture.base"),
        (lambda: ramp(5, PLAIN, Mixture.blend(CODE, {GENERAL: 1})), "mixture.to_mixture"),
        (lambda: piecewise(phase(PLAIN, 10), [(0, CODE_FIFTH)]), "points[0]"),
        (lambda: piecewise(phase(PLAIN, 10), [(0.5, CODE_FIFTH), (0.52, PLAIN)]), "points[1]"),
        (lambda: piecewise(phase(PLAIN, 10), [(0.5, CODE_FIFTH), (0.3, PLAIN)]), "points[1]"),
        (lambda: piecewise(phase(PLAIN, 10), [(1.5, CODE_FIFTH)]), "points[0]"),
        (lambda: piecewise(phase(ramp(5), 10), [(0.5, CODE_FIFTH)]), "phases.pretrain.data"),
        (lambda: interpolated(phase(PLAIN, 10), [(0.5, CODE_FIFTH), (1, OTHER_BASE)]), "points[1].mixture.to_mixture.base"),
        (lambda: interpolated(phase(PLAIN, 10), wrong([(0.5, {"code": 1})])), "points[0]"),
        (lambda: piecewise(phase(PLAIN, 10), wrong([0.5])), "points[0]"),
        (lambda: piecewise(phase(PLAIN, 10), wrong(0.5)), "points"),
        (lambda: Mixture.blend(GENERAL, wrong({"code": 0.5})), "mixture.specialists"),
        (lambda: Mixture.blend(GENERAL, wrong(None)), "mixture.specialists"),
        (lambda: Mixture.blend(GENERAL, wrong([CODE])), "mixture.specialists"),
        (lambda: Mixture.blend(GENERAL, {CODE: 0.5}, loss_weights=wrong({"code": 1})), "mixture.loss_weights"),
        (lambda: Mixture.blend(wrong("general"), {CODE: 0.5}), "mixture.base"),
        (lambda: phase(ramp(5), 5, loss="target_tokens"), "phases.pretrain.loss"),
        (
            lambda: code_branch(trunk(), 6).then(phase(ramp(5, Mixture.only(CODE), Mixture.blend(CODE, {MATH: 0.1})), 5)),
            "phases.pretrain.data",
        ),
    ],
)
def test_an_invalid_changing_mixture_is_rejected_with_the_path_of_its_field(build, path: str):
    with pytest.raises(RecipeError) as raised:
        build()
    assert raised.value.path == path
