"""What a `--data` value names, and the rows it holds: nothing falls back, nothing drifts, carving is told."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from midstudy.data import wheels
from midstudy.data.source import load_rows, resolve_source
from midstudy.recipe.data import Source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write(root / "code" / "train.jsonl", [{"text": f"x = {number}"} for number in range(500)])
    write(root / "sft" / "pairs" / "train.jsonl.gz", [{"question": f"{n}?", "answer": "y"} for n in range(400)])
    write(root / "sft" / "pairs" / "test.jsonl", [{"question": "t?", "answer": "z"}])
    return root


def code(directory: Path) -> Source:
    return resolve_source(str(directory), name="code", folder="code", is_task=False)


def pairs(directory: Path) -> Source:
    return resolve_source(str(directory), name="pairs", folder="sft/pairs", is_task=True)


def test_a_directory_is_known_by_its_digest_and_tells_what_is_carved(directory: Path) -> None:
    assert code(directory).note == "dev and test carved from train by hash (2 % each)"
    assert pairs(directory).note == "dev carved from train by hash (5 % each)"
    assert len(code(directory).revision) == 64
    assert code(directory).location == str(directory / "code")


def test_all_splits_together_are_the_files_rows(directory: Path) -> None:
    rows = {split: list(load_rows(code(directory), split=split, is_task=False)) for split in ("train", "dev", "test")}
    assert all(rows.values())
    assert sorted(row["text"] for found in rows.values() for row in found) == sorted(f"x = {n}" for n in range(500))


def test_a_split_that_is_there_is_read_whole(directory: Path) -> None:
    assert list(load_rows(pairs(directory), split="test", is_task=True)) == [{"question": "t?", "answer": "z"}]


def test_changed_files_are_refused_by_the_folders_name(directory: Path) -> None:
    source = code(directory)
    write(directory / "code" / "train.jsonl", [{"text": "other"}])
    with pytest.raises(ValueError, match=r"data/code: its files changed: sha256 .*plan anew"):
        next(load_rows(source, split="train", is_task=False))


def test_a_split_added_later_is_a_change_too(directory: Path) -> None:
    source = code(directory)
    write(directory / "code" / "dev.jsonl", [{"text": "dev"}])
    with pytest.raises(ValueError, match="its files changed"):
        next(load_rows(source, split="dev", is_task=False))


def test_a_bad_row_is_named_with_its_line(directory: Path) -> None:
    write(directory / "code" / "train.jsonl", [{"text": "fine"}, {"txt": "not"}])
    with pytest.raises(ValueError, match=r"code/train\.jsonl:2: fields found: txt; allowed: .*text"):
        list(load_rows(code(directory), split="train", is_task=False))


@pytest.mark.parametrize(
    ("name", "folder", "is_task", "message"),
    [
        ("math", "math", False, r"math: .*data/math: no such folder"),
        ("pairs", "sft/empty", True, r"sft/empty: the train split is missing; found: none"),
        ("pairs", "code", True, r"data/code: the test split is missing; found: train"),
    ],
)
def test_what_is_missing_is_an_error_at_plan_time(
    directory: Path, name: str, folder: str, is_task: bool, message: str
) -> None:
    (directory / "sft" / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        resolve_source(str(directory), name=name, folder=folder, is_task=is_task)


def test_wrong_fields_are_an_error_at_plan_time(directory: Path) -> None:
    write(directory / "sft" / "pairs" / "test.jsonl", [{"text": "no pair"}])
    with pytest.raises(ValueError, match=r"test\.jsonl:1: fields found: text; allowed: .*question/answer"):
        pairs(directory)


def test_an_empty_split_is_an_error_at_plan_time(directory: Path) -> None:
    write(directory / "code" / "test.jsonl", [])
    with pytest.raises(ValueError, match=r"test\.jsonl: no rows"):
        code(directory)


def test_a_directory_that_is_not_there_names_the_three_kinds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such directory; allowed: wheels, a directory, or hub:OWNER/NAME"):
        resolve_source(str(tmp_path / "gone"), name="code", folder="code", is_task=False)


def test_wheels_are_resolved_without_fetching_anything(tmp_path: Path) -> None:
    source = resolve_source("wheels", name="code", folder="code", is_task=False)
    assert (source.kind, source.part, source.revision) == ("wheels", "code", wheels.list_digest())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("name", "is_task"), [("poems", False), ("pycode", False), ("code", True)])
def test_the_wheels_have_no_other_parts(name: str, is_task: bool) -> None:
    with pytest.raises(ValueError, match=f"{name}: the source 'wheels' has no such (task|corpus); allowed: "):
        resolve_source("wheels", name=name, folder=name, is_task=is_task)


def test_another_list_of_wheels_is_refused(tmp_path: Path) -> None:
    source = replace(resolve_source("wheels", name="code", folder="code", is_task=False), revision="0" * 64)
    with pytest.raises(ValueError, match="names revision 000000000000, this version of midstudy has"):
        next(load_rows(source, split="train", is_task=False))


def test_a_hub_name_carries_config_and_commit() -> None:
    source = resolve_source(f"hub:owner/set:main:x@{COMMIT}", name="code", folder="code", is_task=False)
    assert (source.kind, source.part, source.config, source.revision) == ("hub", "owner/set", "main:x", COMMIT)


@pytest.mark.parametrize("argument", ["hub:owner/set", "hub:owner/set@main", "hub:@" + COMMIT])
def test_a_hub_name_without_a_commit_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=r"commit|COMMIT"):
        resolve_source(argument, name="code", folder="code", is_task=False)


def test_a_hub_set_is_read_through_the_same_door_and_carved(directory: Path) -> None:
    source = Source(kind="hub", part=str(directory / "code"), revision=COMMIT)
    rows = {split: list(load_rows(source, split=split, is_task=False)) for split in ("train", "dev", "test")}
    files = {split: list(load_rows(code(directory), split=split, is_task=False)) for split in ("train", "dev", "test")}
    assert rows == files


def test_real_files_are_read(shared_data: Path) -> None:
    source = resolve_source(str(shared_data), name="word_problems", folder="sft/gsm8k", is_task=True)
    assert sum(1 for _ in load_rows(source, split="test", is_task=True)) == 1319
    assert source.note == "dev carved from train by hash (5 % each)"
