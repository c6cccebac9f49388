"""Token files: the splits of a data set as flat 16-bit ids with document boundaries, read through memory maps.

For each split a folder holds `<split>.tokens` (uint16, little-endian), `<split>.offsets` (int64; document i is
tokens[offsets[i]:offsets[i + 1]]) and, for a task, `<split>.prompts` (int64; how many leading tokens of item i are its
prompt). Every document and item ends with the end-of-text token.

A task's prompt and target are encoded apart, so that the loss mask falls on the boundary between them. (The paper's code
encodes them together and takes the mask from the prompt alone, which lets a merge cross the boundary.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from midstudy.data.rows import Example
from midstudy.data.tokenizer import END_OF_TEXT_ID

_CHUNK_DOCUMENTS = 512


@dataclass(frozen=True)
class TokenizedSplit:
    """One split, memory-mapped. `prompt_lengths` is none for a corpus."""

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64] | None

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    def document(self, index: int) -> NDArray[np.uint16]:
        """Token ids of document or item `index`, end of text included."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def document_at(self, token: int) -> int:
        """The document or item that token number `token` of the split belongs to."""
        return int(np.searchsorted(self.offsets, token, side="right")) - 1

    def num_blocks(self, seq_len: int) -> int:
        """Blocks of `seq_len + 1` tokens the split can be cut in (the paper's: 2,049 tokens)."""
        return len(self.tokens) // (seq_len + 1)


def read_split(folder: Path, split: str) -> TokenizedSplit:
    """Open a split that a data stage published.

    Raises:
        FileNotFoundError: the data set has no such split.
    """
    path = folder / f"{split}.tokens"
    if not path.exists():
        raise FileNotFoundError(f"no {split} split among the tokens in {folder}")
    empty = path.stat().st_size == 0
    tokens = np.empty(0, np.uint16) if empty else np.memmap(path, dtype="<u2", mode="r")
    prompts = folder / f"{split}.prompts"
    return TokenizedSplit(
        tokens=tokens,
        offsets=np.fromfile(folder / f"{split}.offsets", dtype="<i8"),
        prompt_lengths=np.fromfile(prompts, dtype="<i8") if prompts.exists() else None,
    )


def _chunks(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def write_corpus_split(tokenizer: tokenizers.Tokenizer, texts: Iterable[str], folder: Path, split: str) -> int:
    """Tokenise documents, stripped as the paper's, in chunks: a corpus need not fit in memory. Returns its tokens."""
    offsets = [0]
    with (folder / f"{split}.tokens").open("wb") as file:
        for chunk in _chunks((text.strip() for text in texts), _CHUNK_DOCUMENTS):
            for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
                ids = np.array([*encoding.ids, END_OF_TEXT_ID], dtype="<u2")
                file.write(ids.tobytes())
                offsets.append(offsets[-1] + len(ids))
    np.array(offsets, dtype="<i8").tofile(folder / f"{split}.offsets")
    return offsets[-1]


def write_task_split(tokenizer: tokenizers.Tokenizer, examples: Iterable[Example], folder: Path, split: str) -> int:
    """Tokenise prompt-target pairs; returns the tokens of the split, prompts included."""
    items = list(examples)
    prompts = tokenizer.encode_batch([item.prompt for item in items], add_special_tokens=False)
    targets = tokenizer.encode_batch([item.target for item in items], add_special_tokens=False)
    offsets, lengths = [0], []
    with (folder / f"{split}.tokens").open("wb") as file:
        for prompt, target in zip(prompts, targets, strict=True):
            ids = np.array([*prompt.ids, *target.ids, END_OF_TEXT_ID], dtype="<u2")
            file.write(ids.tobytes())
            offsets.append(offsets[-1] + len(ids))
            lengths.append(len(prompt.ids))
    np.array(offsets, dtype="<i8").tofile(folder / f"{split}.offsets")
    np.array(lengths, dtype="<i8").tofile(folder / f"{split}.prompts")
    return offsets[-1]
