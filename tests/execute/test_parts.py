"""A source tokenised in parts: the files, bytes and counts of one process, whatever the parts, limits and splits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from builders.divided import (
    digests,
    divided,
    finished_tokenizer,
    in_one_process,
    joined_stage,
    make,
    num_finished,
    source_of,
    tokenizer_stage,
    write_file,
)
from builders.places import PYTHONPATH
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from midstudy.data import source_files
from midstudy.data.document_sizes import read_sizes
from midstudy.data.shards import read_index
from midstudy.data.split_rows import ChangedTextError
from midstudy.data.tokens import read_split
from midstudy.execute import data as execute_data
from midstudy.execute.data import make_tokens
from midstudy.execute.stage import execute_stage
from midstudy.execute.stopped import StoppedError
from midstudy.files.errors import StoreError
from midstudy.plan.parts import Divided
from midstudy.plan.published import published_states
from midstudy.recipe import TrainPart
from midstudy.recipe.data import CONVERSATION_TOKENS, Corpus, Dataset, Task, TokenizedData, Tokenizer
from midstudy.recipe.parts import DocumentSizes, ShardLayout, TokensPart
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.store import Store

ALPHABET = "abcdefg é汉 \n"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    """Return a store with a finished tokenizer, to be copied, and the tokenizer's recipe."""
    folder = tmp_path_factory.mktemp("begun")
    rows = [{"text": f"{a}{b}{c} {c}{a}{b}{d}"} for a in "abcd" for b in "abcdefg" for c in "defg" for d in "abc"]
    for split in ("train", "dev", "test"):
        write_file(folder / "text" / f"{split}.jsonl", rows)
    _, tokenizer = finished_tokenizer(folder / "store", folder / "text")
    return folder / "store", tokenizer


texts = st.text(ALPHABET, max_size=60) | st.sampled_from(["", "  ", "same text", "abc " * 60])
documents = st.fixed_dictionaries({"text": texts})
items = st.fixed_dictionaries({"prompt": texts, "completion": st.text(ALPHABET, min_size=1, max_size=30)})
endings = st.sampled_from(["jsonl", "jsonl.gz", "parquet"])


@st.composite
def data_sets(draw: st.DrawFn) -> dict[str, Any]:
    """Files of a corpus or a task: dev and test present or carved; any limit, shards and number of parts."""
    is_task = draw(st.booleans())
    row = items if is_task else documents
    present = ["test"] * (is_task or draw(st.booleans())) + ["dev"] * draw(st.booleans())
    files = draw(st.lists(st.lists(row, min_size=1, max_size=12), min_size=2, max_size=6))
    others = {split: draw(st.lists(st.lists(row, min_size=1, max_size=5), min_size=1, max_size=2)) for split in present}
    return {
        "is_task": is_task,
        "files": {"train": files, **others},
        "ending": draw(endings),
        "limit": draw(st.none() | st.integers(1, 12 if is_task else 1_500)),
        "part": None if is_task else draw(st.sampled_from([None, ("0", "1/2"), ("1/2", "1")])),
        "shard_bytes": draw(st.integers(1, 600)),
        "num_parts": draw(st.integers(2, 9)),
    }


def written(folder: Path, made: dict[str, Any]) -> Dataset:
    for split, files in made["files"].items():
        for number, rows in enumerate(files):
            write_file(folder / f"{split}-{number:05d}-of-{len(files):05d}.{made['ending']}", rows)
    source = source_of(folder)
    if made["is_task"]:
        return Task(name="set", source=source, max_items=made["limit"])
    part = made["part"] and TrainPart(start=Fraction(made["part"][0]), stop=Fraction(made["part"][1]))
    return Corpus(name="set", source=source, max_bytes=made["limit"], train_part=part)


@given(made=data_sets())
@settings(max_examples=60)
def test_parts_give_the_bytes_and_the_counts_of_one_process(begun: tuple[Path, Tokenizer], made: dict[str, Any]) -> None:
    template, tokenizer = begun
    # Without syncs, which take most of the time: nothing loses power here.
    with tempfile.TemporaryDirectory() as temporary, mock.patch("os.fsync", return_value=None):
        scratch = Path(temporary)
        shutil.copytree(template, scratch / "store")
        store = Store.open(scratch / "store")
        data = TokenizedData(data=written(scratch / "set", made), tokenizer=tokenizer)
        plan = divided(data, num_parts=made["num_parts"], shard_bytes=made["shard_bytes"])
        assume(plan is not None)  # a limit that one file fills
        assert plan is not None

        def in_parts() -> tuple[dict[str, str], dict[str, Any]]:
            for stage in (*plan.stages, joined_stage(data, plan)):
                make(store, stage)
            return digests(store.published_folder(stage_id(data))), store.record(stage_id(data)).metrics

        def alone() -> tuple[dict[str, str], dict[str, Any]]:
            metrics = in_one_process(store, data, scratch / "alone", shard_bytes=made["shard_bytes"])
            return digests(scratch / "alone"), metrics

        assert result_of(in_parts) == result_of(alone)


def test_parts_of_conversations_keep_the_choices_of_one_process(begun: tuple[Path, Tokenizer], tmp_path: Path) -> None:
    template, plain = begun
    shutil.copytree(template, tmp_path / "store")
    store, tokenizer = Store.open(tmp_path / "store"), replace(plain, special_tokens=CONVERSATION_TOKENS)
    make(store, tokenizer_stage(tokenizer))
    rng = random.Random(3)

    def row() -> dict[str, Any]:
        choices = rng.sample("abcdefg", 3)
        said = [
            {"role": "user", "content": "".join(rng.choices("abcd ", k=20))},
            {"role": "assistant", "content": choices[1]},
        ]
        return {"messages": said, "choices": choices, "subject": "é"} if rng.random() < 0.7 else {"messages": said}

    for split, number in (("train", 4), ("test", 2)):
        for place in range(number):
            write_file(tmp_path / "quiz" / f"{split}-{place:05d}-of-{number:05d}.jsonl", [row() for _ in range(9)])
    source = replace(source_of(tmp_path / "quiz"), fields=(("messages", "messages"),))
    data = TokenizedData(data=Task(name="quiz", source=source), tokenizer=tokenizer)
    made = divided(data, num_parts=3, shard_bytes=400)
    assert made is not None
    for stage in (*made.stages, joined_stage(data, made)):
        make(store, stage)
    in_one_process(store, data, tmp_path / "whole", shard_bytes=400)
    joined = store.published_folder(stage_id(data))
    assert digests(joined) == digests(tmp_path / "whole")
    assert {split for split in ("train", "dev", "test") if read_split(joined, split).questions} == {"train", "dev", "test"}


def result_of(make_tokens: Callable[[], Any]) -> Any:
    """Return the result, or the message with which the data set is refused."""
    try:
        return make_tokens()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


SHARD_BYTES = 400


@dataclass
class Case:
    """A corpus of five files in a store with a finished tokenizer, and what one process makes of it."""

    store: Store
    data: TokenizedData
    folder: Path
    plan: Divided
    alone: Path

    def kind(self, recipe: type) -> list[Stage]:
        return [stage for stage in self.plan.stages if isinstance(stage.recipe, recipe)]

    def make_until(self, recipe: type) -> None:
        """Make the stages before those of this kind."""
        for stage in self.plan.stages:
            if isinstance(stage.recipe, recipe):
                return
            make(self.store, stage)

    def join(self) -> dict[str, str]:
        """Make the token stage; return the digests of its files."""
        stage = joined_stage(self.data, self.plan)
        make(self.store, stage)
        return digests(self.store.published_folder(stage.id))


@pytest.fixture
def case(begun: tuple[Path, Tokenizer], tmp_path: Path) -> Case:
    template, tokenizer = begun
    shutil.copytree(template, tmp_path / "store")
    store, folder = Store.open(tmp_path / "store"), tmp_path / "set"
    for number in range(5):
        rows = [{"text": f"file {number} document {one} " + "abc def " * (one % 5 * 3)} for one in range(20)]
        write_file(folder / "train" / f"{number}.jsonl", rows)
    for split in ("dev", "test"):
        write_file(folder / f"{split}.jsonl", [{"text": f"{split} {one}"} for one in range(3)])
    data = TokenizedData(data=Corpus(name="set", source=source_of(folder)), tokenizer=tokenizer)
    plan = divided(data, num_parts=3, shard_bytes=SHARD_BYTES)
    assert plan is not None
    assert len(plan.part_ids) == 3
    in_one_process(store, data, tmp_path / "alone", shard_bytes=SHARD_BYTES)
    return Case(store, data, folder, plan, tmp_path / "alone")


def test_a_stopped_part_reuses_its_finished_shards_and_the_others_are_not_touched(case: Case) -> None:
    case.make_until(TokensPart)
    first, second, third = case.kind(TokensPart)
    make(case.store, first)
    case.store.request(second)
    polls = iter(range(10_000))
    with pytest.raises(StoppedError, match="reuses the finished shards"):
        execute_stage(case.store, second.id, start_from=None, keeps_optimizer=False, should_stop=lambda: next(polls) > 90)
    (attempt,) = case.store.previous_attempts(second.id)
    index = read_index(attempt / "result", "train")
    assert index is not None
    assert index.shards
    before = case.store.record(first.id).attempt
    make(case.store, second)
    assert case.store.record(second.id).metrics["shards_taken_over"] == len(index.shards)
    make(case.store, third)
    assert case.join() == digests(case.alone)
    assert case.store.record(first.id).attempt == before
    assert case.store.record(stage_id(case.data)).metrics["shards_taken_over"] == len(index.shards)


MAKE = """
import sys
from pathlib import Path
from midstudy.execute.stage import execute_stage
from midstudy.store.store import Store
store = Store.open(Path(sys.argv[1]))
execute_stage(store, sys.argv[2], start_from=None, keeps_optimizer=False, should_stop=lambda: False)
"""


def test_a_part_that_is_killed_at_any_shard_is_resumed_with_the_same_bytes(case: Case) -> None:
    case.make_until(TokensPart)
    first, *others = case.kind(TokensPart)
    case.store.request(first)
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(case.store.root), first.id], env=environment)
    least = random.Random(2).randrange(1, 3)
    while num_finished(case.store, first.id) < least and process.poll() is None:
        time.sleep(0.0005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not case.store.has(first.id)
    for stage in (first, *others):
        make(case.store, stage)
    assert case.store.record(first.id).metrics["shards_taken_over"] >= least
    assert case.join() == digests(case.alone)


def test_a_part_opens_only_the_files_of_its_shards(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    whole = source_files.FileSequence

    def note(paths: Any, **keywords: Any) -> Any:
        opened.extend(path.name for path in paths)
        return whole(paths, **keywords)

    monkeypatch.setattr(source_files, "FileSequence", note)
    case.make_until(TokensPart)
    assert opened == [*(f"{number}.jsonl" for number in range(5)), "dev.jsonl", "test.jsonl"], "each is measured once"
    first, _, last = case.kind(TokensPart)
    opened.clear()
    make(case.store, first)
    assert opened == ["0.jsonl", "1.jsonl"]
    opened.clear()
    make(case.store, last)
    assert opened == ["3.jsonl", "4.jsonl", "dev.jsonl", "test.jsonl"]


@pytest.mark.parametrize("kind", [DocumentSizes, TokensPart])
def test_a_file_that_changed_since_the_plan_or_the_measurement_is_refused(case: Case, kind: type) -> None:
    case.make_until(kind)
    path = case.folder / "train" / "4.jsonl"
    text = path.read_text("utf-8")
    path.write_text(text.replace("file 4 document 19", "file 4 document 91"), encoding="utf-8")
    with pytest.raises(ChangedTextError, match=r"4\.jsonl: changed since"):
        make(case.store, case.kind(kind)[-1])
    path.write_text(text, encoding="utf-8")
    for stage in case.plan.stages:  # restored, it goes on
        make(case.store, stage)
    assert case.join() == digests(case.alone)


def test_a_damaged_part_is_named_by_the_join(case: Case) -> None:
    for stage in case.plan.stages:
        make(case.store, stage)
    tokens = next(case.store.published_folder(case.plan.part_ids[1]).glob("train-*.tokens"))
    content = bytearray(tokens.read_bytes())
    content[0] ^= 1
    tokens.write_bytes(content)
    with pytest.raises(StoreError, match=f"{tokens}: not what was published. Remove {tokens.parent}"):
        case.join()


def test_without_a_finished_part_the_token_stage_is_made_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in case.plan.stages[:-1]:
        make(case.store, stage)

    def with_small_shards(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        return make_tokens(*arguments, **keywords, shard_bytes=SHARD_BYTES)

    monkeypatch.setattr(execute_data, "make_tokens", with_small_shards)
    assert case.join() == digests(case.alone)


def test_files_that_no_part_measured_are_measured_where_the_shards_are_laid_out(case: Case) -> None:
    for stage in case.kind(DocumentSizes)[:1]:
        make(case.store, stage)
    (layout,) = case.kind(ShardLayout)
    for stage in (layout, *case.kind(TokensPart)):
        make(case.store, stage)
    assert case.join() == digests(case.alone)


def test_finished_parts_give_the_rate_of_tokenising_and_resumed_ones_do_not(case: Case) -> None:
    case.make_until(TokensPart)
    first, second, _ = case.kind(TokensPart)
    assert published_states(case.store).tokenising_bytes_per_s is None
    make(case.store, first)
    record = case.store.record(first.id)
    rate = record.metrics["text_bytes"] / record.timing["cpu_s"]
    assert published_states(case.store).tokenising_bytes_per_s == pytest.approx(rate)
    case.store.request(second)
    polls = iter(range(10_000))
    with pytest.raises(StoppedError):
        execute_stage(case.store, second.id, start_from=None, keeps_optimizer=False, should_stop=lambda: next(polls) > 90)
    make(case.store, second)
    assert case.store.record(second.id).metrics["shards_taken_over"]
    assert published_states(case.store).tokenising == [pytest.approx(rate)]


def test_sizes_are_those_of_the_text(case: Case) -> None:
    case.make_until(ShardLayout)
    sizes = read_sizes(case.store.published_folder(case.kind(DocumentSizes)[0].id), 0)
    first = next(iter(sizes.documents("train", 0)))
    assert (first.num_bytes, first.num_characters, first.document_bytes) == (18, 18, 17)
    assert not first.is_blank
