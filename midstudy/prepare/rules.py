"""Published rules for web text: which documents look like prose.

Words are what white space separates, and each Han character alone; sentences end at `.`, `?` or `!`, also full-width ones.

Source: Rae et al. 2021 (arXiv 2112.11446), appendix A1.1 and table A1, and Raffel et al. 2020 (arXiv 1910.10683), section
2.2, with the lines on cookies of its code (tensorflow/datasets `c4_utils.py`). Details that these leave open are those of
huggingface/datatrove at 0.10.1, the reference of the tests.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from midstudy.prepare.document import Apply, Document, Yield, filtering
from midstudy.prepare.words import HAN

_WORD = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
_BULLETS, _ELLIPSES = ("•", "-"), ("...", "…")
_SENTENCE = re.compile(r"[^.?!。？！]*[.?!。？！]+[\"'”’)]*|[^.?!。？！]+$")

_TOP_GRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
_DUPLICATE_GRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}

_C4_ENDS = (".", "?", "!", '"', "'")
_C4_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_C4_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_C4_SENTENCES, _C4_WORDS, _C4_LONGEST_WORD = 5, 3, 1_000


def rule(name: str) -> Apply:
    """Return the step of one of `recipe.preparation.RULES`."""
    return _RULES[name]


def words_of(text: str) -> list[str]:
    """Return the words that the rules count."""
    return _WORD.findall(text)


def num_sentences(text: str) -> int:
    """Return the number of sentences of a line."""
    return sum(1 for sentence in _SENTENCE.findall(text) if any(map(str.isalnum, sentence)))


def gopher_quality(document: Document) -> str | None:
    """Return which rule of appendix A1.1 a document breaks."""
    text, every = document.text, words_of(document.text)
    words = [word for word in every if not all(map(is_mark, word))]
    if not 50 <= len(words) <= 100_000:
        return "fewer than 50 words" if len(words) < 50 else "more than 100,000 words"
    mean = sum(map(len, words)) / len(words)
    if not 3 <= mean <= 10 and not any(map(_is_han, every)):  # a Han character is a word of one character
        return "words shorter than 3 characters" if mean < 3 else "words longer than 10 characters"
    if text.count("#") > 0.1 * len(every):
        return "hash signs"
    if text.count("...") + text.count("…") > 0.1 * len(every):
        return "ellipses"
    lines = text.splitlines()
    if sum(line.lstrip().startswith(_BULLETS) for line in lines) > 0.9 * len(lines):
        return "lines with bullets"
    if sum(line.rstrip().endswith(_ELLIPSES) for line in lines) > 0.3 * len(lines):
        return "lines that end in an ellipsis"
    if sum(any(map(str.isalpha, word)) for word in every) < 0.8 * len(every):
        return "words without letters"
    if len(_STOP_WORDS.intersection(every)) < 2 and not any(map(_is_han, every)):
        return "fewer than two English stop words"
    return None


def gopher_repetition(document: Document) -> str | None:
    """Return which rule of table A1 a document breaks: repeated paragraphs, lines and word n-grams."""
    text = document.text
    if not text.strip():
        return "empty"
    for name, parts in (("paragraphs", re.split(r"\n{2,}", text.strip())), ("lines", re.split(r"\n+", text))):
        number, characters = _repeated(parts)
        if number > 0.3 * len(parts) or characters > 0.2 * len(text):
            return f"repeated {name}"
    words = words_of(text)
    for n, most in _TOP_GRAMS.items():
        if (grams := [" ".join(gram) for gram in _grams(words, n)]) and _commonest(grams) > most * len(text):
            return f"one run of {n} words"
    for n, most in _DUPLICATE_GRAMS.items():
        if _repeated_in_runs(words, n) > most * len(text):
            return f"repeated runs of {n} words"
    return None


def c4_pages(documents: Iterator[Document], found: Yield) -> Iterator[Document]:
    """Keep the lines that C4 keeps, of the documents that it keeps."""
    for document in documents:
        kept = _c4_lines(document.text)
        if isinstance(kept, str):
            found.leave_out(document, kept)
        elif sum(map(num_sentences, kept)) < _C4_SENTENCES:
            found.leave_out(document, f"fewer than {_C4_SENTENCES} sentences")
        else:
            yield replace(document, text="\n".join(kept).strip())


def _c4_lines(text: str) -> list[str] | str:
    """Return the lines that C4 keeps, or why the whole page goes."""
    kept = []
    for whole in text.splitlines():
        words = whole.split()
        line = _C4_CITATION.sub("", whole.strip())
        lowered = line.lower()
        if (
            any(len(word) > _C4_LONGEST_WORD for word in words)
            or not line.endswith(_C4_ENDS)
            or line.endswith("...")
            or len(words) < _C4_WORDS
        ):
            continue
        if "lorem ipsum" in lowered:
            return "lorem ipsum"
        if "javascript" in lowered:
            continue
        if "{" in line:
            return "a curly bracket"
        if not any(policy in lowered for policy in _C4_POLICIES):
            kept.append(line)
    return kept


def is_mark(character: str) -> bool:
    """Return whether a character is punctuation, or an ASCII sign."""
    return unicodedata.category(character)[0] == "P" or (character.isascii() and not character.isalnum())


def _is_han(word: str) -> bool:
    return len(word) == 1 and re.match(rf"[{HAN}]", word) is not None


def _repeated(parts: Iterable[str]) -> tuple[int, int]:
    """Return how many parts came before, and their characters."""
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))


def _grams(words: Sequence[str], n: int) -> Iterator[Sequence[str]]:
    return (words[start : start + n] for start in range(len(words) - n + 1))


def _commonest(grams: Sequence[str]) -> int:
    """Return the characters of all occurrences of the commonest n-gram."""
    gram, times = Counter(grams).most_common(1)[0]
    return len(gram) * times


def _repeated_in_runs(words: Sequence[str], n: int) -> int:
    """Return the characters of n-grams that came before, without counting a word twice."""
    seen: set[str] = set()
    characters = start = 0
    while start <= len(words) - n:
        gram = "".join(words[start : start + n])
        if gram in seen:
            characters += len(gram)
            start += n
        else:
            seen.add(gram)
            start += 1
    return characters


_RULES: dict[str, Callable[[Iterator[Document], Yield], Iterator[Document]]] = {
    "gopher quality": filtering(gopher_quality),
    "gopher repetition": filtering(gopher_repetition),
    "c4 pages": c4_pages,
}
