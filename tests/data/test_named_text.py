"""NAME=SOURCE arguments: every kind of source, and errors that say what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from midstudy.data.named_text import named_text, named_texts
from midstudy.recipe.errors import RecipeError


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # With all splits, none is carved from train.
    for split in ("train", "validation", "test"):
        write(tmp_path / f"text/general/{split}.jsonl", [{"text": f" general {split} "}, {"text": " "}])
        write(tmp_path / f"text/sft/sums/{split}.jsonl", [{"question": "1 + 1 =", "answer": " 2"}])
    return tmp_path / "text"


def test_a_folder_is_read_by_name_a_task_as_prompt_and_target(folder: Path) -> None:
    general, sums = named_texts([f"general={folder}", f"sums={folder}"])
    assert list(general.documents()) == ["general train"]
    assert (sums.is_task, list(sums.documents())) == (True, ["1 + 1 = 2"])
    assert len(general.revision) == 64


def test_a_folder_with_the_train_file_and_a_single_file_are_read_under_any_name(folder: Path) -> None:
    file = write(folder.parent / "mine.jsonl", [{"text": "a"}, {"question": "b", "answer": "c"}])
    direct, single = named_texts([f"web={folder}/general", f"mine={file}"])
    assert list(direct.documents()) == ["general train"]
    assert list(single.documents()) == ["a", "b\nc"]
    assert (single.size_bytes, single.source) == (file.stat().st_size, None)


def test_wheels_know_their_size_without_being_prepared() -> None:
    code, pycode = named_texts(["code=wheels", "pycode=wheels"])
    assert (code.is_task, pycode.is_task) == (False, True)
    assert code.size_bytes == 10_837_112


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a=wheels"], r"a: the source 'wheels' has no such corpus"),
        (["general=wheels"], "compare: expected at least two corpora, each as NAME=SOURCE, got 1."),
        (["general", "code=wheels"], "compare: expected NAME=SOURCE with .*, got general. Is a variable not set?"),
        (["general=", "code=wheels"], "compare: expected NAME=SOURCE with .*, got general=. Is a variable not set?"),
        (["code=wheels", "code=wheels"], "compare.code: expected each name once, got code=wheels. Rename"),
        (["code=wheels", "b=/no/such/file.jsonl"], "compare.b: expected .*, got /no/such/file.jsonl, which does not exist"),
        (["code=wheels", "b=hub:a/b"], "expected hub:OWNER/NAME"),
    ],
)
def test_other_arguments_are_rejected(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_texts(arguments)


def test_a_file_that_is_not_jsonl_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(RecipeError, match=r"compare.a: expected a file that ends in .jsonl or .* or .parquet, got .*a.csv"):
        named_texts([f"a={tmp_path}/a.csv", "code=wheels"])


def test_a_folder_without_the_name_says_what_it_holds(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"math: .*no such folder.*general/ \(a folder\)"):
        named_texts([f"math={folder}", f"general={folder}"])


def test_splits_of_a_folder_are_read_by_name_and_documents_have_places(folder: Path) -> None:
    general, sums = named_texts([f"general={folder}", f"sums={folder}"])
    assert list(general.documents(split="dev")) == ["general validation"]
    assert list(sums.documents(split="test")) == ["1 + 1 = 2"]
    path = folder / "general" / "train.jsonl"
    assert list(general.located_documents()) == [(f"{path}:1", " general train "), (f"{path}:2", " ")]


def test_the_dev_split_of_a_single_file_is_a_small_part_of_it_and_it_has_no_test_split(tmp_path: Path) -> None:
    rows = [{"text": f"document {number}"} for number in range(2_000)]
    text = named_text(f"a={write(tmp_path / 'a.jsonl', rows)}", where="--general")
    dev = list(text.documents(split="dev"))
    assert 20 < len(dev) < 60
    assert set(dev) < set(text.documents())
    with pytest.raises(ValueError, match="a: expected a source with a test split, got the single file"):
        list(text.documents(split="test"))


def test_messages_name_the_option() -> None:
    with pytest.raises(RecipeError, match=r"--target: expected NAME=SOURCE with .*, got general"):
        named_text("general", where="--target")


def test_shards_and_parquet_are_read_with_the_places_of_their_rows(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"web/train-{number}.jsonl", [{"text": f"{number} a"}, {"text": f"{number} b"}])
    for split in ("validation", "test"):
        write(tmp_path / f"web/{split}.jsonl", [{"text": "c"}])
    located = list(named_text(f"web={tmp_path}", where="x").located_documents())
    assert [(Path(where).name, text) for where, text in located] == [
        ("train-0.jsonl:1", "0 a"), ("train-0.jsonl:2", "0 b"), ("train-1.jsonl:1", "1 a"), ("train-1.jsonl:2", "1 b"),
    ]  # fmt: skip
    pd.DataFrame({"text": ["x", "y"]}).to_parquet(tmp_path / "mine.parquet")
    single = named_text(f"mine={tmp_path}/mine.parquet", where="x")
    assert list(single.documents()) == ["x", "y"]
    assert [text for _, text in single.located_documents()] == ["x", "y"]
