"""Every token has the number of bytes of its text; special tokens have none."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
import tokenizers
from builders.releases import write_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from midstudy.data.token_bytes import token_bytes
from midstudy.data.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer

TEXT = "Der Bär zählt 3,14159… 日本語のテキスト 🙂🙂👩\u200d👩 naïve café def f(x):\n        return x\n"


@pytest.fixture(scope="module")
def trained() -> tokenizers.Tokenizer:
    return train_tokenizer([TEXT] * 20, vocab_size=320)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    """Return a tokenizer with NFC, two special tokens, and runs of spaces that are added tokens but not special."""
    folder = tmp_path_factory.mktemp("released")
    write_tokenizer(folder)
    return load_tokenizer(folder)


def num_bytes(tokenizer: tokenizers.Tokenizer, text: str) -> int:
    return int(token_bytes(tokenizer)[tokenizer.encode(text, add_special_tokens=False).ids].sum())


@given(text=st.text() | st.text(alphabet=TEXT))
def test_the_tokens_of_a_text_have_its_bytes(trained: tokenizers.Tokenizer, text: str) -> None:
    assert num_bytes(trained, text) == len(text.encode())


@given(text=st.text() | st.text(alphabet="  \u0301eé日\n"))
def test_the_tokens_of_a_released_tokenizer_have_the_bytes_of_the_normalised_text(
    released: tokenizers.Tokenizer, text: str
) -> None:
    assert num_bytes(released, text) == len(unicodedata.normalize("NFC", text).encode())


def test_added_tokens_are_text_unless_they_are_special(released: tokenizers.Tokenizer) -> None:
    bytes_of = token_bytes(released)
    assert len(bytes_of) == max(released.get_vocab().values()) + 1
    for text, expected in (("    ", 4), ("  ", 2), (END_OF_TEXT, 0), ("<|padding|>", 0)):
        [number] = released.encode(f"{text}", add_special_tokens=False).ids
        assert bytes_of[number] == expected
    assert (bytes_of == 0).sum() == 2
    assert num_bytes(released, f"a{END_OF_TEXT}é<|padding|>") == 3


def with_changes(tokenizer: tokenizers.Tokenizer, change: Any) -> tokenizers.Tokenizer:
    stated = json.loads(tokenizer.to_str())
    change(stated)
    return tokenizers.Tokenizer.from_str(json.dumps(stated))


def without_bytes(stated: dict[str, Any]) -> None:
    stated["pre_tokenizer"] = {"type": "WhitespaceSplit"}


def with_a_suffix(stated: dict[str, Any]) -> None:
    stated["model"]["end_of_word_suffix"] = "</w>"


def with_absorbed_white_space(stated: dict[str, Any]) -> None:
    stated["added_tokens"][-1]["lstrip"] = True


def with_another_alphabet(stated: dict[str, Any]) -> None:
    stated["model"]["vocab"]["▁"] = 1_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_bytes, "expected a byte-level BPE"),
        (with_a_suffix, "end_of_word_suffix: expected null, got '</w>'"),
        (with_absorbed_white_space, "white space"),
        (with_another_alphabet, "spelled in byte characters, got '▁'"),
    ],
)
def test_a_tokenizer_whose_tokens_have_no_exact_number_of_bytes_is_rejected(
    released: tokenizers.Tokenizer, change: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        token_bytes(with_changes(released, change))
