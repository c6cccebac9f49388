"""Shards: the tokens of each document encoded alone, regardless of shard boundaries, interruptions and damage."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from builders.places import PYTHONPATH
from hypothesis import given, settings
from hypothesis import strategies as st

from midstudy.data import shards
from midstudy.data.shards import Document, Shard, Tokenised, read_index, write_split
from midstudy.data.split_rows import ChangedTextError
from midstudy.data.tokenizer import save_tokenizer, train_tokenizer
from midstudy.data.tokens import read_split

WORDS = ("time", "year", "people", "größer", "naïve", "日本", "def", "return", "(x)", "🙂", "\n", "  ", "1234")


def made_documents(number: int, *, seed: int = 0, longest: int = 60) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(longest))).strip() for _ in range(number)]


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return train_tokenizer(made_documents(300, seed=1), vocab_size=290)


def one_by_one(tokenizer: tokenizers.Tokenizer, documents: list[Document]) -> list[list[int]]:
    """Return the expected tokens: every text encoded alone, with an end-of-text token (0) after each document."""
    return [
        [*(token for text in document for token in tokenizer.encode(text, add_special_tokens=False).ids), 0]
        for document in documents
    ]


def files_in(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def as_documents(texts: list[str]) -> list[Document]:
    return [(text,) for text in texts]


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=30), shard_bytes=st.integers(1, 400))
def test_a_split_holds_each_document_encoded_alone(tokenizer, tmp_path_factory, texts, shard_bytes):
    folder = tmp_path_factory.mktemp("split")
    index = write_split(tokenizer, as_documents(texts), folder, "train", shard_bytes=shard_bytes)
    wanted = one_by_one(tokenizer, as_documents(texts))
    split = read_split(folder, "train")
    assert split.num_documents == index.num_documents == len(texts)
    assert [split.document(i).tolist() for i in range(len(texts))] == wanted
    assert split.tokens[:].tolist() == [token for document in wanted for token in document]
    assert split.offsets.tolist() == np.cumsum([0, *map(len, wanted)]).tolist()
    assert split.prompt_lengths is None


def test_a_shard_ends_with_the_document_that_fills_it(tokenizer, tmp_path):
    texts = ["a" * 6, "b" * 3, "c" * 1, "ü" * 5, "d" * 25, "e"]  # bytes: 6, 3, 1, 10, 25, 1
    index = write_split(tokenizer, as_documents(texts), tmp_path, "dev", shard_bytes=10)
    assert [(shard.num_documents, shard.text_bytes) for shard in index.shards] == [(3, 10), (1, 10), (1, 25), (1, 1)]
    assert index == read_index(tmp_path, "dev")
    for shard in index.shards:
        for name, digest in shard.sha256.items():
            assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["dev.shards.json", *(f"dev-0000{number}.{ending}" for number in range(4) for ending in ("offsets", "tokens"))]
    )


def test_prompts_and_targets_are_encoded_separately(tokenizer, tmp_path):
    items: list[Document] = [("time ye", "ar people"), ("", "time"), ("year ", "1234 (x)")] * 20
    write_split(tokenizer, items, tmp_path, "test", shard_bytes=100)
    split = read_split(tmp_path, "test")
    assert [split.document(i).tolist() for i in range(len(items))] == one_by_one(tokenizer, items)
    prompts = [len(tokenizer.encode(prompt, add_special_tokens=False).ids) for prompt, _ in items]
    assert split.prompt_lengths is not None
    assert split.prompt_lengths.tolist() == prompts
    assert len(list(tmp_path.glob("*.prompts"))) > 3


END = "<|endoftext|>"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("time year", "time year"),
        (f"time year{END}", "time year"),
        (f"time year{END}\n", "time year"),
        (f"time year {END} \n{END}\r\n", "time year "),
        (f"time year{END * 3}", "time year"),
        (END, ""),
        (f"{END}time year", f"{END}time year"),
        (f"time{END}year", f"time{END}year"),
        (f"time{END}{END}year{END}", f"time{END}{END}year"),
        ("time year<|endoftext|", "time year<|endoftext|"),
        ("time year \n", "time year \n"),
    ],
)
def test_trailing_end_of_text_markers_are_not_doubled(tokenizer, tmp_path, text, kept):
    items: list[Document] = [("1234 ", text), (f"1234{END}", text)]
    write_split(tokenizer, as_documents([text, "people"]), tmp_path, "train")
    write_split(tokenizer, items, tmp_path, "test")
    corpus, task = read_split(tmp_path, "train"), read_split(tmp_path, "test")
    alone = corpus.document(0).tolist()
    assert alone == [*tokenizer.encode(kept, add_special_tokens=False).ids, 0]
    assert tokenizer.decode(alone, skip_special_tokens=False) == kept + END
    assert corpus.document(1).tolist()[-1] == 0
    assert task.prompt_lengths is not None
    for number, (prompt, _) in enumerate(items):
        before = tokenizer.encode(prompt, add_special_tokens=False).ids
        assert task.document(number).tolist() == [*before, *alone]
        assert task.prompt_lengths[number] == len(before)


@pytest.fixture(scope="module")
def sharded(tokenizer, tmp_path_factory) -> Path:
    """Return a split of many shards."""
    folder = tmp_path_factory.mktemp("sharded")
    write_split(tokenizer, as_documents(made_documents(200)), folder, "train", shard_bytes=900)
    return folder


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_slices_across_shards_equal_those_of_the_whole(sharded, data):
    split = read_split(sharded, "train")
    whole = np.concatenate([np.fromfile(path, "<u2") for path in sorted(sharded.glob("*.tokens"))])
    assert len(split.tokens) == len(whole)
    start, stop = (data.draw(st.one_of(st.none(), st.integers(-len(whole) - 9, len(whole) + 9))) for _ in range(2))
    tokens = split.tokens[start:stop]
    assert tokens.dtype == np.uint16
    assert tokens.flags.c_contiguous
    assert np.array_equal(tokens, whole[start:stop])


def test_blocks_do_not_depend_on_shard_boundaries(sharded, tokenizer, tmp_path):
    write_split(tokenizer, as_documents(made_documents(200)), tmp_path, "train")
    split, whole = read_split(sharded, "train"), read_split(tmp_path, "train")
    assert len(list(sharded.glob("*.tokens"))) > 10
    assert len(list(tmp_path.glob("*.tokens"))) == 1
    assert split.num_blocks(16) == whole.num_blocks(16) > 100
    for block in range(split.num_blocks(16)):
        assert np.array_equal(split.tokens[block * 17 : (block + 1) * 17], whole.tokens[block * 17 : (block + 1) * 17])


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dev split"):
        read_split(tmp_path, "dev")


def test_an_incomplete_split_is_rejected(tokenizer, tmp_path):
    with pytest.raises(InterruptedError):
        write_split(tokenizer, stopping_after(50), tmp_path, "train", shard_bytes=900)
    with pytest.raises(ValueError, match="train split is incomplete"):
        read_split(tmp_path, "train")


def test_the_number_of_threads_does_not_change_any_byte(tokenizer, sharded, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    script = (
        "import sys, test_tokens as t; from pathlib import Path; here = Path(sys.argv[1]); here.mkdir()\n"
        "from midstudy.data.tokenizer import load_tokenizer\n"
        "t.write_split(load_tokenizer(here.parent), t.as_documents(t.made_documents(200)), here, 'train', shard_bytes=900)"
    )
    for threads in ("1", "3"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONPATH": f"{Path(__file__).parent}:{PYTHONPATH}"}
        subprocess.run([sys.executable, "-c", script, str(tmp_path / threads)], env=environment, check=True)
        assert files_in(tmp_path / threads) == files_in(sharded)


def stopping_after(number: int) -> Iterator[Document]:
    yield from as_documents(made_documents(200)[:number])
    raise InterruptedError


class Counted:
    """The number of documents that a call of `write_split` reused and tokenised."""

    def __init__(self) -> None:
        self.reused, self.tokenised = 0, 0

    def on_reused(self, shard: Shard) -> None:
        self.reused += shard.num_documents

    def on_tokenised(self, chunk: Tokenised) -> None:
        self.tokenised += len(chunk.lengths)


def resumed(tokenizer: tokenizers.Tokenizer, folder: Path, previous: list[Path]) -> Counted:
    counted = Counted()
    folder.mkdir()
    write_split(
        tokenizer,
        as_documents(made_documents(200)),
        folder,
        "train",
        previous=previous,
        shard_bytes=900,
        on_reused=counted.on_reused,
        on_tokenised=counted.on_tokenised,
    )
    return counted


@pytest.mark.parametrize("number", [0, 1, 17, 60, 143, 199, 200])
def test_an_interrupted_split_is_resumed_with_the_same_result(tokenizer, sharded, tmp_path, number):
    first = tmp_path / "first"
    first.mkdir()
    with pytest.raises(InterruptedError):
        write_split(tokenizer, stopping_after(number), first, "train", shard_bytes=900)
    assert not list(first.glob(".*")), "a partial file is left"
    counted = resumed(tokenizer, tmp_path / "second", [first])
    assert files_in(tmp_path / "second") == files_in(sharded)
    index = read_index(first, "train")
    assert counted.reused == (index.num_documents if index else 0)
    assert counted.reused + counted.tokenised == 200
    assert counted.reused >= number - 40  # at most one shard is lost


def damaged(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-2])
    else:
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
@pytest.mark.parametrize("name", ["train-00000.tokens", "train-00003.offsets", "train.shards.json"])
def test_only_a_damaged_shard_is_made_again(tokenizer, sharded, tmp_path, name, how):
    previous = tmp_path / "previous"
    resumed(tokenizer, previous, [])
    before = read_index(previous, "train")
    assert before is not None
    damaged(previous / name, how)
    counted = resumed(tokenizer, tmp_path / "again", [previous])
    assert files_in(tmp_path / "again") == files_in(sharded)
    lost = before.num_documents if name.endswith("json") else before.shards[int(name[6:11])].num_documents
    assert counted.tokenised == lost


def test_each_shard_is_reused_from_any_attempt_that_has_it(tokenizer, sharded, tmp_path):
    folders = [tmp_path / "newer", tmp_path / "older"]
    for folder, name in zip(folders, ("train-00001.tokens", "train-00002.tokens"), strict=True):
        resumed(tokenizer, folder, [])
        damaged(folder / name, "altered")
    assert resumed(tokenizer, tmp_path / "again", folders).tokenised == 0
    assert files_in(tmp_path / "again") == files_in(sharded)


def test_shards_of_another_size_are_not_reused(tokenizer, sharded, tmp_path):
    (tmp_path / "previous").mkdir()
    write_split(tokenizer, as_documents(made_documents(200)), tmp_path / "previous", "train", shard_bytes=800)
    assert resumed(tokenizer, tmp_path / "again", [tmp_path / "previous"]).reused == 0
    assert files_in(tmp_path / "again") == files_in(sharded)


@pytest.mark.parametrize("number", [0, 20, 40])
def test_shards_of_an_attempt_with_different_earlier_shards_are_not_reused(tokenizer, sharded, tmp_path, number):
    """Document `number` differs but has the same length: its shard differs, and later shards have the same boundaries."""
    texts = made_documents(200)
    texts[number] = "x" * len(texts[number].encode("utf-8"))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    with pytest.raises(InterruptedError):
        write_split(tokenizer, stopping_after(100), ours, "train", shard_bytes=900)
    write_split(tokenizer, as_documents(texts), theirs, "train", shard_bytes=900)
    first, second = read_index(ours, "train"), read_index(theirs, "train")
    assert first is not None
    assert second is not None
    pairs = enumerate(zip(first.shards, second.shards, strict=False))
    differing = [index for index, (ours_shard, theirs_shard) in pairs if ours_shard != theirs_shard]
    assert len(differing) == 1
    assert differing[0] < len(first.shards) - 1
    counted = resumed(tokenizer, tmp_path / "again", [ours, theirs])
    assert files_in(tmp_path / "again") == files_in(sharded)
    assert counted.reused == first.num_documents


def test_a_complete_split_is_reused_without_tokenising_a_document(tokenizer, sharded, tmp_path):
    counted = resumed(tokenizer, tmp_path / "again", [sharded])
    assert (counted.reused, counted.tokenised) == (200, 0)
    assert files_in(tmp_path / "again") == files_in(sharded)


@pytest.mark.parametrize("number", [0, 20, 199])
def test_shards_made_from_other_text_are_rejected(tokenizer, sharded, tmp_path, number):
    """The text was replaced while they were made, and then restored: all of them are intact."""
    texts = made_documents(200)
    texts[number] = "x" * len(texts[number].encode("utf-8"))
    (tmp_path / "previous").mkdir()
    write_split(tokenizer, as_documents(texts), tmp_path / "previous", "train", shard_bytes=900)
    with pytest.raises(
        ChangedTextError, match=r"train split: shard \d+ of an interrupted attempt was made from different text"
    ):
        resumed(tokenizer, tmp_path / "again", [tmp_path / "previous"])


def test_shards_without_a_digest_of_their_text_are_not_reused(tokenizer, sharded, tmp_path):
    previous = tmp_path / "previous"
    resumed(tokenizer, previous, [])
    stated = json.loads((previous / "train.shards.json").read_text())
    for shard in stated["shards"]:
        del shard["text_sha256"]
    (previous / "train.shards.json").write_text(json.dumps(stated))
    assert resumed(tokenizer, tmp_path / "again", [previous]).reused == 0
    assert files_in(tmp_path / "again") == files_in(sharded)


def test_only_a_few_chunks_are_in_memory(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_CHUNK_DOCUMENTS", 4)
    read, written, furthest = 0, 0, 0

    def documents() -> Iterator[Document]:
        nonlocal read, furthest
        for document in as_documents(made_documents(400)):
            read += 1
            furthest = max(furthest, read - written)
            yield document

    def on_tokenised(chunk: Tokenised) -> None:
        nonlocal written
        written += len(chunk.lengths)

    write_split(tokenizer, documents(), tmp_path, "train", on_tokenised=on_tokenised)
    assert written == 400
    assert furthest <= 4 * 4  # one being filled, one waiting, two being encoded


def test_a_tokenizer_trained_on_a_stream_equals_one_trained_on_a_list():
    documents = made_documents(300, seed=1)
    from_list = train_tokenizer(documents, vocab_size=290)
    assert json.loads(train_tokenizer(iter(documents), vocab_size=290).to_str()) == json.loads(from_list.to_str())


def test_golden_tokens(tokenizer, tmp_path):
    """Recorded before shards were introduced, with one file per split. The token ids of a recipe must not change."""
    write_split(tokenizer, as_documents(made_documents(200)), tmp_path, "train", shard_bytes=900)
    tokens = np.ascontiguousarray(read_split(tmp_path, "train").tokens[:], "<u2")
    assert hashlib.sha256(tokens.tobytes()).hexdigest() == "d2f4dd525cdec5cb2fe9777188b89e1758a09125f3fa93bbb0af1692d63d1a7f"
