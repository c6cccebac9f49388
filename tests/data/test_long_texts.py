"""A long text is encoded in pieces, with the same tokens and the memory of a few pieces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from builders.releases import write_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from midstudy.data import encoder, shards
from midstudy.data.long_texts import may_cut, pieces
from midstudy.data.tokenizer import train_tokenizer

WORDS = (
    "time year people way day man thing woman life child world school state of it 's don't e\u0301 x\u00a0y <|endoftext|>",
)
texts = st.lists(
    st.sampled_from(
        [*WORDS[0].split(" "), " ", "  ", "\n", "a", "Z", "é", "\u0301", "9", ".", "'s", "<|endoftext|>", "日本", "\t"]
    )
).map(" ".join)


@pytest.fixture(scope="module", params=["ours", "like Pythia's"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    if request.param == "ours":
        return train_tokenizer(WORDS * 20, vocab_size=300)
    folder = tmp_path_factory.mktemp("pythia")
    write_tokenizer(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@given(text=texts, num_characters=st.integers(1, 40))
def test_the_tokens_of_the_pieces_are_those_of_the_text(
    tokenizer: tokenizers.Tokenizer, text: str, num_characters: int
) -> None:
    assert may_cut(tokenizer)
    cut = list(pieces(text, num_characters=num_characters))
    assert "".join(cut) == text
    ids = [number for piece in cut for number in tokenizer.encode(piece, add_special_tokens=False).ids]
    assert ids == tokenizer.encode(text, add_special_tokens=False).ids


def test_pieces_have_about_the_requested_length() -> None:
    cut = list(pieces("word " * 1_000, num_characters=100))
    assert 45 <= len(cut) <= 50
    assert max(map(len, cut)) <= 106
    assert list(pieces("x" * 1_000, num_characters=100)) == ["x" * 1_000], "nowhere to cut"


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "a b"}, "content": "ab"}},
        {"added_tokens": {"content": "New York"}},
        {"added_tokens": {"rstrip": True}},
    ],
)
def test_texts_are_not_split_for_tokenizers_with_tokens_across_the_boundaries(
    tmp_path: Path, change: dict[str, dict[str, object]]
) -> None:
    write_tokenizer(tmp_path)
    stated = json.loads((tmp_path / "tokenizer.json").read_text())
    for name, value in change.items():
        if name == "added_tokens":
            stated[name][-1] |= value
        else:
            stated[name] = value
    assert not may_cut(tokenizers.Tokenizer.from_str(json.dumps(stated)))


def test_shards_of_long_documents_are_those_of_documents_encoded_whole(
    tokenizer: tokenizers.Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [("time of day " * 300,), ("",), ("a",), ("x" * 500,), ("school " * 200 + "<|endoftext|> year" * 100,)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    encoded: list[int] = []
    for folder, limit in ((whole, 10**9), (cut, 50)):
        folder.mkdir()
        monkeypatch.setattr(encoder, "plain_bpe", lambda tokenizer: None)
        monkeypatch.setattr(encoder, "PIECE_CHARACTERS", limit)
        monkeypatch.setattr(encoder, "pieces", lambda text, limit=limit: pieces(text, num_characters=limit))
        shards.write_split(tokenizer, iter(documents), folder, "train")
        encoded.append(len(list(folder.glob("train-*.tokens"))))
    for path in whole.iterdir():
        assert path.read_bytes() == (cut / path.name).read_bytes(), path.name
    assert encoded == [1, 1]
