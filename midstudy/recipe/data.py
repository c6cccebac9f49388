"""Recipes of the data that training reads: sources, corpora, tasks and tokenizers.

Text is identified by source, revision and preparation, never by path. The revision of a folder is the digest of its files,
that of the pinned package wheels the digest of their list, that of a Hub data set its commit. The location of a folder is
placement.
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
    """The origin of text or of a released model.

    `kind` is `wheels` (text of pinned pure-Python packages), `files` (JSONL in a folder) or `hub` (a data set of the
    Hugging Face Hub). `part` names a part of the wheels or the Hub's data set (with `config`); for `files` it is empty,
    since the digest identifies the files. `location` (a folder) and `note` (how splits were made) do not affect any id.
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
                expected="the digest of the files, the digest of the wheels' list, or the Hub's commit",
                got="nothing",
                fix="Without a revision, the same recipe could read different text later.",
            )

    def __str__(self) -> str:
        if self.kind == "files":
            return self.location or f"files {self.revision[:12]}"
        return f"{self.kind}:{self.part}" + (f":{self.config}" if self.config else "")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text for language modelling: documents, each followed by an end-of-text token, concatenated and cut into blocks.

    `max_bytes` keeps the first documents of each split, up to this many UTF-8 bytes; `None` keeps all.
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
    """Prompt-target pairs for supervised fine-tuning. The target follows the prompt without a separator, as in the paper.

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


Dataset = Corpus | Task


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A byte-level BPE tokenizer trained on the first `max_bytes` of a corpus's train split; id 0 is the end of text."""

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
                expected="a size from 257 (256 bytes and the end of text) to 65,536 (ids are stored in 16 bits)",
                got=self.vocab_size,
            )
        require_positive("tokenizer.max_bytes", self.max_bytes, unit="bytes")


@dataclass(frozen=True, kw_only=True)
class ReleasedTokenizer:
    """The tokenizer of a released model, identified by the SHA-256 of its `tokenizer.json`; id 0 is the end of text.

    Releases with the same file (every size and step of Pythia) share its stage and all token files. `source` is where the
    file was found and does not affect any id. `vocab_size` is the largest id plus one.
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
    """A data set as token ids: the result of one data stage, with all its splits."""

    data: Dataset
    tokenizer: Tokenizer | ReleasedTokenizer
