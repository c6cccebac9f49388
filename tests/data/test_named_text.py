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
    general, sums = named_texts([f"general={folder}", f"sums={folder}"], where="compare")
    assert list(general.documents()) == ["general train"]
    assert (sums.is_task, list(sums.documents())) == (True, ["1 + 1 = 2"])
    assert len(general.revision) == 64


def test_a_folder_with_the_train_file_and_a_single_file_are_read_under_any_name(folder: Path) -> None:
    file = write(folder.parent / "mine.jsonl", [{"text": "a"}, {"question": "b", "answer": "c"}])
    direct, single = named_texts([f"web={folder}/general", f"mine={file}"], where="compare")
    assert list(direct.documents()) == ["general train"]
    assert list(single.documents()) == ["a", "b\nc"]
    assert (single.size_bytes, single.source) == (file.stat().st_size, None)


def test_wheels_know_their_size_without_being_prepared() -> None:
    code, pycode = named_texts(["code=wheels", "pycode=wheels"], where="compare")
    assert (code.is_task, pycode.is_task) == (False, True)
    assert code.size_bytes == 10_837_112


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a=wheels"], r"a: the source 'wheels' has no such corpus"),
        (["general", "code=wheels"], "compare: expected NAME=SOURCE with .*, got general. Is a variable not set?"),
        (["general=", "code=wheels"], "compare: expected NAME=SOURCE with .*, got general=. Is a variable not set?"),
        (["code=wheels", "code=wheels"], "compare.code: expected each name once, or a share .*, got code=wheels. Rename"),
        (["code=wheels,share=0.5", "code=wheels"], "compare.code: expected each name once, or a share"),
        (["code=wheels,share=0.5"], "code: .* expected a second source beside a share"),
        (["code=wheels,text=body"], "code: .*the fields of 'wheels' are fixed"),
        (["code=wheels,text="], "code: compare wheels,text=: expected text= and a value, got nothing"),
        (["code=wheels", "b=/no/such/file.jsonl"], "compare.b: expected .*, got /no/such/file.jsonl, which does not exist"),
        (["code=wheels", "b=hub:a/b"], "expected hub:OWNER/NAME"),
    ],
)
def test_other_arguments_are_rejected(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_texts(arguments, where="compare")


def test_a_file_that_is_not_jsonl_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(RecipeError, match=r"compare.a: expected a file that ends in .jsonl or .* or .parquet, got .*a.csv"):
        named_texts([f"a={tmp_path}/a.csv", "code=wheels"], where="compare")


def test_a_folder_without_the_name_says_what_it_holds(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"math: .*no such folder.*general/ \(a folder\)"):
        named_texts([f"math={folder}", f"general={folder}"], where="compare")


def test_splits_of_a_folder_are_read_by_name_and_documents_have_places(folder: Path) -> None:
    general, sums = named_texts([f"general={folder}", f"sums={folder}"], where="compare")
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


def test_declared_fields_are_read_from_a_file_a_folder_and_a_task(folder: Path) -> None:
    file = write(folder.parent / "mine.jsonl", [{"content": "a", "text": "not this"}, {"content": "b"}])
    for split in ("train", "validation", "test"):
        write(folder / f"web/{split}.jsonl", [{"body": f"web {split}"}])
        write(folder / f"sft/pairs/{split}.jsonl", [{"ask": "2 + 2 =", "say": " 4", "text": "not this"}])
    mine, web, pairs = named_texts(
        [f"mine={file},text=content", f"web={folder},text=body", f"pairs={folder},prompt=ask,completion=say"], where="x"
    )
    assert list(mine.documents()) == ["a", "b"]
    assert list(mine.located_documents()) == [(f"{file}:1", "a"), (f"{file}:2", "b")]
    assert list(web.documents(split="dev")) == ["web validation"]
    assert list(web.located_documents()) == [(f"{folder}/web/train.jsonl:1", "web train")]
    assert (pairs.is_task, list(pairs.documents(split="test"))) == (True, ["2 + 2 = 4"])
    assert list(pairs.located_documents()) == [(f"{folder}/sft/pairs/train.jsonl:1", "2 + 2 = 4")]
    assert (web.study_values(), mine.study_values()) == ((f"{folder},text=body",), (f"{file},text=content",))
    assert pairs.study_values() == (f"{folder},prompt=ask,completion=say",)
    plain = named_text(f"mine={folder.parent}/mine.jsonl", where="x")
    assert plain.identity != mine.identity
    with pytest.raises(ValueError, match=r"mine.jsonl:1: expected field 'body', declared by text=body, got content, text"):
        list(named_text(f"mine={file},text=body", where="x").documents())


def test_one_name_with_shares_is_a_mix_of_exact_shares_of_bytes(folder: Path) -> None:
    for name, field in (("short", "text"), ("long", "body")):
        for split in ("train", "validation", "test"):
            rows = [{field: f"{name} {split} {number:03d}"} for number in range(90)]
            write(folder / f"{name}/{split}.jsonl", rows)
    arguments = [f"mix={folder}/short,share=0.25", f"mix={folder}/long,text=body,share=0.75"]
    mix, general = named_texts([arguments[0], f"general={folder}", arguments[1]], where="x")
    assert (mix.name, general.name) == ("mix", "general")
    texts = list(mix.documents())
    num_bytes = {name: sum(len(text) for text in texts if text.startswith(name)) for name in ("short", "long")}
    assert num_bytes["long"] / sum(num_bytes.values()) == pytest.approx(0.75, abs=0.01)
    assert {text.split()[1] for text in mix.documents(split="dev")} == {"validation"}
    assert [where for where, _ in mix.located_documents()][:2] == ["mix train:1", "mix train:2"]
    assert mix.study_values() == tuple(argument.removeprefix("mix=") for argument in arguments)
    files = [folder / f"{name}/train.jsonl" for name in ("short", "long")]
    assert mix.size_bytes == sum(path.stat().st_size for path in files)
    other = [argument.replace("0.25", "0.5").replace("0.75", "0.5") for argument in arguments]
    assert named_text(*other, where="x").identity != mix.identity
    assert named_text(*reversed(arguments), where="x").identity == mix.identity
    with pytest.raises(RecipeError, match="--general: expected one name, got mix and general"):
        named_text(*arguments, f"general={folder}", where="--general")


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
