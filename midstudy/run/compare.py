"""`midstudy compare`: count several corpora in several views, and compare every pair of them.

A view is a way to compare: n-grams of bytes, words or characters, the ids of a tokenizer, zlib's compression of a sample, or
what the model of a stage makes of a sample (`model_views.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from itertools import combinations, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from midstudy.data.encoder import Encoder
from midstudy.data.files import content_digest
from midstudy.data.hash_sample import HashSample, batches_of
from midstudy.data.named_text import FileText, NamedText
from midstudy.data.source import require_revision
from midstudy.recipe.data import Source
from midstudy.recipe.errors import RecipeError
from midstudy.run.model_views import (
    MODEL_CHARACTERS,
    MODEL_DOCUMENTS,
    ModelView,
    compare_by_model,
    is_model_view,
    stored_model,
)
from midstudy.run.pool import leave_interrupts
from midstudy.run.tokenizer_argument import loaded_tokenizer, read_tokenizer
from midstudy.similarity.compression import Compressed, compression_similarity
from midstudy.similarity.corpora import Compared, Value, compare_corpora
from midstudy.similarity.counts import MAX_CHARACTERS_PER_DOCUMENT, MAX_DOCUMENTS, MAX_TOKENS_PER_DOCUMENT
from midstudy.similarity.grouped_counts import NUM_GROUPS, Counting, GroupedCounts, group_of, merged
from midstudy.similarity.published import PublishedCounts, PublishedSimilarity, published_similarity
from midstudy.similarity.ranks import Disagreement, disagreements, rank_correlation
from midstudy.similarity.units import Keys, Units, orders_of

DEFAULT_VIEWS = ("bytes:3", "words:1-2")
TOKENS, COMPRESSION = "tokens", "compression"
COMPRESSED_BYTES = 2**20
"""Text of each corpus that is compressed: whole documents in the order of their hash, the last one cut."""

_WORTH_PROCESSES_BYTES = 2**25
"""Text that takes several seconds to count; a process takes one to start."""

_FEW_GROUPS = 20
_FEW_UNITS = 2_000

OnProgress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Counted:
    """What was counted of one corpus: `views` maps a view to the counts of each of its orders.

    `sample` holds the documents that are compressed, `published` the paper's sample of token ids, `documents` those that a
    stage's model reads.
    """

    num_documents: int
    group_bytes: NDArray[np.int64]
    views: Mapping[str, Sequence[GroupedCounts]]
    sample: tuple[str, ...]
    published: PublishedCounts | None
    documents: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        return int(self.group_bytes.sum())


@dataclass(frozen=True, eq=False)
class CorporaComparison:
    """All results of one comparison: `views` those of counts, `compression` and `published` by pair, `by_model` by view."""

    texts: Sequence[NamedText]
    counted: Mapping[str, Counted]
    equal: str
    views: Mapping[str, Compared]
    compression: Mapping[tuple[str, str], float]
    published: Mapping[tuple[str, str], PublishedSimilarity]
    by_model: Mapping[str, ModelView]
    tokenizer_digest: str | None
    disagreements: Sequence[Disagreement] = field(default=())
    rank_correlations: Mapping[tuple[str, str], float | None] = field(default_factory=dict)
    notes: Sequence[str] = field(default=())

    @property
    def names(self) -> list[str]:
        return [text.name for text in self.texts]

    def as_json(self) -> str:
        """Return everything as JSON: values with intervals, counts and digests; what is unknown is null."""
        facts: dict[str, Any] = {
            "corpora": [
                {
                    "name": text.name,
                    "source": text.argument,
                    "revision": text.revision,
                    "documents": self.counted[text.name].num_documents,
                    "bytes": self.counted[text.name].num_bytes,
                }
                for text in self.texts
            ],
            "equal": self.equal,
            "tokenizer_sha256": self.tokenizer_digest,
            "views": [self._view_facts(view, compared) for view, compared in self.views.items()],
            "compression": [{"left": a, "right": b, "similarity": value} for (a, b), value in self.compression.items()],
            "models": [self._model_facts(view, one) for view, one in self.by_model.items()],
            "authors": [{"left": a, "right": b, **asdict(value)} for (a, b), value in self.published.items()],
            "rank_correlations": [{"views": list(two), "kendall_tau": tau} for two, tau in self.rank_correlations.items()],
            "disagreements": [asdict(one) for one in self.disagreements],
            "notes": list(self.notes),
        }
        return json.dumps(facts, indent=1)

    def _view_facts(self, view: str, compared: Compared) -> dict[str, Any]:
        return {
            "view": view,
            "corpora": [
                {
                    "name": name,
                    "units": compared.num_units[name],
                    "different_units": compared.num_distinct[name],
                    "units_per_side": compared.units_per_side[name],
                    "counts_sha256": [one.digest for one in self.counted[name].views[view]],
                    "own_halves": compared.ceilings.get(name),
                }
                for name in self.names
            ],
            "pairs": [
                {"left": left, "right": right, "measures": {name: asdict(value) for name, value in values.items()}}
                for (left, right), values in compared.pairs.items()
            ],
        }

    def _model_facts(self, view: str, one: ModelView) -> dict[str, Any]:
        return {
            "view": view,
            "stage": one.stage,
            "label": one.label,
            "documents_per_side": one.documents_per_side,
            "own_halves": one.compared.ceilings,
            "pairs": [{"left": a, "right": b, "cosine": asdict(value)} for (a, b), value in one.compared.pairs.items()],
        }


class TokenUnits:
    """Counts the ids of a tokenizer, without special tokens."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._encoder = Encoder(tokenizer)

    def keys(self, texts: Sequence[str]) -> tuple[Keys, NDArray[np.int64]]:
        ids = list(self._encoder.ids(texts))
        return np.concatenate(ids).astype(np.uint64), np.array([len(one) for one in ids], np.int64)


def vocab_size_of(tokenizer: tokenizers.Tokenizer) -> int:
    """Return the largest id plus one."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def views_of(arguments: Sequence[str], *, has_tokenizer: bool) -> list[str]:
    """Return the views that are counted: those named, or by default bytes, words and, with a tokenizer, its tokens.

    Raises:
        RecipeError: a view is unknown or given twice, or tokens are asked for without a tokenizer.
    """
    if not arguments:
        return [*DEFAULT_VIEWS, *([TOKENS] if has_tokenizer else [])]
    for view in arguments:
        if view == TOKENS and not has_tokenizer:
            raise RecipeError("--over tokens", expected="a tokenizer", got="none", fix="Add --tokenizer FOLDER.")
        if arguments.count(view) > 1:
            raise RecipeError("--over", expected="each view once", got=f"{view} twice")
        if view not in (TOKENS, COMPRESSION) and not is_model_view(view):
            try:
                orders_of(view)
            except ValueError as error:
                raise RecipeError(
                    "--over", expected="bytes:N, words:N, chars:N, a range as words:1-4, tokens, compression, "
                    "embedding:STAGE or gradients:STAGE", got=view, fix=f"({error})",
                ) from None  # fmt: skip
    return list(arguments)


def compare(
    texts: Sequence[NamedText],
    *,
    over: Sequence[str],
    tokenizer: str | None,
    equal: str,
    authors: bool,
    store: Path,
    on_progress: OnProgress = lambda line: None,
) -> CorporaComparison:
    """Count the texts and compare every pair.

    Args:
        over: views, as for `views_of`.
        tokenizer: as for `read_tokenizer`.
        equal: `units`, `bytes` or `none`, as for `compare_corpora`.
        authors: True for the paper's published procedure alone, which needs a tokenizer.
        store: the folder of the store whose stages are named.
        on_progress: called with a line of text.

    Raises:
        RecipeError: a view, the tokenizer or a stage is unknown, or options do not fit together.
        StoreError: there is no store, or its files are damaged.
        ValueError: a source cannot be read, or a corpus has no text.
    """
    if len(texts) < 2:
        raise RecipeError("compare", expected="at least two corpora, each as NAME=SOURCE", got=f"{len(texts)}")
    if authors and (over or tokenizer is None):
        expected = "a tokenizer, and no --over" if tokenizer is None else "no --over: the procedure counts tokens"
        raise RecipeError(
            "--authors", expected=expected, got=" ".join(over) or "no tokenizer", fix="The paper used Pythia's tokenizer."
        )
    views = [] if authors else views_of(over, has_tokenizer=tokenizer is not None)
    content = read_tokenizer(tokenizer, store=store) if tokenizer is not None else None
    models = {view: stored_model(view, store) for view in views if is_model_view(view)}
    counted = _count_all(texts, views, content, authors, on_progress)
    for text in texts:
        if not counted[text.name].num_documents:
            raise RecipeError(
                f"compare.{text.name}", expected="documents with text", got=f"none in {text.argument}",
                fix="Check the file, or leave the corpus out.",
            )  # fmt: skip
    names = [text.name for text in texts]
    pairs = list(combinations(names, 2))
    compared = {}
    for view in views:
        if view == COMPRESSION or view in models:
            continue
        counts = {name: counted[name].views[view] for name in names}

        def on_done(share: float, view: str = view) -> None:
            on_progress(f"{view}: {100 * share:.0f} % of the pairs' sums")

        _require_units(counts, view)
        compared[view] = compare_corpora(
            counts,
            equal=equal,
            group_bytes={name: counted[name].group_bytes for name in names},
            on_done=on_done,
        )
    zipped = {name: Compressed(counted[name].sample) for name in names} if COMPRESSION in views else {}
    samples = {name: counted[name].documents for name in names}
    by_model = {view: compare_by_model(one, samples, on_progress=on_progress) for view, one in models.items()}
    by_view = {view: _similarity_in(one) for view, one in compared.items()}
    by_view |= {view: one.compared.value for view, one in by_model.items()}
    return CorporaComparison(
        texts=texts,
        counted=counted,
        equal=equal,
        views=compared,
        compression={(a, b): compression_similarity(zipped[a], zipped[b]) for a, b in pairs} if zipped else {},
        published={(a, b): _published(counted, a, b) for a, b in pairs} if authors else {},
        by_model=by_model,
        tokenizer_digest=hashlib.sha256(content).hexdigest() if content else None,
        disagreements=disagreements(names, by_view),
        rank_correlations={
            (first, second): rank_correlation([by_view[first](*pair).value for pair in pairs],
                                              [by_view[second](*pair).value for pair in pairs])
            for first, second in combinations(by_view, 2)
        },
        notes=_notes(counted, compared, equal),
    )  # fmt: skip


def _similarity_in(compared: Compared) -> Callable[[str, str], Value]:
    return lambda left, right: compared.value(left, right, "js")


def _published(counted: Mapping[str, Counted], left: str, right: str) -> PublishedSimilarity:
    first, second = counted[left].published, counted[right].published
    assert first is not None
    assert second is not None
    return published_similarity(first, second)


def _require_units(counts: Mapping[str, Sequence[GroupedCounts]], view: str) -> None:
    for name, orders in counts.items():
        if any(not one.num_units for one in orders):
            raise RecipeError(
                f"compare.{name}", expected=f"at least one unit in {view}", got="documents that are all shorter",
                fix="Choose a smaller order with --over.",
            )  # fmt: skip


def _notes(counted: Mapping[str, Counted], compared: Mapping[str, Compared], equal: str) -> list[str]:
    notes = []
    for name, one in counted.items():
        num_groups = int((one.group_bytes > 0).sum())
        if one.num_documents == 1 or num_groups == 1:
            notes.append(f"{name}: {one.num_documents} document(s) in one group: no interval of its pairs, no ceiling.")
        elif compared and num_groups < _FEW_GROUPS:
            notes.append(f"{name}: only {one.num_documents} documents: intervals of its pairs are rough.")
    for view, result in compared.items():
        fewest = min(result.num_units, key=lambda name: result.num_units[name][0])
        num_units = min(result.units_per_side[fewest])
        if num_units < _FEW_UNITS:
            notes.append(f"{view}: only {num_units:,} units a side, what {fewest} allows: values are low for any two texts.")
    if equal == "none" and compared:
        notes.append("sizes differ (--equal none): values of pairs of different sizes are not comparable.")
    return notes


# -- counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Counts:
    """What was counted of some documents; counts of several parts of a corpus add up to those of all of it.

    `digests` maps the files that were read alone to their SHA-256.
    """

    num_documents: int
    group_bytes: NDArray[np.int64]
    views: Mapping[str, Sequence[GroupedCounts]]
    zipped: HashSample
    published: HashSample
    modelled: HashSample
    digests: Mapping[Path, str]

    def plus(self, others: Sequence[_Counts]) -> _Counts:
        parts = [self, *others]
        for other in others:
            self.zipped.merge(other.zipped)
            self.published.merge(other.published)
            self.modelled.merge(other.modelled)
        return _Counts(
            num_documents=sum(part.num_documents for part in parts),
            group_bytes=np.sum([part.group_bytes for part in parts], axis=0),
            views={
                view: [merged([part.views[view][place] for part in parts]) for place in range(len(orders))]
                for view, orders in self.views.items()
            },
            zipped=self.zipped,
            published=self.published,
            modelled=self.modelled,
            digests={path: digest for part in parts for path, digest in part.digests.items()},
        )


def _count_all(
    texts: Sequence[NamedText], views: Sequence[str], tokenizer: bytes | None, authors: bool, on_progress: OnProgress
) -> dict[str, Counted]:
    sizes = [text.size_bytes for text in texts]
    num_cores = len(os.sched_getaffinity(0))
    is_large = sum(math.inf if size is None else size for size in sizes) > _WORTH_PROCESSES_BYTES
    if num_cores < 2 or not is_large:
        return {text.name: count_text(text, views, tokenizer, authors, on_progress) for text in texts}
    # The largest first, so that the last process to finish does not begin last.
    order = sorted(range(len(texts)), key=lambda place: -math.inf if sizes[place] is None else -(sizes[place] or 0))
    pieces = [(texts[place], files) for place in order for files in _pieces(texts[place], num_cores)]
    done: dict[str, list[_Counts]] = {text.name: [] for text in texts}
    with ProcessPoolExecutor(min(num_cores, len(pieces)), get_context("spawn"), initializer=leave_interrupts) as pool:
        jobs = {pool.submit(_count, text, files, views, tokenizer, authors): text.name for text, files in pieces}
        try:
            for number, job in enumerate(as_completed(jobs), start=1):
                done[jobs[job]].append(job.result())
                on_progress(f"counted {number} of {len(pieces)} parts of {len(texts)} corpora")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {text.name: _counted(text, done[text.name], tokenizer, authors) for text in texts}


def _pieces(text: NamedText, num_cores: int) -> list[range | None]:
    """Return runs of a large folder's files, one for each core, or `None` for the text as a whole."""
    num_files, size = text.num_train_files, text.size_bytes or 0
    num_pieces = min(num_cores, num_files) if size > _WORTH_PROCESSES_BYTES else 1
    if num_pieces < 2:
        return [None]
    bounds = [place * num_files // num_pieces for place in range(num_pieces + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def count_text(
    text: NamedText,
    views: Sequence[str],
    tokenizer: bytes | None,
    authors: bool,
    on_progress: OnProgress = lambda line: None,
) -> Counted:
    """Count one corpus in all views in one pass; memory grows with its vocabulary and its longest document."""
    return _counted(text, [_count(text, None, views, tokenizer, authors, on_progress)], tokenizer, authors)


def _count(
    text: NamedText,
    files: range | None,
    views: Sequence[str],
    tokenizer: bytes | None,
    authors: bool,
    on_progress: OnProgress = lambda line: None,
) -> _Counts:
    """Count a corpus, or some of its files."""
    encoder = loaded_tokenizer(tokenizer) if tokenizer else None
    units: dict[str, Sequence[Units]] = {
        view: [TokenUnits(encoder)] if encoder is not None and view == TOKENS else orders_of(view)
        for view in views
        if view != COMPRESSION and not is_model_view(view)
    }
    counting = {view: [Counting() for _ in orders] for view, orders in units.items()}
    group_bytes, num_documents = np.zeros(NUM_GROUPS, np.int64), 0
    zipped, published = HashSample(max_bytes=COMPRESSED_BYTES), HashSample(max_documents=MAX_DOCUMENTS)
    modelled, has_model = HashSample(max_documents=MODEL_DOCUMENTS), any(map(is_model_view, views))
    digests: dict[Path, str] = {}

    def documents() -> Iterator[str]:
        for number in files or ():
            one = FileText(text, number)
            yield from one
            digests[Path(one.file.name)] = one.digest

    whole = text.documents(lambda share: on_progress(f"{text.name}: {100 * share:.0f} % read"))
    for batch in batches_of(whole if files is None else documents()):
        groups = [group_of(document) for document in batch]
        num_documents += len(batch)
        np.add.at(group_bytes, groups, [len(document.encode("utf-8")) for document in batch])
        for view, orders in units.items():
            for one, counter in zip(orders, counting[view], strict=True):
                counter.add(*one.keys(batch), groups)
        for document in batch:
            if COMPRESSION in views:
                zipped.add(document)
            if authors:
                published.add(document)
            if has_model:
                modelled.add(document[:MODEL_CHARACTERS])
    counts = {view: [one.counts() for one in counters] for view, counters in counting.items()}
    return _Counts(num_documents, group_bytes, counts, zipped, published, modelled, digests)


def _counted(text: NamedText, parts: Sequence[_Counts], tokenizer: bytes | None, authors: bool) -> Counted:
    """Return the sum of the counts of a corpus's parts.

    Raises:
        ChangedTextError: files that were read alone are not those of the source's revision.
    """
    whole = parts[0].plus(parts[1:])
    if whole.digests and isinstance(text.source, Source):
        require_revision(text.source, content_digest(Path(text.source.location), read=whole.digests))
    encoder = loaded_tokenizer(tokenizer) if tokenizer else None
    is_sampled = authors and encoder is not None and whole.num_documents
    return Counted(
        num_documents=whole.num_documents,
        group_bytes=whole.group_bytes,
        views=whole.views,
        sample=whole.zipped.documents(),
        published=_published_counts(whole.published.documents(), encoder) if is_sampled and encoder else None,
        documents=whole.modelled.documents(),
    )


def _published_counts(documents: Sequence[str], tokenizer: tokenizers.Tokenizer) -> PublishedCounts:
    ids = Encoder(tokenizer).ids([document[:MAX_CHARACTERS_PER_DOCUMENT] for document in documents])
    kept = [one[:MAX_TOKENS_PER_DOCUMENT].astype(np.int64) for one in ids]
    return PublishedCounts.of(np.concatenate(kept), vocab_size_of(tokenizer))
