"""The answer in sentences: certain only where the interval is, silent about nothing that is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from builders.analysis_tables import bridging_tables, tables_of

from midstudy.analysis.answer import answer
from midstudy.analysis.tables import Tables


def control_and(gains: Mapping[str, Mapping[int, float]], *, better: str = "lower") -> Tables:
    """A study of recipes beside the recipe "plain", on one task; gains by seed."""
    plain, sign = {1: 4.8, 2: 4.9, 3: 4.85}, 1 if better == "lower" else -1
    values = {"plain": plain} | {
        recipe: {seed: plain[seed] - sign * gain for seed, gain in found.items()} for recipe, found in gains.items()
    }
    rows = [
        {"recipe": recipe, "seed": seed, "score": one} for recipe, found in values.items() for seed, one in found.items()
    ]
    main: dict[str, Any] = {
        "name": "main",
        "arms": {"recipe": tuple(gains)},
        "references": {"recipe": "plain"},
        "columns": ("score",),
    }
    return tables_of(rows, [main], columns={"score": better}, seeds=("seed",))


def test_a_clear_effect_is_stated_with_its_size_interval_seeds_and_rivals() -> None:
    first, second = answer(bridging_tables()).split(" For task word problems, ")
    assert first.startswith("For task pycode, code lowers sft loss most, by 10.4 % (0.500 nats; 95 % interval ")
    assert "3 seeds) against control, Holm-corrected p = 0.0" in first
    assert first.endswith("significantly better than both other arms (paired 95 % intervals, uncorrected).")
    assert second.startswith("math lowers sft loss most")
    assert "not finished" not in second


def test_a_column_is_called_by_its_title() -> None:
    tables = bridging_tables()
    columns = dict(tables.manifest.columns)
    columns["sft_loss"] = replace(columns["sft_loss"], title="task loss")
    sentences = answer(replace(tables, manifest=replace(tables.manifest, columns=columns)))
    assert "code lowers task loss most" in sentences
    assert "sft" not in sentences


def test_a_sentence_for_each_cell_of_the_match_factors() -> None:
    sentences = answer(bridging_tables(sizes=("micro", "small")))
    assert sentences.count("For size ") == 4
    assert "For size small, task pycode, code lowers" in sentences


def test_a_column_may_be_better_the_other_way() -> None:
    sentence = answer(control_and({"new": {1: 0.3, 2: 0.32, 3: 0.28}}, better="higher"))
    assert sentence.startswith("New raises score, by 6.2 % (0.300 accuracy; 95 % interval ")


def test_an_interval_that_includes_zero_is_not_a_finding() -> None:
    sentence = answer(control_and({"new": {1: 0.3, 2: -0.1, 3: 0.1}}))
    assert sentence.startswith("No arm differs significantly from plain in score: the largest improvement, by new, is")
    assert "its interval includes zero" in sentence


def test_one_seed_is_said_to_be_one() -> None:
    sentence = answer(control_and({"new": {1: 0.3}, "newer": {1: 0.1}}))
    assert "New lowers score most, by 6.2 % (0.300 nats; no interval, 1 seed) against plain" in sentence
    assert "a single seed decides nothing" in sentence


def test_no_arm_helps() -> None:
    sentence = answer(control_and({"new": {1: -0.3, 2: -0.2, 3: -0.25}}))
    assert sentence.startswith("No arm lowers score against plain; the nearest is new at -5.")


def test_rivals_that_cannot_be_told_apart_are_named() -> None:
    gains = {"new": {1: 0.3, 2: 0.32, 3: 0.28}, "newer": {1: 0.27, 2: 0.33, 3: 0.26}, "other": {1: 0.01}}
    assert answer(control_and(gains)).endswith(
        "; not significantly better than newer; not compared with other (1 common seed)."
    )


def test_a_single_arm_is_not_called_the_most_of_several() -> None:
    sentence = answer(control_and({"new": {1: 0.3, 2: 0.32, 3: 0.28}}))
    assert "lowers score, by" in sentence
    assert sentence.endswith("; the comparison has no other arm.")


def test_unfinished_arms_are_counted() -> None:
    sentence = answer(bridging_tables(unfinished=[{"mix": "math", "trunk_seed": 2}]))
    assert "2 seeds" in sentence
    assert sentence.endswith("4 of the 48 arms that this is based on are not finished, so it may change.")


def test_nothing_finished_is_not_an_answer_yet() -> None:
    sentence = answer(bridging_tables(unfinished=[{"size": "micro"}]))
    assert sentence.startswith("For task pycode, sft loss has no result yet: no arm is finished")


@pytest.mark.parametrize("sizes", [("micro",), ("micro", "small")])
def test_arms_that_differ_in_numbers_alone_are_told_by_them(sizes: tuple[str, ...]) -> None:
    tables = bridging_tables(sizes=sizes)
    (timing,) = (one for one in tables.manifest.comparisons if one.name == "timing")
    sentence = answer(replace(tables, manifest=replace(tables.manifest, comparisons=(timing,))))
    assert "ode, weight 0.2, start step 10 lowers sft loss most" in sentence


def test_a_study_without_comparisons_says_so() -> None:
    tables = bridging_tables()
    assert answer(replace(tables, manifest=replace(tables.manifest, comparisons=()))) == "This study has no comparison."
