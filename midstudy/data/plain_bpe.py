"""Plain byte-level BPE through tiktoken: the same ids as `tokenizers`, several times faster, in bounded memory.

Plain means: GPT-2's pre-tokenizer, no normalizer or NFC (GPT-NeoX, Pythia), and merge order consistent with id order.
For such a tokenizer both libraries return the same ids for every text. This is proved when the encoder is built:

**Words.* Both libraries split text with the same regular expression. Their regex engines could differ only in which
characters are letters, numbers or spaces, so both are tested on every code point of the assigned planes.

*Merges.* `tokenizers` applies the adjacent merge of lowest rank, leftmost first; tiktoken joins the pair whose joined bytes
have the lowest token id. If result ids rise with merge rank, they differ only where tokens x and y, which no merge joins,
become adjacent although xy is a token. A span of bytes whose ends no merge crosses is encoded independently of its
context, so the span xy alone would also give x, y. But xy alone gives the single token xy (checked for every token of the
vocabulary), and only the one pair that makes it leads there.

*Long words.* A sequence of tokens is the encoding of its bytes exactly if each adjacent pair is the encoding of its own
bytes: the first merge that crosses a boundary would also cross it within the pair. So a word of any length is encoded
window by window, and every boundary is checked.

Added tokens, such as end-of-text, are extracted first, leftmost-longest, as `tokenizers` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import normalizers, pre_tokenizers

if TYPE_CHECKING:
    import tiktoken

PIECE_CHARACTERS = 2**16
"""Approximate length of the pieces of a text of more than twice this length. A piece then cannot hold a run of spaces long
enough (a million) to overflow the stack of tiktoken's regex engine, or a word that needs much memory.
"""

WINDOW_BYTES = 2**16
"""Longer words are encoded in windows of this many bytes."""

_SEAM_TOKENS = 16
"""Tokens at the end of a window that are re-encoded with the next: the boundaries tried before the window grows."""

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CUT = re.compile(r"(?<=[!-~])(?=[ \n])|(?<=[A-Za-z])(?=[0-9])")
"""Places where a word ends in any context: before a space, or between a letter and a digit."""

_NOT_INERT = re.compile("[^\0-\u02ff\u2010-\u2027\u2030-\u205e]")
"""Characters beyond Latin and common punctuation. NFC of any Unicode version leaves a text without them unchanged."""

_PROBES = (
    "",
    " ",
    "The naïve café's owner — she'd said “it'll do”, we've 1234567,890.12 of THEM'S\r\n\r\n\tx  y   \n\n",
    "e\u0301 n\u0303o\u0308 \u1e9b\u0323 \u212b ﬁ 日本語 한국어 ไทย हिन्दी العربية Ελλάδα 🙂👩\u200d👩 \U000e0041 𝔘𝔫𝔦 ²³ ⅷ ٣",
    "\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff\x00\x1c\x1f\x85\x7f \x0b\x0c x",
    "aaaaaaaaaaaaaaa                x" + "=" * 70 + "ab" * 90 + "\n" * 33,
    "for i in range(10):\n        if x[i] != '\\t':\n\t\treturn f\"{x}\"  # don't",
)
"""Texts that both libraries must encode identically before tiktoken is used."""


def plain_bpe(tokenizer: tokenizers.Tokenizer) -> PlainBpe | None:
    """Return the tokenizer as a plain byte-level BPE; `None` if it is not proved to be one or tiktoken is missing."""
    return _proved(tokenizer.to_str()) if find_spec("tiktoken") else None


@lru_cache(maxsize=2)
def _proved(text: str) -> PlainBpe | None:
    stated = json.loads(text)
    if not _is_supported(stated) or not _same_classes():
        return None
    ranks = _ranks(stated["model"]["vocab"], stated["model"]["merges"])
    added = _added_tokens(stated)
    if ranks is None or added is None:
        return None
    tokenizer = tokenizers.Tokenizer.from_str(text)
    spelled = {number: word for word, number in stated["model"]["vocab"].items()}
    for number in ranks.values():
        if [token.id for token in tokenizer.model.tokenize(spelled[number])] != [number]:
            return None
    cut = pre_tokenizers.Split(tokenizers.Regex(_WORDS), "isolated")
    for probe in _PROBES:
        if [place for _, place in tokenizer.pre_tokenizer.pre_tokenize_str(probe)] != [
            place for _, place in cut.pre_tokenize_str(probe)
        ]:
            return None
    bpe = PlainBpe(ranks, added, only_inert=stated["normalizer"] is not None)
    probes = [*_PROBES, *(f"x{token} {token}{token}'s" for _, ids in added for token in ids)]
    wanted = tokenizer.encode_batch_fast(probes, add_special_tokens=False)
    pairs = zip(probes, wanted, strict=True)
    is_same = all(bpe.ids(probe).tolist() == encoding.ids for probe, encoding in pairs if bpe.reads(probe))
    return bpe if is_same else None


class PlainBpe:
    """Encodes with tiktoken.

    Args:
        ranks: bytes of each token, single bytes included, to its id.
        added: regular expressions for added tokens, applied in turn to the remaining text, each with its tokens' ids.
        only_inert: accept only texts that the normalizer leaves unchanged.
    """

    def __init__(self, ranks: dict[bytes, int], added: list[tuple[re.Pattern[str], dict[str, int]]], *, only_inert: bool):
        self._encoding = _encoding(_WORDS, ranks)
        self._added, self._only_inert = added, only_inert
        self._token_bytes = {number: token for token, number in ranks.items()}
        largest = max(max(ranks.values()), *(number for _, ids in added for number in ids.values()), 0)
        self._id_type = np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32

    def _array(self, ids: list[int]) -> NDArray[Any]:
        return np.fromiter(ids, self._id_type, len(ids))

    def reads(self, text: str) -> bool:
        """Return whether `ids` supports this text."""
        return not self._only_inert or text.isascii() or _NOT_INERT.search(text) is None

    def ids(self, text: str) -> NDArray[Any]:
        """Return the token ids of a text: uint16 if every id fits, else uint32."""
        if len(text) <= 2 * PIECE_CHARACTERS and not any(pattern.search(text) for pattern, _ in self._added):
            return self._array(self._encoding.encode_ordinary(text))
        parts = list(self._parts(text))
        return np.concatenate(parts) if parts else self._array([])

    def _parts(self, text: str) -> Iterator[NDArray[Any]]:
        for part in self._between_added(text):
            if isinstance(part, int):
                yield self._array([part])
                continue
            for piece in _pieces(part):
                if len(piece) <= 2 * PIECE_CHARACTERS:
                    yield self._array(self._encoding.encode_ordinary(piece))
                else:
                    yield from self._word_by_word(piece)

    def _between_added(self, text: str, stage: int = 0) -> Iterator[str | int]:
        """Split the text at added tokens: yield strings between them, and ids for them."""
        if stage == len(self._added):
            if text:
                yield text
            return
        pattern, ids = self._added[stage]
        begin = 0
        for match in pattern.finditer(text):
            yield from self._between_added(text[begin : match.start()], stage + 1)
            yield ids[match[0]]
            begin = match.end()
        yield from self._between_added(text[begin:] if begin else text, stage + 1)

    def _word_by_word(self, text: str) -> Iterator[NDArray[Any]]:
        pending: list[int] = []
        for word in map(str.encode, _words(text)):
            if len(word) <= WINDOW_BYTES:
                pending += self._encoding._encode_single_piece(word)
            if len(pending) > PIECE_CHARACTERS or len(word) > WINDOW_BYTES:
                yield self._array(pending)
                pending = []
            if len(word) > WINDOW_BYTES:
                yield from self._long_word(word)
        yield self._array(pending)

    def _long_word(self, word: bytes) -> list[NDArray[Any]]:
        size = WINDOW_BYTES
        while (ids := self._in_windows(word, size)) is None:
            size *= 2
        return ids

    def _in_windows(self, word: bytes, size: int) -> list[NDArray[Any]] | None:
        """Return the token ids of a word, encoded `size` bytes at a time; `None` if two windows do not join."""
        encode, token_bytes, start = self._encoding._encode_single_piece, self._token_bytes, 0
        ids, finished = encode(word[:size]), []
        while start + size < len(word):
            for num_kept in islice(range(len(ids) - _SEAM_TOKENS, 0, -1), _SEAM_TOKENS):
                place = start + sum(len(token_bytes[number]) for number in ids[:num_kept])
                more = encode(word[place : place + size])
                pair = [ids[num_kept - 1], more[0]]
                if encode(token_bytes[pair[0]] + token_bytes[pair[1]]) == pair:
                    break
            else:
                return None
            finished.append(self._array(ids[:num_kept]))
            ids, start = more, place
        return [*finished, self._array(ids)]


def _words(text: str) -> Iterator[str]:
    return (match[0] for match in _words_in_python().finditer(text))


@cache
def _words_in_python() -> re.Pattern[str]:
    """`_WORDS` with the libraries' character classes instead of Python's and no limit on word length."""
    letters, numbers, spaces = (_as_ranges(characters) for characters in _classes_of_tiktoken())
    words = _WORDS.replace(r"[^\s\p{L}\p{N}]", f"[^{spaces}{letters}{numbers}]")
    for name, ranges in ((r"\p{L}", letters), (r"\p{N}", numbers), (r"\s", spaces)):
        words = words.replace(name, f"[{ranges}]")
    return re.compile(words.replace(r"\S", f"[^{spaces}]"))


def _encoding(words: str, ranks: dict[bytes, int]) -> tiktoken.Encoding:
    import tiktoken  # takes 0.2 s, so only if needed

    return tiktoken.Encoding("plain", pat_str=words, mergeable_ranks=ranks, special_tokens={})


def _pieces(text: str) -> Iterator[str]:
    """Split a long text into pieces of about `PIECE_CHARACTERS`, longer if there is no safe place to split."""
    if len(text) <= 2 * PIECE_CHARACTERS:
        yield text
        return
    first = 0
    while first < len(text):
        place = _CUT.search(text, first + PIECE_CHARACTERS)
        end = len(text) if place is None else place.start()
        yield text[first:end]
        first = end


# -- proof when an encoder is built -----------------------------------------------------------------------------------


_CHANGE_MERGES = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


def _is_supported(stated: dict[str, Any]) -> bool:
    model, words = stated["model"], stated["pre_tokenizer"] or {}
    return (
        model["type"] == "BPE"
        and not any(model.get(name) for name in _CHANGE_MERGES)
        and words.get("type") == "ByteLevel"
        and not words.get("add_prefix_space", True)
        and words.get("use_regex", True)
        and (stated["normalizer"] or {"type": "NFC"}) == {"type": "NFC"}
        and (stated["post_processor"] or {"type": "ByteLevel"})["type"] == "ByteLevel"
        and not stated["truncation"]
        and not stated["padding"]
    )


def _ranks(vocab: dict[str, int], merges: list[Any]) -> dict[bytes, int] | None:
    """Map the bytes of every token (single bytes and merge results) to its id; `None` if ids do not rise with merge rank."""
    letters = byte_letters()
    if not vocab.keys() >= letters.keys():
        return None
    known, last = {letter: vocab[letter] for letter in letters}, -1
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        made = vocab.get(left + right)
        if made is None or left not in known or right not in known or made <= last:
            return None
        known[left + right] = last = made
    if len(set(known.values())) < len(known) or max(known.values()) >= 2**16:
        return None
    return {bytes(letters[letter] for letter in word): number for word, number in known.items()}


def byte_letters() -> dict[str, int]:
    """Map GPT-2's character for each byte to the byte: the byte itself if printable, else the next code point from 256."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _added_tokens(stated: dict[str, Any]) -> list[tuple[re.Pattern[str], dict[str, int]]] | None:
    """Return patterns for added tokens, those matched before normalization first; `None` for unsupported options."""
    patterns = []
    for normalized in (False, True):
        ids = {token["content"]: token["id"] for token in stated["added_tokens"] if token["normalized"] == normalized}
        if ids:
            patterns.append((re.compile("|".join(map(re.escape, sorted(ids, key=len, reverse=True)))), ids))
    has_unsupported = any(
        not token["content"]
        or token["id"] >= 2**16
        or token["single_word"]
        or token["lstrip"]
        or token["rstrip"]
        or (stated["normalizer"] and _NOT_INERT.search(token["content"]))
        for token in stated["added_tokens"]
    )
    return None if has_unsupported else patterns


@cache
def _same_classes() -> bool:
    """True if both libraries classify letters, numbers and spaces identically."""
    return _classes_of_tiktoken() == _classes_of_tokenizers()


@cache
def _all_characters() -> str:
    """Return all characters of the assigned Unicode planes; others are neither letters, numbers nor spaces."""
    return "".join(map(chr, (*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000))))


@cache
def _classes_of_tiktoken() -> tuple[str, ...]:
    """Return all letters, all numbers and all spaces, as tiktoken classifies them."""
    characters, single = _all_characters(), {bytes([byte]): byte for byte in range(256)}

    def of(pattern: str) -> str:  # tiktoken skips characters that its pattern does not match
        return bytes(_encoding(pattern, single).encode_ordinary(characters)).decode("utf-8")

    return of(r"\p{L}+"), of(r"\p{N}+"), of(r"\s+")


def _classes_of_tokenizers() -> tuple[str, ...]:
    characters = _all_characters()

    def without(pattern: str) -> str:
        return normalizers.Replace(tokenizers.Regex(pattern), "").normalize_str(characters)

    return without(r"\P{L}+"), without(r"\P{N}+"), without(r"\S+")


def _as_ranges(characters: Iterable[str]) -> str:
    """Return sorted characters as ranges of a regex character class."""
    ranges: list[list[int]] = []
    for character in map(ord, characters):
        if ranges and ranges[-1][1] == character - 1:
            ranges[-1][1] = character
        else:
            ranges.append([character, character])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
