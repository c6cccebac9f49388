"""A source tokenised in parts: the files, bytes and counts of one process, whatever the parts, limits and splits."""

from __future__ import annotations

import shutil
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from builders.divided import (
    digests,
    divided,
    finished_tokenizer,
    in_one_process,
    joined_stage,
    make,
    source_of,
    write_file,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from midstudy.data.document_sizes import read_sizes
from midstudy.data.shards import read_index
from midstudy.data.split_rows import ChangedTextError
from midstudy.execute.stopped import StoppedError
from midstudy.files.errors import StoreError
from midstudy.recipe import TrainPart
from midstudy.recipe.data import Corpus, Dataset, Task, TokenizedData, Tokenizer
from midstudy.recipe.stage import stage_id
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
train_parts = st.sampled_from([None, (0, 1, 2), (1, 2, 1)])


@st.composite
def data_sets(draw: st.DrawFn) -> dict[str, Any]:
    """Files of a corpus or a task: several of train, dev and test present or carved; a limit; shards and parts of any size."""
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
@settings(max_examples=120)
def test_parts_give_the_bytes_and_the_counts_of_one_process(begun, made):
    template, tokenizer = begun
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        shutil.copytree(template, scratch / "store")
        store = Store.open(scratch / "store")
        data = TokenizedData(data=written(scratch / "set", made), tokenizer=tokenizer)
        plan = divided(data, num_parts=made["num_parts"], shard_bytes=made["shard_bytes"])
        if plan is None:  # a limit that one file fills
            return
        try:
            expected = in_one_process(store, data, scratch / "alone", shard_bytes=made["shard_bytes"])
        except ValueError as error:
            with pytest.raises(ValueError) as raised:  # noqa: PT011
                for stage in plan.stages:
                    make(store, stage)
            assert str(raised.value) == str(error)
            return
        for stage in (*plan.stages, joined_stage(data, plan)):
            make(store, stage)
        assert digests(store.published_folder(stage_id(data))) == digests(scratch / "alone")
        record = store.record(stage_id(data))
        assert record.metrics == expected
