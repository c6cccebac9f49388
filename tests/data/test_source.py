"""Sources named by `--data`: no fallback to another source, changed text is detected, carved splits are reported."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from midstudy.data import builtin, files, hub
from midstudy.data.data_args import DataChoice
from midstudy.data.first_row import first_row
from midstudy.data.size import text_bytes
from midstudy.data.source import load_rows, require_rows, resolve_source
from midstudy.data.split_rows import ChangedTextError
from midstudy.data.splits import split_of_row
from midstudy.recipe.canonical import identify
from midstudy.recipe.data import Corpus, Source, declared

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


def test_a_directory_is_identified_by_its_digest_and_reports_carved_splits(directory: Path) -> None:
    assert code(directory).note == "dev and test carved from train by hash (2 % each)"
    assert pairs(directory).note == "dev carved from train by hash (5 % each)"
    assert len(code(directory).revision) == 64
    assert code(directory).location == str(directory / "code")


def test_all_splits_together_have_the_rows_of_the_file(directory: Path) -> None:
    rows = {split: list(load_rows(code(directory), split=split, is_task=False)) for split in ("train", "dev", "test")}
    assert all(rows.values())
    assert sorted(row["text"] for split_rows in rows.values() for row in split_rows) == sorted(
        f"x = {n}" for n in range(500)
    )


def test_an_existing_split_is_read_whole(directory: Path) -> None:
    assert list(load_rows(pairs(directory), split="test", is_task=True)) == [{"question": "t?", "answer": "z"}]


def test_changed_files_are_rejected_and_the_folder_is_named(directory: Path) -> None:
    source = code(directory)
    write(directory / "code" / "train.jsonl", [{"text": "other"}])
    with pytest.raises(
        ValueError, match=r"data/code: its files changed since the plan: expected sha256 \w+, got .*plan again"
    ):
        next(load_rows(source, split="train", is_task=False))


def replace_text(path: Path) -> None:
    """Change the text in place; keep size and timestamp."""
    status, content = path.stat(), path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    other = text.replace(b"=", b"<").replace(b"?", b"!")
    assert other != text
    path.write_bytes((gzip.compress(other) if path.suffix == ".gz" else other)[: len(content)].ljust(len(content)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("num_read", [0, 1, None])
def test_the_text_read_is_digested_regardless_of_the_cache(
    directory: Path, monkeypatch: pytest.MonkeyPatch, split: str, num_read: int | None
) -> None:
    """A stale cached digest that matches the plan only delays the error until all text is read."""
    source = code(directory)
    planned = files.file_digest(directory / "code" / "train.jsonl")
    monkeypatch.setattr(files, "file_digest", lambda path: planned)
    replace_text(directory / "code" / "train.jsonl")
    rows = load_rows(source, split=split, is_task=False)
    for _ in range(num_read or 0):
        next(rows)
    with pytest.raises(
        ChangedTextError, match=r"data/code: its files changed since the plan: expected sha256 \w+, got .*plan again"
    ):
        list(rows if num_read is None else rows.rest())


def test_text_that_changes_while_it_is_read_is_rejected_at_its_end(directory: Path) -> None:
    """The file has a megabyte, of which the first part has been read."""
    path = directory / "code" / "train.jsonl"
    write(path, [{"text": f"x = {number} " * 20} for number in range(5_000)])
    rows = load_rows(code(directory), split="train", is_task=False)
    next(rows)
    replace_text(path)
    with pytest.raises(ChangedTextError):
        list(rows)


def test_a_file_that_is_replaced_while_it_is_read_is_read_in_its_old_version(directory: Path) -> None:
    path = directory / "code" / "train.jsonl"
    write(path, [{"text": f"x = {number} " * 20} for number in range(5_000)])
    rows = load_rows(code(directory), split="test", is_task=False)
    first = next(rows)
    wanted = [first, *rows]
    rows = load_rows(code(directory), split="test", is_task=False)
    next(rows)
    write(path.with_name("new"), [{"text": "other"}])
    path.with_name("new").replace(path)
    assert [first, *rows] == wanted


@pytest.mark.parametrize("name", ["general", "pairs"])
def test_a_replaced_split_changes_the_revision(directory: Path, name: str) -> None:
    source_of = code if name == "general" else pairs
    before = source_of(directory).revision
    replace_text(directory / ("code/train.jsonl" if name == "general" else "sft/pairs/test.jsonl"))
    assert source_of(directory).revision != before


def test_a_link_that_changes_its_target_changes_the_revision(directory: Path, tmp_path: Path) -> None:
    """Two versions with the same sizes and timestamps, as from archives."""
    for version in ("v1", "v2"):
        (tmp_path / version / "code").mkdir(parents=True)
        text = (directory / "code" / "train.jsonl").read_text()
        path = tmp_path / version / "code" / "train.jsonl"
        path.write_text(text if version == "v1" else text.replace("=", "<"))
        os.utime(path, ns=(1, 1))
    latest = tmp_path / "latest"
    latest.symlink_to("v1")
    source = code(latest)
    latest.unlink()
    latest.symlink_to("v2")
    assert code(latest).revision != source.revision
    with pytest.raises(ChangedTextError):
        list(load_rows(source, split="train", is_task=False))


def test_an_added_split_counts_as_a_change(directory: Path) -> None:
    source = code(directory)
    write(directory / "code" / "dev.jsonl", [{"text": "dev"}])
    with pytest.raises(ValueError, match="its files changed"):
        next(load_rows(source, split="dev", is_task=False))


def test_a_bad_row_is_named_with_its_line(directory: Path) -> None:
    write(directory / "code" / "train.jsonl", [{"text": "fine"}, {"txt": "not"}])
    with pytest.raises(ValueError, match=r"code/train\.jsonl:2: expected the fields of exactly one of text; .*, got txt\."):
        list(load_rows(code(directory), split="train", is_task=False))


def rows_of(is_task: bool, number: int) -> list[dict]:
    return [{"question": f"{n}?", "answer": "y"} if is_task else {"text": f"x = {n}"} for n in range(number)]


@pytest.mark.parametrize(
    ("is_task", "number", "ending", "note"),
    [
        (False, 40, ".jsonl", "of the 40 rows of train.jsonl, 3 to dev and 0 to test"),
        (False, 40, ".jsonl.gz", "of the 40 rows of train.jsonl.gz, 3 to dev and 0 to test"),
        (True, 9, ".jsonl", "of the 9 rows of train.jsonl, 0 to dev"),
        (True, 400, ".jsonl", ""),
    ],
)
def test_a_carved_split_of_few_rows_is_reported_and_an_empty_one_rejected_when_it_is_used(
    tmp_path: Path, is_task: bool, number: int, ending: str, note: str
) -> None:
    write(tmp_path / "set" / f"train{ending}", rows_of(is_task, number))
    if is_task:
        write(tmp_path / "set" / "test.jsonl", rows_of(is_task, 3))
    source = resolve_source(str(tmp_path), name="set", folder="set", is_task=is_task)
    assert source.note.partition("each)")[2].lstrip(": ") == note
    for split in ("train", "dev", "test"):
        rows = list(load_rows(source, split=split, is_task=is_task))
        if rows:
            require_rows(source, split=split, is_task=is_task)
        else:
            message = rf"set: the {split} split is empty: of the {number} rows of train\{ending}, .*0 go to {split}.* carved"
            with pytest.raises(
                ValueError, match=rf"{message} from train by hash .*Supply {'validation' if is_task else split}\.jsonl"
            ):
                require_rows(source, split=split, is_task=is_task)


def test_a_corpus_whose_rows_are_all_carved_from_train_is_rejected(tmp_path: Path) -> None:
    carved = next(row for row in rows_of(False, 400) if row not in train_of(rows_of(False, 400)))
    write(tmp_path / "set" / "train.jsonl", [carved])
    with pytest.raises(ValueError, match=r"the train split is empty: of the 1 rows of train\.jsonl, 0 go to train"):
        resolve_source(str(tmp_path), name="set", folder="set", is_task=False)


def train_of(rows: list[dict]) -> list[dict]:
    return [row for row in rows if split_of_row(row, carved=("dev", "test"), is_task=False) == "train"]


@pytest.mark.parametrize("name", ["validation", "dev", "valid", "val"])
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_the_dev_split_may_have_four_names_and_an_unusual_one_is_reported(directory: Path, name: str, ending: str) -> None:
    write(directory / "sft" / "pairs" / f"{name}{ending}", [{"question": "d?", "answer": "z"}])
    assert pairs(directory).note == ("" if name in ("validation", "dev") else f"dev is {name}{ending}")
    assert list(load_rows(pairs(directory), split="dev", is_task=True)) == [{"question": "d?", "answer": "z"}]
    write(directory / "sft" / "pairs" / "dev.jsonl.gz", [{"question": "e?", "answer": "z"}])
    if (name, ending) != ("dev", ".jsonl.gz"):
        with pytest.raises(ValueError, match=r"sft/pairs: expected one file for the dev split, got .* and .*\."):
            pairs(directory)


UNREAD = [
    "train.jsonl.lz4", "train.jsonl.bz2", "train.jsonl.xz", "train.arrow", "train.json", "train.csv", "train.txt",
    "Train.jsonl", "TRAIN.JSONL", "train.JSONL.gz", "training.jsonl", "train-first.jsonl", "train_1.csv",
    "valid.arrow", "eval.jsonl", "evaluation.jsonl", "Validation.jsonl", "tests.jsonl", "testing.jsonl", "part-1.jsonl.gz",
    "corpus.parquet",
]  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_a_file_that_looks_like_data_but_is_not_read_is_reported(directory: Path, name: str) -> None:
    (directory / "code" / name).write_bytes(b"{}")
    assert f"not read: {name}" in code(directory).note
    (directory / "code" / "train.jsonl").unlink()
    with pytest.raises(
        ValueError, match=r"data/code: the train split is missing.*Expected train\.jsonl, with \.jsonl\.gz"
    ) as raised:
        code(directory)
    assert f"Not read: {name}" in str(raised.value)


@pytest.mark.parametrize("name", ["data.json", "code.txt", "heldout.json", "code/train.jsonl", "data/train.jsonl", "x.gz"])
def test_without_a_train_split_all_other_files_are_named(directory: Path, name: str) -> None:
    """Files of any name, and a folder one level too deep."""
    train = directory / "code" / "train.jsonl"
    (directory / "code" / name).parent.mkdir(exist_ok=True)
    train.rename(directory / "code" / name)
    with pytest.raises(ValueError, match="the train split is missing") as raised:
        code(directory)
    top = Path(name).parts[0]
    assert str(raised.value).endswith(f" Not read: {top if top == name else f'{top}/ (a folder)'}.")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("Code", r"data/Code: no such folder\. .*data holds code/ \(a folder\), sft/ \(a folder\)\.$"),
        ("sft/pair", r"data/sft holds pairs/ \(a folder\)\.$"),
        ("tasks/pairs", r"data/tasks does not exist either\.$"),
    ],
)
def test_if_the_folder_is_missing_the_existing_ones_are_named(directory: Path, folder: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_source(str(directory), name="code", folder=folder, is_task=False)


def test_the_message_says_what_to_do_with_an_unread_file(directory: Path) -> None:
    folder = directory / "sft" / "pairs"
    (folder / "test.jsonl").rename(folder / "test.jsonl.xz")
    (folder / "dev.jsonl").symlink_to("nowhere")
    (folder / "train").mkdir()
    with pytest.raises(ValueError, match="the test split is missing") as raised:
        pairs(directory)
    unread = "Not read: dev.jsonl (a broken link), test.jsonl.xz (`xz -d` it), train/ (a folder)."
    assert "Expected test.jsonl, with .jsonl.gz" in str(raised.value)
    assert str(raised.value).endswith(f" {unread}")


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "LICENSE", "trainer.py", ".train.jsonl.swp", "train.log"])
def test_other_files_are_not_reported(directory: Path, name: str) -> None:
    (directory / "code" / name).write_bytes(b"{}")
    assert "not read" not in code(directory).note


def test_of_many_unread_files_the_first_are_named(directory: Path) -> None:
    for number in range(8):
        (directory / "code" / f"train-{number}.csv").write_bytes(b"{}")
    assert code(directory).note.endswith("train-3.csv, train-4.csv and 3 more")


@pytest.mark.parametrize(
    ("name", "folder", "is_task", "message"),
    [
        ("math", "math", False, r"math: .*data/math: no such folder"),
        ("pairs", "sft/empty", True, r"sft/empty: the train split is missing: expected train and test, got none"),
        ("pairs", "code", True, r"data/code: the test split is missing: expected train and test, got train"),
    ],
)
def test_missing_folders_and_splits_are_errors_at_plan_time(
    directory: Path, name: str, folder: str, is_task: bool, message: str
) -> None:
    (directory / "sft" / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        resolve_source(str(directory), name=name, folder=folder, is_task=is_task)


def test_wrong_fields_are_an_error_at_plan_time(directory: Path) -> None:
    write(directory / "sft" / "pairs" / "test.jsonl", [{"text": "no pair"}])
    with pytest.raises(
        ValueError, match=r"test\.jsonl:1: expected the fields of exactly one of .*question/answer.*, got text\."
    ):
        pairs(directory)


def test_an_empty_split_is_an_error_at_plan_time(directory: Path) -> None:
    write(directory / "code" / "test.jsonl", [])
    with pytest.raises(ValueError, match=r"test\.jsonl: expected one JSON object per line, or rows of Parquet, got no rows"):
        code(directory)


def test_a_missing_directory_is_rejected_with_the_three_kinds_of_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such directory\. Expected wheels, a directory, a file, or hub:OWNER/NAME"):
        resolve_source(str(tmp_path / "gone"), name="code", folder="code", is_task=False)


def test_built_in_text_is_resolved_without_fetching_anything(tmp_path: Path) -> None:
    source = resolve_source("wheels", name="code", folder="code", is_task=False)
    assert (source.kind, source.part, source.revision) == ("wheels", "code", builtin.list_digest())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("name", "is_task"), [("poems", False), ("pycode", False), ("code", True)])
def test_unknown_parts_of_the_wheels_are_rejected(name: str, is_task: bool) -> None:
    with pytest.raises(ValueError, match=f"{name}: the source 'wheels' has no such (task|corpus): expected one of "):
        resolve_source("wheels", name=name, folder=name, is_task=is_task)


def test_another_list_of_wheels_is_rejected(tmp_path: Path) -> None:
    source = replace(resolve_source("wheels", name="code", folder="code", is_task=False), revision="0" * 64)
    with pytest.raises(
        ValueError,
        match=r"expected revision 000000000000, that of the recipe, got [0-9a-f]{12}, that of this version of midstudy",
    ):
        next(load_rows(source, split="train", is_task=False))


def test_a_hub_name_carries_config_and_commit() -> None:
    source = resolve_source(f"hub:owner/set:main:x@{COMMIT}", name="code", folder="code", is_task=False)
    assert (source.kind, source.part, source.config, source.revision) == ("hub", "owner/set", "main:x", COMMIT)


@pytest.mark.parametrize("argument", ["hub:owner/set", "hub:owner/set@main", "hub:@" + COMMIT])
def test_a_hub_name_without_a_commit_is_rejected(argument: str) -> None:
    with pytest.raises(ValueError, match=r"commit|COMMIT"):
        resolve_source(argument, name="code", folder="code", is_task=False)


@pytest.mark.parametrize("config", ["", " "])
def test_an_empty_configuration_is_not_the_default_one(config: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected hub:owner/set@COMMIT or .*, got an empty CONFIG\. Is a variable not set"
    ):
        resolve_source(f"hub:owner/set:{config}@{COMMIT}", name="code", folder="code", is_task=False)


@pytest.mark.parametrize("argument", ["", "  ", "\n"])
def test_an_empty_argument_is_rejected(argument: str) -> None:
    with pytest.raises(ValueError, match=r"code: --data: expected wheels, a directory, a file, or hub:.*, got nothing"):
        resolve_source(argument, name="code", folder="code", is_task=False)


def test_a_folder_is_not_read_instead_of_a_hub_data_set_of_the_same_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    with pytest.raises(ValueError, match=r"hub:data/code: the folder .*data/code has the same name and would be read"):
        resolve_source(f"hub:data/code@{COMMIT}", name="code", folder="code", is_task=False)
    with pytest.raises(ValueError, match="--data: expected hub:OWNER/NAME"):
        resolve_source(f"hub:{directory}/code@{COMMIT}", name="code", folder="code", is_task=False)
    monkeypatch.chdir("/")
    source = resolve_source(f"hub:data/code@{COMMIT}", name="code", folder="code", is_task=False)
    monkeypatch.chdir(directory.parent)  # the job's current folder
    with pytest.raises(ValueError, match="has the same name and would be read instead"):
        hub.present_splits(source.part, source.config, source.revision)


def test_a_hub_data_set_is_read_and_carved_like_files(directory: Path) -> None:
    source = Source(kind="hub", part=str(directory / "code"), revision=COMMIT)
    rows = {split: list(load_rows(source, split=split, is_task=False)) for split in ("train", "dev", "test")}
    files = {split: list(load_rows(code(directory), split=split, is_task=False)) for split in ("train", "dev", "test")}
    assert rows == files


def test_real_files_are_read(shared_data: Path) -> None:
    source = resolve_source(str(shared_data), name="word_problems", folder="sft/gsm8k", is_task=True)
    assert sum(1 for _ in load_rows(source, split="test", is_task=True)) == 1319
    assert source.note == "dev carved from train by hash (5 % each)"


def test_text_that_is_only_declared_has_a_size_and_no_rows() -> None:
    source = declared("owner/set", num_bytes=12_000, note="--data code=hub:owner/set@COMMIT")
    assert str(source) == "declared:owner/set"
    assert text_bytes(Corpus(name="code", source=source)) == 12_000
    assert text_bytes(Corpus(name="code", source=source, max_bytes=5_000)) == 5_000
    assert first_row(source, is_task=False) == ""
    require_rows(source, split="dev", is_task=False)
    with pytest.raises(ValueError, match=r"expected its text, got its name alone\. Give it with --data code=hub:"):
        load_rows(source, split="train", is_task=False)
    other = declared("owner/set", num_bytes=1, note="")
    assert identify(source) == identify(other), "a declared size is in no id"


def test_a_default_source_is_read_only_where_no_argument_names_another(directory: Path) -> None:
    source = declared("owner/set", num_bytes=1, note="")
    assert DataChoice([]).corpus("code", max_bytes=None, otherwise=source).source == source
    for arguments in ([str(directory)], [f"code={directory / 'code'}"]):
        found = DataChoice(arguments).corpus("code", max_bytes=None, otherwise=source).source
        assert isinstance(found, Source)
        assert found.kind == "files"
