"""Finished studies as pairs of corpus and task: planted tables are read back, and what cannot be used is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders.small_study import plan_in, small_study, write_text

from midstudy.analysis.calibration import calibrate
from midstudy.analysis.tables import arms_table
from midstudy.data.named_text import named_text
from midstudy.files.errors import StoreError
from midstudy.plan.manifest import manifest_of
from midstudy.run import recommend as rules
from midstudy.run.expert_scores import expert_scores
from midstudy.run.finished_pairs import FinishedPair, finished_pairs, finished_studies
from midstudy.run.recommend import recommend
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze

TASKS = ("code_task", "word_task")
LOSSES = {
    ("control", "code_task"): 4.0,
    ("code", "code_task"): 3.0,
    ("control", "word_task"): 2.0,
    ("code", "word_task"): 2.1,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))
    write_text(tmp_path)
    return tmp_path


def finished(store: Store, folder: Path, name: str, **options: Any) -> pd.DataFrame:
    """Freeze a study that is never trained, and write the table of arms that training would have given."""
    from dataclasses import replace

    study = replace(small_study(folder, tasks=TASKS, **options), name=name)
    plan = plan_in(store, study)
    for stage in plan.stages.values():
        store.request(stage)
    manifest = manifest_of(plan, command="")
    freeze(store, manifest)
    table = arms_table(store, manifest)
    losses = [LOSSES[str(arm.factors["mix"]), str(arm.factors["task"])] for arm in manifest.arms]
    table["sft_loss"], table["general_loss"] = losses, 1.0
    table.to_parquet(store.paths.study(name) / "arms.parquet")
    return table


def pairs_of(store: Store) -> dict[str, FinishedPair]:
    found = finished_pairs(store)
    assert found.left_out == ()
    return {one.task: one for one in found.pairs}


def test_planted_losses_are_read_as_improvements_and_text_is_scored_as_recommend_does(folder: Path) -> None:
    store = Store.open(folder / "store", create=True)
    finished(store, folder, "one")
    found = pairs_of(store)
    assert {task: (one.candidate, one.share) for task, one in found.items()} == dict.fromkeys(TASKS, ("code", 0.5))
    assert found["code_task"].improvements == {0: pytest.approx(0.25)}
    assert found["word_task"].improvement == pytest.approx(-0.05)
    assert found["code_task"].score > 0.01 > found["word_task"].score

    scores = expert_scores(
        target=named_text(f"code={folder}/sft", where="--target"),
        general=named_text(f"general={folder}", where="--general"),
        candidates=[named_text(f"code={folder}", where="--candidates")],
        share=0.5,
    )
    assert found["code_task"].candidate_bytes == scores.counts["code"]["whole_bytes"]
    assert found["code_task"].advantage > found["word_task"].advantage


def test_arms_with_other_starts_are_one_pair_the_first(folder: Path) -> None:
    store = Store.open(folder / "store", create=True)
    finished(store, folder, "one", starts=(3, 6))
    assert len(finished_pairs(store).pairs) == len(TASKS)


def test_a_second_look_scores_no_text_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from midstudy.run import finished_pairs as module

    store = Store.open(folder / "store", create=True)
    finished(store, folder, "one")
    first = finished_pairs(store)
    monkeypatch.setattr(module, "expert_scores", lambda **arguments: pytest.fail("scored again"))
    assert finished_pairs(store) == first


def test_a_table_of_other_arms_is_not_used_and_the_remedy_is_named(folder: Path) -> None:
    store = Store.open(folder / "store", create=True)
    table = finished(store, folder, "one")
    table.iloc[:-1].to_parquet(store.paths.study("one") / "arms.parquet")
    (reason,) = finished_pairs(store).left_out
    assert "midstudy report one" in reason
    with pytest.raises(StoreError, match="midstudy report one"):
        finished_pairs(store, ["one"])


def test_text_that_has_changed_since_is_not_scored(folder: Path) -> None:
    store = Store.open(folder / "store", create=True)
    finished(store, folder, "one")
    path = folder / "code" / "train.jsonl"
    path.write_text(path.read_text("utf-8") + '{"text": "other"}\n', encoding="utf-8")
    found = finished_pairs(store)
    assert found.pairs == ()
    assert found.left_out[0].startswith("one: ")


def recommended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> rules.Recommendation:
    monkeypatch.setattr(rules, "RANDOM_BELOW", float("-inf"))  # the words of this text are in random order
    return recommend(
        target=named_text(f"task={folder}/sft/code", where="--target"),
        general=named_text(f"general={folder}", where="--general"),
        candidates=[named_text(f"code={folder}", where="--candidates")],
        share=0.5,
        store=folder / "store",
    )


def test_two_finished_studies_expect_no_improvement_and_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(folder / "store", create=True)
    for name in ("one", "two"):
        finished(store, folder, name)
    found = recommended(folder, monkeypatch)
    assert found.expected_improvement == "none: 2 studies"
    assert found.candidates[0].expected is None


def test_three_finished_studies_calibrate_the_expected_improvement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(folder / "store", create=True)
    for name in ("one", "two", "three"):
        finished(store, folder, name)
    assert len(finished_studies(store)) == 3
    found = recommended(folder, monkeypatch)
    expected = found.candidates[0].expected
    assert expected is not None
    line = calibrate(finished_pairs(store).by_study())
    assert line is not None
    assert line.slope > 0
    gain_of_text = found.candidates[0].ranked.gain / found.target_bits_per_byte
    assert expected.improvement == pytest.approx(line.slope * gain_of_text)
    assert expected.low < expected.improvement < expected.high
    assert "3 studies" in found.expected_improvement
    assert '"is_extrapolation": false' in found.as_json()
