"""Encode texts as token ids: with tiktoken if `plain_bpe.py` proves that the ids are identical, else with `tokenizers`."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from midstudy.data.long_texts import PIECE_CHARACTERS, may_cut, pieces
from midstudy.data.plain_bpe import PlainBpe, plain_bpe
from midstudy.data.tokenizer import id_type

_PIECES = 4
"""Number of pieces of a long document that `tokenizers` encodes at once, on its own threads."""

_MAX_THREADS = 8
"""The single reader thread can keep about this many encoding threads busy."""


class Encoder:
    """Encodes texts to the ids of `tokenizer.encode` without special tokens. Thread-safe.

    Args:
        unread: special tokens that are not read in texts: one that spells such a token stays text.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, unread: Collection[str] = ()) -> None:
        self._tokenizer = _without(tokenizer, unread) if unread else tokenizer
        self.id_type = id_type(tokenizer)

    @cached_property
    def _plain(self) -> PlainBpe | None:
        return plain_bpe(self._tokenizer)

    @property
    def num_threads(self) -> int:
        """Number of encoding threads: one per core with tiktoken; two with `tokenizers`, which has its own pool."""
        if self._plain is None:
            return 2
        stated = os.environ.get("RAYON_NUM_THREADS", "")
        allowed = int(stated) if stated.isdecimal() and int(stated) else len(os.sched_getaffinity(0))
        return min(allowed, _MAX_THREADS)

    def ids(self, texts: Sequence[str]) -> Iterator[NDArray[Any]]:
        """Yield the ids of each text, of type `id_type`."""
        if self._plain is None:
            yield from self._through_tokenizers(texts)
            return
        for text in texts:
            if self._plain.reads(text):
                yield self._plain.ids(text).astype(self.id_type, copy=False)
            else:
                yield from self._through_tokenizers([text])

    def _through_tokenizers(self, texts: Sequence[str]) -> Iterator[NDArray[Any]]:
        """Encode the texts as one batch; encode long texts that can be split safely a few pieces at a time."""
        if max(map(len, texts)) <= 2 * PIECE_CHARACTERS or not may_cut(self._tokenizer):
            yield from self._encode(texts)
            return
        for text in texts:
            ids: list[NDArray[Any]] = []
            remaining = pieces(text)
            while group := list(islice(remaining, _PIECES)):
                ids.extend(self._encode(group))
            yield np.concatenate(ids) if ids else np.zeros(0, self.id_type)

    def _encode(self, texts: Sequence[str]) -> Iterator[NDArray[Any]]:
        # The fast variant returns the same ids without character offsets, in two thirds of the time.
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield np.array(encoding.ids, self.id_type)


def _without(tokenizer: tokenizers.Tokenizer, names: Collection[str]) -> tokenizers.Tokenizer:
    """Return the tokenizer without these added tokens. Their ids stay unused: no merge leads to them."""
    stated = json.loads(tokenizer.to_str())
    stated["added_tokens"] = [token for token in stated["added_tokens"] if token["content"] not in names]
    return tokenizers.Tokenizer.from_str(json.dumps(stated))
