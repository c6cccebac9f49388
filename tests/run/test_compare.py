"""`midstudy compare` as a function: views, samples and the published procedure on small files, errors for people."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.releases import COMMIT, cached_snapshot

from midstudy.data.named_text import NamedText, named_texts
from midstudy.data.split_rows import ChangedTextError
from midstudy.data.tokenizer import save_tokenizer, train_tokenizer
from midstudy.recipe.errors import RecipeError
from midstudy.run import compare as rules
from midstudy.run.compare import CorporaComparison, compare, count_text
from midstudy.similarity.published import PublishedCounts, published_similarity

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")
SYMBOLS = ("def", "return", "self", "None", "import", "class", "for", "in", "print", "(", ")", "[", "]", ":", "=")


def documents(words: Sequence[str], seed: int, *, number: int = 150, length: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=length)) for _ in range(number)]


TEXTS = {"prose": documents(WORDS, 1), "code": documents(SYMBOLS, 2), "mixed": documents([*WORDS, *SYMBOLS], 3)}


def write(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path: Path) -> list[NamedText]:
    return named_texts([f"{name}={write(tmp_path / f'{name}.jsonl', TEXTS[name])}" for name in TEXTS], where="compare")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    save_tokenizer(train_tokenizer([text for one in TEXTS.values() for text in one], vocab_size=300), folder)
    return folder


def compared(texts: Sequence[NamedText], **changes: Any) -> CorporaComparison:
    return compare(
        texts, **{"store": Path("no-store"), "over": [], "tokenizer": None, "equal": "units", "authors": False, **changes}
    )


def test_all_views_stand_side_by_side(texts: list[NamedText], tokenizer: Path) -> None:
    found = compared(texts, tokenizer=str(tokenizer))
    assert list(found.views) == ["bytes:3", "words:1-2", "tokens"]
    for view in found.views.values():
        assert view.value("prose", "mixed", "js").value > view.value("prose", "code", "js").value
    facts = json.loads(found.as_json())
    assert [one["documents"] for one in facts["corpora"]] == [150, 150, 150]
    assert facts["corpora"][0]["bytes"] == sum(map(len, TEXTS["prose"]))
    assert len(facts["tokenizer_sha256"]) == len(facts["views"][2]["corpora"][0]["counts_sha256"][0]) == 64
    pair = facts["views"][0]["pairs"][0]["measures"]["hellinger"]
    assert pair["low"] < pair["value"] < pair["high"]


def test_tokens_are_those_of_the_tokenizer(texts: list[NamedText], tokenizer: Path) -> None:
    content = (tokenizer / "tokenizer.json").read_bytes()
    encode = rules.tokenizers.Tokenizer.from_buffer(content).encode
    expected = Counter(token for text in TEXTS["code"] for token in encode(text, add_special_tokens=False).ids)
    counts = count_text(texts[1], ["tokens"], content, False).views["tokens"][0]
    found: Counter[int] = Counter()
    for key, count in zip(counts.keys.tolist(), counts.counts.tolist(), strict=True):
        found[key] += count
    assert found == expected


def test_the_published_sample_is_cut_as_in_the_paper(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_CHARACTERS_PER_DOCUMENT", 50)
    monkeypatch.setattr(rules, "MAX_TOKENS_PER_DOCUMENT", 7)
    texts = named_texts(
        [f"{name}={write(tmp_path / f'{name}.jsonl', TEXTS[name])}" for name in ("prose", "code")], where="compare"
    )
    found = compared(texts, tokenizer=str(tokenizer), authors=True)
    encode = rules.tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    sides = [
        PublishedCounts.of(np.concatenate([encode(text[:50]).ids[:7] for text in TEXTS[name]]), 300)
        for name in ("prose", "code")
    ]
    assert found.published["prose", "code"] == published_similarity(*sides)
    assert found.views == {}


def test_the_published_sample_has_1000_documents_whatever_their_order(tmp_path: Path, tokenizer: Path) -> None:
    many = documents(WORDS, 5, number=1_200, length=3)
    files = [write(tmp_path / "a.jsonl", many), write(tmp_path / "b.jsonl", many[::-1])]
    a, b = named_texts([f"a={files[0]}", f"b={files[1]}"], where="compare")
    content = (tokenizer / "tokenizer.json").read_bytes()
    samples = [count_text(text, [], content, True).published for text in (a, b)]
    assert samples[0] is not None
    assert samples[1] is not None
    assert samples[0].counts.tolist() == samples[1].counts.tolist()
    encode = rules.tokenizers.Tokenizer.from_buffer(content).encode
    lengths = sorted(len(encode(text).ids) for text in many)
    assert sum(lengths[:1_000]) <= samples[0].num_tokens <= sum(lengths[200:])


def test_compression_reads_a_bounded_sample(texts: list[NamedText], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "COMPRESSED_BYTES", 2_000)
    found = compared(texts, over=["compression"])
    assert found.views == {}
    assert found.compression["prose", "mixed"] > found.compression["prose", "code"]
    for counted in found.counted.values():
        assert sum(len(text.encode()) for text in counted.sample) == 2_000


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path) -> None:
    names = {"once": TEXTS["prose"], "often": TEXTS["prose"] * 20}
    once, often = named_texts(
        [f"{name}={write(tmp_path / f'{name}.jsonl', texts)}" for name, texts in names.items()], where="compare"
    )
    small, large = (count_text(text, ["words:1"], None, False) for text in (once, often))
    assert large.num_documents == 20 * small.num_documents
    assert large.views["words:1"][0].codes.tolist() == small.views["words:1"][0].codes.tolist()
    assert large.views["words:1"][0].counts.tolist() == (20 * small.views["words:1"][0].counts).tolist()


@pytest.mark.slow
def test_processes_count_the_same(texts: list[NamedText], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = compared(texts, over=["words:1"])
    monkeypatch.setattr(rules, "_WORTH_PROCESSES_BYTES", 0)
    monkeypatch.setattr(rules.os, "sched_getaffinity", lambda pid: {0, 1})
    lines: list[str] = []
    together = compared(texts, over=["words:1"], on_progress=lines.append)
    assert json.loads(together.as_json()) == json.loads(alone.as_json())
    assert "counted 3 of 3 parts of 3 corpora" in lines


def test_parts_of_a_folder_count_as_the_whole(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dev and test are carved from five train files; documents occur several times, also in different files."""
    (tmp_path / "web").mkdir()
    for number in range(5):
        write(tmp_path / "web" / f"train-{number}.jsonl", [*TEXTS["mixed"][number * 20 :], *TEXTS["prose"][:10], "  "])
    prose = write(tmp_path / "prose.jsonl", TEXTS["prose"])
    text, _ = named_texts([f"web={tmp_path / 'web'}", f"prose={prose}"], where="compare")
    monkeypatch.setattr(rules, "COMPRESSED_BYTES", 2_000)
    monkeypatch.setattr(rules, "MAX_DOCUMENTS", 30)
    monkeypatch.setattr(rules, "_WORTH_PROCESSES_BYTES", 0)
    content = rules.read_tokenizer(str(tokenizer), store=tmp_path / "store")
    views = ["bytes:2-3", "words:1", "tokens", "compression"]
    whole = count_text(text, views, content, authors=True)
    pieces = rules._pieces(text, 3)
    assert pieces == [range(1), range(1, 3), range(3, 5)]
    for order in (pieces, pieces[::-1]):
        parts = [rules._count(text, files, views, content, authors=True) for files in order]
        joined = rules._counted(text, parts, content, authors=True)
        assert joined.num_documents == whole.num_documents
        assert joined.group_bytes.tolist() == whole.group_bytes.tolist()
        digests = {view: [one.digest for one in counts] for view, counts in whole.views.items()}
        assert {view: [one.digest for one in counts] for view, counts in joined.views.items()} == digests
        assert joined.sample == whole.sample
        assert joined.published is not None
        assert whole.published is not None
        assert all(np.array_equal(a, b) for a, b in zip(astuple(joined.published), astuple(whole.published), strict=True))


def test_a_file_that_changed_before_its_part_was_counted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    for number in range(3):
        write(tmp_path / "web" / f"train-{number}.jsonl", TEXTS["mixed"])
    prose = write(tmp_path / "prose.jsonl", TEXTS["prose"])
    text, _ = named_texts([f"web={tmp_path / 'web'}", f"prose={prose}"], where="compare")
    write(tmp_path / "web" / "train-1.jsonl", TEXTS["code"])
    parts = [rules._count(text, files, ["words:1"], None, authors=False) for files in (range(2), range(2, 3))]
    with pytest.raises(ChangedTextError, match="its files changed since the plan"):
        rules._counted(text, parts, None, authors=False)


def test_views_that_disagree_are_found(tmp_path: Path) -> None:
    # "near" shares the words of "base" in other letters' order; "alike" shares its letters and none of its words.
    base = documents(["alpha", "bravo", "delta", "gamma"], 1, number=200)
    alike = documents(["ahpla", "ovarb", "atled", "ammag"], 2, number=200)
    words = documents(["alpha", "bravo", "zzzzz", "yyyyy", "xxxxx", "qqqqq"], 3, number=200)
    corpora = {"base": base, "alike": alike, "words": words}
    texts = named_texts(
        [f"{name}={write(tmp_path / f'{name}.jsonl', one)}" for name, one in corpora.items()], where="compare"
    )
    found = compared(texts, over=["chars:1", "words:1"])
    decided = [(one.corpus, one.closer, one.other, one.first_view) for one in found.disagreements if one.is_decided]
    assert ("base", "alike", "words", "chars:1") in decided


def test_small_and_unequal_samples_are_noted(tmp_path: Path) -> None:
    corpora = {"many": TEXTS["prose"], "one": TEXTS["code"][:1], "few": TEXTS["mixed"][:5]}
    texts = named_texts(
        [f"{name}={write(tmp_path / f'{name}.jsonl', one)}" for name, one in corpora.items()], where="compare"
    )
    notes = "\n".join(compared(texts, over=["words:1"]).notes)
    assert "one: 1 document(s) in one group: no interval of its pairs, no ceiling." in notes
    assert "few: only 5 documents: intervals of its pairs are rough." in notes
    assert "words:1: only" in notes
    assert "sizes differ" in "\n".join(compared(texts, over=["words:1"], equal="none").notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"over": ["lines"]}, "--over: expected bytes:N, .* got lines"),
        ({"over": ["bytes:9"]}, r"--over: expected bytes:N, .* got bytes:9. \(bytes: expected n-grams of 1 to 7"),
        ({"over": ["words:1", "words:1"]}, "--over: expected each view once, got words:1 twice"),
        ({"over": ["tokens"]}, "--over tokens: expected a tokenizer, got none. Add --tokenizer FOLDER."),
        ({"tokenizer": "/no/tokenizer"}, "--tokenizer: expected a tokenizer.json, .* got /no/tokenizer: no file"),
        ({"authors": True}, "--authors: expected a tokenizer, and no --over, got no tokenizer."),
        ({"authors": True, "over": ["words:1"], "tokenizer": "x"}, "--authors: expected no --over"),
    ],
)
def test_bad_options_are_named(texts: list[NamedText], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        compared(texts, **changes)


def test_a_file_that_is_no_tokenizer_is_named(texts: list[NamedText], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"--tokenizer: expected a tokenizer.json, .*, got .*tokenizer.json \("):
        compared(texts, tokenizer=str(tmp_path))


@pytest.mark.parametrize(
    ("empty", "over", "message"),
    [
        (["", "  "], [], "compare.empty: expected documents with text, got none in .*. Check the file"),
        (
            ["ab", "c"],
            ["words:2"],
            "compare.empty: expected at least one unit in words:2, got documents that are all shorter",
        ),
    ],
)
def test_a_corpus_without_units_is_named(tmp_path: Path, empty: list[str], over: list[str], message: str) -> None:
    corpora = {"prose": TEXTS["prose"], "empty": empty}
    texts = named_texts(
        [f"{name}={write(tmp_path / f'{name}.jsonl', one)}" for name, one in corpora.items()], where="compare"
    )
    with pytest.raises(RecipeError, match=message):
        compared(texts, over=over)


def test_one_corpus_is_not_compared(texts: list[NamedText]) -> None:
    with pytest.raises(RecipeError, match="compare: expected at least two corpora, each as NAME=SOURCE, got 1"):
        compared(texts[:1])


def test_a_tokenizer_of_the_hub_and_ids_above_65535(texts: list[NamedText]) -> None:
    words = {word: number for number, word in enumerate([*(f"w{n}" for n in range(70_000)), *WORDS, *SYMBOLS, "[UNK]"])}
    made = rules.tokenizers.Tokenizer(rules.tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = rules.tokenizers.pre_tokenizers.WhitespaceSplit()
    folder = cached_snapshot("owner/wide")
    made.save(str(folder / "tokenizer.json"))
    views = ["tokens", "words:1"]
    by_hub, by_folder = (
        compared(texts, over=views, tokenizer=one, equal="none") for one in (f"hub:owner/wide@{COMMIT}", str(folder))
    )
    assert by_hub.as_json() == by_folder.as_json()
    counts = by_hub.counted["code"].views["tokens"][0]
    assert min(counts.keys.tolist()) > 65_535
    # Every word is a token, so both views count the same.
    tokens, whole_words = (by_hub.views[view].value("prose", "mixed", "js").value for view in views)
    assert tokens == pytest.approx(whole_words, abs=1e-12)
    with pytest.raises(ValueError, match="expected a commit of 40 hex digits"):
        compared(texts, tokenizer="hub:owner/wide@main")
