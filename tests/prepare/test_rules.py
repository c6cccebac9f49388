"""The rules for web text: each beside datatrove's, which is given the words, sentences and marks that ours count."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable

import pytest
from builders.places import REPOSITORY

from midstudy.prepare.document import Document, Yield
from midstudy.prepare.rules import c4_pages, gopher_quality, gopher_repetition, is_mark, num_sentences, words_of

STOPS = ("the", "be", "to", "of", "and", "that", "have", "with")
WORDS = ("house", "river", "windows", "carried", "mountain", "sea", "letters", "12", "&", "a", "morning", "question")


def page(rng: random.Random) -> str:
    """Return a page of lines that breaks a rule or two, or none."""
    kind = rng.randrange(14)
    vocabulary = [*STOPS, *(f"{word}{rng.randrange(90)}" for word in WORDS for _ in range(9)), "a,", "(see)"]
    if kind == 0:
        vocabulary = [f"word{number}" for number in range(400)]
    elif kind == 1:
        vocabulary = ["ab", "of", "to", "be", "I", "a"]
    elif kind == 2:
        vocabulary = [*STOPS, *(f"extraordinarily{number}long" for number in range(80))]
    elif kind == 3:
        vocabulary += ["12", "--", "99", "%"] * 70
    line_end = {4: "...", 5: " …", 6: " # # # #", 7: ""}.get(kind, rng.choice([".", "?", '"', "!", ","]))
    start = {8: "- ", 9: "• "}.get(kind, "")
    lines = [
        start + " ".join(rng.choices(vocabulary, k=rng.randrange(1, 16))) + (line_end if rng.random() < 0.9 else "")
        for _ in range(rng.randrange(2, 24))
    ]
    if kind == 10:
        lines = rng.choices(lines[:4], k=len(lines))
    if kind == 11:
        run = " ".join(rng.choices(vocabulary, k=rng.randrange(2, 12)))
        lines = [f"{line} {run}" for line in lines]
    for mark in (
        "lorem ipsum is here.",
        "if (a) { b }.",
        "Enable javascript to go on.",
        "We use cookies here, and you?",
        "[edit] [12] so it is.",
    ):
        if rng.random() < 0.06:
            lines.insert(rng.randrange(len(lines)), mark)
    if rng.random() < 0.03:
        lines.append("x" * 1_200 + " is too long.")
    return rng.choice(["\n", "\n\n"]).join(lines)


def real_pages() -> list[str]:
    """Return 2,000 documents of real text, where it lies beside the project."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real text beside the project is absent")
    texts = []
    for name in ("general", "hqweb"):
        with gzip.open(folder / name / "train.jsonl.gz", "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"][:4_000] for line in itertools.islice(file, 1_000)]
    return texts


@pytest.fixture(scope="module", params=["made up", "real"])
def pages(request: pytest.FixtureRequest) -> list[str]:
    rng = random.Random(0)
    return real_pages() if request.param == "real" else [page(rng) for _ in range(2_000)]


@pytest.fixture
def is_made_up(request: pytest.FixtureRequest) -> bool:
    """Whether pages were made to break every rule."""
    return "made up" in request.node.name


def reference(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> Callable[[str], tuple[bool, str, str]]:
    """Return datatrove's filter as a function of a text: whether it is kept, why not, and what is left of it."""
    import importlib

    filters = pytest.importorskip(f"datatrove.pipeline.filters.{module}", reason="datatrove, a peer, is not installed")
    ours = {"split_into_words": words_of, "split_into_sentences": sentences}
    for name_of, function in ours.items():
        monkeypatch.setattr(filters, name_of, lambda text, _, function=function: function(text), raising=False)
    monkeypatch.setattr(filters, "PUNCTUATION_SET", _Marks(), raising=False)
    kind = getattr(filters, name)
    made = kind()
    document_of = importlib.import_module("datatrove.data").Document

    def run(text: str) -> tuple[bool, str, str]:
        document = document_of(text=text, id="0")
        found = made.filter(document)
        kept, reason = found if isinstance(found, tuple) else (found, "")
        return bool(kept), str(reason), document.text

    return run


class _Marks:
    def __contains__(self, character: object) -> bool:
        return is_mark(str(character))


def sentences(line: str) -> list[str]:
    return ["."] * num_sentences(line)


def test_gopher_quality_keeps_what_datatrove_keeps(
    pages: list[str], is_made_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = reference(monkeypatch, "gopher_quality_filter", "GopherQualityFilter")
    reasons: Counter[tuple[str | None, str]] = Counter()
    for text in pages:
        kept, reason, _ = theirs(text)
        ours = gopher_quality(Document(text))
        assert (ours is None) == kept, (text, ours, reason)
        reasons[ours, reason] += 1
    if is_made_up:
        assert len({reason for _, reason in reasons}) >= 8, "pages break most of the rules"
    assert len(reasons) == len({ours for ours, _ in reasons}), "each reason of ours is one of theirs"


def test_gopher_repetition_keeps_what_datatrove_keeps(
    pages: list[str], is_made_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = reference(monkeypatch, "gopher_repetition_filter", "GopherRepetitionFilter")
    reasons: Counter[str] = Counter()
    for text in pages:
        kept, reason, _ = theirs(text)
        assert (gopher_repetition(Document(text)) is None) == kept, (text, reason)
        reasons[reason] += 1
    if is_made_up:
        assert len(reasons) >= 6
        assert min(reasons[""], reasons.total() - reasons[""]) > 100


def test_c4_keeps_the_lines_that_datatrove_keeps(
    pages: list[str], is_made_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = reference(monkeypatch, "c4_filters", "C4QualityFilter")
    num_kept, reasons = 0, set()
    for text in pages:
        kept, reason, left = theirs(text)
        found = Yield(step="")
        out = [document.text for document in c4_pages(iter([Document(text)]), found)]
        assert out == ([left] if kept else []), reason
        num_kept += kept
        reasons |= {reason, *found.left_out}
    if is_made_up:
        assert 200 < num_kept < 1_900
        assert {"lorem_ipsum", "lorem ipsum", "curly_bracket", "too_few_sentences", "fewer than 5 sentences"} <= reasons


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the sea and " * 4, "fewer than 50 words"),
        ("the sea and " * 40_000, "more than 100,000 words"),
        ("of to " * 60, "words shorter than 3 characters"),
        ("the sea and #" * 40, "hash signs"),
        ("- the windows and the mountains\n" * 20, "lines with bullets"),
        ("the windows and 12 34 56 78\n" * 20, "words without letters"),
        ("windows mountains " * 40, "fewer than two English stop words"),
        ("the windows and the mountains " * 12, None),
    ],
)
def test_a_document_breaks_the_rule_that_is_named(text: str, reason: str | None) -> None:
    assert gopher_quality(Document(text)) == reason


def test_chinese_text_is_not_held_to_english_words() -> None:
    law = "中华人民共和国公民在法律面前一律平等。任何公民享有宪法和法律规定的权利，同时必须履行宪法和法律规定的义务。" * 2
    assert gopher_quality(Document(law)) is None
    assert num_sentences(law) == 4
    assert len(words_of(law)) > 90


def test_repeated_lines_count_by_number_and_by_characters() -> None:
    lines = [" ".join(f"w{line}x{place}" for place in range(9)) for line in range(6)]
    assert gopher_repetition(Document("\n".join([*lines, *["ok."] * 5]))) == "repeated lines", "4 of 11 came before"
    assert gopher_repetition(Document("\n".join([*lines, *["ok."] * 3]))) is None
    assert gopher_repetition(Document("\n".join([*lines, lines[0], lines[1]]))) == "repeated lines", (
        "a quarter by characters"
    )
    assert gopher_repetition(Document("\n\n".join([*lines, lines[0], lines[1]]))) == "repeated paragraphs"
