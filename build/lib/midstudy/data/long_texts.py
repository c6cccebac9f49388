"""Cuts a long text where its tokens part anyway: an encoding takes a hundred times the memory of its text.

A byte-level tokenizer of GPT-2's kind never joins a word with the space after it, so that a text cut before a single space
between two letters has the same tokens, piece by piece, as the whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import tokenizers

PIECE_CHARACTERS = 2**18
"""A piece is about so long, and longer only where there is no space to cut at."""

_CUT = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_NORMALIZERS = ("NFC",)
"""Those that change nothing across a space between two letters."""


def may_cut(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the tokens of a text are those of its pieces: for what midstudy trains, and for Pythia's tokenizer."""
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
    """The text in pieces, each cut at the first place at which it may be after `num_characters`."""
    first = 0
    while first < len(text):
        place = _CUT.search(text, first + num_characters)
        end = len(text) if place is None else place.start()
        yield text[first:end]
        first = end
