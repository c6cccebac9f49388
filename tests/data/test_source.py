"""What a `--data` value names, and the rows it holds: nothing falls back, nothing drifts, carving is told."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from midstudy.data import files, hub, wheels
from midstudy.data.source import ChangedTextError, load_rows, require_rows, resolve_source
from midstudy.data.splits import place_of
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


def exchange(path: Path) -> None:
    """Change the text in place, keeping size and timestamp."""
    status, content = path.stat(), path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    other = text.replace(b"=", b"<").replace(b"?", b"!")
    assert other != text
    path.write_bytes((gzip.compress(other) if path.suffix == ".gz" else other)[: len(content)].ljust(len(content)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("num_read", [0, 1, None])
def test_what_is_read_is_digested_whatever_was_remembered(
    directory: Path, monkeypatch: pytest.MonkeyPatch, split: str, num_read: int | None
) -> None:
    """A stale cached digest that matches the plan only delays the error until all text is read."""
    source = code(directory)
    planned = files.file_digest(directory / "code" / "train.jsonl")
    monkeypatch.setattr(files, "file_digest", lambda path: planned)
    exchange(directory / "code" / "train.jsonl")
    rows = load_rows(source, split=split, is_task=False)
    for _ in range(num_read or 0):
        next(rows)
    with pytest.raises(ChangedTextError, match=r"data/code: its files changed: sha256 .*plan anew"):
        list(rows if num_read is None else rows.rest())


def test_text_that_changes_while_it_is_read_is_refused_at_its_end(directory: Path) -> None:
    """A megabyte, of which the reader has seen the first part."""
    path = directory / "code" / "train.jsonl"
    write(path, [{"text": f"x = {number} " * 20} for number in range(5_000)])
    rows = load_rows(code(directory), split="train", is_task=False)
    next(rows)
    exchange(path)
    with pytest.raises(ChangedTextError):
        list(rows)


def test_a_file_that_is_replaced_while_it_is_read_is_still_the_old_one(directory: Path) -> None:
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
def test_an_exchanged_split_is_another_revision(directory: Path, name: str) -> None:
    of = code if name == "general" else pairs
    before = of(directory).revision
    exchange(directory / ("code/train.jsonl" if name == "general" else "sft/pairs/test.jsonl"))
    assert of(directory).revision != before


def test_a_latest_link_is_what_it_leads_to(directory: Path, tmp_path: Path) -> None:
    """Two versions with the same sizes and timestamps, as archives make them."""
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


def test_a_split_added_later_is_a_change_too(directory: Path) -> None:
    source = code(directory)
    write(directory / "code" / "dev.jsonl", [{"text": "dev"}])
    with pytest.raises(ValueError, match="its files changed"):
        next(load_rows(source, split="dev", is_task=False))


def test_a_bad_row_is_named_with_its_line(directory: Path) -> None:
    write(directory / "code" / "train.jsonl", [{"text": "fine"}, {"txt": "not"}])
    with pytest.raises(ValueError, match=r"code/train\.jsonl:2: fields found: txt; allowed: .*text"):
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
def test_a_carved_split_of_few_rows_is_told_and_an_empty_one_refused_where_it_is_read(
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
            told = rf"set: the {split} split is empty: of the {number} rows of train\{ending}, .*0 fall to {split}.* carved"
            with pytest.raises(
                ValueError, match=rf"{told} from train by hash .*Supply {'validation' if is_task else split}\.jsonl"
            ):
                require_rows(source, split=split, is_task=is_task)


def test_a_corpus_that_is_carved_up_whole_is_refused(tmp_path: Path) -> None:
    carved = next(row for row in rows_of(False, 400) if row not in train_of(rows_of(False, 400)))
    write(tmp_path / "set" / "train.jsonl", [carved])
    with pytest.raises(ValueError, match=r"the train split is empty: of the 1 rows of train\.jsonl, 0 fall to train"):
        resolve_source(str(tmp_path), name="set", folder="set", is_task=False)


def train_of(rows: list[dict]) -> list[dict]:
    return [row for row in rows if place_of(row, carved=("dev", "test"), is_task=False) == "train"]


@pytest.mark.parametrize("name", ["validation", "dev", "valid", "val"])
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_the_dev_split_may_have_four_names_and_an_unusual_one_is_told(directory: Path, name: str, ending: str) -> None:
    write(directory / "sft" / "pairs" / f"{name}{ending}", [{"question": "d?", "answer": "z"}])
    assert pairs(directory).note == ("" if name in ("validation", "dev") else f"dev is {name}{ending}")
    assert list(load_rows(pairs(directory), split="dev", is_task=True)) == [{"question": "d?", "answer": "z"}]
    write(directory / "sft" / "pairs" / "dev.jsonl.gz", [{"question": "e?", "answer": "z"}])
    if (name, ending) != ("dev", ".jsonl.gz"):
        with pytest.raises(ValueError, match=r"sft/pairs: found .* and .* for the dev split; allowed: one file"):
            pairs(directory)


UNREAD = [
    "train.jsonl.zst", "train.jsonl.bz2", "train.jsonl.xz", "train.parquet", "train.json", "train.csv", "train.txt",
    "Train.jsonl", "TRAIN.JSONL", "train.JSONL.gz", "training.jsonl", "train-00000-of-00002.jsonl", "train_1.jsonl",
    "valid.parquet", "eval.jsonl", "evaluation.jsonl", "Validation.jsonl", "tests.jsonl", "testing.jsonl", "part-1.jsonl.gz",
    "corpus.parquet",
]  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_a_file_that_looks_like_data_and_is_not_read_is_told(directory: Path, name: str) -> None:
    (directory / "code" / name).write_bytes(b"{}")
    assert f"not read: {name}" in code(directory).note
    (directory / "code" / "train.jsonl").unlink()
    with pytest.raises(
        ValueError, match=r"data/code: the train split is missing.*Allowed: train\.jsonl or train\.jsonl\.gz"
    ) as e:
        code(directory)
    assert f"Not read: {name}" in str(e.value)


@pytest.mark.parametrize("name", ["data.json", "code.txt", "heldout.json", "code/train.jsonl", "data/train.jsonl", "x.gz"])
def test_where_train_is_missing_whatever_there_is_is_named(directory: Path, name: str) -> None:
    """A file of any name, and the folder that lies one too deep."""
    train = directory / "code" / "train.jsonl"
    (directory / "code" / name).parent.mkdir(exist_ok=True)
    train.rename(directory / "code" / name)
    with pytest.raises(ValueError, match="the train split is missing") as raised:
        code(directory)
    top = Path(name).parts[0]
    assert str(raised.value).endswith(f" Not read: {top if top == name else f'{top}/ (a folder)'}.")


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("Code", r"data/Code: no such folder; .*data holds code/ \(a folder\), sft/ \(a folder\)\.$"),
        ("sft/pair", r"data/sft holds pairs/ \(a folder\)\.$"),
        ("tasks/pairs", r"nor is there .*data/tasks\.$"),
    ],
)
def test_where_the_folder_is_missing_those_beside_it_are_named(directory: Path, folder: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        resolve_source(str(directory), name="code", folder=folder, is_task=False)


def test_what_to_do_with_an_unread_file_is_told(directory: Path) -> None:
    folder = directory / "sft" / "pairs"
    (folder / "test.jsonl").rename(folder / "test.jsonl.zst")
    (folder / "dev.jsonl").symlink_to("nowhere")
    (folder / "train").mkdir()
    with pytest.raises(ValueError, match="the test split is missing") as raised:
        pairs(directory)
    told = "Not read: dev.jsonl (a broken link), test.jsonl.zst (`zstd -d` it), train/ (a folder)."
    assert str(raised.value).endswith(f"Allowed: test.jsonl or test.jsonl.gz. {told}")


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "LICENSE", "trainer.py", ".train.jsonl.swp", "train.log"])
def test_other_files_are_nothing_to_speak_of(directory: Path, name: str) -> None:
    (directory / "code" / name).write_bytes(b"{}")
    assert "not read" not in code(directory).note


def test_many_unread_files_are_named_in_part(directory: Path) -> None:
    for number in range(8):
        (directory / "code" / f"train-{number}.jsonl").write_bytes(b"{}")
    assert code(directory).note.endswith("train-3.jsonl, train-4.jsonl and 3 more")


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


@pytest.mark.parametrize("config", ["", " "])
def test_an_empty_configuration_is_not_the_default_one(config: str) -> None:
    with pytest.raises(ValueError, match=r"found an empty CONFIG; allowed: hub:owner/set@COMMIT, or .* variable not set"):
        resolve_source(f"hub:owner/set:{config}@{COMMIT}", name="code", folder="code", is_task=False)


@pytest.mark.parametrize("argument", ["", "  ", "\n"])
def test_nothing_names_no_source(argument: str) -> None:
    with pytest.raises(ValueError, match="code: --data: found nothing; allowed: wheels, a directory, or hub:"):
        resolve_source(argument, name="code", folder="code", is_task=False)


def test_a_folder_is_not_read_in_the_place_of_a_hub_set_of_its_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    with pytest.raises(ValueError, match=r"hub:data/code: the folder .*data/code has the same name and would be read"):
        resolve_source(f"hub:data/code@{COMMIT}", name="code", folder="code", is_task=False)
    with pytest.raises(ValueError, match="allowed: hub:OWNER/NAME"):
        resolve_source(f"hub:{directory}/code@{COMMIT}", name="code", folder="code", is_task=False)
    monkeypatch.chdir("/")
    source = resolve_source(f"hub:data/code@{COMMIT}", name="code", folder="code", is_task=False)
    monkeypatch.chdir(directory.parent)  # the job's current folder
    with pytest.raises(ValueError, match="has the same name and would be read instead"):
        hub.present_splits(source.part, source.config, source.revision)


def test_a_hub_set_is_read_through_the_same_door_and_carved(directory: Path) -> None:
    source = Source(kind="hub", part=str(directory / "code"), revision=COMMIT)
    rows = {split: list(load_rows(source, split=split, is_task=False)) for split in ("train", "dev", "test")}
    files = {split: list(load_rows(code(directory), split=split, is_task=False)) for split in ("train", "dev", "test")}
    assert rows == files


def test_real_files_are_read(shared_data: Path) -> None:
    source = resolve_source(str(shared_data), name="word_problems", folder="sft/gsm8k", is_task=True)
    assert sum(1 for _ in load_rows(source, split="test", is_task=True)) == 1319
    assert source.note == "dev carved from train by hash (5 % each)"
