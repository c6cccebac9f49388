"""The tokenizer stage on several corpora: the tokenizer that the `tokenizers` library trains on the same text."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
from builders.small_recipes import source_of
from builders.small_study import write_split
from tokenizers import decoders, models, pre_tokenizers, trainers

from midstudy.data.files import numbered_rows
from midstudy.data.source import resolve_source
from midstudy.data.tokenizer import FILE_NAME
from midstudy.execute.data import make_tokenizer
from midstudy.execute.stopped import StoppedError
from midstudy.plan.left_out import left_out_of
from midstudy.recipe import Corpus, Tokenizer, placebo
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.store import Store


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """Return corpora of about 100 KB each, with documents of 30 to 300 words."""
    folder, rng = tmp_path_factory.mktemp("text"), random.Random(5)
    made = {}
    for name, letters in (("general", "etaoinshrdlu"), ("code", "=()[]_fxyz:"), ("math", "0123456789+")):
        words = ["".join(rng.choices(letters, k=rng.randint(2, 7))) for _ in range(120)]
        rows = ({"text": " ".join(rng.choices(words, k=rng.randint(30, 300)))} for _ in range(250))
        write_split(folder / name, "train", rows)
        for split in ("validation", "test"):
            write_split(folder / name, split, [{"text": "x"}])
        made[name] = Corpus(name=name, source=resolve_source(str(folder), name=name, folder=name, is_task=False))
    return made


def texts_of(corpus: Corpus) -> list[str]:
    return [row["text"] for _, row in numbered_rows(Path(source_of(corpus).location) / "train.jsonl")]


def head(texts: list[str], max_bytes: int) -> list[str]:
    """Return the first texts that together have at most `max_bytes` ASCII characters."""
    kept: list[str] = []
    for text in texts:
        if sum(map(len, kept)) + len(text) > max_bytes:
            return kept
        kept.append(text)
    raise AssertionError("the text is shorter than its share")


def trained_directly(texts: list[str], vocab_size: int) -> str:
    """Return `tokenizer.json` of a byte-level BPE that the library trains on the texts."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer.to_str()


def made(recipe: Tokenizer, folder: Path) -> tuple[str, dict]:
    folder.mkdir()
    metrics = make_tokenizer(recipe, folder)
    return json.dumps(json.loads((folder / FILE_NAME).read_text("utf-8"))), metrics


def test_it_is_the_librarys_tokenizer_of_the_text_put_together_by_hand(corpora, tmp_path):
    general, code, math = corpora.values()
    recipe = Tokenizer.of({general: 0.5, code: 0.3, math: 0.2}, vocab_size=340, max_bytes=60_000)
    by_hand = [
        *head(texts_of(general), 30_000),
        *head(texts_of(code), 18_000),
        *head(texts_of(math), 12_000),
    ]
    tokenizer, metrics = made(recipe, tmp_path / "several")
    assert tokenizer == json.dumps(json.loads(trained_directly(by_hand, 340)))
    assert metrics["train_bytes"] == sum(map(len, by_hand)) == sum(metrics["train_bytes_by_corpus"].values())
    for corpus, share in ((general, 30_000), (code, 18_000), (math, 12_000)):
        used = head(texts_of(corpus), share)
        next_bytes = len(texts_of(corpus)[len(used)])
        assert share - next_bytes < metrics["train_bytes_by_corpus"][corpus.name] <= share
        assert metrics["left_out"][f"train {corpus.name}"]["used"] == len(used)
    alone, _ = made(Tokenizer(corpus=general, vocab_size=340, max_bytes=60_000), tmp_path / "alone")
    assert alone == json.dumps(json.loads(trained_directly(head(texts_of(general), 60_000), 340))) != tokenizer


def test_both_orders_of_the_corpora_give_the_same_file(corpora, tmp_path):
    general, code, _ = corpora.values()
    one = Tokenizer.of({general: 0.75, code: 0.25}, vocab_size=300, max_bytes=40_000)
    other = Tokenizer.of({code: "1/4", general: "3/4"}, vocab_size=300, max_bytes=40_000)
    assert made(one, tmp_path / "one") == made(other, tmp_path / "other")


def test_a_corpus_that_is_limited_to_its_share_has_enough_text(corpora, tmp_path):
    """Its limit ends its text within a document of the share, where the share would end it as well."""
    limited = {replace(corpus, max_bytes=20_000): "1/3" for corpus in corpora.values()}
    whole = dict.fromkeys(corpora.values(), "1/3")
    pair = [
        made(Tokenizer.of(shares, vocab_size=300, max_bytes=60_000), tmp_path / str(number))
        for number, shares in enumerate((limited, whole))
    ]
    assert pair[0] == pair[1]


def test_a_corpus_with_too_little_text_is_named_with_both_sizes(corpora, tmp_path):
    general, code, _ = corpora.values()
    there = sum(map(len, texts_of(code)))
    recipe = Tokenizer.of({general: 0.2, code: 0.8}, vocab_size=300, max_bytes=400_000)
    with pytest.raises(ValueError, match=rf"tokenizer\.code: expected 320,000 bytes .* got {there:,}, all of /"):
        made(recipe, tmp_path / "short")


def test_a_part_has_the_text_that_is_in_it_and_no_more(corpora, tmp_path):
    general, code, _ = corpora.values()
    rest, mixed_in = placebo(general, 0.2)
    whole = sum(map(len, texts_of(general)))
    both = Tokenizer.of({rest: 0.5, mixed_in: 0.5}, vocab_size=300, max_bytes=2 * (whole // 2))
    with pytest.raises(ValueError, match=rf"tokenizer\.placebo: expected {whole // 2:,} bytes .* 20 % of train by hash"):
        made(both, tmp_path / "short")
    _, metrics = made(Tokenizer.of({mixed_in: 0.1, code: 0.9}, vocab_size=300, max_bytes=40_000), tmp_path / "part")
    assert metrics["left_out"]["train placebo"]["used"] < 40


def test_the_limit_of_a_part_is_that_of_the_text_it_is_part_of(corpora, tmp_path):
    """Half of 20,000 bytes is too little for a share of 15,000, although half of the whole corpus is enough."""
    general, code, _ = corpora.values()
    for corpus, enough in ((general, True), (replace(general, max_bytes=20_000), False)):
        recipe = Tokenizer.of({placebo(corpus, 0.5)[1]: 0.5, code: 0.5}, vocab_size=300, max_bytes=30_000)
        if enough:
            made(recipe, tmp_path / "enough")
        else:
            with pytest.raises(ValueError, match=r"tokenizer\.placebo: expected 15,000 bytes of train text"):
                made(recipe, tmp_path / "short")


@pytest.mark.parametrize("missing", ["general", "math"])
def test_a_missing_corpus_is_named(corpora, tmp_path, missing: str):
    folder = tmp_path / "text"
    shutil.copytree(Path(corpora["general"].source.location).parent, folder)
    there = {
        name: Corpus(name=name, source=resolve_source(str(folder), name=name, folder=name, is_task=False))
        for name in ("general", "math")
    }
    recipe = Tokenizer.of(dict.fromkeys(there.values(), 0.5), vocab_size=300, max_bytes=20_000)
    (folder / missing / "train.jsonl").unlink()
    with pytest.raises(ValueError, match=rf"{folder / missing}: .*train\.jsonl"):
        made(recipe, tmp_path / "without_file")
    shutil.rmtree(folder / missing)
    with pytest.raises(ValueError, match=rf"{folder / missing}: no such folder"):
        made(recipe, tmp_path / "without_folder")
    with pytest.raises(ValueError, match=f"{missing}: .*no such folder"):
        resolve_source(str(folder), name=missing, folder=missing, is_task=False)


def test_it_stops_while_it_reads_any_of_its_corpora(corpora, tmp_path):
    recipe = Tokenizer.of(dict.fromkeys(corpora.values(), "1/3"), vocab_size=300, max_bytes=60_000)
    polls = iter(range(10_000))
    with pytest.raises(StoppedError, match="the next attempt trains it from the beginning"):
        make_tokenizer(recipe, tmp_path, should_stop=lambda: next(polls) == 50)


def test_what_is_left_out_is_counted_for_every_corpus(corpora, tmp_path):
    from midstudy.execute.stage import execute_stage

    recipe = Tokenizer.of({corpora["general"]: 0.75, corpora["code"]: 0.25}, vocab_size=300, max_bytes=40_000)
    stage = Stage(id=stage_id(recipe), label="tokenizer", recipe=recipe, parents=(), role="data", data="code + general")
    store = Store.open(tmp_path / "store", create=True)
    store.request(stage)
    execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    tallies = {tally.data: tally for tally in left_out_of(store, {stage.id: stage}).tallies}
    assert {(tally.split, tally.use, tally.unit) for tally in tallies.values()} == {("train", "tokenizer", "documents")}
    used = {name: len(head(texts_of(corpora[name]), share)) for name, share in (("general", 30_000), ("code", 10_000))}
    assert {name: tally.used for name, tally in tallies.items()} == used
    assert {name: sum(tally.left_out.values()) for name, tally in tallies.items()} == {n: 250 - used[n] for n in used}
