"""Recipes of the data that training reads: sources, corpora, tasks and tokenizers.

Text is identified by source, revision and preparation, never by path. The revision of a folder is the digest of its files,
that of the pinned package wheels the digest of their list, that of a Hub data set its commit. The location of a folder is
placement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from midstudy.recipe import versions
from midstudy.recipe.canonical import added_field, canonical_text, label_field
from midstudy.recipe.errors import RecipeError, require_choice, require_kind, require_name, require_positive
from midstudy.recipe.exact_share import exact_share
from midstudy.recipe.plain import hold_plain_numbers
from midstudy.recipe.train_part import TrainPart

if TYPE_CHECKING:
    from midstudy.recipe.preparation import Prepared

SOURCE_KINDS = ("wheels", "files", "hub", "declared")
SPLITS = ("train", "dev", "test")
TEXT_FIELDS = ("text",)
PAIR_FIELDS = ("prompt", "completion")
MESSAGES_FIELDS = ("messages",)

END_OF_TEXT = "<|endoftext|>"

CONVERSATION_TOKENS = (
    *("<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"),
    *("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>"),
)
"""The special tokens that mark the turns of a conversation, and the tool calls in a reply with their output
(karpathy/nanochat `tokenizer.py`). Its ninth, which begins a conversation, is the end of text here."""

MOST_TOKENS = 2**31
"""The most entries of a vocabulary: ids are stored in 16 bits if they fit, else in 32."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The origin of text or of a released model.

    `kind` is `wheels` (text of pinned pure-Python packages), `files` (JSONL or Parquet) or `hub` (a data set of the Hugging
    Face Hub). `part` names a part of the wheels or the Hub's data set (with `config`); for `files` it is empty,
    since the digest identifies the files. `declared` is text that is only named: a study on it can be planned, not run;
    `num_bytes` is its declared size, and `note` says how to give the text. `location` (a folder or a file), `note` (else
    how splits were made) and `num_bytes` do not affect any id. `fields` declares which fields of the rows hold the text,
    as pairs such as `("text", "content")`, or the prompt and the completion; if it is empty, the layout is recognised by
    its fields (`data/rows.py`).

    The rows of a corpus or a task may be conversations: `fields` then names the field of their messages, and
    `rendering_version` how they are rendered (`data/conversation.py`).
    """

    kind: str
    part: str
    revision: str
    config: str = ""
    location: str = label_field(default="")
    note: str = label_field(default="")
    num_bytes: int = label_field(default=0)
    fields: tuple[tuple[str, str], ...] = added_field(omit_at=())
    rendering_version: int | None = added_field(omit_at=None)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_choice("source.kind", self.kind, SOURCE_KINDS)
        require_fields("source.fields", self.fields)
        if self.is_conversations and self.rendering_version is None:
            object.__setattr__(self, "rendering_version", versions.RENDERING)
        if not self.revision:
            raise RecipeError(
                "source.revision",
                expected="the digest of the files, the digest of the wheels' list, or the Hub's commit",
                got="nothing",
                fix="Without a revision, the same recipe could read different text later.",
            )

    @property
    def is_conversations(self) -> bool:
        """Whether the rows are conversations, so that every token has or has no loss of its own."""
        return tuple(name for name, _ in self.fields) == MESSAGES_FIELDS

    def __str__(self) -> str:
        if self.kind == "files":
            return self.location or f"files {self.revision[:12]}"
        return f"{self.kind}:{self.part}" + (f":{self.config}" if self.config else "")


def declared(part: str, *, num_bytes: int, note: str) -> Source:
    """Return a source that is only named, for plans.

    Args:
        num_bytes: declared UTF-8 bytes of its text.
        note: what to pass to a run in its place, as `--data code=hub:OWNER/SET@COMMIT`.
    """
    return Source(kind="declared", part=part, revision="declared", num_bytes=num_bytes, note=note)


def require_fields(path: str, fields: tuple[tuple[str, str], ...]) -> None:
    """Reject declared fields that are neither `text`, nor `prompt` and `completion` in this order, nor `messages`.

    Raises:
        RecipeError: other names, or an empty field.
    """
    names = tuple(name for name, _ in fields)
    if names not in ((), TEXT_FIELDS, PAIR_FIELDS, MESSAGES_FIELDS) or not all(field for _, field in fields):
        raise RecipeError(
            path,
            expected="text=FIELD, prompt=FIELD and completion=FIELD, or messages=FIELD",
            got=",".join(f"{name}={field}" for name, field in fields),
        )


@dataclass(frozen=True, kw_only=True)
class SourceShare:
    """A source with its share of the UTF-8 bytes of a corpus's text."""

    source: Source
    share: Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", exact_share(f"source {self.source}", self.share))


@dataclass(frozen=True, kw_only=True)
class SourceMix:
    """Several sources as the text of one corpus, interleaved by document so that every prefix has the shares of bytes.

    The text ends when the source whose turn it is has no more documents; what the others have left is counted. Dev and test
    are made in the same way. The parts are in the order of their canonical forms, so that one set of shares has one id;
    `SourceMix.of` sorts them.
    """

    parts: tuple[SourceShare, ...]

    def __post_init__(self) -> None:
        forms = [canonical_text(part.source) for part in self.parts]
        shown = ", ".join(f"{part.source} {float(part.share):g}" for part in self.parts)
        if len(self.parts) < 2 or len(set(forms)) < len(forms) or sum(part.share for part in self.parts) != 1:
            expected = "two sources or more, each once, with shares that add up to exactly 1"
            raise RecipeError("source.parts", expected=expected, got=shown, fix="A third is written 1/3.")
        if min(part.share for part in self.parts) <= 0:
            raise RecipeError("source.parts", expected="shares above 0", got=shown)
        if forms != sorted(forms):
            expected = "sources in the order of their canonical forms"
            raise RecipeError("source.parts", expected=expected, got=shown, fix="Use SourceMix.of, which sorts them.")
        if len({part.source.is_conversations for part in self.parts}) > 1:
            expected = "conversations in every source or in none"
            raise RecipeError("source.parts", expected=expected, got=shown, fix="Give conversations a corpus of their own.")

    @classmethod
    def of(cls, shares: Mapping[Source, float | str | Fraction]) -> SourceMix:
        """Return the mix of sources at their shares, which are exact: 0.12 is 3/25.

        Raises:
            RecipeError: there are fewer than two sources, a share is not in (0, 1), or the shares do not add up to 1.
        """
        ordered = sorted(shares, key=canonical_text)
        return cls(
            parts=tuple(
                SourceShare(source=source, share=exact_share(f"source {source}", shares[source])) for source in ordered
            )
        )

    @property
    def is_conversations(self) -> bool:
        """Whether the rows of the parts are conversations."""
        return self.parts[0].source.is_conversations

    def __str__(self) -> str:
        return " + ".join(f"{float(100 * part.share):.4g} % {part.source}" for part in self.parts)


def sources_of(source: Source | SourceMix | Prepared) -> tuple[Source, ...]:
    """Return the sources that are read: the parts of a mix, those of what is prepared, or the source itself."""
    if isinstance(source, SourceMix):
        return tuple(part.source for part in source.parts)
    return (source,) if isinstance(source, Source) else source.sources


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text for language modelling: documents, each followed by an end-of-text token, concatenated and cut into blocks.

    Conversations begin with that token instead.

    `max_bytes` keeps the first documents of each split, up to this many UTF-8 bytes; `None` keeps all. `train_part` then
    keeps those documents of the train split that are in the part. Dev and test stay whole, so that every part of a corpus
    is measured on the same text.
    """

    name: str = label_field()
    source: Source | SourceMix | Prepared
    max_bytes: int | None = added_field(omit_at=None)
    train_part: TrainPart | None = added_field(omit_at=None)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("corpus.name", self.name)
        if self.max_bytes is not None:
            require_positive(f"corpora.{self.name}.max_bytes", self.max_bytes, unit="bytes")
        path = f"corpora.{self.name}.train_part"
        require_kind(path, self.train_part, TrainPart | None, expected="a TrainPart or None")
        if self.train_part is not None and self.source.is_conversations:
            raise RecipeError(path, expected="None for conversations: parts are of documents", got=f"{self.train_part}")

    @property
    def origin(self) -> str:
        """The source and, of a part, which part of its train documents."""
        part = self.train_part
        return f"{self.source}" + (f", {float(100 * part.share):.4g} % of train by hash, {part}" if part else "")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompt-target pairs for supervised fine-tuning. The target follows the prompt without a separator, as in the paper.

    Of conversations, the tokens that the assistant has to produce are the target: its text and tool calls, with their ends.

    `max_items` keeps the first items of each split (the paper keeps 10,000 of PyCode); `None` keeps all.
    """

    name: str = label_field()
    source: Source
    max_items: int | None = added_field(omit_at=None)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("task.name", self.name)
        if self.max_items is not None:
            require_positive(f"tasks.{self.name}.max_items", self.max_items, unit="items")

    @property
    def origin(self) -> str:
        """The source."""
        return str(self.source)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The task itself, as a phase's data."""
        return (self,)

    @property
    def is_unpacked(self) -> bool:
        """Whether a sequence of a phase holds a single item."""
        return True


Dataset = Corpus | Task


@dataclass(frozen=True, kw_only=True)
class ByteShare:
    """A corpus with its share of the bytes that a tokenizer is trained on."""

    corpus: Corpus
    share: Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", exact_share(f"tokenizer.{self.corpus.name}", self.share))


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A byte-level BPE tokenizer trained on `max_bytes` bytes of train text; id 0 is the end of text.

    The text is the first documents of `corpus` or, with `others`, of several corpora: each of `others` has its share of the
    bytes, and `corpus` the rest. `Tokenizer.of` builds this from shares. The corpora are in the order of their canonical
    forms, so that one set of shares has one id.

    `special_tokens` have the ids from 1, within `vocab_size`. Text that spells one of them stays text.
    """

    corpus: Corpus
    vocab_size: int
    max_bytes: int
    version: int = versions.TOKENIZER
    others: tuple[ByteShare, ...] = added_field(omit_at=())
    special_tokens: tuple[str, ...] = added_field(omit_at=())

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_positive("tokenizer.vocab_size", self.vocab_size, unit="tokens")
        least = 257 + len(self.special_tokens)
        if not least <= self.vocab_size <= MOST_TOKENS:
            raise RecipeError(
                "tokenizer.vocab_size",
                expected=f"a size from {least} (256 bytes and {least - 256} special tokens, the end of text among them) to "
                f"{MOST_TOKENS:,} (ids are stored in 32 bits)",
                got=self.vocab_size,
            )
        require_special_tokens("tokenizer.special_tokens", self.special_tokens)
        require_positive("tokenizer.max_bytes", self.max_bytes, unit="bytes")
        if self.others:
            self._check_shares()

    def _check_shares(self) -> None:
        forms = [canonical_text(corpus) for corpus in self.corpora]
        names = ", ".join(corpus.name for corpus in self.corpora)
        if min(len(set(forms)), len({corpus.name for corpus in self.corpora})) < len(forms):
            raise RecipeError("tokenizer.others", expected="each corpus once, each with its own name", got=names)
        if forms != sorted(forms):
            expected = "corpora in the order of their canonical forms, `corpus` first"
            raise RecipeError("tokenizer.others", expected=expected, got=names, fix="Use Tokenizer.of, which sorts them.")
        for part in self.byte_shares:
            if not 0 < part.share < 1:
                expected = "shares above 0 that leave some to `corpus`"
                raise RecipeError(f"tokenizer.{part.corpus.name}", expected=expected, got=float(part.share))
        for corpus, max_bytes in self.byte_limits.items():
            most = self.max_bytes if corpus.max_bytes is None else corpus.max_bytes
            if not 1 <= max_bytes <= most:
                raise RecipeError(
                    f"tokenizer.{corpus.name}",
                    expected=f"a share of 1 to {most:,} bytes, the most that max_bytes allows",
                    got=f"{max_bytes:,} bytes",
                    fix="Change the share, or the max_bytes of the tokenizer or of the corpus.",
                )

    @classmethod
    def of(
        cls,
        shares: Mapping[Corpus, float | str | Fraction],
        *,
        vocab_size: int,
        max_bytes: int,
        special_tokens: tuple[str, ...] = (),
    ) -> Tokenizer:
        """Return the tokenizer trained on `max_bytes` bytes, of which each corpus gives its share.

        Shares are exact (0.12 is 3/25) and add up to 1; a third is "1/3". A corpus with share 0 is left out.

        Raises:
            RecipeError: a share is outside [0, 1], the shares do not add up to 1, a corpus is given twice, or a share is
                less than a byte or more than its corpus's `max_bytes`.
        """
        require_kind("tokenizer.shares", shares, Mapping, expected="a mapping from each Corpus to its share")
        for corpus in shares:
            require_kind("tokenizer.shares", corpus, Corpus, expected="a Corpus, not its name, as each key")
        exact = {corpus: exact_share(f"tokenizer.{corpus.name}", share) for corpus, share in shares.items()}
        if (total := sum(exact.values(), Fraction(0))) != 1:
            raise RecipeError("tokenizer.shares", expected="shares that add up to exactly 1", got=str(total))
        first, *others = sorted((corpus for corpus, share in exact.items() if share), key=canonical_text)
        return cls(
            corpus=first,
            vocab_size=vocab_size,
            max_bytes=max_bytes,
            others=tuple(ByteShare(corpus=corpus, share=exact[corpus]) for corpus in others),
            special_tokens=special_tokens,
        )

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """The corpora whose text is read, in the order of their canonical forms."""
        return (self.corpus, *(part.corpus for part in self.others))

    @property
    def byte_shares(self) -> tuple[ByteShare, ...]:
        """Every corpus with its share; the shares add up to 1."""
        rest = 1 - sum((part.share for part in self.others), Fraction(0))
        return (ByteShare(corpus=self.corpus, share=rest), *self.others)

    @property
    def byte_limits(self) -> dict[Corpus, int]:
        """The bytes of each corpus, which add up to `max_bytes`: the sums of the first shares, rounded down."""
        limits, total = {}, Fraction(0)
        for part in self.byte_shares:
            before = int(total * self.max_bytes)
            total += part.share
            limits[part.corpus] = int(total * self.max_bytes) - before
        return limits


@dataclass(frozen=True, kw_only=True)
class ReleasedTokenizer:
    """The tokenizer of a released model, identified by the SHA-256 of its `tokenizer.json`.

    Every document ends with the token `end_of_text_id`: 0 in Pythia, 128,001 in Llama 3, 151,643 in Qwen 2.5.

    Releases with the same file (every size and step of Pythia) share its stage and all token files. `source` is where the
    file was found and does not affect any id. `vocab_size` is the largest id plus one. `special_tokens` are added to the
    release's and have the next ids: the first eight of 27 unused rows of Pythia's embedding.
    """

    name: str = label_field()
    digest: str
    vocab_size: int
    source: Source = label_field()
    version: int = versions.TOKENIZER
    end_of_text_id: int = added_field(omit_at=0)
    special_tokens: tuple[str, ...] = added_field(omit_at=())

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("tokenizer.name", self.name)
        require_special_tokens("tokenizer.special_tokens", self.special_tokens)
        require_positive("tokenizer.vocab_size", self.vocab_size, unit="tokens")
        if not 1 <= self.vocab_size <= MOST_TOKENS:
            raise RecipeError(
                "tokenizer.vocab_size",
                expected=f"at most {MOST_TOKENS:,}: ids are stored in 32 bits",
                got=self.vocab_size,
            )
        if not (isinstance(self.end_of_text_id, int) and 0 <= self.end_of_text_id < self.vocab_size):
            raise RecipeError("tokenizer.end_of_text_id", expected="an id of the vocabulary", got=self.end_of_text_id)

    def with_special_tokens(self, names: tuple[str, ...]) -> ReleasedTokenizer:
        """Return the tokenizer with special tokens added, which enlarge its vocabulary.

        Raises:
            RecipeError: it has some already, or a name is given twice.
        """
        if self.special_tokens:
            raise RecipeError(
                "tokenizer.special_tokens", expected="a tokenizer without any", got=", ".join(self.special_tokens)
            )
        return replace(self, special_tokens=names, vocab_size=self.vocab_size + len(names))


def require_special_tokens(path: str, names: tuple[str, ...]) -> None:
    """Reject names of special tokens that are empty, equal, or the end of text.

    Raises:
        RecipeError: such a name, or something that is not a tuple of text.
    """
    is_named = isinstance(names, tuple) and all(isinstance(name, str) and name.strip() == name != "" for name in names)
    if not is_named or len(set(names)) < len(names) or END_OF_TEXT in names:
        expected = f"distinct names beside {END_OF_TEXT}, such as midstudy.recipe.CONVERSATION_TOKENS"
        raise RecipeError(path, expected=expected, got=repr(names))


def end_of_text_id(tokenizer: Tokenizer | ReleasedTokenizer) -> int:
    """Return the token that ends every document."""
    return tokenizer.end_of_text_id if isinstance(tokenizer, ReleasedTokenizer) else 0


@dataclass(frozen=True, kw_only=True)
class TokenizedData:
    """A data set as token ids: the result of one data stage, with all its splits."""

    data: Dataset
    tokenizer: Tokenizer | ReleasedTokenizer

    def __post_init__(self) -> None:
        missing = [name for name in CONVERSATION_TOKENS if name not in self.tokenizer.special_tokens]
        if self.data.source.is_conversations and missing:
            raise RecipeError(
                f"{self.data.name}.tokenizer.special_tokens",
                expected="the tokens that mark the parts of conversations",
                got=f"a tokenizer without {', '.join(missing)}",
                fix="Give the tokenizer special_tokens=midstudy.recipe.CONVERSATION_TOKENS.",
            )
