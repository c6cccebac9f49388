"""`midstudy recommend` as a function: the true corpus wins, traps do not, and what is not known is said."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders.languages import language_documents, shuffled_copy, write_documents

from midstudy.data.named_text import named_text
from midstudy.recipe.errors import RecipeError
from midstudy.run import candidate_counts as rules
from midstudy.run.recommend import ContaminatedError, Recommendation, recommend

GENERAL, DOMAIN, OTHER = 1, 2, 3
TEST_ITEMS = language_documents(DOMAIN, number=30, seed=12)
GENERAL_TEXT = language_documents(GENERAL, number=800, seed=1)
CORPUS = language_documents(DOMAIN, number=600, seed=2)
TARGET_TRAIN = language_documents(DOMAIN, number=150, seed=10)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))


def recommended(folder: Path, share: float = 0.2, **candidates: Sequence[str]) -> Recommendation:
    target = folder / "target"
    write_documents(target / "train.jsonl", TARGET_TRAIN)
    write_documents(target / "dev.jsonl", language_documents(DOMAIN, number=120, seed=11))
    write_documents(target / "test.jsonl", TEST_ITEMS)
    write_documents(folder / "general" / "train.jsonl", GENERAL_TEXT)
    for name, documents in candidates.items():
        write_documents(folder / name / "train.jsonl", documents)
    return recommend(
        target=named_text(f"target={folder}", where="--target"),
        general=named_text(f"general={folder}", where="--general"),
        candidates=[named_text(f"{name}={folder}", where="--candidates") for name in candidates],
        share=share,
        store=folder / "store",
    )


def groups(found: Recommendation) -> dict[str, int]:
    return {one.text.name: one.ranked.group for one in found.ranked}


def test_the_corpus_of_the_target_is_recommended(tmp_path: Path) -> None:
    found = recommended(tmp_path, true=CORPUS, other=language_documents(OTHER, number=600, seed=3))
    assert groups(found) == {"true": 1, "other": 2}
    first, second = found.candidates
    assert first.ranked.probability_best > 0.99
    assert first.ranked.over_placebo_low > 0
    assert first.advantage.js > second.advantage.js
    assert first.general_cost > 0
    assert found.deciding_command == ""
    assert found.expected_improvement.startswith("none: no study")


def test_trap_shuffled_words_of_the_target_do_not_win(tmp_path: Path) -> None:
    found = recommended(tmp_path, shuffled=shuffled_copy(TARGET_TRAIN * 4), true=CORPUS)
    assert [one.text.name for one in found.ranked] == ["true"]
    assert "shuffled: not ranked: its words are in random order, which byte 4-grams cannot judge." in found.notes


def test_trap_a_duplicate_of_general_text_gains_nothing_and_is_named(tmp_path: Path) -> None:
    found = recommended(tmp_path, copy=GENERAL_TEXT, true=CORPUS)
    assert groups(found) == {"true": 1, "copy": 2}
    copy = found.candidates[1]
    assert copy.scan.exact_copies > 0.9 * copy.num_documents
    assert copy.ranked.over_placebo_low <= 0
    assert {"copy: mostly a duplicate of general text.", "copy: no gain over more general text."} <= set(found.notes)


def test_trap_a_placebo_gains_nothing(tmp_path: Path) -> None:
    found = recommended(tmp_path, placebo=language_documents(GENERAL, number=600, seed=9), true=CORPUS)
    placebo = found.candidates[1]
    assert placebo.ranked.over_placebo_low <= 0 <= placebo.ranked.over_placebo_high
    assert placebo.scan.exact_copies == 0
    assert "placebo: no gain over more general text." in found.notes


def test_trap_forty_documents_are_said_to_be_too_small_and_have_a_wider_interval(tmp_path: Path) -> None:
    found = recommended(tmp_path, forty=CORPUS[:40], true=CORPUS)
    by_name = {one.text.name: one.ranked for one in found.candidates}
    assert by_name["forty"].high - by_name["forty"].low > by_name["true"].high - by_name["true"].low
    assert any(note.startswith("forty: too small to judge: 40 documents") for note in found.notes)
    assert not any(note.startswith("true: too small") for note in found.notes)


def test_trap_two_halves_of_one_corpus_are_a_tie_and_the_command_of_a_study_is_given(tmp_path: Path) -> None:
    found = recommended(tmp_path, left=CORPUS[::2], right=CORPUS[1::2])
    assert groups(found) == {"left": 1, "right": 1}
    assert 0.05 < found.candidates[0].ranked.probability_best < 0.95
    command = shlex.split(found.deciding_command)
    assert command[:3] == ["midstudy", "run", "experiments/deciding.py"]
    assert f"left={tmp_path}" in command
    assert "share=0.2" in command


@pytest.mark.parametrize("whole", [True, False])
def test_trap_a_candidate_with_test_items_is_rejected_with_the_line(tmp_path: Path, whole: bool) -> None:
    item = TEST_ITEMS[3] if whole else "before " + " ".join(TEST_ITEMS[3].split()[5:18]) + " after"
    with pytest.raises(ContaminatedError) as raised:
        recommended(tmp_path, clean=CORPUS[300:], dirty=[*CORPUS[:100], item, *CORPUS[100:200]])
    message = str(raised.value)
    assert f"{tmp_path}/dirty/train.jsonl:101" in message
    assert "got 1 document(s)" in message
    assert "clean" not in message


def test_twelve_words_of_a_test_item_are_allowed(tmp_path: Path) -> None:
    part = "before " + " ".join(TEST_ITEMS[3].split()[5:17]) + " after"
    assert recommended(tmp_path, clean=[*CORPUS, part]).ranked


def test_the_order_of_documents_does_not_matter_and_a_cache_changes_nothing(tmp_path: Path) -> None:
    mixed = random.Random(0).sample(CORPUS, len(CORPUS))
    first = recommended(tmp_path, one=CORPUS)
    again = recommended(tmp_path, one=CORPUS)
    other = recommended(tmp_path, one=mixed)
    assert first.as_json() == again.as_json()
    assert first.candidates[0].ranked == other.candidates[0].ranked


def test_a_warm_cache_reads_neither_counts_nor_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommended(tmp_path, one=CORPUS)
    monkeypatch.setattr(rules.NamedText, "documents", lambda *args, **kwargs: pytest.fail("read again"))
    monkeypatch.setattr(rules.NamedText, "located_documents", lambda *args, **kwargs: pytest.fail("read again"))
    assert recommended(tmp_path, one=CORPUS).ranked


def test_a_damaged_cache_is_counted_again(tmp_path: Path) -> None:
    first = recommended(tmp_path, one=CORPUS)
    for path in (tmp_path / "cache" / "recommend").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert recommended(tmp_path, one=CORPUS).as_json() == first.as_json()


def test_experts_are_counted_on_equally_many_bytes(tmp_path: Path) -> None:
    found = recommended(tmp_path, large=CORPUS, larger=CORPUS + language_documents(DOMAIN, number=900, seed=4))
    sizes = {one.sampled_bytes for one in found.candidates}
    assert len(sizes) == 1
    assert sizes.pop() < found.candidates[0].num_bytes


def test_dev_documents_of_a_single_general_file_are_in_neither_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_documents(tmp_path / "web.jsonl", GENERAL_TEXT)
    general = named_text(f"web={file}", where="--general")
    dev = set(general.documents(split="dev"))
    seen: list[str] = []

    def record(documents: Sequence[str]) -> dict[str, object]:
        seen.extend(documents)
        return {}

    monkeypatch.setattr(rules, "_arrays", record)
    rules.halves(general)
    assert dev
    assert len(seen) > 0.8 * len(GENERAL_TEXT)
    assert not dev & set(seen)


def test_nearest_documents_are_those_of_the_targets_language(tmp_path: Path) -> None:
    strange = language_documents(OTHER, number=300, seed=3)
    found = recommended(tmp_path, mixed=[*strange, CORPUS[5], *strange[:10]])
    nearest = found.candidates[0].scan.nearest
    assert nearest[0].where == f"{tmp_path}/mixed/train.jsonl:301"
    assert CORPUS[5].startswith(nearest[0].beginning)


def test_json_holds_digests_counts_and_every_measure(tmp_path: Path) -> None:
    facts = json.loads(recommended(tmp_path, one=CORPUS).as_json())
    one = facts["candidates"][0]
    assert len(one["revision"]) == 64
    assert one["scan"]["num_documents"] == 600
    assert 560 < one["documents"] < 600  # dev and test are carved from it
    assert one["ranking"]["low"] < one["ranking"]["gain"] < one["ranking"]["high"]
    assert one["proximity_advantage"].keys() == {"combined", "cosine", "jaccard", "js"}
    assert facts["share"] == 0.2


def test_a_name_given_twice_and_a_wrong_share_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected each name once, got general twice"):
        recommended(tmp_path, general=CORPUS)
    with pytest.raises(RecipeError, match="--share"):
        recommended(tmp_path, share=1.0, one=CORPUS)
