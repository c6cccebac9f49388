"""The placebo and the rest as token files: disjoint in train, together the corpus, and equal in dev and test."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from builders.small_study import WORDS, write_split, write_text

from midstudy.data.files import numbered_rows
from midstudy.data.source import resolve_source
from midstudy.data.tokens import TokenizedSplit, read_split
from midstudy.execute.data import make_tokenizer, make_tokens
from midstudy.recipe import Corpus, Tokenizer, TrainPart, placebo
from midstudy.recipe.data import TokenizedData


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the text of the small study; 100 of its 300 general train documents are there twice, far apart."""
    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    rng = random.Random(11)
    once = [{"text": " ".join(rng.choices(WORDS, k=60))} for _ in range(300)]
    write_split(folder / "general", "train", [*once, *({"text": f" {row['text']}\n"} for row in once[::3])])
    return folder


def general_of(text: Path, **changes: Any) -> Corpus:
    source = resolve_source(str(text), name="general", folder="general", is_task=False)
    return Corpus(name="general", source=source, **changes)


@pytest.fixture(scope="module")
def tokenised(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that tokenises a corpus into a folder and returns the folder and the metrics."""
    tokenizer = Tokenizer(corpus=general_of(text), vocab_size=300, max_bytes=50_000)
    made = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(tokenizer, made)

    def make(corpus: Corpus) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("tokens")
        return folder, make_tokens(TokenizedData(data=corpus, tokenizer=tokenizer), made, folder)

    return make


def documents(split: TokenizedSplit) -> Counter[bytes]:
    return Counter(split.document(number).tobytes() for number in range(split.num_documents))


def test_the_two_parts_are_disjoint_and_together_are_the_corpus(text, tokenised):
    general = general_of(text)
    (whole, _), (rest, _), (mixed_in, _) = (tokenised(corpus) for corpus in (general, *placebo(general, 0.2)))
    of_rest, of_placebo = documents(read_split(rest, "train")), documents(read_split(mixed_in, "train"))
    assert of_rest + of_placebo == documents(read_split(whole, "train"))
    assert not of_rest.keys() & of_placebo.keys()  # a document that is there twice is in one part, twice
    assert {*of_rest.values()} == {*of_placebo.values()} == {1, 2}
    assert sum(of_placebo.values()) < sum(of_rest.values())


def test_dev_and_test_are_those_of_the_corpus(text, tokenised):
    general = general_of(text)
    (whole, _), *parts = (tokenised(corpus) for corpus in (general, *placebo(general)))
    for split in ("dev", "test"):
        for part, _ in parts:
            assert documents(read_split(part, split)) == documents(read_split(whole, split)) != Counter()


def test_the_limit_applies_before_the_split(text, tokenised):
    limited = general_of(text, max_bytes=20_000)
    (whole, _), (rest, metrics), (mixed_in, _) = (tokenised(corpus) for corpus in (limited, *placebo(limited, "1/2")))
    whole_documents = documents(read_split(whole, "train"))
    assert documents(read_split(rest, "train")) + documents(read_split(mixed_in, "train")) == whole_documents
    left_out, num_rest = metrics["left_out"]["train"], read_split(rest, "train").num_documents
    assert left_out["used"] == num_rest
    assert left_out["other_part"] == whole_documents.total() - num_rest
    assert left_out["past_max_bytes"] == 400 - whole_documents.total()


def test_files_in_another_order_give_the_same_parts(text, tokenised, tmp_path):
    rows = [row for _, row in numbered_rows(text / "general" / "train.jsonl")]
    random.Random(1).shuffle(rows)
    for split in ("validation", "test"):
        write_split(tmp_path / "general", split, [{"text": "x"}])
    write_split(tmp_path / "general", "train", rows)
    for given, shuffled in zip(placebo(general_of(text)), placebo(general_of(tmp_path)), strict=True):
        pair = [documents(read_split(tokenised(corpus)[0], "train")) for corpus in (given, shuffled)]
        assert pair[0] == pair[1]


def test_an_empty_part_is_rejected_by_name(text, tokenised):
    sliver = TrainPart(start=Fraction(1, 10**9), stop=Fraction(2, 10**9))
    with pytest.raises(ValueError, match=r"corpora\.sliver\.train_part: expected at least one document .* none of 400"):
        tokenised(Corpus(name="sliver", source=general_of(text).source, train_part=sliver))
