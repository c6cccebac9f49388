"""Write a split as shards: runs of consecutive documents, tokenised in parallel, finished one by one, reused on resume.

A shard ends with the document that brings it to `shard_bytes` of UTF-8 text; documents are not split. Its files are
`<split>-00000.tokens` (uint16, or uint32 if the vocabulary needs it), `<split>-00000.offsets` (int64; document i is
tokens[offsets[i]:offsets[i + 1]]) and, for a task, `<split>-00000.prompts` (int64; number of leading tokens of item i that
are its prompt). Conversations also have `<split>-00000.loss` (uint8; 1 for each token with loss); their prompt is all before
the first of these; `<split>-00000.choices` (`question.py`) holds the choices of those that have them. `<split>.shards.json`
lists the finished shards in order, with the digest of every file, and states when the split is complete. Every document and
item ends with exactly one end-of-text token, even if its text ends with one; a conversation begins with it and ends with the
end of a reply.

Shard boundaries depend on the text alone, so neither the number of threads nor an interruption changes a byte. Encoding
runs in threads (tiktoken's or the tokenizer's own): `RAYON_NUM_THREADS`, else one per usable core. Worker processes were at
most a tenth faster on two cores.

A task's prompt and target are encoded separately, so that the loss mask starts exactly at the boundary between them. (The
paper's code encodes them together and masks the length of the prompt alone, so a merge can cross the boundary.)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import tokenizers
from numpy.typing import NDArray

from midstudy.data.conversation import Piece
from midstudy.data.encoder import Encoder
from midstudy.data.question import Asked, Question
from midstudy.data.split_rows import ChangedTextError
from midstudy.data.tokenizer import END_OF_TEXT_ID, without_end
from midstudy.recipe.data import CONVERSATION_TOKENS, END_OF_TEXT

SHARD_BYTES = 2**28
"""Text bytes of a shard, the most that an interruption loses: about a minute of work of one thread."""

_CHUNK_BYTES = 2**19
_CHUNK_DOCUMENTS = 1_024
"""Limits of a chunk, the unit of tokenisation; encodings take about 30 times the memory of their text. The document that
reaches the limit is included whole."""

_PENDING_BYTES = 2**24
"""Reading pauses while this much text is pending, so that a huge document is alone in memory."""

Document = tuple[str, ...] | tuple[Piece, ...] | Asked
"""The separately encoded texts of a document: one for a corpus document, prompt and target for an item, the pieces of a
conversation, with its question if it has one."""

Chunk = tuple[list[Document], int]
"""Documents that are encoded together, and their number of UTF-8 bytes."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished shard. `text_bytes` counts UTF-8 bytes; `sha256` maps the names of its files to their digests.

    `text_sha256` is the digest of the text it was made from; `None` for shards of versions that did not record it.
    """

    num_documents: int
    num_tokens: int
    text_bytes: int
    sha256: dict[str, str]
    text_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The finished shards of a split, from its first document or that of a part; `is_complete` if they cover all documents.

    `id_bytes` is the size of a token id in the files, 2 or 4. Every document ends with the token `end_of_text_id`. The file
    of an index states both only if they are not 2 and 0.
    """

    shard_bytes: int
    shards: tuple[Shard, ...] = ()
    is_complete: bool = False
    id_bytes: int = 2
    end_of_text_id: int = END_OF_TEXT_ID

    @property
    def num_documents(self) -> int:
        return sum(shard.num_documents for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        return sum(shard.num_tokens for shard in self.shards)


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard's files without their extension."""
    return f"{split}-{number:05d}"


def _index_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.shards.json"


def read_index(folder: Path, split: str) -> ShardIndex | None:
    """Read the index of a split; `None` if the folder has none.

    Raises:
        ValueError: the index file is damaged.
    """
    path = _index_path(folder, split)
    try:
        stated = json.loads(path.read_text("utf-8"))
        shards = tuple(Shard(**shard) for shard in stated.pop("shards"))
        return ShardIndex(shards=shards, **stated)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged ({error!r}). Remove {folder} to make the stage again.") from error


def has_shards(folder: Path) -> bool:
    """Return whether an attempt finished shards in the folder that a later attempt can reuse."""
    return any(folder.glob("*.shards.json"))


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """A tokenised chunk: the concatenated ids, and the number of tokens of each document and of each prompt.

    `has_loss` (uint8) is 1 for each token with loss; `None` unless the documents are conversations. `questions` are those
    of conversations with choices, by their place in the chunk.
    """

    tokens: NDArray[Any]
    lengths: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64] | None
    text_bytes: int
    has_loss: NDArray[np.uint8] | None = None
    questions: Mapping[int, Question] = field(default_factory=dict)


def write_split(
    tokenizer: tokenizers.Tokenizer,
    documents: Iterable[Document],
    folder: Path,
    split: str,
    *,
    previous: Sequence[Path] = (),
    shard_bytes: int = SHARD_BYTES,
    end_of_text_id: int = END_OF_TEXT_ID,
    first_shard: int = 0,
    on_reused: Callable[[Shard], None] = lambda shard: None,
    on_tokenised: Callable[[Tokenised], None] = lambda chunk: None,
) -> ShardIndex:
    """Tokenise the documents of a split into shards in `folder`; memory does not grow with their number.

    Memory grows with the longest document: by a few times its text if the text can be split (`plain_bpe.py`,
    `long_texts.py`), else by about a hundred times its text.

    Args:
        documents: all documents of the split, in order. An exception while reading them ends the writing; finished shards
            remain.
        previous: folders of interrupted attempts at the same split. A shard with matching digests is reused, after its
            documents are read and checked against the text that it was made from.
        end_of_text_id: the token that ends every document.
        first_shard: the number of the first shard, if the documents are those of a part of the split.
        on_reused: called with every reused shard.
        on_tokenised: called with every chunk, in order, after it is written.

    Raises:
        ChangedTextError: a previous attempt's shard was made from other text, e.g. if a file was replaced and restored.
    """
    encoder, remaining = _Encoding(tokenizer, end_of_text_id), iter(documents)
    index = ShardIndex(shard_bytes=shard_bytes, id_bytes=encoder.id_type().itemsize, end_of_text_id=end_of_text_id)
    while not index.is_complete:
        extended = _reuse_next(previous, folder, split, index)
        if extended is not None:
            _require_text(extended.shards[-1], remaining, f"{split} split: shard {first_shard + len(extended.shards)}")
            index = extended
            on_reused(index.shards[-1])
        else:
            name = shard_name(split, first_shard + len(index.shards))
            shard = _write_shard(encoder, remaining, folder, name, shard_bytes, on_tokenised)
            index = replace(index, is_complete=True) if shard is None else replace(index, shards=(*index.shards, shard))
        _write_index(folder, split, index)
    return index


def join_split(
    tokenizer: tokenizers.Tokenizer,
    parts: Sequence[Path],
    folder: Path,
    split: str,
    *,
    shard_bytes: int,
    end_of_text_id: int,
) -> ShardIndex:
    """Put the shards of a split's parts together in `folder`, as `write_split` would have written them in one process.

    Args:
        parts: folders that `write_split` filled, in the order of their shards; some may have none of this split.

    Raises:
        ValueError: a part is incomplete, is not the next one, or has a damaged file; the message names it.
    """
    encoder = _Encoding(tokenizer, end_of_text_id)
    index = ShardIndex(shard_bytes=shard_bytes, id_bytes=encoder.id_type().itemsize, end_of_text_id=end_of_text_id)
    with ThreadPoolExecutor(encoder.num_threads) as pool:  # digests are taken without the interpreter's lock
        for part in parts:
            found = read_index(part, split)
            if found is None:
                continue
            if replace(found, shards=()) != replace(index, shards=(), is_complete=True):
                raise ValueError(
                    f"{part}: expected complete shards of {shard_bytes:,} bytes, got {replace(found, shards=())}."
                )
            named = {name: sha256 for shard in found.shards for name, sha256 in shard.sha256.items()}
            for (name, sha256), digest in zip(
                named.items(), pool.map(_digest, (part / name for name in named)), strict=True
            ):
                if digest != sha256:
                    raise ValueError(f"{part / name}: not what was published. Remove {part} to make the part again.")
            for shard in found.shards:
                if f"{shard_name(split, len(index.shards))}.tokens" not in shard.sha256:
                    raise ValueError(
                        f"{part}: expected shard {len(index.shards)} of {split}, got {', '.join(shard.sha256)}."
                    )
                for name in shard.sha256:
                    _link(part / name, folder / name)
                index = replace(index, shards=(*index.shards, shard))
    index = replace(index, is_complete=True)
    _write_index(folder, split, index)
    return index


def _reuse_next(previous: Sequence[Path], folder: Path, split: str, index: ShardIndex) -> ShardIndex | None:
    """Return `index` with the next shard, if a previous attempt with the same first shards has it undamaged."""
    number = len(index.shards)
    for attempt in previous:
        try:
            other = read_index(attempt, split)
        except ValueError:
            continue  # the index of an interrupted attempt may be damaged
        if other is None or replace(other, shards=(), is_complete=False) != replace(index, shards=(), is_complete=False):
            continue
        if len(other.shards) == number or other.shards[:number] != index.shards:
            continue
        shard = other.shards[number]
        if shard.text_sha256 is not None and all(_digest(attempt / name) == sha256 for name, sha256 in shard.sha256.items()):
            for name in shard.sha256:
                _link(attempt / name, folder / name)
            is_complete = other.is_complete and len(other.shards) == number + 1
            return replace(index, shards=(*index.shards, shard), is_complete=is_complete)
    return None


def _require_text(shard: Shard, remaining: Iterator[Document], what: str) -> None:
    """Read the shard's documents and check that it was made from them."""
    text_sha256 = hashlib.sha256()
    for document in islice(remaining, shard.num_documents):
        _add_text(text_sha256, document)
    if text_sha256.hexdigest() != shard.text_sha256:
        raise ChangedTextError(
            f"{what} of an interrupted attempt was made from different text: its files changed in the meantime. Such "
            "attempts are removed; run the study again, which makes the stage from the beginning."
        )


def _link(source: Path, target: Path) -> None:
    """Hard-link a shard, which is never modified; copy it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        _sync(target)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_index(folder: Path, split: str, index: ShardIndex) -> None:
    path = _index_path(folder, split)
    file = _NewFile(path)
    defaults = {field.name: field.default for field in fields(index) if field.name in ("id_bytes", "end_of_text_id")}
    stated = {name: value for name, value in asdict(index).items() if name not in defaults or value != defaults[name]}
    file.write(json.dumps(stated, indent=1).encode("utf-8"))
    file.finish()


class _NewFile:
    """A file that is written atomically: temporary name, fsync, rename."""

    def __init__(self, path: Path) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.partial")
        self._file = self._temporary.open("wb")
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)

    def finish(self) -> str:
        """Move the file to its final name; return its SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._path)
        return self._sha256.hexdigest()

    def discard(self) -> None:
        """Remove the temporary file, unless the file is finished."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class _Encoding(Encoder):
    """An encoder with the token that ends every document and the text of that token."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, end_of_text_id: int) -> None:
        # The marks of conversations stay text wherever a text spells them; the end of text does so in conversations alone.
        special = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        unread = [name for name in special.values() if name in CONVERSATION_TOKENS]
        super().__init__(tokenizer, unread=unread)
        self.end_of_text = np.array([end_of_text_id], self.id_type)
        named = tokenizer.id_to_token(end_of_text_id)
        self.marker = END_OF_TEXT if end_of_text_id == END_OF_TEXT_ID or named is None else named
        self.special = {name: np.array([number], self.id_type) for number, name in special.items()}
        self.special[END_OF_TEXT] = self.end_of_text
        self.of_conversations = Encoder(tokenizer, unread=special.values()) if unread else None


def _write_shard(
    encoder: _Encoding,
    remaining: Iterator[Document],
    folder: Path,
    name: str,
    shard_bytes: int,
    on_tokenised: Callable[[Tokenised], None],
) -> Shard | None:
    """Write the next shard; return `None` if there are no more documents."""
    first = next(remaining, None)
    if first is None:
        return None
    num_documents, num_tokens, text_bytes, text_sha256 = 0, 0, 0, hashlib.sha256()
    with ExitStack() as stack:
        files: dict[str, _NewFile] = {}

        def append(ending: str, values: NDArray[Any], dtype: str) -> None:
            if ending not in files:
                files[ending] = _NewFile(folder / f"{name}.{ending}")
                stack.callback(files[ending].discard)
            files[ending].write(values.astype(dtype, copy=False).tobytes())

        append("offsets", np.zeros(1, np.int64), "<i8")
        chunks = _chunks(_until_full(chain([first], remaining), shard_bytes, text_sha256))
        for chunk in _in_parallel(partial(_tokenise, encoder), chunks, encoder.num_threads):
            append("tokens", chunk.tokens, f"<u{chunk.tokens.itemsize}")
            append("offsets", num_tokens + np.cumsum(chunk.lengths), "<i8")
            if chunk.prompt_lengths is not None:
                append("prompts", chunk.prompt_lengths, "<i8")
            if chunk.has_loss is not None:
                append("loss", chunk.has_loss, "u1")
            if chunk.questions:
                lines = [question.line(num_documents + place) for place, question in chunk.questions.items()]
                append("choices", np.frombuffer("".join(lines).encode("utf-8"), np.uint8), "u1")
            num_documents += len(chunk.lengths)
            num_tokens += len(chunk.tokens)
            text_bytes += chunk.text_bytes
            on_tokenised(chunk)
        sha256 = {f"{name}.{ending}": files[ending].finish() for ending in sorted(files)}
    return Shard(
        num_documents=num_documents,
        num_tokens=num_tokens,
        text_bytes=text_bytes,
        sha256=sha256,
        text_sha256=text_sha256.hexdigest(),
    )


def encoded(document: Document) -> list[bytes]:
    """Return the texts of a document in UTF-8, which fill shards; a special token is a null byte and its name."""
    pieces = document.pieces if isinstance(document, Asked) else document
    texts = (one if isinstance(one, str) else "\0"[: one.is_special] + one.text for one in pieces)
    return [text.encode("utf-8") for text in texts]


def _add_text(sha256: hashlib._Hash, document: Document) -> int:
    """Add a document's texts and their lengths, and its question, to the digest; return the texts' UTF-8 bytes."""
    texts = encoded(document)
    if isinstance(document, Asked):
        sha256.update(document.question.line(0).encode("utf-8"))
    for text_bytes in texts:
        sha256.update(len(text_bytes).to_bytes(8, "little"))
        sha256.update(text_bytes)
    return sum(map(len, texts))


def _until_full(
    documents: Iterable[Document], shard_bytes: int, text_sha256: hashlib._Hash
) -> Iterator[tuple[Document, int]]:
    """Yield the documents of one shard, each with its number of UTF-8 bytes, and add them to the digest."""
    total = 0
    for document in documents:
        num_bytes = _add_text(text_sha256, document)
        total += num_bytes
        yield document, num_bytes
        if total >= shard_bytes:
            return


def _chunks(documents: Iterable[tuple[Document, int]]) -> Iterator[Chunk]:
    chunk: list[Document] = []
    total = 0
    for document, num_bytes in documents:
        chunk.append(document)
        total += num_bytes
        if total >= _CHUNK_BYTES or len(chunk) == _CHUNK_DOCUMENTS:
            yield chunk, total
            chunk, total = [], 0
    if chunk:
        yield chunk, total


def _tokenise(encoder: _Encoding, chunk: Chunk) -> Tokenised:
    documents, text_bytes = chunk
    questions = {place: one.question for place, one in enumerate(documents) if isinstance(one, Asked)}
    conversations = [one.pieces if isinstance(one, Asked) else one for one in documents]
    if isinstance(conversations[0][0], Piece):
        tokenised = _tokenise_conversations(encoder, cast(list[tuple[Piece, ...]], conversations), text_bytes)
        return replace(tokenised, questions=questions)
    encoded = encoder.ids(
        [
            text
            for *prompt, last in cast(list[tuple[str, ...]], documents)
            for text in (*prompt, without_end(last, marker=encoder.marker))
        ]
    )
    ids: list[NDArray[Any]] = []
    lengths, prompt_lengths = [], []
    for document in documents:
        parts = list(islice(encoded, len(document)))
        ids.extend((*parts, encoder.end_of_text))
        lengths.append(sum(map(len, parts)) + 1)
        prompt_lengths.append(len(parts[0]))
    return Tokenised(
        tokens=np.concatenate(ids),
        lengths=np.array(lengths, np.int64),
        prompt_lengths=np.array(prompt_lengths, np.int64) if len(documents[0]) > 1 else None,
        text_bytes=text_bytes,
    )


def piece_ids(tokenizer: tokenizers.Tokenizer, pieces: Sequence[Piece], *, end_of_text_id: int) -> list[int]:
    """Return the token ids of the pieces of one conversation, as they stand in shards."""
    return [int(token) for token in _tokenise(_Encoding(tokenizer, end_of_text_id), ([tuple(pieces)], 0)).tokens]


def _tokenise_conversations(encoder: _Encoding, conversations: list[tuple[Piece, ...]], text_bytes: int) -> Tokenised:
    assert encoder.of_conversations is not None  # the recipe requires a tokenizer with the marks
    encoded = encoder.of_conversations.ids([p.text for pieces in conversations for p in pieces if not p.is_special])
    ids: list[NDArray[Any]] = []
    has_loss: list[NDArray[np.uint8]] = []
    for pieces in conversations:
        parts = [encoder.special[piece.text] if piece.is_special else next(encoded) for piece in pieces]
        marks = [np.full(len(part), piece.has_loss, np.uint8) for part, piece in zip(parts, pieces, strict=True)]
        ids.append(np.concatenate(parts))
        has_loss.append(np.concatenate(marks))
    return Tokenised(
        tokens=np.concatenate(ids),
        lengths=np.array([len(marks) for marks in has_loss], np.int64),
        prompt_lengths=np.array([marks.argmax() for marks in has_loss], np.int64),
        text_bytes=text_bytes,
        has_loss=np.concatenate(has_loss),
    )


def _in_parallel(function: Callable[[Chunk], Tokenised], chunks: Iterable[Chunk], num_threads: int) -> Iterator[Tokenised]:
    """Apply `function` to each chunk, in order, while the next chunks are read; few are in memory at a time."""
    pool = ThreadPoolExecutor(num_threads)
    pending: deque[tuple[Future[Tokenised], int]] = deque()
    try:
        for chunk in chunks:
            pending.append((pool.submit(function, chunk), chunk[1]))
            del chunk  # free a huge document as soon as it is encoded
            while len(pending) > num_threads or sum(num_bytes for _, num_bytes in pending) > _PENDING_BYTES:
                yield pending.popleft()[0].result()
        while pending:
            yield pending.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
