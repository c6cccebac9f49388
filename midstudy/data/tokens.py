"""Read the tokenised splits of a data set through memory maps: flat 16-bit or 32-bit ids with document boundaries.

A split is one object, regardless of its number of shards (`shards.py`); blocks may span shard boundaries.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midstudy.data.question import Question, read_questions
from midstudy.data.shards import ShardIndex, read_index, shard_name
from midstudy.data.tokenizer import END_OF_TEXT_ID


class Tokens:
    """The concatenated tokens of a split's shards: supports `len`, and slices as arrays of their type.

    A slice within a shard is a view of the file; a slice over a shard boundary is a copy.
    """

    def __init__(self, shards: list[NDArray[Any]]) -> None:
        self._shards = shards
        self._type = shards[0].dtype if shards else np.dtype(np.uint16)
        self.starts = np.concatenate([[0], np.cumsum([len(shard) for shard in shards], dtype=np.int64)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, wanted: slice) -> NDArray[Any]:
        start, stop, step = wanted.indices(len(self))
        assert step == 1
        number = int(np.searchsorted(self.starts, start, side="right")) - 1
        parts = []
        while start < stop:
            begin = int(self.starts[number])
            parts.append(self._shards[number][start - begin : stop - begin])
            start, number = int(self.starts[number + 1]), number + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self._type)


class TokenizedSplit:
    """One split, memory-mapped.

    Args:
        tokens: for each shard, the concatenated ids of its documents.
        offsets: for each shard with n documents, the n + 1 positions in its tokens where documents begin or end.
        prompt_lengths: for each shard of a task, the number of prompt tokens of every item; `None` for a corpus.
        end_of_text_id: the token that ends every document, and begins every conversation.
        has_loss: for each shard of conversations, 1 for each token with loss, else 0; `None` for other data.
        choices: for each shard the file of its questions; `None` if it has none.
    """

    def __init__(
        self,
        tokens: list[NDArray[Any]],
        offsets: list[NDArray[np.int64]],
        prompt_lengths: list[NDArray[np.int64]] | None,
        end_of_text_id: int = END_OF_TEXT_ID,
        has_loss: list[NDArray[np.uint8]] | None = None,
        choices: list[Path | None] | None = None,
    ) -> None:
        self._choices = choices or []
        self.end_of_text_id = end_of_text_id
        self.has_loss = None if has_loss is None else Tokens(has_loss)
        self.tokens = Tokens(tokens)
        self._shards, self._offsets, self._prompt_lengths = tokens, offsets, prompt_lengths
        self._first_documents = np.concatenate([[0], np.cumsum([len(ends) - 1 for ends in offsets], dtype=np.int64)])

    @property
    def num_documents(self) -> int:
        return int(self._first_documents[-1])

    def document(self, index: int) -> NDArray[Any]:
        """Return the token ids of document or item `index`, including its end-of-text token."""
        assert 0 <= index < self.num_documents
        shard = int(np.searchsorted(self._first_documents, index, side="right")) - 1
        place = index - int(self._first_documents[shard])
        offsets = self._offsets[shard]
        return self._shards[shard][int(offsets[place]) : int(offsets[place + 1])]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Document i is tokens[offsets[i]:offsets[i + 1]]. Held in memory, 8 bytes per document: for tasks only."""
        within = (offsets[1:] + start for offsets, start in zip(self._offsets, self.tokens.starts[:-1], strict=True))
        return np.concatenate([np.zeros(1, np.int64), *within])

    @cached_property
    def prompt_lengths(self) -> NDArray[np.int64] | None:
        """Number of prompt tokens of every item, held in memory; `None` for a corpus."""
        return np.concatenate(self._prompt_lengths) if self._prompt_lengths is not None else None

    @cached_property
    def questions(self) -> dict[int, Question]:
        """The choices and subjects of the items that have them."""
        return {
            int(first) + place: question
            for first, path in zip(self._first_documents[:-1], self._choices, strict=False)
            if path is not None
            for place, question in read_questions(path).items()
        }

    def targets_of(self, index: int) -> NDArray[np.bool_]:
        """Return which tokens of item `index` are its target: a reply in a conversation, else all after the prompt."""
        start, stop = (int(place) for place in self.offsets[index : index + 2])
        if self.has_loss is not None:
            return self.has_loss[start:stop].astype(bool)
        assert self.prompt_lengths is not None
        return np.arange(stop - start) >= self.prompt_lengths[index]

    def num_targets(self, num_tokens: int | None = None) -> NDArray[np.int64]:
        """Return the number of target tokens of every item that something can predict, int64 of shape (num_documents,).

        Args:
            num_tokens: count within the first tokens of each item; `None` for all.
        """
        lengths = np.diff(self.offsets)
        ends = lengths if num_tokens is None else np.minimum(lengths, num_tokens)
        if self.has_loss is not None:
            sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.has_loss[:], dtype=np.int64)])
            return sums[self.offsets[:-1] + ends] - sums[self.offsets[:-1]]
        assert self.prompt_lengths is not None
        return np.maximum(ends - np.maximum(self.prompt_lengths, 1), 0)

    def document_at(self, token: int) -> int:
        """Return the index of the document or item that contains token number `token` of the split."""
        shard = int(np.searchsorted(self.tokens.starts, token, side="right")) - 1
        place = np.searchsorted(self._offsets[shard], token - self.tokens.starts[shard], side="right") - 1
        return int(self._first_documents[shard] + place)

    def num_blocks(self, seq_len: int) -> int:
        """Return the number of blocks of `seq_len + 1` tokens in the split (2,049 tokens in the paper)."""
        return len(self.tokens) // (seq_len + 1)


def read_split(folder: Path, split: str) -> TokenizedSplit:
    """Open a split that a data stage published.

    Raises:
        FileNotFoundError: the data set does not have this split.
        ValueError: the shard index is damaged or incomplete, or the split is empty.
    """
    index = _index(folder, split)
    names = [shard_name(split, number) for number in range(len(index.shards))]
    has_prompts = (folder / f"{names[0]}.prompts").exists()
    are_conversations = (folder / f"{names[0]}.loss").exists()
    return TokenizedSplit(
        tokens=[_map(folder / f"{name}.tokens", f"<u{index.id_bytes}") for name in names],
        offsets=[_map(folder / f"{name}.offsets", "<i8") for name in names],
        prompt_lengths=[_map(folder / f"{name}.prompts", "<i8") for name in names] if has_prompts else None,
        end_of_text_id=index.end_of_text_id,
        has_loss=[_map(folder / f"{name}.loss", "u1") for name in names] if are_conversations else None,
        choices=[path if (path := folder / f"{name}.choices").exists() else None for name in names],
    )


def _index(folder: Path, split: str) -> ShardIndex:
    """Return the index of a complete split."""
    index = read_index(folder, split)
    if index is None:
        raise FileNotFoundError(f"no {split} split among the tokens in {folder}")
    if index.is_complete and not index.shards:
        raise ValueError(
            f"the {split} split is empty: it was carved from train by hash, and got no rows. Supply a {split} split, or "
            "more rows."
        )
    if not index.is_complete:
        raise ValueError(f"{folder}: the {split} split is incomplete. Remove the folder to make the stage again.")
    return index


def _map(path: Path, dtype: str) -> NDArray[Any]:
    # A plain array over the map: slices of numpy's memmap class are several times slower.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r")).view(np.ndarray)
