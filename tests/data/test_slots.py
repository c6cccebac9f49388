"""Slots: mixtures are exact shares of tokens, and arms share their data order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations

import numpy as np
from builders.small_recipes import CODE, GENERAL, MATH, code_branch, corpus, phase, start, trunk
from hypothesis import given, settings
from hypothesis import strategies as st

from midstudy.data.order import derive_key, permute
from midstudy.data.slots import Slots, drawn_tokens, slots_at
from midstudy.recipe import Curriculum, Mixture, MixtureRamp
from midstudy.recipe.task_data import TaskData

POOL = tuple(corpus(name) for name in "abcdefg")


def test_the_worked_example_of_the_design():
    """60 steps of 8 sequences, code 20 % from step 6: 86 draws at 50, 55, …, 475; the rest equals the control."""
    control = Slots(trunk().stretches).draws(0, 480)
    code = Slots(code_branch(trunk(), 6).stretches).draws(0, 480)
    replaced = [slot for slot, draw in enumerate(code) if draw.corpus == CODE]
    assert replaced == list(range(50, 480, 5))
    assert [draw.position for draw in code if draw.corpus == CODE] == list(range(86))
    assert all(code[slot] == control[slot] for slot in range(480) if slot not in replaced)
    assert len([slot for slot in range(48, 480) if code[slot] == control[slot]]) == 346
    assert [draw.position for draw in control] == list(range(480))


def test_arms_agree_in_every_slot_where_both_read_the_base():
    code = Slots(code_branch(trunk(), 6).stretches).draws(0, 480)
    mixture = Mixture.blend(GENERAL, {MATH: 0.12})
    math = Slots(trunk().branch(start_step=20, data=mixture, name="math").stretches).draws(0, 480)
    for left, right in zip(code, math, strict=True):
        if left.corpus == right.corpus == GENERAL:
            assert left == right


weights = st.lists(st.sampled_from([0, 0, 1, 2, 5, 20]), min_size=5, max_size=6)
phases = st.tuples(
    st.lists(st.tuples(weights, st.sampled_from([0, 1, 5, 20])), min_size=1, max_size=2),  # a mixture, or the ends of a ramp
    st.integers(1, 10),  # steps of the ramp
    st.integers(1, 10),  # steps of the phase
    st.sampled_from([1, 2, 5]),  # sequences per step
)
curricula = st.lists(phases, min_size=1, max_size=5)


def blend(weights: list[int], base: int) -> Mixture:
    total = sum(weights) + base
    return Mixture.blend(
        GENERAL, {corpus: Fraction(w, total) for corpus, w in zip(POOL, weights, strict=False)} if total else {}
    )


def mixture_of(ends: list[tuple[list[int], int]], ramp_steps: int) -> Mixture | MixtureRamp:
    mixtures = [blend(*end) for end in ends]
    if len(mixtures) == 1:
        return mixtures[0]
    return MixtureRamp(from_mixture=mixtures[0], to_mixture=mixtures[1], num_steps=ramp_steps)


def build(drawn: list) -> Curriculum:
    return Curriculum.of(start(), *(phase(mixture_of(ends, ramp), n, num_sequences=batch) for ends, ramp, n, batch in drawn))


def shares_during(data: Mixture | MixtureRamp | TaskData, step: int) -> dict[str, Fraction]:
    """Return the exact shares of update number `step` of a phase by name, from the definition of a ramp."""
    if isinstance(data, Mixture):
        return {part.corpus.name: part.share for part in data.parts}
    assert isinstance(data, MixtureRamp)
    ends = [{part.corpus.name: part.share for part in end.parts} for end in (data.from_mixture, data.to_mixture)]
    before, after = ({corpus.name: end.get(corpus.name, Fraction(0)) for corpus in data.corpora} for end in ends)
    middle = Fraction(2 * step + 1, 2 * data.num_steps)
    return {name: share + (after[name] - share) * middle for name, share in before.items()}


def check_quotas(curriculum: Curriculum, most_off: Callable[[int], float]) -> None:
    """Check each draw: positions count up, the closed form equals the running count, and errors are below `most_off`."""
    slots = Slots(curriculum.stretches)
    drawn: dict[str, int] = {}
    ideals: dict[str, Fraction] = {}
    number = 0
    for placed in curriculum.stretches:
        for step in range(placed.stop_step - placed.start_step):
            shares = shares_during(placed.phase.data, step)
            for draw in slots.draws(number, placed.phase.num_sequences):
                name = draw.corpus.name
                assert draw.position == (number if draw.corpus == GENERAL else drawn.get(name, 0))
                drawn[name] = drawn.get(name, 0) + 1
                for other, share in shares.items():
                    ideals[other] = ideals.get(other, Fraction(0)) + share
                number += 1
                assert drawn.keys() <= ideals.keys()  # only corpora of a mixture so far are drawn
                assert max(abs(drawn.get(other, 0) - ideal) for other, ideal in ideals.items()) < most_off(len(ideals))
                assert {corpus.name: count for corpus, count in slots.counts(number).items()} == drawn


@settings(max_examples=40, deadline=None)
@given(drawn=curricula)
def test_quotas_are_exact_monotone_and_carry_deficits_over(drawn):
    """The error is below the number of corpora; a random search with 2 to 7 corpora found at most 2.4."""
    check_quotas(build(drawn), most_off=lambda num_corpora: num_corpora)


@settings(max_examples=60, deadline=None)
@given(drawn=curricula, cut=st.integers(0, 60))
def test_slots_do_not_depend_on_later_phases(drawn, cut: int):
    whole = build(drawn)
    short = Slots(whole.until(1 + cut % whole.num_steps).stretches)
    assert short.draws(0, short.num_slots) == Slots(whole.stretches).draws(0, short.num_slots)


def test_cutting_a_ramp_short_does_not_change_its_slots():
    """After the first of two steps, a draw is ahead of its ideal count: it already follows the line of the second step."""
    before, after = Mixture.blend(GENERAL, {MATH: "0.25"}), Mixture.blend(GENERAL, {CODE: "0.5"})
    whole = Curriculum.of(
        start(), phase(MixtureRamp(from_mixture=before, to_mixture=after, num_steps=2), 2, num_sequences=2)
    )
    assert Slots(whole.until(1).stretches).draws(0, 2) == Slots(whole.stretches).draws(0, 2)


def test_a_corpus_of_a_later_phase_does_not_affect_a_phase_that_settles_deficits():
    """The second phase does not allot draws to b, d and e, but settles their deficits; f, of a later phase, gets none."""
    first = Mixture.blend(GENERAL, dict(zip(POOL, (Fraction(n, 21) for n in (4, 2, 6, 4, 5)), strict=False)))
    head = Curriculum.of(start(), phase(first, 2, num_sequences=3), phase(Mixture.blend(GENERAL, {POOL[2]: 1}), 2))
    whole = head.then(phase(Mixture.blend(GENERAL, {POOL[5]: 1}), 1))
    num_slots = Slots(head.stretches).num_slots
    assert Slots(whole.stretches).draws(0, num_slots) == Slots(head.stretches).draws(0, num_slots)


@settings(max_examples=40, deadline=None)
@given(
    drawn=st.lists(phases, min_size=1, max_size=4),
    branches=st.lists(st.tuples(st.integers(0, 30), phases), min_size=1, max_size=4),
)
def test_any_number_of_branches_agree_with_their_trunk_and_each_other(drawn, branches):
    """Before a branch point, all slots equal the trunk's; after it, arms agree in every slot where both read the base."""
    whole = build(drawn)
    num_slots = Slots(whole.stretches).num_slots
    arms = [Slots(whole.stretches).draws(0, num_slots)]
    for at, (ends, ramp_steps, _, _) in branches:
        begin = min(at, whole.num_steps - 1)
        arm = whole.branch(start_step=begin, data=mixture_of(ends, ramp_steps), name="branch")
        slots, first_slot = slots_at(arm, begin)
        assert slots.draws(0, first_slot) == arms[0][:first_slot]
        whole_arm = Slots(arm.stretches)
        arms.append(whole_arm.draws(0, whole_arm.num_slots))
    for left, right in combinations(arms, 2):
        for draw, other in zip(left, right, strict=False):  # a branch keeps the batch size of the phase it leaves
            assert draw == other or not draw.corpus.name == other.corpus.name == GENERAL.name


def test_a_ramp_by_hand():
    """4 steps of 4 sequences from no code to only code: 1/8, 3/8, 5/8 and 7/8 of a step, so 1/2, 2, 9/2 and 8 in total."""
    code_only = Mixture.blend(GENERAL, {CODE: 1})
    ramp = MixtureRamp(from_mixture=Mixture.only(GENERAL), to_mixture=code_only, num_steps=4)
    curriculum = Curriculum.of(start(), phase(ramp, 6, num_sequences=4))
    draws = Slots(curriculum.stretches).draws(0, 24)
    assert [slot for slot, draw in enumerate(draws) if draw.corpus == CODE] == [3, 6, 8, 10, 11, 13, 14, 15, *range(16, 24)]
    assert all(draw.position == slot for slot, draw in enumerate(draws) if draw.corpus == GENERAL)
    assert drawn_tokens(curriculum) == {GENERAL: 8 * 64, CODE: 16 * 64}


@given(ends=st.lists(st.tuples(weights, st.integers(1, 20)), min_size=2, max_size=2), num_steps=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_whole_ramp_draws_the_mean_of_its_ends(ends, num_steps: int):
    before, after = (blend(*end) for end in ends)
    ramp = MixtureRamp(from_mixture=before, to_mixture=after, num_steps=num_steps)
    slots = Slots(Curriculum.of(start(), phase(ramp, num_steps, num_sequences=7)).stretches)
    counts = slots.counts(slots.num_slots)
    for member in ramp.corpora:
        mean = (before.mean_share(member, 0) + after.mean_share(member, 0)) / 2
        assert abs(counts.get(member, 0) - mean * slots.num_slots) < len(ramp.corpora)


def test_a_specialist_with_a_share_of_one_needs_no_base():
    draws = Slots(trunk().branch(start_step=10, data=Mixture.only(GENERAL), name="x").stretches).draws(0, 8)
    assert {draw.corpus for draw in draws} == {GENERAL}
    alone = trunk().branch(start_step=10, data=Mixture.blend(GENERAL, {CODE: 1}), name="code only")
    assert all(draw.corpus == CODE for draw in Slots(alone.stretches).draws(80, 400))


KNOWLEDGE_QA = Mixture.blend(GENERAL, dict(zip(POOL, ("0.15", "0.03", "0.015", "0.005"), strict=False)))


def test_weights_that_break_largest_remainder():
    """The knowledge-QA shard weights .80/.15/.03/.015/.005: the error of every shard stays below one sequence."""
    curriculum = Curriculum.of(start(), phase(KNOWLEDGE_QA, 500))
    check_quotas(curriculum, most_off=lambda num_corpora: 1)
    counts = Slots(curriculum.stretches).counts(4_000)
    assert [counts[shard] for shard in POOL[:4]] == [600, 120, 60, 20]


def test_changing_weights_that_break_largest_remainder():
    """Two ramps, to these weights and away from them: the error stays below 3/2 sequences."""
    up = MixtureRamp(from_mixture=Mixture.only(GENERAL), to_mixture=KNOWLEDGE_QA, num_steps=60)
    down = MixtureRamp(from_mixture=KNOWLEDGE_QA, to_mixture=Mixture.blend(GENERAL, {POOL[3]: 0.4}), num_steps=80)
    curriculum = Curriculum.of(start(), phase(up, 70), phase(down, 50), phase(KNOWLEDGE_QA, 30))
    check_quotas(curriculum, most_off=lambda num_corpora: 1.5)


def test_the_last_slots_of_the_papers_trunk():
    paper = Curriculum.of(start(), phase(Mixture.blend(GENERAL, {CODE: 0.2}), 61_035, num_sequences=1_024))
    slots, first = slots_at(paper, 61_034)
    assert first == 61_034 * 1_024
    draws = slots.draws(first, 1_024)
    assert sum(draw.corpus == CODE for draw in draws) in (204, 205)
    assert drawn_tokens(paper)[CODE] == round(61_035 * 1_024 * 0.2) * 64


def calls_of(work: Callable[[], object]) -> int:
    """Return the number of Python and C functions that `work` calls: a cost independent of machine and load."""
    count = 0

    def count_call(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_the_cost_of_slots_does_not_depend_on_their_number():
    plain = Mixture.only(GENERAL)
    rising = MixtureRamp(from_mixture=plain, to_mixture=KNOWLEDGE_QA, num_steps=61_035)
    falling = MixtureRamp(
        from_mixture=KNOWLEDGE_QA, to_mixture=plain, num_steps=61_035
    )  # the same number of draws at the other end
    far = 61_000
    for near_data, far_data in ((KNOWLEDGE_QA, KNOWLEDGE_QA), (falling, rising)):
        costs = []
        for data, step in ((near_data, 61_034 - far), (far_data, far)):
            curriculum = Curriculum.of(start(), phase(data, 61_035, num_sequences=1_024))
            costs.append(calls_of(lambda c=curriculum, s=step: slots_at(c, s)[0].draws(s * 1_024, 1_024)))  # type: ignore[misc]
        assert costs[1] < 1.25 * costs[0]
        assert costs[1] < 20_000  # about 200 of the 1,024 slots are specialists', with three splits for each


def test_a_phase_can_reset_the_data_positions():
    curriculum = Curriculum.of(
        start(),
        phase(Mixture.only(GENERAL), 10),
        phase(Mixture.only(GENERAL), 10, schedule=None, data_positions="reset"),
    )
    slots, first = slots_at(curriculum, 10)
    assert first == 0
    assert slots.draws(0, 1)[0].position == 0


@given(size=st.integers(1, 3_000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_permute_is_a_permutation(size: int, key: int):
    assert sorted(permute(np.arange(size), size, key)) == list(range(size))


def test_a_permutation_can_be_computed_at_any_position_and_depends_on_its_key():
    size = 123_457
    keys = [derive_key("blocks", 0, "corpus", epoch) for epoch in (0, 1)]
    whole = [permute(np.arange(size), size, key) for key in keys]
    assert permute(np.array([77_777]), size, keys[0])[0] == whole[0][77_777]
    assert np.mean(whole[0] == whole[1]) < 1e-3
    # Neighbours are far apart: a permutation correlated with the identity would read the corpus in order.
    assert abs(np.corrcoef(np.arange(size), whole[0])[0, 1]) < 0.02


def test_golden_slots():
    """Pinned: a change here requires a new `versions.ORDER`. One letter per slot, a dot for the general corpus."""
    thirds = Mixture.blend(GENERAL, {POOL[0]: "0.3", POOL[1]: "0.2", POOL[2]: "0.1"})
    ramp = MixtureRamp(from_mixture=thirds, to_mixture=Mixture.blend(GENERAL, {POOL[3]: 1}), num_steps=4)
    curriculum = Curriculum.of(start(), phase(thirds, 4), phase(ramp, 5))
    draws = Slots(curriculum.stretches).draws(0, 72)
    letters = "".join("." if draw.corpus == GENERAL else draw.corpus.name for draw in draws)
    assert letters == "a.b.ac.a.ba.b.ac.a.ba.b.ac.a.ba.bc.a.da.bdd.abd.ddacdd.ddddbdddddddddddd"
