"""The answer in a sentence: certain only where the interval is, silent about nothing that is missing."""

from __future__ import annotations

import pandas as pd
import pytest
from analysis_tables import cell, study_table, unfinished

from midstudy.analysis.answer import answer_sentence


def test_a_clear_effect_is_stated_with_its_size_interval_seeds_and_rivals() -> None:
    sentence = answer_sentence(study_table(), tasks=["pycode"])
    assert sentence.startswith("On pycode, code midtraining lowers the loss most, by 10.4 % (0.500 nats; 95 % interval ")
    assert "3 trunk seeds)" in sentence
    assert "Holm-corrected p = 0.0" in sentence
    assert sentence.endswith("below both other mixes in paired differences whose intervals exclude zero.")
    assert "not finished" not in sentence


def test_a_sentence_for_each_task_and_size() -> None:
    both = answer_sentence(study_table(), tasks=["pycode", "word_problems"])
    assert "On pycode, code" in both
    assert "On word_problems, math" in both
    sizes = pd.concat([study_table(), study_table().assign(size="small")], ignore_index=True)
    sentence = answer_sentence(sizes, tasks=["pycode"])
    assert sentence.count("At size ") == 2
    assert "At size small, on pycode, code midtraining" in sentence


def control_and(gains: dict[str, dict[int, float]]) -> pd.DataFrame:
    control = {1: 4.8, 2: 4.9, 3: 4.85}
    rows = cell("control", "pycode", by_trunk_seed=control)
    for mix, by_seed in gains.items():
        rows += cell(mix, "pycode", by_trunk_seed={seed: control[seed] - gain for seed, gain in by_seed.items()})
    return pd.DataFrame(rows)


def test_an_interval_that_includes_zero_is_no_finding() -> None:
    sentence = answer_sentence(control_and({"code": {1: 0.3, 2: -0.1, 3: 0.1}}), tasks=["pycode"])
    assert sentence.startswith("No mix can be told from the general-only control on pycode")
    assert "its interval includes zero" in sentence


def test_one_trunk_seed_is_said_to_be_one() -> None:
    sentence = answer_sentence(control_and({"code": {1: 0.3}, "math": {1: 0.1}}), tasks=["pycode"])
    assert "code midtraining lowers the loss most, by 6.2 % (0.300 nats; no interval, 1 trunk seed)" in sentence
    assert "one trunk seed says nothing about chance" in sentence


def test_no_mix_helps() -> None:
    sentence = answer_sentence(control_and({"code": {1: -0.3, 2: -0.2, 3: -0.25}}), tasks=["pycode"])
    assert sentence.startswith("No mix lowers the pycode loss below the general-only control; the nearest is code")


def test_rivals_that_cannot_be_told_apart_are_named() -> None:
    gains = {"code": {1: 0.3, 2: 0.32, 3: 0.28}, "math": {1: 0.27, 2: 0.33, 3: 0.26}, "qa": {1: 0.01}}
    sentence = answer_sentence(control_and(gains), tasks=["pycode"])
    assert sentence.endswith("; not told from it by a paired interval: math, qa.")


def test_a_single_mix_is_not_called_the_most_of_several() -> None:
    sentence = answer_sentence(control_and({"code": {1: 0.3, 2: 0.32, 3: 0.28}}), tasks=["pycode"])
    assert "lowers the loss, by" in sentence
    assert sentence.endswith("; no other mix was tried.")


def test_unfinished_runs_are_counted() -> None:
    sentence = answer_sentence(unfinished(study_table(), mix="math", trunk_seed=3), tasks=["word_problems"])
    assert "2 trunk seeds" in sentence
    assert sentence.endswith("4 of the main question's 48 runs are not finished, so this may change.")


def test_nothing_finished_is_no_answer_yet() -> None:
    sentence = answer_sentence(unfinished(study_table(), study="bridging"), tasks=["pycode"])
    assert sentence.startswith("Nothing can be said about pycode yet: no midtraining arm is finished")


def test_an_unknown_task_names_the_tasks_there_are() -> None:
    with pytest.raises(ValueError, match="'gsm8k' is not a task of this study; its tasks are pycode, word_problems"):
        answer_sentence(study_table(), tasks=["gsm8k"])
