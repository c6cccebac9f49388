"""Split long documents at boundaries that no token crosses: an encoding takes a hundred times the memory of its text.

A GPT-2 style byte-level tokenizer never merges a word with the space after it. If a text is split before a single space
between two letters, the pieces therefore have the same tokens as the whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import tokenizers

PIECE_CHARACTERS = 2**18
"""Approximate length of a piece; a piece is longer only if it has no space to split at."""

_CUT = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_NORMALIZERS = ("NFC",)
"""Normalizers that do not change anything across a space between two letters."""


def may_cut(tokenizer: tokenizers.Tokenizer) -> bool:
    """True if the pieces of a text have the tokens of the whole: for tokenizers trained by midstudy, and Pythia's."""
    stated = json.loads(tokenizer.to_str())
    before, normalizer = stated["pre_tokenizer"] or {}, stated["normalizer"]
    return (
        stated["model"]["type"] == "BPE"
        and before.get("type") == "ByteLevel"
        and before.get("use_regex", True)
        and (normalizer is None or normalizer["type"] in _NORMALIZERS)
        and not any(
            _CUT.search(token["content"]) or token["lstrip"] or token["rstrip"] or token["single_word"]
            for token in stated["added_tokens"]
        )
    )


def pieces(text: str, *, num_characters: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Yield the text in pieces, each split at the first safe position after `num_characters`."""
    first = 0
    while first < len(text):
        boundary = _CUT.search(text, first + num_characters)
        end = len(text) if boundary is None else boundary.start()
        yield text[first:end]
        first = end
