"""The data stage as a job runs it: stopped, killed and resumed; its progress log."""

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
from midstudy.data.source import resolve_source
from midstudy.data.split_rows import ChangedTextError
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
    """Return the text of the small study, with a larger general corpus."""
    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    rng = random.Random(3)
    rows = ({"text": " ".join(rng.choices(WORDS, k=200))} for _ in range(1_500))
    write_split(folder / "general", "train", rows)
    return folder


def open_store(text: Path, root: Path) -> tuple[Store, Stage, Stage]:
    """Return a store with a finished tokenizer, and the stages that tokenise the general corpus and the task."""
    store = Store.open(root, create=True)
    plan = plan_in(store, small_study(text, starts=()))
    for stage in plan.missing:
        store.request(stage)
    tokenizer = next(stage for stage in plan.missing if isinstance(stage.recipe, Tokenizer))
    make(store, tokenizer)
    tokenised = [stage for stage in plan.missing if isinstance(stage.recipe, TokenizedData)]
    corpus = next(stage for stage in tokenised if stage.data == "general")
    task = next(stage for stage in tokenised if stage.data == "code_task")
    return store, corpus, task


def make(store: Store, stage: Stage, should_stop: Any = lambda: False) -> None:
    execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=should_stop)


def published_bytes(store: Store, stage: Stage) -> dict[str, str]:
    folder = store.published_folder(stage.id)
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
    store, corpus, task = open_store(text, tmp_path / "store")
    for stage in (corpus, task):
        make(store, stage)
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


def test_a_stage_that_is_asked_to_stop_resumes_from_its_shards(text, tmp_path, small_shards):
    reference, corpus, _ = open_store(text, tmp_path / "reference")
    make(reference, corpus)
    store, corpus, _ = open_store(text, tmp_path / "store")
    polls = iter(range(10_000))
    with pytest.raises(StoppedError, match="reuses the finished shards"):
        make(store, corpus, lambda: next(polls) == 800)
    assert not store.has(corpus.id)
    (attempt,) = store.previous_attempts(corpus.id)
    index = read_index(attempt / "result", "train")
    assert index is not None
    assert not index.is_complete
    assert 700 < index.num_documents <= 800
    make(store, corpus)
    assert store.record(corpus.id).metrics["shards_taken_over"] == len(index.shards)
    assert published_bytes(store, corpus) == published_bytes(reference, corpus)
    assert not store.paths.attempts(corpus.id).exists()


def test_a_stage_stopped_before_its_first_shard_leaves_no_attempt(text, tmp_path):
    store, corpus, _ = open_store(text, tmp_path / "store")
    with pytest.raises(StoppedError):
        make(store, corpus, lambda: True)
    assert store.previous_attempts(corpus.id) == []


def test_a_bad_row_does_not_lose_finished_shards(text, tmp_path, small_shards, monkeypatch):
    store, corpus, _ = open_store(text, tmp_path / "store")

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


def test_shards_of_text_that_was_replaced_and_restored_are_made_again(text, tmp_path, small_shards, monkeypatch):
    """An attempt was killed while it read the other text, which it would have rejected at its end."""
    copy = tmp_path / "text"
    shutil.copytree(text, copy)
    path = copy / "general" / "train.jsonl"
    reference, corpus, _ = open_store(copy, tmp_path / "reference")
    make(reference, corpus)
    store, corpus, _ = open_store(copy, tmp_path / "store")
    content, planned = path.read_bytes(), files.file_digest(path)
    path.write_bytes(content.replace(b"time", b"emit"))
    with monkeypatch.context() as patch:
        known = files.file_digest
        patch.setattr(files, "file_digest", lambda file: planned if file == path else known(file))
        polls = iter(range(10_000))
        with pytest.raises(StoppedError):
            make(store, corpus, lambda: next(polls) == 800)
    assert store.previous_attempts(corpus.id)
    path.write_bytes(content)
    with pytest.raises(ChangedTextError, match="made from different text"):
        make(store, corpus)
    assert store.previous_attempts(corpus.id) == []
    make(store, corpus)
    assert published_bytes(store, corpus) == published_bytes(reference, corpus)


def test_text_that_differs_from_the_plan_is_never_published(text, tmp_path, small_shards, monkeypatch):
    """Not even if a stale cached digest matches and the text is restored before the stage is retried.

    The first attempt is killed after some shards of the changed text; the second detects it.
    """
    copy = tmp_path / "text"
    shutil.copytree(text, copy)
    path = copy / "general" / "train.jsonl"
    reference, corpus, _ = open_store(copy, tmp_path / "reference")
    make(reference, corpus)
    store, corpus, _ = open_store(copy, tmp_path / "store")
    content, status = path.read_bytes(), path.stat()
    planned = files.file_digest(path)
    path.write_bytes(content.replace(b"time", b"emit"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with monkeypatch.context() as patch:
        known = files.file_digest
        patch.setattr(files, "file_digest", lambda file: planned if file == path else known(file))
        polls = iter(range(10_000))
        with pytest.raises(StoppedError):
            make(store, corpus, lambda: next(polls) == 800)
        assert store.previous_attempts(corpus.id)
        with pytest.raises(ChangedTextError, match="its files changed"):
            make(store, corpus)
        stages = plan_in(store, small_study(text, starts=())).stages.values()
        tokenizer = next(stage for stage in stages if stage.kind == "tokenizer")
        shutil.rmtree(store.paths.published(tokenizer.id))
        with pytest.raises(ChangedTextError, match="its files changed"):
            make(store, tokenizer)
    assert not store.has(corpus.id)
    assert not store.has(tokenizer.id)
    assert store.previous_attempts(corpus.id) == []
    path.write_bytes(content)
    for stage in (tokenizer, corpus):
        make(store, stage)
    assert published_bytes(store, corpus) == published_bytes(reference, corpus)


def test_a_stage_can_be_stopped_while_it_reads_the_text_past_the_limit(text, tmp_path, monkeypatch):
    """A corpus uses the first bytes of a file; the digest covers all of it."""
    store = Store.open(tmp_path / "store", create=True)
    monkeypatch.setattr("midstudy.data.digests._CHUNK_BYTES", 1_000)
    source = resolve_source(str(text), name="general", folder="general", is_task=False)
    recipe = Tokenizer(corpus=Corpus(name="general", source=source), vocab_size=300, max_bytes=20_000)
    polls = iter(range(10_000))
    with pytest.raises(StoppedError, match="while the rest of the text was read; the next attempt trains it from"):
        make_tokenizer(recipe, store.root, should_stop=lambda: next(polls) >= 500)


def test_a_carved_split_without_rows_is_made_empty_and_rejected_when_it_is_read(tmp_path):
    """A corpus of 40 documents carved by hash, none of which go to test. No stage may use that split."""
    text = tmp_path / "text"
    write_text(text)
    for split in ("validation", "test"):
        (text / "code" / f"{split}.jsonl").unlink()
    write_split(text / "code", "train", ({"text": f"x = {number}"} for number in range(40)))
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text))
    for stage in plan.missing:
        store.request(stage)
    code = next(
        stage for stage in plan.missing if isinstance(stage.recipe, TokenizedData) and stage.recipe.data.name == "code"
    )
    assert isinstance(code.recipe, TokenizedData)
    make(store, plan.stages[stage_id(code.recipe.tokenizer)])
    make(store, code)
    metrics = store.record(code.id).metrics
    assert [metrics[f"{split}_documents"] for split in ("train", "dev", "test")] == [37, 3, 0]
    folder = store.published_folder(code.id)
    assert read_split(folder, "dev").num_documents == 3
    with pytest.raises(ValueError, match="the test split is empty: it was carved from train by hash, and got no rows"):
        read_split(folder, "test")


def test_progress_is_logged(text, tmp_path, monkeypatch, capsys):
    store, corpus, _ = open_store(text, tmp_path / "store")
    monkeypatch.setattr("midstudy.data.shards._CHUNK_DOCUMENTS", 64)
    make(store, corpus)
    assert "tokens" not in capsys.readouterr().out  # it finished before the first line was due

    store, corpus, _ = open_store(text, tmp_path / "other")
    clock = iter(range(1_000_000)).__next__  # every reading of the clock is a second later
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
def test_killed_processes_lose_no_finished_shard_and_change_no_byte(tmp_path):
    text = tmp_path / "text"
    write_text(text)
    rng = random.Random(4)
    rows = ({"text": " ".join(rng.choices(WORDS, k=2_000))} for _ in range(3_000))
    write_split(text / "general", "train", rows)
    shard_bytes = 500_000
    reference, corpus, _ = open_store(text, tmp_path / "reference")
    command = [sys.executable, "-c", KILLED]
    started = time.monotonic()
    subprocess.run([*command, str(reference.root), corpus.id, str(shard_bytes)], check=True)
    undisturbed_s = time.monotonic() - started

    store, corpus, _ = open_store(text, tmp_path / "store")
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
        indices = (read_index(attempt / "result", "train") for attempt in store.previous_attempts(corpus.id))
        finished.append(max((len(index.shards) for index in indices if index is not None), default=0))
    else:
        make_in_full = subprocess.run([*command, str(store.root), corpus.id, str(shard_bytes)], check=False)
        assert make_in_full.returncode == 0
    assert kills >= 3
    assert finished == sorted(finished)
    assert finished[-1] > 0
    assert published_bytes(store, corpus) == published_bytes(reference, corpus)
    assert json.loads(store.paths.record(corpus.id).read_text())["metrics"]["shards_taken_over"] > 0
