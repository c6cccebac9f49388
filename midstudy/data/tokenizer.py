"""The byte-level BPE: trained on the general corpus, saved as `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from midstudy.recipe.data import END_OF_TEXT
from midstudy.recipe.errors import RecipeError

END_OF_TEXT_ID = 0
FILE_NAME = "tokenizer.json"


def without_end(text: str, *, marker: str = END_OF_TEXT) -> str:
    """Strip trailing end-of-text markers and the white space after them.

    Some data sets end each document or answer with the marker. Every document gets one end-of-text token anyway, so this
    avoids a second one; markers inside a text stay and encode to that token.
    """
    while (seen := text.rstrip()).endswith(marker):
        text = seen.removesuffix(marker)
    return text


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, special_tokens: Sequence[str] = ()) -> tokenizers.Tokenizer:
    """Train a byte-level BPE (GPT-2's pre-tokenisation, no normalisation, all 256 bytes in the vocabulary).

    Args:
        special_tokens: have the ids from 1.

    Raises:
        ValueError: there is too little text to fill the vocabulary.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size: the corpus yields only {tokenizer.get_vocab_size()} of {vocab_size} entries. "
            "Train on more bytes, or lower vocab_size."
        )
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID
    return tokenizer


def with_special_tokens(content: bytes, names: Sequence[str]) -> tokenizers.Tokenizer:
    """Return the tokenizer of a `tokenizer.json` with special tokens added to it; they have the ids after its largest.

    Raises:
        RecipeError: it has a token of such a name.
    """
    tokenizer = tokenizers.Tokenizer.from_buffer(content)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    first = max(vocabulary.values()) + 1
    if known := vocabulary.keys() & {*names}:
        expected = f"names that the release's tokens do not have: {', '.join(sorted(known))} are among them"
        raise RecipeError("tokenizer.special_tokens", expected=expected, got=", ".join(names))
    tokenizer.add_special_tokens(list(names))
    ids = [tokenizer.token_to_id(name) for name in names]
    if ids != [*range(first, first + len(names))]:
        raise RecipeError("tokenizer.special_tokens", expected=f"the ids from {first}", got=", ".join(map(str, ids)))
    return tokenizer


def id_type(tokenizer: tokenizers.Tokenizer) -> type[np.uint16] | type[np.uint32]:
    """Return the type in which token ids are held: 16 bits if the largest id fits, else 32."""
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    return np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32


def save_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / FILE_NAME))


def load_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / FILE_NAME))
