"""Benchmark: the paper's similarity matrix of 13 corpora × 10,000 documents, against Counters built for each pair.

    python benchmarks/similarity.py [--documents 10000] [--vocab-size 32768] [--whole-pairs 2]

The peer does what the paper's code does (arXiv 2510.14865, github.com/nightingal3/midtraining
`util_scripts/dataset_similarity_syntactic.py`, method "token"): for each of the 156 ordered pairs it tokenises the documents
of both corpora, counts them in two Counters, and computes the score over the union of their keys. The text is that of the
source `wheels`: its six corpora, its four tasks and three mixtures of them, drawn with replacement where there are fewer
documents.

Two comparisons, in one process. *Counts to matrix*: both start from token ids in memory, lists for the peer and arrays for
midstudy; all pairs are computed by both, and the largest difference is printed. *Text to matrix*: midstudy does all of it;
the peer tokenises `--whole-pairs` pairs, and their mean is extrapolated to 156.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, islice, permutations
from typing import TypeVar

import numpy as np
import tokenizers

from midstudy.data.builtin import CORPORA, TASKS, read_part
from midstudy.data.encoder import Encoder
from midstudy.data.rows import as_text
from midstudy.data.tokenizer import train_tokenizer
from midstudy.run.compare import TokenUnits
from midstudy.similarity.corpora import compare_corpora
from midstudy.similarity.counts import MAX_CHARACTERS_PER_DOCUMENT, MAX_TOKENS_PER_DOCUMENT
from midstudy.similarity.grouped_counts import NUM_GROUPS, Counting, group_of
from midstudy.similarity.published import EPSILON, PublishedCounts, published_similarity

MIXED = (("general", "code"), ("general", "math"), ("general", "qa"))
TOKENIZER_BYTES_PER_PART = 1_500_000

_Result = TypeVar("_Result")


def read_corpora(num_documents: int) -> dict[str, list[str]]:
    rng = random.Random(0)
    parts = {
        part: [as_text(row, part)[:MAX_CHARACTERS_PER_DOCUMENT] for row in islice(read_part(part, "train"), num_documents)]
        for part in (*CORPORA, *TASKS)
    }
    corpora = {
        part: texts if len(texts) == num_documents else rng.choices(texts, k=num_documents) for part, texts in parts.items()
    }
    for first, second in MIXED:
        half = num_documents // 2
        corpora[f"{first}+{second}"] = corpora[first][:half] + corpora[second][: num_documents - half]
    return corpora


def peer_ids(texts: Sequence[str], tokenizer: tokenizers.Tokenizer) -> list[int]:
    """The token ids of a corpus, one list, in batches of 32 documents as published."""
    ids: list[int] = []
    for start in range(0, len(texts), 32):
        for encoding in tokenizer.encode_batch(texts[start : start + 32], add_special_tokens=False):
            ids.extend(encoding.ids)
    return ids


def peer_score(first: list[int], second: list[int]) -> float:
    """The combined score of a pair: Counters, their 50,000 most common keys, vectors over the union."""
    a, b = (dict(Counter(ids).most_common(50_000)) for ids in (first, second))
    union = a.keys() | b.keys()
    jaccard = len(a.keys() & b.keys()) / len(union)
    p, q = (np.array([side.get(key, 0) for key in union]) for side in (a, b))
    p, q = p / (p.sum() + EPSILON), q / (q.sum() + EPSILON)
    cosine = p @ q / (np.linalg.norm(p) * np.linalg.norm(q) + EPSILON)
    middle = 0.5 * (p + q) + EPSILON
    jsd = 0.5 * (np.sum(p * np.log(p / middle + EPSILON)) + np.sum(q * np.log(q / middle + EPSILON)))
    return float(0.4 * cosine + 0.3 * jaccard + 0.3 / (1.0 + jsd))


def own_ids(texts: Sequence[str], tokenizer: tokenizers.Tokenizer) -> list[np.ndarray]:
    return [ids[:MAX_TOKENS_PER_DOCUMENT] for ids in Encoder(tokenizer).ids(texts)]


def own_matrix(ids: dict[str, list[np.ndarray]], vocab_size: int) -> dict[tuple[str, str], float]:
    counts = {name: PublishedCounts.of(np.concatenate(one), vocab_size) for name, one in ids.items()}
    return {(a, b): published_similarity(counts[a], counts[b]).combined for a, b in combinations(counts, 2)}


def exact_matrix(corpora: dict[str, list[str]], tokenizer: tokenizers.Tokenizer) -> None:
    """All ten measures of all pairs, at equal sizes, with 200 bootstrap replicates and ceilings, from text."""
    counts, sizes = {}, {}
    for name, texts in corpora.items():
        groups, counting = [group_of(text) for text in texts], Counting()
        counting.add(*TokenUnits(tokenizer).keys(texts), groups)
        counts[name] = [counting.counts()]
        sizes[name] = np.bincount(groups, [len(text.encode()) for text in texts], NUM_GROUPS).astype(np.int64)
    compare_corpora(counts, equal="units", group_bytes=sizes)


def timed(work: Callable[[], _Result]) -> tuple[_Result, float, float]:
    """Return the result, the seconds and the CPU seconds of this process."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall_s, time.process_time() - cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--documents", type=int, default=10_000, help="documents of each corpus")
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--whole-pairs", type=int, default=2, help="pairs that the peer tokenises, to extrapolate from")
    args = parser.parse_args()

    corpora = read_corpora(args.documents)
    text = (text[:MAX_CHARACTERS_PER_DOCUMENT] for texts in corpora.values() for text in _first(texts))
    tokenizer = train_tokenizer(text, vocab_size=args.vocab_size)
    truncating = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    truncating.enable_truncation(MAX_TOKENS_PER_DOCUMENT)
    pairs = list(permutations(corpora, 2))

    arrays, own_text_s, own_text_cpu_s = timed(lambda: {name: own_ids(one, tokenizer) for name, one in corpora.items()})
    lists = {name: np.concatenate(one).tolist() for name, one in arrays.items()}
    num_tokens = sum(map(len, lists.values()))
    print(f"{len(corpora)} corpora of {args.documents:,} documents, {num_tokens:,} tokens, {len(pairs)} ordered pairs\n")

    own, own_s, own_cpu_s = timed(lambda: own_matrix(arrays, args.vocab_size))
    peer, peer_s, peer_cpu_s = timed(lambda: {(a, b): peer_score(lists[a], lists[b]) for a, b in pairs})
    worst = max(abs(peer[a, b] - own[(a, b) if (a, b) in own else (b, a)]) for a, b in pairs)

    sample = random.Random(1).sample(pairs, args.whole_pairs)
    whole, whole_s, whole_cpu_s = timed(
        lambda: {(a, b): peer_score(*(peer_ids(corpora[name], truncating) for name in (a, b))) for a, b in sample}
    )
    worst_whole = max(abs(whole[pair] - peer[pair]) for pair in sample)
    scale = len(pairs) / len(sample)
    _, exact_s, exact_cpu_s = timed(lambda: exact_matrix(corpora, tokenizer))

    print("| | Counters per pair, s (CPU s) | midstudy, s (CPU s) | ratio (of CPU s) |")
    print("|---|---|---|---|")
    rows = (
        ("counts to matrix", peer_s, peer_cpu_s, own_s, own_cpu_s),
        (
            f"text to matrix (peer: {len(sample)} pairs, extrapolated)",
            whole_s * scale, whole_cpu_s * scale, own_text_s + own_s, own_text_cpu_s + own_cpu_s,
        ),
    )  # fmt: skip
    for name, a_s, a_cpu_s, b_s, b_cpu_s in rows:
        ratios = f"{a_s / b_s:.0f} × ({a_cpu_s / b_cpu_s:.0f} ×)"
        print(f"| {name} | {a_s:.1f} ({a_cpu_s:.1f}) | {b_s:.2f} ({b_cpu_s:.2f}) | {ratios} |")
    print(f"\nlargest difference of a score: {worst:.1e}; with the peer's own tokenising {worst_whole:.1e}")
    print(f"ten exact measures of whole documents with 200 replicates, from text: {exact_s:.1f} s ({exact_cpu_s:.1f} CPU s)")


def _first(texts: Sequence[str]) -> list[str]:
    """The first documents, for the tokenizer."""
    kept, num_characters = [], 0
    for text in texts:
        num_characters += len(text)
        if num_characters > TOKENIZER_BYTES_PER_PART:
            break
        kept.append(text)
    return kept


if __name__ == "__main__":
    main()
