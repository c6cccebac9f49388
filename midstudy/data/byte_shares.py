"""Text of several corpora in exact byte shares, interleaved: the next document is of the corpus furthest behind its share.

So every prefix of the text has the shares, to within a document of each corpus. Ties go to the first corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from midstudy.data.limit import Limited
from midstudy.recipe.data import Corpus


def interleaved(texts: Mapping[Corpus, Limited[str]], *, max_bytes: Mapping[Corpus, int]) -> Iterator[str]:
    """Yield the documents of several texts until each has reached its limit.

    Args:
        texts: the train text of each corpus, limited to its `max_bytes`.
        max_bytes: UTF-8 bytes of each text, at least 1.

    Raises:
        ValueError: a text ends before its limit.
    """
    remaining = {corpus: iter(text) for corpus, text in texts.items()}
    while remaining:
        corpus = min(remaining, key=lambda corpus: texts[corpus].num_bytes / max_bytes[corpus])
        document = next(remaining[corpus], None)
        if document is not None:
            yield document
            continue
        del remaining[corpus]
        text = texts[corpus]
        if text.num_bytes < max_bytes[corpus] and not text.left_out:
            raise ValueError(
                f"tokenizer.{corpus.name}: expected {max_bytes[corpus]:,} bytes of train text, its share of max_bytes, got "
                f"{text.num_bytes:,}, all of {corpus.origin}. Lower max_bytes or the share, or add text."
            )
