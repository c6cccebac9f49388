"""The formats and shapes in which people have text: the same rows give the same tokens, and bad rows are named."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from midstudy.data.rows import as_text
from midstudy.data.shards import write_split
from midstudy.data.source import load_rows, resolve_source
from midstudy.data.split_files import split_files
from midstudy.data.tokenizer import train_tokenizer

Row = dict[str, Any]


def lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def write_parquet(path: Path, rows: list[Row]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3)


WRITERS: dict[str, Callable[[Path, list[Row]], Any]] = {
    ".jsonl": lambda path, rows: path.write_bytes(lines(rows)),
    ".jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(lines(rows))),
    ".jsonl.zst": lambda path, rows: path.write_bytes(zstd(lines(rows))),
    ".parquet": write_parquet,
}


def one_file(folder: Path, ending: str, rows: list[Row]) -> None:
    folder.mkdir(parents=True)
    WRITERS[ending](folder / f"train{ending}", rows)


def in_shards(folder: Path, rows: list[Row]) -> None:
    """Twelve shards, so that their numbers and their names have different orders; of every format in turn."""
    folder.mkdir(parents=True)
    for number in range(12):
        part = rows[len(rows) * number // 12 : len(rows) * (number + 1) // 12]
        ending = list(WRITERS)[number % 4] if part else ".jsonl"
        WRITERS[ending](folder / f"train_{number}{ending}", part)


def in_a_folder(folder: Path, rows: list[Row]) -> None:
    half = len(rows) // 2
    for name, ending, part in (("a/part-1", ".jsonl.zst", rows[:half]), ("b/part-0", ".jsonl", rows[half:])):
        (folder / "train" / name).parent.mkdir(parents=True)
        WRITERS[ending](folder / "train" / f"{name}{ending}", part)


SHAPES: dict[str, Callable[[Path, list[Row]], None]] = {
    **{ending: lambda folder, rows, ending=ending: one_file(folder, ending, rows) for ending in WRITERS},  # type: ignore[misc]
    "shards": in_shards,
    "folder": in_a_folder,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    rng = random.Random(0)
    return train_tokenizer(
        (" ".join(rng.choices(["time", "größer", "日本", "x = 1"], k=20)) for _ in range(50)), vocab_size=265
    )


def read(folder: Path, fields: str = "") -> dict[str, list[Row]]:
    source = resolve_source(f"{folder}{fields}", name="x", folder=".", is_task=False)
    return {split: list(load_rows(source, split=split, is_task=False)) for split in ("train", "dev", "test")}


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=12)
@given(bodies=st.lists(text, min_size=60, max_size=90), data=st.data())
def test_the_same_rows_have_the_same_splits_digest_and_tokens_in_every_shape(tokenizer, tmp_path_factory, bodies, data):
    rows = [{"id": number, "content": body} for number, body in enumerate(bodies)]
    fields = data.draw(st.sampled_from(["", ",text=content"]))
    if not fields:
        rows = [{"id": row["id"], "text": row["content"]} for row in rows]
    root = tmp_path_factory.mktemp("shapes")
    made = {}
    for shape, write in SHAPES.items():
        write(root / shape, rows)
        splits = read(root / shape, fields)
        tokens = root / "tokens" / shape
        tokens.mkdir(parents=True)
        made[shape] = (
            splits,
            [
                write_split(tokenizer, [(as_text(row, ""),) for row in splits[split]], tokens, split, shard_bytes=200)
                for split in ("train", "dev", "test")
            ],
        )
    assert sorted(row["text"] for split in made[".jsonl"][0].values() for row in split) == sorted(bodies)
    for shape in SHAPES:
        assert made[shape] == made[".jsonl"], shape


def test_golden_rows_are_read_in_the_order_of_their_shards(tmp_path):
    in_shards(tmp_path / "x", [{"text": f"document {number}"} for number in range(24)])
    source = resolve_source(str(tmp_path), name="x", folder="x", is_task=False)
    assert [path.name.partition(".")[0] for path in split_files(tmp_path / "x", "train")] == [
        f"train_{n}" for n in range(12)
    ]
    (tmp_path / "x" / "test.jsonl").write_bytes(lines([{"text": "t"}]))
    (tmp_path / "x" / "dev.jsonl").write_bytes(lines([{"text": "d"}]))
    source = resolve_source(str(tmp_path), name="x", folder="x", is_task=False)
    assert [row["text"] for row in load_rows(source, split="train", is_task=False)] == [f"document {n}" for n in range(24)]
    assert source.note == ""


def test_a_file_is_a_corpus_whose_dev_and_test_are_carved(tmp_path):
    (tmp_path / "web.jsonl.gz").write_bytes(gzip.compress(lines([{"body": f"page {number}"} for number in range(400)])))
    source = resolve_source(f"{tmp_path}/web.jsonl.gz,text=body", name="x", folder="x", is_task=False)
    assert source.note == "dev and test carved from train by hash (2 % each)"
    assert sum(len(list(load_rows(source, split=split, is_task=False))) for split in ("train", "dev", "test")) == 400
    with pytest.raises(ValueError, match="a task are reported on its test split"):
        resolve_source(f"{tmp_path}/web.jsonl.gz", name="x", folder="x", is_task=True)


@pytest.mark.parametrize("fields", ["", ",prompt=prompt,completion=completion", ",prompt=completion,completion=prompt"])
def test_a_task_has_prompts_and_completions(tmp_path, fields):
    (tmp_path / "x").mkdir()
    for split in ("train", "test"):
        write_parquet(tmp_path / "x" / f"{split}.parquet", [{"prompt": f"{split}?", "completion": "yes", "id": 1}])
    WRITERS[".jsonl"](tmp_path / "x" / "dev.jsonl", [{"prompt": "dev?", "completion": "no"}])
    source = resolve_source(f"{tmp_path}{fields}", name="x", folder="x", is_task=True)
    row = next(load_rows(source, split="test", is_task=True))
    assert (row["prompt"], row["completion"]) == (("yes", "test?") if "prompt=completion" in fields else ("test?", "yes"))
    assert ("id" in row) == (not fields)
    with pytest.raises(ValueError, match=r"a task needs prompt=FIELD,completion=FIELD or messages=FIELD, got text="):
        resolve_source(f"{tmp_path},text=prompt", name="x", folder="x", is_task=True)


def good(number: int) -> bytes:
    return lines([{"text": f"document {number} {'x' * number}"}])


BAD_LINES = [
    (
        b'{"text": \n',
        r"/train-1\.jsonl:3: expected one JSON object per line, got text that is not JSON .* or remove the line",
    ),
    (b'{"text": "caf\xe9"}\n', r"/train-1\.jsonl:3: expected UTF-8 text, got byte 0xe9 at byte 14 of the line .*iconv"),
    (b'{"id": 1}\n', r"/train-1\.jsonl:3: expected .*, got id\. Declare the (fields|right field)"),
    (b'{"text": null}\n', r"/train-1\.jsonl:3: field 'text'.*: expected text, got None\. Correct or remove the row"),
    (b'{"text": ["a"]}\n', r"/train-1\.jsonl:3: field 'text'.*: expected text, got list\. Correct or remove the row"),
]


@pytest.mark.parametrize("fields", ["", ",text=text"])
@pytest.mark.parametrize(("bad", "message"), BAD_LINES)
def test_a_bad_row_is_refused_with_its_file_line_and_field(tmp_path, fields, bad, message):
    (tmp_path / "x").mkdir()
    for number in range(3):
        good_lines = [good(row) for row in range(6)]
        (tmp_path / "x" / f"train-{number}.jsonl").write_bytes(
            b"".join([*good_lines[:2], *([bad] * (number == 1)), *good_lines])
        )
    for split in ("validation", "test"):
        (tmp_path / "x" / f"{split}.jsonl").write_bytes(good(0))
    source = resolve_source(f"{tmp_path}{fields}", name="x", folder="x", is_task=False)
    with pytest.raises(ValueError, match=message):
        list(load_rows(source, split="train", is_task=False))


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize("damage", ["cut", "last byte cut", "another format"])
def test_a_damaged_shard_is_refused_and_named(tmp_path, ending, damage):
    (tmp_path / "x").mkdir()
    rng = random.Random(5)
    rows = [{"text": rng.randbytes(200).hex()} for _ in range(300)]
    for number in range(2):
        WRITERS[ending](tmp_path / "x" / f"train-{number}{ending}", rows)
    path = tmp_path / "x" / f"train-1{ending}"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "last byte cut": whole[:-1], "another format": lines(rows)}[damage])
    for split in ("validation", "test"):
        (tmp_path / "x" / f"{split}.jsonl").write_bytes(good(0))
    source = resolve_source(str(tmp_path), name="x", folder="x", is_task=False)
    with pytest.raises(ValueError, match=rf"/train-1\{ending}: cannot be read after (line|row) \d+ .*the file again"):
        list(load_rows(source, split="train", is_task=False))


@pytest.mark.parametrize("ending", [".jsonl.zst", ".parquet"])
def test_text_that_changes_while_it_is_read_is_rejected_at_its_end(tmp_path, ending):
    from midstudy.data import files
    from midstudy.data.split_rows import ChangedTextError

    (tmp_path / "x").mkdir()
    for number in range(3):
        WRITERS[ending](tmp_path / "x" / f"train-{number}{ending}", [{"text": f"a {n}"} for n in range(50)])
    source = resolve_source(str(tmp_path), name="x", folder="x", is_task=False)
    known = {path: files.file_digest(path) for path in (tmp_path / "x").iterdir()}
    rows = load_rows(source, split="train", is_task=False)
    next(rows)
    path = tmp_path / "x" / f"train-1{ending}"
    WRITERS[ending](path, [{"text": f"b {n}"} for n in range(50)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "file_digest", known.get)  # a cache that has not seen the change
        with pytest.raises(ChangedTextError, match="its files changed since the plan"):
            list(rows)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"),
            r"expected 3 shards train-…-of-00003 .*missing: 1",
        ),
        (("train-0.jsonl", "train-0.jsonl.gz"), r"expected each shard of the train split once, got train-0\.jsonl"),
        (("train.jsonl", "train-0.jsonl"), r"expected one file for the train split, got train\.jsonl and train-0\.jsonl"),
        (("train.jsonl", "train/a.jsonl"), r"expected one file for the train split, got train\.jsonl and a\.jsonl"),
    ],
)
def test_files_that_leave_the_split_open_are_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(good(1)) if name.endswith(".gz") else good(1))
    with pytest.raises(ValueError, match=message):
        split_files(tmp_path, "train")


def test_rows_of_parquet_with_dates_and_bytes_can_be_split_by_hash(tmp_path):
    import datetime

    (tmp_path / "x").mkdir()
    rows = [{"text": f"{n}", "day": datetime.date(2026, 1, 1 + n % 28), "raw": bytes([n % 256])} for n in range(300)]
    write_parquet(tmp_path / "x" / "train.parquet", rows)
    splits = read(tmp_path / "x")
    assert sum(map(len, splits.values())) == 300
    assert splits["dev"]
