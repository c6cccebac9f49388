"""The tokenizer that `midstudy compare --tokenizer` names: a file, a folder, one of the Hub, or a stage of the store."""

from __future__ import annotations

import os
from pathlib import Path

import tokenizers

from midstudy.data.release import hub_tokenizer_bytes
from midstudy.data.tokenizer import FILE_NAME
from midstudy.recipe.errors import RecipeError
from midstudy.run.stored_stage import stored_stage, tokenizer_folder


def read_tokenizer(argument: str, *, store: Path) -> bytes:
    """Return the bytes of a `tokenizer.json`.

    Args:
        argument: the file, or the folder that holds it; `hub:OWNER/NAME@COMMIT`; or a tokenizer or a state in the store.
            Documents are counted without a token between them, so that none is named for the end of text.
        store: the folder of the store.

    Raises:
        RecipeError: there is no such file or stage, or it is not a tokenizer.
        StoreError: the store is damaged.
        ValueError: the Hub cannot be reached, or does not have it.
    """
    path = Path(os.path.expanduser(argument))
    path = path / FILE_NAME if path.is_dir() else path
    expected = f"a {FILE_NAME}, a folder that holds one, hub:OWNER/NAME@COMMIT, or a tokenizer or state of the store"
    if argument.startswith("hub:"):
        content = hub_tokenizer_bytes(argument)
    elif path.is_file():
        argument, content = str(path), path.read_bytes()
    elif "/" in argument or not store.is_dir():
        raise RecipeError("--tokenizer", expected=expected, got=f"{argument}: no file {path}")
    else:
        found, _, recipe = stored_stage(store, argument, option="--tokenizer")
        content = (tokenizer_folder(found, recipe) / FILE_NAME).read_bytes()
    try:
        tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library does not raise anything more specific
        raise RecipeError("--tokenizer", expected=expected, got=f"{argument} ({error})") from None
    return content


def loaded_tokenizer(content: bytes) -> tokenizers.Tokenizer:
    """Return a tokenizer that neither cuts nor pads texts."""
    tokenizer = tokenizers.Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
