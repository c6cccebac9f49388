"""A plain byte-level BPE returns the ids of `tokenizers` for every text, or is not accepted; memory is bounded."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from builders.releases import write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

from midstudy.data import encoder, plain_bpe
from midstudy.data.encoder import Encoder
from midstudy.data.plain_bpe import PlainBpe
from midstudy.data.tokenizer import train_tokenizer

WORDS = (
    "time year people way day man the thing woman life child world school of it 's don't we'll e\u0301 größer x\u00a0y "
    "def return (self): 1234 1999 == ... --- aaaa aaa\n\n\n        if x:\n\t\tpass\r\n日本語 日本 🙂🙂 naïve\u2003été",
)


def like_pythia(folder: Path) -> tokenizers.Tokenizer:
    write_tokenizer(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module", params=["ours", "like Pythia's"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    if request.param == "ours":
        return train_tokenizer(WORDS * 20, vocab_size=380)
    return like_pythia(tmp_path_factory.mktemp("pythia"))


def expected(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def ids_of(encoder: Encoder, text: str) -> list[int]:
    (ids,) = encoder.ids([text])
    assert ids.dtype == np.uint16
    return ids.tolist()


@contextmanager
def small_pieces(*, characters: int, window: int, seam: int = 2) -> Iterator[None]:
    """Use pieces and windows of a few characters, so that every text counts as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_bpe, "PIECE_CHARACTERS", characters)
        patch.setattr(plain_bpe, "WINDOW_BYTES", window)
        patch.setattr(plain_bpe, "_SEAM_TOKENS", seam)
        yield


ODD = [
    *WORDS[0].split(" "),
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\x00",
    "\x1c",
    "\x85",
    "\u00a0",
    "\u2028",
    "\u3000",
    "\u200b",
    "\ufeff",
]
ODD += [
    "'",
    "'s",
    "'S",
    "'ll",
    "’s",
    "\u0301",
    "e\u0301",
    "\u1100\u1161",
    "Å",
    "ﬁ",
    "²",
    "ⅷ",
    "٣",
    "𝔘",
    "\U000e0041",
    "\U0010ffff",
]
ODD += ["<|endoftext|>", "<|endoftext", "|>", "<|endoftext|><|endoftext|>", "<|padding|>", "=", "0", "Z", "a"]
texts = st.one_of(
    st.text(),  # any Unicode
    st.lists(st.tuples(st.sampled_from(ODD), st.sampled_from([1, 1, 1, 2, 3, 40]))).map(
        lambda parts: "".join(part * number for part, number in parts)
    ),
    st.text(alphabet="ab \n'1<|"),
)


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_the_ids_are_those_of_tokenizers(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    assert plain_bpe.plain_bpe(tokenizer) is not None
    assert ids_of(Encoder(tokenizer), text) == expected(tokenizer, text)


@settings(max_examples=100, deadline=None)
@given(text=texts, characters=st.integers(1, 30), window=st.integers(1, 40), seam=st.integers(1, 4))
def test_the_ids_of_a_text_encoded_in_pieces_and_windows_are_those_of_tokenizers(
    tokenizer: tokenizers.Tokenizer, text: str, characters: int, window: int, seam: int
) -> None:
    assert plain_bpe.plain_bpe(tokenizer) is not None
    with small_pieces(characters=characters, window=window, seam=seam):
        assert ids_of(Encoder(tokenizer), text) == expected(tokenizer, text)


@pytest.mark.parametrize("characters", [1, 2, 3, 5])
def test_a_text_is_not_split_within_white_space(characters: int) -> None:
    blanks = ("   x", "\n\n\n y", " \n \n z", "\n    a", "    \nb", "a1 b2")
    tokenizer = train_tokenizer([" ".join(blanks) * 3] * 20, vocab_size=270)
    assert plain_bpe.plain_bpe(tokenizer) is not None
    with small_pieces(characters=characters, window=40):
        for first in blanks:
            for second in blanks:
                text = f"w{first}{second} w"
                assert ids_of(Encoder(tokenizer), text) == expected(tokenizer, text)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), letters=st.sampled_from(["ab", "aab", "abc", "é", "aé日"]), window=st.integers(2, 12))
def test_the_ids_of_a_long_word_do_not_depend_on_its_windows(seed: int, letters: str, window: int) -> None:
    draw = random.Random(seed)

    def word(length: int) -> str:
        return "".join(draw.choices([letters, *letters], k=length))

    tokenizer = train_tokenizer([word(draw.randrange(1, 60)) for _ in range(40)], vocab_size=257 + 12)
    assert plain_bpe.plain_bpe(tokenizer) is not None
    for length in (30, 200):
        text = word(length)
        with small_pieces(characters=1, window=window, seam=1):
            assert ids_of(Encoder(tokenizer), text) == expected(tokenizer, text)


def changed(base: tokenizers.Tokenizer, **change: Any) -> tokenizers.Tokenizer:
    """Return the tokenizer with changed fields in its file; `added` and `model` are merged into the existing ones."""
    stated = json.loads(base.to_str())
    for name, value in change.items():
        if name == "added":
            stated["added_tokens"][-1] |= value
        elif name == "model":
            stated["model"] |= value
        else:
            stated[name] = value
    return tokenizers.Tokenizer.from_str(json.dumps(stated))


def with_merges(merges: list[str], *, ids: Callable[[int], int] = lambda number: number) -> tokenizers.Tokenizer:
    """Return a tokenizer with these merges; `ids` maps the rank of a merge to the rank of its result among the ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    vocab = {letter: number for number, letter in enumerate(["<|endoftext|>", *alphabet])}
    for place, pair in enumerate(pairs):
        vocab.setdefault("".join(pair), 257 + ids(place))
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def trained_without_all_bytes() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.train_from_iterator(WORDS, trainer=trainer)
    return tokenizer


BYTES_WHOLE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
PREFIXED = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
DIGITS = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES_WHOLE | {"use_regex": True}],
}
NOT_PLAIN: dict[str, Callable[[tokenizers.Tokenizer], tokenizers.Tokenizer]] = {
    "text is not split into words": lambda base: changed(base, pre_tokenizer=BYTES_WHOLE),
    "a space is put before the text": lambda base: changed(base, pre_tokenizer=PREFIXED),
    "digits are split": lambda base: changed(base, pre_tokenizer=DIGITS),
    "the text is lower-cased": lambda base: changed(base, normalizer={"type": "Lowercase"}),
    "the text is normalised in compatibility": lambda base: changed(base, normalizer={"type": "NFKC"}),
    "an added token takes the space after it": lambda base: changed(base, added={"rstrip": True}),
    "an added token takes the space before it": lambda base: changed(base, added={"lstrip": True}),
    "an added token is a word only": lambda base: changed(base, added={"single_word": True}),
    "words of the vocabulary are not merged": lambda base: changed(base, model={"ignore_merges": True}),
    "merges are left out at random": lambda base: changed(base, model={"dropout": 0.5}),
    "tokens within a word are marked": lambda base: changed(base, model={"end_of_word_suffix": "</w>"}),
    "bytes are missing": lambda base: trained_without_all_bytes(),
    "ids do not rise with merge rank": lambda base: with_merges(["a b", "b c"], ids=lambda place: 1 - place),
    "two merges make one token": lambda base: with_merges(["a b", "b c", "ab c", "a bc"], ids=lambda place: min(place, 2)),
    "a token that its own bytes do not encode to": lambda base: with_merges(["a b", "c d", "b cd", "a bcd"]),
    "another model": lambda base: tokenizers.Tokenizer(models.WordLevel({"<|endoftext|>": 0}, unk_token="<|endoftext|>")),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_other_tokenizers_are_encoded_with_tokenizers(kind: str) -> None:
    other = NOT_PLAIN[kind](train_tokenizer(WORDS * 20, vocab_size=300))
    assert plain_bpe.plain_bpe(other) is None
    if "random" not in kind:
        for text in (*WORDS, "abcd abc bcab", "Time  <|endoftext|>  year", "x<|endoftext|>y", ""):
            assert ids_of(Encoder(other), text) == expected(other, text)


def test_a_byte_with_a_high_id_and_a_token_without_a_merge_are_supported() -> None:
    base = train_tokenizer(WORDS * 20, vocab_size=300)
    stated = json.loads(base.to_str())["model"]["vocab"]
    vocab = {word: (999 if word == "a" else number) for word, number in stated.items()} | {"timeyear": 1_000}
    other = changed(base, model={"vocab": vocab})
    assert plain_bpe.plain_bpe(other) is not None
    for text in (*WORDS, "timeyear a aaaa"):
        assert ids_of(Encoder(other), text) == expected(other, text)


@pytest.mark.parametrize("kind", ["classes", "words", "not installed"])
def test_tiktoken_is_not_used_if_the_libraries_disagree(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer(WORDS * 20, vocab_size=301)
    plain_bpe._proved.cache_clear()
    plain_bpe._words_in_python.cache_clear()
    if kind == "classes":
        monkeypatch.setattr(plain_bpe, "_classes_of_tokenizers", lambda: ("a", "1", " "))
        plain_bpe._same_classes.cache_clear()
    elif kind == "words":
        monkeypatch.setattr(plain_bpe, "_WORDS", plain_bpe._WORDS.replace(r"\p{N}+", r"\p{N}{1,3}"))
    else:
        monkeypatch.setattr(plain_bpe, "find_spec", lambda name: None)
    try:
        assert plain_bpe.plain_bpe(tokenizer) is None
        assert ids_of(Encoder(tokenizer), WORDS[0]) == expected(tokenizer, WORDS[0])
    finally:
        for cached in (plain_bpe._proved, plain_bpe._words_in_python, plain_bpe._same_classes):
            cached.cache_clear()


def test_both_libraries_have_the_same_letters_numbers_and_spaces() -> None:
    assert plain_bpe._same_classes()


def test_text_that_the_normalizer_may_change_is_not_supported(tmp_path: Path) -> None:
    plain = plain_bpe.plain_bpe(like_pythia(tmp_path))
    assert plain is not None
    inert = "".join(map(chr, range(0x250))) + "naïve “quotes” — …"
    assert normalizers.NFC().normalize_str(inert) == inert
    assert plain.reads(inert)
    for text in ("e\u0301", "\u212b", "\u1100\u1161", "日本", "\ufb01"):
        assert not plain.reads(text)


def test_supported_characters_are_unchanged_by_normalisation_in_any_combination() -> None:
    inert = [
        chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and not plain_bpe._NOT_INERT.search(chr(code))
    ]
    for step in (1, 7, 263):  # every character next to several others
        text = "".join(character + inert[(index * step) % len(inert)] for index, character in enumerate(inert))
        assert normalizers.NFC().normalize_str(text) == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("no spaces", base64.b64encode(random.Random(0).randbytes(200_000)).decode()),
        ("one letter", "a" * 200_000),
        ("spaces", " " * 200_000 + "x"),
        ("line breaks", "\r\n" * 100_000 + "x  "),
        ("signs", "=-" * 100_000),
        ("digits", "0123456789" * 20_000),
        ("no ASCII", "日本語é" * 40_000),
        ("words", "the time of year " * 20_000),
        ("end of text", "<|endoftext|>" * 2_000 + "a" * 150_000 + "<|endoftext|> time" * 2_000),
    ],
)
def test_tiktoken_gets_only_short_texts(kind: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer(WORDS * 20, vocab_size=380)
    plain = plain_bpe.plain_bpe(tokenizer)
    assert plain is not None
    lengths: list[int] = []

    class Watched:
        def __getattr__(self, name: str) -> Callable[[Any], list[int]]:
            def encode(value: str | bytes) -> list[int]:
                lengths.append(len(value))
                return getattr(encoding, name)(value)

            return encode

    encoding = plain._encoding
    monkeypatch.setattr(plain, "_encoding", Watched())
    assert plain.ids(text).tolist() == expected(tokenizer, text)
    assert max(lengths) <= 2 * plain_bpe.PIECE_CHARACTERS


@pytest.mark.parametrize(
    ("stated", "threads"),
    [(None, "cores"), ("", "cores"), ("0", "cores"), ("many", "cores"), ("1", 1), ("3", 3), ("999", 8)],
)
def test_the_number_of_encoding_threads(stated: str | None, threads: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    if stated is not None:
        monkeypatch.setenv("RAYON_NUM_THREADS", stated)
    monkeypatch.setattr(encoder.os, "sched_getaffinity", lambda pid: set(range(5)))
    wanted = 5 if threads == "cores" else threads
    assert Encoder(train_tokenizer(WORDS * 20, vocab_size=300)).num_threads == wanted
    assert Encoder(NOT_PLAIN["the text is lower-cased"](train_tokenizer(WORDS * 20, vocab_size=300))).num_threads == 2


def test_a_plain_tokenizer_is_thread_safe() -> None:
    from concurrent.futures import ThreadPoolExecutor

    tokenizer = train_tokenizer(WORDS * 20, vocab_size=380)
    plain = plain_bpe.plain_bpe(tokenizer)
    assert isinstance(plain, PlainBpe)
    texts = [word * number for number in range(1, 60) for word in WORDS]
    with ThreadPoolExecutor(4) as pool:
        assert [ids.tolist() for ids in pool.map(plain.ids, texts)] == [expected(tokenizer, text) for text in texts]
