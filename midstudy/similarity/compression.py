"""Normalised compression distance of two samples of text, with zlib as in the paper's code.

github.com/nightingal3/midtraining `util_scripts/dataset_similarity_info.py`; Cilibrasi and Vitányi 2005, equation 1:
NCD(x, y) = (C(xy) − min(C(x), C(y))) / max(C(x), C(y)), and the similarity max(0, 1 − NCD). Documents are joined by line
breaks. zlib looks back 32,768 bytes, so that of long samples only the end of x and the beginning of y meet: the measure sees
shared text nearby and hardly more.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence


class Compressed:
    """The documents of a sample as one text, and the compressed size of it alone."""

    def __init__(self, texts: Sequence[str]) -> None:
        if not texts:
            raise ValueError("expected documents, got none")
        self.text = "\n".join(texts).encode("utf-8")
        self.num_bytes = len(zlib.compress(self.text))


def compression_distance(first: Compressed, second: Compressed) -> float:
    """Return the normalised compression distance of two samples, in this order: zlib is not quite symmetric."""
    both = len(zlib.compress(first.text + b"\n" + second.text))
    return (both - min(first.num_bytes, second.num_bytes)) / max(first.num_bytes, second.num_bytes)


def compression_similarity(first: Compressed, second: Compressed) -> float:
    """Return max(0, 1 − NCD), with the distance averaged over both orders, so that it is symmetric."""
    distance = (compression_distance(first, second) + compression_distance(second, first)) / 2
    return max(0.0, 1.0 - distance)
