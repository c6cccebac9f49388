"""Recipes of text that a stage prepares: the documents of corpora, passed through steps.

Each step is data. What it does is in `midstudy/prepare`, a file for each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile

from midstudy.recipe import versions
from midstudy.recipe.data import Corpus, Dataset, Source, sources_of
from midstudy.recipe.errors import RecipeError, require_choice, require_kind, require_positive, require_whole
from midstudy.recipe.exact_share import exact_share
from midstudy.recipe.plain import hold_plain_numbers

YIELDS_FILE = "yields.jsonl"
"""What each step kept and left out, a line each, beside the text that is published."""

RULES = ("gopher quality", "gopher repetition", "c4 pages")
"""The published rules for web text (`midstudy/prepare/rules.py`)."""


@dataclass(frozen=True, kw_only=True)
class ExactDuplicates:
    """Leaves out a document whose text, but for white space, came before, or is a document of dev or test."""

    @property
    def short(self) -> str:
        return "exact duplicates"


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Leaves out a document that resembles a kept one, or one of dev or test: estimated Jaccard similarity ≥ `jaccard`.

    The similarity is that of the sets of word n-grams, estimated from `num_hashes` minima (Broder 1997, MinHash), of which
    bands select the pairs to compare. The chance to miss a pair falls with its similarity above `jaccard`.
    """

    ngram: int
    jaccard: Fraction
    num_hashes: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = "preparation.near_duplicates"
        require_positive(f"{path}.ngram", self.ngram, unit="words")
        require_positive(f"{path}.num_hashes", self.num_hashes, unit="hashes")
        require_whole(f"{path}.seed", self.seed, what="a seed")
        object.__setattr__(self, "jaccard", _share(f"{path}.jaccard", self.jaccard))

    @property
    def short(self) -> str:
        return f"near duplicates, {self.ngram} words, {float(self.jaccard):g}"


@dataclass(frozen=True, kw_only=True)
class Heuristics:
    """Leaves out documents that break published rules for web text, checked in the order of `rules`, each of `RULES`."""

    rules: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.rules or len(set(self.rules)) < len(self.rules):
            raise RecipeError("preparation.heuristics.rules", expected="different rules, one or more", got=repr(self.rules))
        for rule in self.rules:
            require_choice("preparation.heuristics.rules", rule, RULES)

    @property
    def short(self) -> str:
        return " and ".join(self.rules)


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Leaves out documents that share a run of 13 words with an item of the dev or test split of a data set, or equal one.

    Source: Brown et al. 2020, appendix C, as in `data/overlap.py`.
    """

    against: tuple[Dataset, ...]

    def __post_init__(self) -> None:
        if not self.against:
            raise RecipeError("preparation.decontaminate.against", expected="a task or a corpus, or several", got="none")

    @property
    def short(self) -> str:
        return f"overlap with {', '.join(data.name for data in self.against)}"


@dataclass(frozen=True, kw_only=True)
class Select:
    """Keeps documents whose field `field` is one of `values`; documents without the field are an error."""

    field: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.field or not self.values:
            raise RecipeError(
                "preparation.select", expected="a field and values to keep", got=f"{self.field!r}, {self.values!r}"
            )

    @property
    def short(self) -> str:
        return f"{self.field} is {' or '.join(self.values)}"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Keeps a share of the documents, drawn by the hash of their text: the placebo of a filter with the same yield."""

    share: Fraction
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole("preparation.sample.seed", self.seed, what="a seed")
        object.__setattr__(self, "share", _share("preparation.sample.share", self.share))

    @property
    def short(self) -> str:
        return f"{float(100 * self.share):.4g} % by hash"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Cuts documents into pieces of at most `max_bytes` bytes: at the last blank line that fits, else at the last line
    break, else at the last space, else between two characters. The pieces together are the document."""

    max_bytes: int

    def __post_init__(self) -> None:
        require_positive("preparation.chunk.max_bytes", self.max_bytes, unit="bytes")
        if self.max_bytes < 4:
            raise RecipeError("preparation.chunk.max_bytes", expected="at least 4, a character", got=self.max_bytes)

    @property
    def short(self) -> str:
        return f"pieces of {self.max_bytes:,} bytes"


@dataclass(frozen=True, kw_only=True)
class Splice:
    """Joins consecutive documents by a blank line until each has at least `min_bytes` bytes; what is left at the end is
    left out. A long document that is spliced, where a natural one is wanted, is the control of long-context text."""

    min_bytes: int

    def __post_init__(self) -> None:
        require_positive("preparation.splice.min_bytes", self.min_bytes, unit="bytes")

    @property
    def short(self) -> str:
        return f"spliced to {self.min_bytes:,} bytes"


Step = ExactDuplicates | NearDuplicates | Heuristics | Decontaminate | Select | Sample | Chunk | Splice


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The source of a corpus that a stage makes: the documents of `of`, one corpus after another, through `steps` in order.

    Steps work on the train split. Dev and test are those of `of`, as they are, so that a corpus and what is prepared from
    it are measured on the same text.
    """

    of: tuple[Corpus, ...]
    steps: tuple[Step, ...]
    version: int = versions.PREPARATION

    def __post_init__(self) -> None:
        path = "preparation.of"
        require_kind(path, self.of, tuple, expected="a tuple of corpora")
        for corpus in self.of:
            require_kind(path, corpus, Corpus, expected="corpora alone")
            if corpus.source.is_conversations:
                expected = "documents of text: steps do not read conversations"
                raise RecipeError(path, expected=expected, got=f"{corpus.name}, conversations")
        if not self.of or (len(self.of) == 1 and not self.steps):
            expected = "a corpus and a step, or several corpora"
            raise RecipeError("preparation", expected=expected, got=f"{len(self.of)} corpora and no step")
        for step in self.steps:
            require_kind("preparation.steps", step, Step, expected="steps of midstudy.recipe.preparation")

    @property
    def is_conversations(self) -> bool:
        """Whether the rows are conversations: never."""
        return False

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources that are read, through whatever corpora are prepared themselves."""
        return tuple(dict.fromkeys(source for corpus in self.of for source in sources_of(corpus.source)))

    @property
    def needed(self) -> tuple[Dataset, ...]:
        """The data sets that the stage reads: those of `of`, and those against which steps compare."""
        compared = [data for step in self.steps if isinstance(step, Decontaminate) for data in step.against]
        return (*self.of, *compared)

    def first(self, num_steps: int) -> Prepared:
        """Return what is prepared after the first steps."""
        return Prepared(of=self.of, steps=self.steps[:num_steps], version=self.version)

    def __str__(self) -> str:
        return f"{' + '.join(corpus.name for corpus in self.of)} prepared: {'; '.join(step.short for step in self.steps)}"


def shared_prefix(recipe: Prepared, others: Iterable[Prepared]) -> Prepared | None:
    """Return what `recipe` prepares by its longest run of first steps that another of `others` begins with, too.

    `None` if there is no other, or if those are all its steps. It is how a preparation is computed, not what it is.
    """
    longest = 0
    for other in others:
        if other != recipe and (other.of, other.version) == (recipe.of, recipe.version):
            pairs = zip(recipe.steps, other.steps, strict=False)
            longest = max(longest, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return recipe.first(longest) if 0 < longest < len(recipe.steps) else None


def _share(path: str, share: Fraction) -> Fraction:
    exact = exact_share(path, share)
    if not 0 < exact <= 1:
        raise RecipeError(path, expected="a share in (0, 1]", got=float(exact))
    return exact
