"""What is read: sources, corpora, tasks and the tokenizer, as data.

Text enters by source, revision and preparation, never by path: a folder's revision is the digest of its files, that of
the pinned package wheels the digest of their list, a hub data set's its commit. Where a folder lies is placement.
"""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe import versions
from midstudy.recipe.canonical import added_field, label_field
from midstudy.recipe.errors import RecipeError, require_choice, require_name, require_positive
from midstudy.recipe.plain import hold_plain_numbers

SOURCE_KINDS = ("wheels", "files", "hub")
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where text, or a released model, comes from.

    `kind` is `wheels` (text of pinned pure-Python packages), `files` (JSONL in a folder) or `hub` (a data set of the
    Hugging Face hub). `part` says which part of the source: the wheels' part, the hub's data set (and `config`); for
    `files` it is empty, since the digest of the files says all. `location` (a folder) and `note` (what was carved from
    what) are shown and used, and are no part of any id.
    """

    kind: str
    part: str
    revision: str
    config: str = ""
    location: str = label_field(default="")
    note: str = label_field(default="")

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_choice("source.kind", self.kind, SOURCE_KINDS)
        if not self.revision:
            raise RecipeError(
                "source.revision",
                expected="the digest of the files, the digest of the wheels' list, or the hub's commit",
                got="nothing",
                fix="Without a revision the same recipe could read other text tomorrow.",
            )

    def __str__(self) -> str:
        if self.kind == "files":
            return self.location or f"files {self.revision[:12]}"
        return f"{self.kind}:{self.part}" + (f":{self.config}" if self.config else "")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text for language modelling: documents, each followed by an end-of-text token, concatenated and cut into blocks.

    `max_bytes` keeps the first documents up to so many UTF-8 bytes of each split; none reads all.
    """

    name: str = label_field()
    source: Source
    max_bytes: int | None = added_field(omit_at=None)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("corpus.name", self.name)
        if self.max_bytes is not None:
            require_positive(f"corpora.{self.name}.max_bytes", self.max_bytes, unit="bytes")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompt-target pairs for supervised fine-tuning; the target follows the prompt without a separator, as the paper's.

    `max_items` keeps the first items of each split (the paper keeps 10,000 of PyCode); none reads all.
    """

    name: str = label_field()
    source: Source
    max_items: int | None = added_field(omit_at=None)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("task.name", self.name)
        if self.max_items is not None:
            require_positive(f"tasks.{self.name}.max_items", self.max_items, unit="items")


Dataset = Corpus | Task


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A byte-level BPE trained on the first `max_bytes` of a corpus's train split; id 0 is the end of text."""

    corpus: Corpus
    vocab_size: int
    max_bytes: int
    version: int = versions.TOKENIZER

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_positive("tokenizer.vocab_size", self.vocab_size, unit="tokens")
        if not 257 <= self.vocab_size <= 65_536:
            raise RecipeError(
                "tokenizer.vocab_size",
                expected="257 (256 bytes and the end of text) to 65,536 (ids are stored in 16 bits)",
                got=self.vocab_size,
            )
        require_positive("tokenizer.max_bytes", self.max_bytes, unit="bytes")


@dataclass(frozen=True, kw_only=True)
class ReleasedTokenizer:
    """The tokenizer of a released model, known by the SHA-256 of its `tokenizer.json`; id 0 is the end of text.

    Releases that share the file (every size and step of Pythia) share its stage and all token files. `source` says where
    it was found and is no part of any id. `vocab_size` is one more than the largest id.
    """

    name: str = label_field()
    digest: str
    vocab_size: int
    source: Source = label_field()
    version: int = versions.TOKENIZER

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("tokenizer.name", self.name)
        require_positive("tokenizer.vocab_size", self.vocab_size, unit="tokens")
        if not 1 <= self.vocab_size <= 65_536:
            raise RecipeError(
                "tokenizer.vocab_size", expected="at most 65,536: ids are stored in 16 bits", got=self.vocab_size
            )


@dataclass(frozen=True, kw_only=True)
class TokenizedData:
    """A data set as token ids: what one data stage makes, all its splits together."""

    data: Dataset
    tokenizer: Tokenizer | ReleasedTokenizer
