"""Small made-up languages: words of their own, each followed by few others, so that words and order can be learned."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

SYLLABLES = ("ka", "lo", "mi", "ta", "ve", "su", "no", "ri", "pa", "en")


def language_documents(
    language: int, *, number: int, seed: int, num_words: int = 60, vocabulary: int = 400, successors: int = 4
) -> list[str]:
    """Return documents of a language; two seeds give two samples of it."""
    rng = random.Random(1_000 + language)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(vocabulary)]
    follows = [rng.sample(range(vocabulary), k=successors) for _ in words]
    drawn = random.Random(f"{language} {seed}")
    documents = []
    for _ in range(number):
        place = drawn.randrange(vocabulary)
        chosen = []
        for _ in range(num_words):
            chosen.append(words[place])
            place = drawn.choice(follows[place])
        documents.append(" ".join(chosen))
    return documents


def shuffled_copy(documents: Sequence[str], *, seed: int = 0, num_words: int = 60) -> list[str]:
    """Return documents of the same words in random order."""
    words = [word for document in documents for word in document.split()]
    random.Random(seed).shuffle(words)
    return [" ".join(words[start : start + num_words]) for start in range(0, len(words), num_words)]


def write_documents(path: Path, documents: Sequence[str]) -> Path:
    """Write a JSONL file with a `text` field."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path
