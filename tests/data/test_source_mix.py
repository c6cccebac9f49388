"""Several sources as one corpus: `--data NAME=SOURCE,share=0.7` for each of them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from builders.small_study import write_split
from hypothesis import given
from hypothesis import strategies as st

from midstudy.data.data_args import DataChoice
from midstudy.data.mixed_rows import MixedRows
from midstudy.data.size import text_bytes
from midstudy.data.source import load_rows
from midstudy.data.split_rows import ChangedTextError, Rows
from midstudy.data.tally import Tally
from midstudy.execute.data import make_tokenizer
from midstudy.recipe.canonical import canonical, expanded, identify
from midstudy.recipe.data import Corpus, Source, SourceMix, Tokenizer
from midstudy.recipe.decode import decode
from midstudy.recipe.errors import RecipeError

A, B = (Source(kind="wheels", part=part, revision="r") for part in ("a", "b"))


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """Two folders: rows of 10 bytes with `text`, rows of 20 bytes with `body`."""
    for split, number in (("train", 300), ("validation", 30), ("test", 30)):
        write_split(tmp_path / "short", split, [{"text": f"short {n:04d}"} for n in range(number)])
        write_split(tmp_path / "long", split, [{"body": f"a longer text   {n:04d}"} for n in range(number)])
    return tmp_path


def mixed(web: Path, short: str = "0.5", long: str = "0.5") -> DataChoice:
    return DataChoice((f"code={web}/short,share={short}", f"code={web}/long,text=body,share={long}"))


def test_a_corpus_of_two_sources_has_their_shares_of_bytes_in_every_prefix(web: Path):
    corpus = mixed(web).corpus("code", max_bytes=None)
    assert isinstance(corpus.source, SourceMix)
    rows = load_rows(corpus.source, split="train", is_task=False)
    texts = [row["text"] for row in rows]
    for end in range(0, 450, 15):
        short = sum(len(text) for text in texts[:end] if text.startswith("short"))
        long = sum(len(text) for text in texts[:end] if text.startswith("a longer"))
        assert abs(short - long) <= 20
    assert [text for text in texts if text.startswith("short")] == [f"short {n:04d}" for n in range(300)]
    # 3,000 bytes of each; a tie goes to the first source, the long one, and then the short one is due and has ended
    assert (rows.left_out, rows.is_whole) == ({"past_shares": 149}, True)


def test_golden_order_of_a_mix(web: Path):
    corpus = mixed(web, "1/3", "2/3").corpus("code", max_bytes=None)
    assert isinstance(corpus.source, SourceMix)
    texts = [row["text"][0] for row in load_rows(corpus.source, split="dev", is_task=False)]
    first, second = ("a", "s") if "long" in str(sources_in(corpus)[0]) else ("s", "a")  # the order of the revisions
    assert texts == [first, second] * 30


def sources_in(corpus: Corpus) -> list[Source]:
    assert isinstance(corpus.source, SourceMix)
    return [part.source for part in corpus.source.parts]


@given(st.data())
def test_the_text_ends_when_the_source_whose_turn_it_is_ends_and_the_rest_is_counted(data):
    sizes = data.draw(st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=2, max_size=4))
    weights = data.draw(st.lists(st.integers(1, 5), min_size=len(sizes), max_size=len(sizes)))
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    parts = [Rows(iter([{"text": "é" * n} for n in part]), is_carved=False) for part in sizes]
    read = MixedRows(parts, shares)
    num_read = len(list(read))
    # By hand, in whole numbers.
    taken, num_bytes = [0] * len(sizes), [0] * len(sizes)
    while True:
        due = min(range(len(sizes)), key=lambda place: Fraction(num_bytes[place]) / shares[place])
        if taken[due] == len(sizes[due]):
            break
        num_bytes[due] += 2 * sizes[due][taken[due]]
        taken[due] += 1
    assert num_read == read.num_rows == sum(taken)
    assert read.left_out.get("past_shares", 0) == sum(map(len, sizes)) - sum(taken)


def test_a_mix_has_one_id_in_any_order_and_adds_nothing_to_the_ids_of_plain_sources(web: Path):
    one, other = SourceMix.of({A: 0.25, B: 0.75}), SourceMix.of({B: "3/4", A: "1/4"})
    assert identify(one) == identify(other) != identify(SourceMix.of({A: 0.3, B: 0.7}))
    assert canonical(A) == {"is": "Source", "kind": "wheels", "part": "a", "revision": "r", "config": ""}
    corpus = Corpus(name="code", source=one)
    assert decode(json.loads(json.dumps(expanded(corpus)))) == corpus
    declared = Source(kind="hub", part="o/s", revision="r", fields=(("text", "content"),))
    assert decode(json.loads(json.dumps(expanded(declared)))) == declared
    assert canonical(declared)["fields"] == [["text", "content"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("code={}/short,share=0.5", "code={}/long,text=body,share=0.4"), "shares that add up to exactly 1"),
        (("code={}/short,share=0.5", "code={}/long,text=body"), "a share for each of its sources.*got none"),
        (("code={}/short", "code={}/long,text=body"), "each name once, or a share for each"),
        (("code={}/short,share=1",), "expected a second source beside a share"),
        (("code={}/short,share=0.5", "code={}/short,share=0.5"), "expected each source once"),
        (("code={}/short,share=x", "code={}/long,text=body,share=0.4"), "a share in"),
        (("code={}/short,share=0.5,share=0.5", "code={}/long,text=body,share=0.5"), "expected share= once"),
        (("{}/short,text=body",), "fields and shares for one corpus or task"),
        (
            ("code={}/long,prompt=body",),
            "expected text=FIELD, prompt=FIELD and completion=FIELD, or messages=FIELD, got prompt=",
        ),
    ],
)
def test_a_mix_that_is_not_whole_is_refused(web: Path, arguments: tuple[str, ...], message: str):
    with pytest.raises((ValueError, RecipeError), match=message):
        DataChoice([argument.format(web) for argument in arguments]).corpus("code", max_bytes=None)


def test_changed_text_of_one_source_is_refused(web: Path):
    corpus = mixed(web).corpus("code", max_bytes=None)
    write_split(web / "long", "train", [{"body": "other"}])
    assert isinstance(corpus.source, SourceMix)
    with pytest.raises(ChangedTextError, match="long: its files changed since the plan"):
        list(load_rows(corpus.source, split="train", is_task=False))


def test_a_tokenizer_is_trained_on_a_mix_and_its_record_counts_what_is_left_out(web: Path, tmp_path: Path):
    corpus = mixed(web).corpus("code", max_bytes=None)
    metrics = make_tokenizer(Tokenizer(corpus=corpus, vocab_size=260, max_bytes=10_000), tmp_path)
    tally = Tally.from_metrics(metrics["left_out"]["train"], data="code", split="train", use="tokenizer")
    assert tally.left_out == {"past_shares": 149}
    assert tally.is_much
    assert "of other sources after one of the mix ended" in tally.sentence
    assert 0.5 < text_bytes(corpus) / (2 * 300 * 10) < 3
