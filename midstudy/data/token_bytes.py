"""The number of text bytes of each token of a byte-level BPE."""

from __future__ import annotations

import json

import numpy as np
import tokenizers
from numpy.typing import NDArray

from midstudy.data.plain_bpe import byte_letters
from midstudy.data.tokenizer import END_OF_TEXT_ID
from midstudy.recipe.data import END_OF_TEXT

_CHANGES_SPELLING = ("continuing_subword_prefix", "end_of_word_suffix")


def token_bytes(tokenizer: tokenizers.Tokenizer) -> NDArray[np.int64]:
    """Return the number of bytes of each token, int64 of shape (largest id + 1,).

    The number is 0 for end of text, special tokens and ids without a token, and at least 1 for all others. Bytes are counted
    after the tokenizer's normalizer (NFC, if any).

    Raises:
        ValueError: the number of bytes of a token cannot be derived from its spelling.
    """
    stated = json.loads(tokenizer.to_str())
    model, letters = stated["model"], byte_letters()
    if model["type"] != "BPE" or "ByteLevel" not in _types(stated["pre_tokenizer"]):
        raise ValueError(f"tokenizer: expected a byte-level BPE, whose tokens are bytes, got {model['type']} of characters.")
    for name in _CHANGES_SPELLING:
        if model.get(name):
            raise ValueError(f"tokenizer.{name}: expected null, got {model[name]!r}: tokens would hold more than text.")
    if missing := letters.keys() - model["vocab"].keys():
        raise ValueError(f"tokenizer.vocab: expected all 256 bytes, got {256 - len(missing)}; the others would be lost.")
    added = {token["id"]: token for token in stated["added_tokens"]}
    num_bytes = np.zeros(1 + max(*model["vocab"].values(), *added), np.int64)
    for spelling, number in model["vocab"].items():
        if number not in added:
            if not letters.keys() >= set(spelling):
                raise ValueError(f"tokenizer.vocab: expected tokens spelled in byte characters, got {spelling!r}.")
            num_bytes[number] = len(spelling)  # one character per byte
    for number, token in added.items():
        if not token["special"]:
            num_bytes[number] = _added_bytes(tokenizer, token)
    if tokenizer.id_to_token(END_OF_TEXT_ID) == END_OF_TEXT:  # in other tokenizers, a special token ends documents
        num_bytes[END_OF_TEXT_ID] = 0
    return num_bytes


def _types(pre_tokenizer: dict | None) -> list[str]:
    if pre_tokenizer is None:
        return []
    return [pre_tokenizer["type"], *(name for part in pre_tokenizer.get("pretokenizers", ()) for name in _types(part))]


def _added_bytes(tokenizer: tokenizers.Tokenizer, token: dict) -> int:
    """Return the number of bytes of an added token, which is matched as plain text."""
    if token["lstrip"] or token["rstrip"]:
        raise ValueError(
            f"tokenizer.added_tokens: expected tokens of a fixed text, got {token['content']!r}, which absorbs adjacent "
            "white space."
        )
    content = token["content"]
    if token["normalized"] and tokenizer.normalizer is not None:
        content = tokenizer.normalizer.normalize_str(content)
    return len(content.encode("utf-8"))
