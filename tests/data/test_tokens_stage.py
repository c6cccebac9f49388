"""The data stage as a job runs it: stopped, killed and gone on with, and what it says on the way."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builders.small_study import WORDS, plan_in, small_study, write_split, write_text

from midstudy.data import files
from midstudy.data.files import numbered_rows
from midstudy.data.rows import as_example, as_text
from midstudy.data.shards import read_index
from midstudy.data.source import ChangedTextError, resolve_source
from midstudy.data.tokenizer import load_tokenizer
from midstudy.data.tokens import read_split
from midstudy.execute import data, progress
from midstudy.execute.data import make_tokenizer, make_tokens
from midstudy.execute.stage import StoppedError, execute_stage
from midstudy.recipe.data import Corpus, TokenizedData, Tokenizer
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.store import Store

SHARD_BYTES = 20_000


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text of the small study, with more of the general corpus."""
    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    rng = random.Random(3)
    rows = ({"text": " ".join(rng.choices(WORDS, k=200))} for _ in range(1_500))
    write_split(folder / "general", "train", rows)
    return folder


def opened(text: Path, root: Path) -> tuple[Store, Stage, Stage]:
    """A store with the tokenizer made; the stages that tokenise the general corpus and the task."""
    store = Store.open(root, create=True)
    plan = plan_in(store, small_study(text, starts=()))
    for one in plan.missing:
        store.request(one)
    tokenizer = next(one for one in plan.missing if isinstance(one.recipe, Tokenizer))
    make(store, tokenizer)
    tokenised = [one for one in plan.missing if isinstance(one.recipe, TokenizedData)]
    corpus = next(one for one in tokenised if one.data == "general")
    task = next(one for one in tokenised if one.data == "code_task")
    return store, corpus, task


def make(store: Store, one: Stage, should_stop: Any = lambda: False) -> None:
    execute_stage(store, one.id, start_from=None, keeps_optimizer=False, should_stop=should_stop)


def published_bytes(store: Store, one: Stage) -> dict[str, str]:
    folder = store.published_folder(one.id)
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "record.json"
    }


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_small_shards(*args: Any, **keywords: Any) -> dict[str, Any]:
        return make_tokens(*args, **keywords, shard_bytes=SHARD_BYTES)

    monkeypatch.setattr(data, "make_tokens", with_small_shards)


def test_published_tokens_are_those_of_the_text(text, tmp_path):
    store, corpus, task = opened(text, tmp_path / "store")
    for one in (corpus, task):
        make(store, one)
    assert isinstance(corpus.recipe, TokenizedData)
    tokenizer = load_tokenizer(store.published_folder(stage_id(corpus.recipe.tokenizer)))
    general = read_split(store.published_folder(corpus.id), "train")
    for number, row in numbered_rows(text / "general" / "train.jsonl"):
        wanted = tokenizer.encode(as_text(row, "").strip(), add_special_tokens=False).ids
        assert general.document(number - 1).tolist() == [*wanted, 0]
    items = read_split(store.published_folder(task.id), "dev")
    assert items.prompt_lengths is not None
    for number, row in numbered_rows(text / "sft" / "code" / "validation.jsonl"):
        example = as_example(row, "")
        prompt = tokenizer.encode(example.prompt, add_special_tokens=False).ids
        target = tokenizer.encode(example.target, add_special_tokens=False).ids
        assert items.document(number - 1).tolist() == [*prompt, *target, 0]
        assert items.prompt_lengths[number - 1] == len(prompt)
    metrics = store.record(corpus.id).metrics
    assert metrics["train_documents"] == 1_500
    assert metrics["train_tokens"] == len(general.tokens)


def test_a_stage_that_is_told_to_stop_goes_on_from_its_shards(text, tmp_path, small_shards):
    reference, corpus, _ = opened(text, tmp_path / "reference")
    make(reference, corpus)
    store, corpus, _ = opened(text, tmp_path / "store")
    polls = iter(range(10_000))
    with pytest.raises(StoppedError, match="takes over the shards"):
        make(store, corpus, lambda: next(polls) == 800)
    assert not store.has(corpus.id)
    (former,) = store.previous_attempts(corpus.id)
    index = read_index(former / "result", "train")
    assert index is not None
    assert not index.is_complete
    assert 700 < index.num_documents <= 800
    make(store, corpus)
    assert store.record(corpus.id).metrics["shards_taken_over"] == len(index.shards)
    assert published_bytes(store, corpus) == published_bytes(reference, corpus)
    assert not store.paths.attempts(corpus.id).exists()


def test_a_stage_stopped_before_its_first_shard_leaves_nothing(text, tmp_path):
    store, corpus, _ = opened(text, tmp_path / "store")
    with pytest.raises(StoppedError):
        make(store, corpus, lambda: True)
    assert store.previous_attempts(corpus.id) == []


def test_a_bad_row_loses_no_finished_shard(text, tmp_path, small_shards, monkeypatch):
    store, corpus, _ = opened(text, tmp_path / "store")

    def breaking(row: Any, where: str) -> str:
        if where == "general train:900":
            raise ValueError("the connection was lost")
        return as_text(row, where)

    with monkeypatch.context() as patch:
        patch.setattr(data, "as_text", breaking)
        with pytest.raises(ValueError, match="connection was lost"):
            make(store, corpus)
    make(store, corpus)
    assert store.record(corpus.id).metrics["shards_taken_over"] > 10


def test_shards_of_text_that_was_exchanged_and_put_back_are_made_again(text, tmp_path, small_shards, monkeypatch):
    """An attempt was killed while it read the other text, which it would have refused at its end."""
    copy = tmp_path / "text"
    shutil.copytree(text, copy)
    path = copy / "general" / "train.jsonl"
    reference, corpus, _ = opened(copy, tmp_path / "reference")
    make(reference, corpus)
    store, corpus, _ = opened(copy, tmp_path / "store")
    content, planned = path.read_bytes(), files.file_digest(path)
    path.write_bytes(content.replace(b"time", b"emit"))
    with monkeypatch.context() as patch:
        known = files.file_digest
        patch.setattr(files, "file_digest", lambda one: planned if one == path else known(one))
        polls = iter(range(10_000))
        with pytest.raises(StoppedError):
            make(store, corpus, lambda: next(polls) == 800)
    assert store.previous_attempts(corpus.id)
    path.write_bytes(content)
    with pytest.raises(ChangedTextError, match="made from other text"):
        make(store, corpus)
    assert store.previous_attempts(corpus.id) == []
    make(store, corpus)
    assert published_bytes(store, corpus) == published_bytes(reference, corpus)


def test_nothing_is_published_of_text_that_is_not_the_plans(text, tmp_path, small_shards, monkeypatch):
    """Even if a stale cached digest matches, and the text has been restored when the stage is retried.

    The first attempt is killed after some shards of the changed text; the second detects it.
    """
    copy = tmp_path / "text"
    shutil.copytree(text, copy)
    path = copy / "general" / "train.jsonl"
    reference, corpus, _ = opened(copy, tmp_path / "reference")
    make(reference, corpus)
    store, corpus, _ = opened(copy, tmp_path / "store")
    content, status = path.read_bytes(), path.stat()
    planned = files.file_digest(path)
    path.write_bytes(content.replace(b"time", b"emit"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with monkeypatch.context() as patch:
        known = files.file_digest
        patch.setattr(files, "file_digest", lambda one: planned if one == path else known(one))
        polls = iter(range(10_000))
        with pytest.raises(StoppedError):
            make(store, corpus, lambda: next(polls) == 800)
        assert store.previous_attempts(corpus.id)
        with pytest.raises(ChangedTextError, match="its files changed"):
            make(store, corpus)
        tokenizer = next(
            one for one in plan_in(store, small_study(text, starts=())).stages.values() if one.kind == "tokenizer"
        )
        shutil.rmtree(store.paths.published(tokenizer.id))
        with pytest.raises(ChangedTextError, match="its files changed"):
            make(store, tokenizer)
    assert not store.has(corpus.id)
    assert not store.has(tokenizer.id)
    assert store.previous_attempts(corpus.id) == []
    path.write_bytes(content)
    for one in (tokenizer, corpus):
        make(store, one)
    assert published_bytes(store, corpus) == published_bytes(reference, corpus)


def test_the_rest_of_a_long_text_is_read_no_longer_than_the_stage_may_go_on(text, tmp_path, monkeypatch):
    """A corpus takes the first bytes of a file; the digest covers all of it."""
    store = Store.open(tmp_path / "store", create=True)
    monkeypatch.setattr("midstudy.data.digests._PIECE_BYTES", 1_000)
    source = resolve_source(str(text), name="general", folder="general", is_task=False)
    recipe = Tokenizer(corpus=Corpus(name="general", source=source), vocab_size=300, max_bytes=20_000)
    polls = iter(range(10_000))
    with pytest.raises(StoppedError, match="while the rest of the text was read; the next attempt trains it from"):
        make_tokenizer(recipe, store.root, should_stop=lambda: next(polls) >= 500)


def test_a_carved_split_without_rows_is_made_empty_and_refused_by_what_reads_it(tmp_path):
    """A corpus of 40 documents carved by hash, none of which falls to test. No stage may use that split."""
    text = tmp_path / "text"
    write_text(text)
    for split in ("validation", "test"):
        (text / "code" / f"{split}.jsonl").unlink()
    write_split(text / "code", "train", ({"text": f"x = {number}"} for number in range(40)))
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text))
    for one in plan.missing:
        store.request(one)
    code = next(one for one in plan.missing if isinstance(one.recipe, TokenizedData) and one.recipe.data.name == "code")
    assert isinstance(code.recipe, TokenizedData)
    make(store, plan.stages[stage_id(code.recipe.tokenizer)])
    make(store, code)
    metrics = store.record(code.id).metrics
    assert [metrics[f"{split}_documents"] for split in ("train", "dev", "test")] == [37, 3, 0]
    folder = store.published_folder(code.id)
    assert read_split(folder, "dev").num_documents == 3
    with pytest.raises(ValueError, match="the test split is empty: it was carved from train by hash, and no row fell to it"):
        read_split(folder, "test")


def test_the_log_says_how_far_it_is(text, tmp_path, monkeypatch, capsys):
    store, corpus, _ = opened(text, tmp_path / "store")
    monkeypatch.setattr("midstudy.data.shards._CHUNK_DOCUMENTS", 64)
    make(store, corpus)
    assert "tokens" not in capsys.readouterr().out  # it was quick

    store, corpus, _ = opened(text, tmp_path / "other")
    clock = iter(range(1_000_000)).__next__  # every look at the clock is a second later
    monkeypatch.setattr(progress.time, "monotonic", clock)
    make(store, corpus)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("general train: ")]
    assert 5 < len(lines) < 100
    assert "documents" in lines[-1]
    assert "tokens/s" in lines[-1]
    assert "minutes left" in lines[-1]
    shares = [int(part[:-6]) for line in lines for part in line.split(", ") if part.endswith("% read")]
    assert shares == sorted(shares)
    assert shares[-1] > 80


KILLED = """
import sys
from pathlib import Path
from midstudy.execute import data, stage
from midstudy.store.store import Store
made = data.make_tokens
data.make_tokens = lambda *args, **keywords: made(*args, **keywords, shard_bytes=int(sys.argv[3]))
print("begun", flush=True)
stage.execute_stage(
    Store.open(Path(sys.argv[1])), sys.argv[2], start_from=None, keeps_optimizer=False, should_stop=lambda: False
)
"""


@pytest.mark.slow
def test_processes_killed_at_random_moments_lose_no_finished_shard_and_change_no_byte(tmp_path):
    text = tmp_path / "text"
    write_text(text)
    rng = random.Random(4)
    rows = ({"text": " ".join(rng.choices(WORDS, k=2_000))} for _ in range(3_000))
    write_split(text / "general", "train", rows)
    shard_bytes = 500_000
    reference, corpus, _ = opened(text, tmp_path / "reference")
    command = [sys.executable, "-c", KILLED]
    began = time.monotonic()
    subprocess.run([*command, str(reference.root), corpus.id, str(shard_bytes)], check=True)
    undisturbed_s = time.monotonic() - began

    store, corpus, _ = opened(text, tmp_path / "store")
    kills, finished = 0, [0]
    for _ in range(50):
        process = subprocess.Popen([*command, str(store.root), corpus.id, str(shard_bytes)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, undisturbed_s / 4))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
        if store.has(corpus.id):
            break
        indices = (read_index(one / "result", "train") for one in store.previous_attempts(corpus.id))
        finished.append(max((len(one.shards) for one in indices if one is not None), default=0))
    else:
        make_in_full = subprocess.run([*command, str(store.root), corpus.id, str(shard_bytes)], check=False)
        assert make_in_full.returncode == 0
    assert kills >= 3
    assert finished == sorted(finished)
    assert finished[-1] > 0
    assert published_bytes(store, corpus) == published_bytes(reference, corpus)
    assert json.loads(store.paths.record(corpus.id).read_text())["metrics"]["shards_taken_over"] > 0
