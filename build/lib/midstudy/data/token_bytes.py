"""How many bytes of text each token of a byte-level BPE stands for."""

from __future__ import annotations

import json

import numpy as np
import tokenizers
from numpy.typing import NDArray

from midstudy.data.plain_bpe import byte_letters
from midstudy.data.tokenizer import END_OF_TEXT_ID

_CHANGES_SPELLING = ("continuing_subword_prefix", "end_of_word_suffix")


def token_bytes(tokenizer: tokenizers.Tokenizer) -> NDArray[np.int64]:
    """Bytes of each token, int64 (largest id + 1,); 0 for the end of text, for special tokens and for ids without a token.

    Bytes are those of the text that the tokenizer splits, after its normalizer (NFC, if any). A token that is not special
    has at least one.

    Raises:
        ValueError: the bytes of a token do not follow from its spelling.
    """
    stated = json.loads(tokenizer.to_str())
    model, letters = stated["model"], byte_letters()
    if model["type"] != "BPE" or "ByteLevel" not in _types(stated["pre_tokenizer"]):
        raise ValueError(f"tokenizer: expected a byte-level BPE, whose tokens are bytes, got {model['type']} without bytes.")
    for name in _CHANGES_SPELLING:
        if model.get(name):
            raise ValueError(f"tokenizer.{name}: expected none, got {model[name]!r}: it is part of tokens, not of the text.")
    if missing := letters.keys() - model["vocab"].keys():
        raise ValueError(f"tokenizer.vocab: expected all 256 bytes, got {256 - len(missing)}: the others are lost.")
    added = {token["id"]: token for token in stated["added_tokens"]}
    num_bytes = np.zeros(1 + max(*model["vocab"].values(), *added), np.int64)
    for spelling, number in model["vocab"].items():
        if number not in added:
            if not letters.keys() >= set(spelling):
                raise ValueError(f"tokenizer.vocab: expected tokens that are spelled in bytes, got {spelling!r}.")
            num_bytes[number] = len(spelling)  # one letter a byte
    for number, token in added.items():
        if not token["special"]:
            num_bytes[number] = _added_bytes(tokenizer, token)
    num_bytes[END_OF_TEXT_ID] = 0
    return num_bytes


def _types(pre_tokenizer: dict | None) -> list[str]:
    if pre_tokenizer is None:
        return []
    return [pre_tokenizer["type"], *(name for part in pre_tokenizer.get("pretokenizers", ()) for name in _types(part))]


def _added_bytes(tokenizer: tokenizers.Tokenizer, token: dict) -> int:
    """Bytes of an added token, which is matched as plain text."""
    if token["lstrip"] or token["rstrip"]:
        raise ValueError(
            f"tokenizer.added_tokens: expected tokens of a fixed text, got {token['content']!r}, which takes in the white "
            "space beside it."
        )
    content = token["content"]
    if token["normalized"] and tokenizer.normalizer is not None:
        content = tokenizer.normalizer.normalize_str(content)
    return len(content.encode("utf-8"))
