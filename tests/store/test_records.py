"""Stages on disk: requested once, published once, and rejected if they were damaged or edited."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import re
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import IO, Any

import pytest
from builders.fake_execute import fake_stage
from builders.operations import num_calls
from builders.small_recipes import code_branch, trunk

from midstudy.files.errors import RecipeMismatchError, StoreError
from midstudy.files.sealed import sealed
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.attempt import read_metrics
from midstudy.store.store import Store

STAGE = fake_stage("stage")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def publish(store: Store, stage: Stage, text: str = "made") -> bool:
    attempt = store.attempt(stage.id)
    attempt.log_metrics({"step": 1, "loss_nats": 5.0})
    (attempt.result / "checkpoint").mkdir()
    (attempt.result / "checkpoint" / "weights").write_text(text)
    return attempt.publish(
        kind=stage.kind,
        label=stage.label,
        recipe=stage.expanded_form,
        canonical=stage.canonical_form,
        parents=stage.parents,
        metrics={"loss_nats": 5.0},
    )


# -- a store's folder -------------------------------------------------------------------------------------------------


def test_a_store_is_created_only_on_request(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere: no store here.*--store"):
        Store.open(tmp_path / "nowhere")
    Store.open(tmp_path / "here", create=True)
    assert Store.open(tmp_path / "here").root == tmp_path / "here"


def test_a_folder_with_other_files_does_not_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match="a folder with other files"):
        Store.open(tmp_path, create=True)


@pytest.mark.parametrize(
    ("text", "message"), [("", "damaged"), ("[]", "damaged"), ('{"schema": 99}', "expected schema 1, got 99")]
)
def test_a_store_of_another_schema_is_rejected(store: Store, text: str, message: str) -> None:
    store.paths.schema.write_text(text)
    with pytest.raises(StoreError, match=message):
        Store.open(store.root)


def test_a_store_that_cannot_be_written_is_reported_with_its_path_and_a_fix(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/store.*cannot be written.*--store"):
        Store.open(tmp_path / "file" / "store", create=True)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_can_be_read_but_not_opened_for_writing(store: Store) -> None:
    publish(store, STAGE)
    store.root.chmod(0o500)
    try:
        assert Store.open(store.root).record(STAGE.id).metrics == {"loss_nats": 5.0}
        with pytest.raises(StoreError, match="cannot be written"):
            Store.open(store.root, create=True)
    finally:
        store.root.chmod(0o700)


def test_reading_writes_nothing(store: Store) -> None:
    store.request(STAGE)
    publish(store, STAGE)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    reading = Store.open(store.root)
    reading.records([STAGE.id])
    assert reading.failure(STAGE.id) is None
    assert reading.previous_attempts(STAGE.id) == []
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


@pytest.mark.parametrize("name", ["", "..", "a/b", "a..b", ".hidden", "-rf", "two words", "naïve", "a\nb", "it's"])
def test_names_that_are_not_safe_as_folder_names_are_rejected(store: Store, name: str) -> None:
    for path_of in (store.paths.stage, store.paths.study, store.paths.job):
        with pytest.raises(StoreError, match=re.escape(f"that start with a letter or digit, got {name!r}")):
            path_of(name)


# -- requesting a stage -----------------------------------------------------------------------------------------------


def test_requesting_a_stage_again_is_harmless(store: Store) -> None:
    state = code_branch(trunk(), 30).state()
    stage = Stage(id=stage_id(state), label="branch", recipe=state, parents=(STAGE.id,), role="midtrain")
    store.request(stage)
    written = store.paths.recipe(stage.id).stat().st_mtime_ns
    store.request(stage)
    assert store.paths.recipe(stage.id).stat().st_mtime_ns == written
    requested = store.requested(stage.id)
    assert (requested["kind"], requested["label"], requested["parents"]) == ("state", "branch", [STAGE.id])
    assert requested["canonical"] == stage.canonical_form
    assert requested["recipe"] == stage.expanded_form


def test_another_recipe_under_the_same_id_is_an_error_that_names_the_field(store: Store) -> None:
    store.request(STAGE)
    path = store.paths.recipe(STAGE.id)
    path.write_text(path.read_text().replace('"vocab_size": 512', '"vocab_size": 513'))
    with pytest.raises(RecipeMismatchError, match="vocab_size: expected 512, got 513"):
        store.request(STAGE)


def test_a_record_of_another_recipe_is_an_error_that_names_the_field(store: Store) -> None:
    publish(store, STAGE)
    store.verify(STAGE)
    path = store.paths.record(STAGE.id)
    path.write_bytes(resealed(path.read_text().replace('"vocab_size": 512', '"vocab_size": 513')))
    with pytest.raises(RecipeMismatchError, match="vocab_size: expected 512, got 513"):
        store.verify(STAGE)


def without_seal(text: str) -> str:
    """Return the record without the digest in its last line."""
    fields = json.loads(text)
    del fields["sha256"]
    return json.dumps(fields, indent=1)


def edited(text: str, old: str, new: str) -> str:
    """Return the record with another text in it, and a valid digest."""
    assert old in text
    return resealed(text.replace(old, new)).decode()


def resealed(text: str) -> bytes:
    """Return an edited record with a valid digest."""
    fields = json.loads(text)
    del fields["sha256"]
    return sealed(fields)


# -- publishing -------------------------------------------------------------------------------------------------------


def test_a_published_record_holds_files_environment_and_times(store: Store) -> None:
    began = time.time()
    assert publish(store, STAGE)
    record = store.record(STAGE.id)
    weights = record.files["checkpoint/weights"]
    # printf made | sha256sum
    assert weights == {"bytes": 4, "sha256": "ea0890697a77af0a2e054cccec587c8a42feb5cf38e778c6c6e2a96bfb945c0b"}
    assert (store.published_folder(STAGE.id) / "checkpoint" / "weights").read_text() == "made"
    assert [line["step"] for line in read_metrics(store.published_folder(STAGE.id) / "metrics.jsonl")] == [1]
    assert began <= record.timing["started_at"] <= record.timing["finished_at"] <= time.time()
    assert record.environment["python"]
    assert [path.name for path in store.paths.stage(STAGE.id).iterdir()] == ["published"]


def test_nothing_is_published_before_the_record_is(store: Store) -> None:
    attempt = store.attempt(STAGE.id)
    (attempt.result / "weights").write_text("half")
    assert not store.has(STAGE.id)
    with pytest.raises(StoreError, match="not finished"):
        store.record(STAGE.id)


def _race(root: str, barrier: Barrier, number: int, won: multiprocessing.SimpleQueue[tuple[int, bool]]) -> None:
    store = Store(Path(root))
    stage = fake_stage("stage")
    attempt = store.attempt(stage.id)
    (attempt.result / "who").write_text(str(number))
    barrier.wait()
    first = attempt.publish(kind="tokenizer", label="", recipe={}, canonical={}, parents=(), metrics={"who": number})
    won.put((number, first))


def test_exactly_one_of_several_racing_attempts_is_published_and_the_others_leave_nothing(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        barrier, won = context.Barrier(4), context.SimpleQueue()
        racers = [context.Process(target=_race, args=(str(store.root), barrier, number, won)) for number in range(4)]
        for racer in racers:
            racer.start()
        results = [won.get() for _ in racers]
        for racer in racers:
            racer.join()
        winners = [number for number, first in results if first]
        assert len(winners) == 1
        assert store.record(STAGE.id).metrics == {"who": winners[0]}
        assert (store.published_folder(STAGE.id) / "who").read_text() == str(winners[0])
        left = [path.name for path in store.paths.stage(STAGE.id).rglob("*") if "published" not in path.parts]
        assert left in ([], ["attempts"])
        os.rename(store.paths.stage(STAGE.id), store.root / f"done-{time.time_ns()}")


def test_publishing_returns_false_if_the_winner_removed_the_attempts_folder(store: Store) -> None:
    late = store.attempt(STAGE.id)
    publish(store, STAGE)
    assert not late.folder.exists()
    late.log_metrics({"step": 2})
    assert not late.publish(kind="tokenizer", label="", recipe={}, canonical={}, parents=(), metrics={})


def test_a_full_disk_publishes_nothing_and_does_not_change_finished_stages(store: Store) -> None:
    other = fake_stage("other")
    publish(store, other)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot be written.*Free space.*finished stages are untouched"):
            publish(store, STAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not store.has(STAGE.id)
    assert store.record(other.id).label == "other"
    assert publish(store, STAGE)


# -- damaged and edited files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:-20], "was changed after it was written"),
        (lambda text: text.replace('"loss_nats": 5.0', '"loss_nats": 4.0'), "was changed after it was written"),
        (without_seal, "was changed after it was written"),
        (lambda text: "\x00\xff", "was changed after it was written"),
        (lambda text: edited(text, STAGE.id, "0" * 16), "expected the record of stage .*, got that of 0000000000000000"),
        (lambda text: edited(text, '"metrics":', '"numbers":'), "damaged .metrics: Field required"),
        (
            lambda text: edited(text, '"attempt": "', '"attempt": 7, "more": "'),
            "damaged .attempt: Input should be a valid string",
        ),
    ],
)
def test_a_record_edited_by_hand_is_rejected_by_path(store: Store, edit: object, message: str) -> None:
    publish(store, STAGE)
    path = store.paths.record(STAGE.id)
    path.write_text(edit(path.read_text()))  # type: ignore[operator]
    with pytest.raises(StoreError, match=message) as caught:
        store.record(STAGE.id)
    assert str(path) in str(caught.value)


def test_all_stages_may_lie_on_another_disk(store: Store, tmp_path: Path) -> None:
    publish(store, STAGE)
    store.paths.stages.rename(tmp_path / "disk")
    store.paths.stages.symlink_to(tmp_path / "disk")
    assert list(store.stage_ids()) == [STAGE.id]
    assert store.record(STAGE.id).metrics == {"loss_nats": 5.0}


def test_a_missing_published_file_is_reported(store: Store) -> None:
    publish(store, STAGE)
    (store.published_folder(STAGE.id) / "checkpoint" / "weights").unlink()
    with pytest.raises(StoreError, match=r"checkpoint/weights: expected 4 bytes, as .*record\.json lists, got no file"):
        store.record(STAGE.id)


def test_a_damaged_recipe_is_reported_with_a_fix(store: Store) -> None:
    store.request(STAGE)
    store.paths.recipe(STAGE.id).write_text("{")
    with pytest.raises(StoreError, match=r"recipe.json: damaged.*run the study again"):
        store.requested(STAGE.id)
    with pytest.raises(StoreError, match="never requested"):
        store.requested(fake_stage("other").id)


# -- metrics and checkpoints of attempts ------------------------------------------------------------------------------


def test_an_incomplete_last_line_of_metrics_is_skipped_but_another_damaged_line_is_an_error(store: Store) -> None:
    attempt = store.attempt(STAGE.id)
    for step in (1, 2):
        attempt.log_metrics({"step": step})
    path = attempt.result / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    path.write_text('{"st\n' + whole)
    with pytest.raises(StoreError, match=r"metrics.jsonl:1: damaged"):
        list(read_metrics(path))


def test_a_later_attempt_continues_the_metrics_of_a_previous_one(store: Store) -> None:
    attempts = [store.attempt(STAGE.id) for _ in range(3)]
    for attempt in attempts:
        attempt.checkpoints.mkdir()
        for step in (10, 20, 30):
            attempt.log_metrics({"step": step})
        attempt.close()
    previous = store.previous_attempts(STAGE.id)
    assert previous == [attempt.folder for attempt in reversed(attempts)]
    later = store.attempt(STAGE.id)
    later.take_over_metrics(previous[0], until_step=20)
    later.log_metrics({"step": 30})
    later.publish(kind="tokenizer", label="", recipe={}, canonical={}, parents=(), metrics={})
    lines = list(read_metrics(store.published_folder(STAGE.id) / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [10, 20, 30]


def test_publication_clears_the_previous_failure(store: Store) -> None:
    store.report_failure(STAGE.id, {"cause": "out of memory"})
    assert store.failure(STAGE.id) == {"cause": "out of memory"}
    publish(store, STAGE)
    assert store.failure(STAGE.id) is None


# -- size -------------------------------------------------------------------------------------------------------------


def test_reading_a_record_opens_one_file_and_costs_the_same_for_any_number_of_records(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in function calls; `benchmarks/records.py` measures seconds for ten thousand records."""
    publish(store, STAGE)
    ids = [f"{number:016x}" for number in range(200)]
    text = store.paths.record(STAGE.id).read_text()
    folder = store.published_folder(STAGE.id)
    for copy_id in ids:
        (store.paths.published(copy_id) / "checkpoint").mkdir(parents=True)
        store.paths.record(copy_id).write_bytes(resealed(text.replace(STAGE.id, copy_id)))
        for name in ("checkpoint/weights", "metrics.jsonl"):
            os.link(folder / name, store.paths.published(copy_id) / name)
    opened: list[str] = []
    real = Path.open

    def noted(path: Path, *arguments: Any, **options: Any) -> IO[Any]:
        opened.append(str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", noted)
    assert len(store.published(ids)) == len(ids)
    assert opened == []
    assert len(store.records(ids)) == len(ids)
    assert sorted(opened) == sorted(str(store.paths.record(copy_id)) for copy_id in ids)
    few, many = (num_calls(functools.partial(store.records, ids[:number])) for number in (100, 200))
    assert many < 2.1 * few
    assert few / 100 < 500


def test_many_commands_that_create_a_store_at_once_make_one_store(tmp_path: Path) -> None:
    for number in range(20):
        root = tmp_path / f"store-{number}"
        with ThreadPoolExecutor(8) as pool:
            stores = list(pool.map(lambda _, root=root: Store.open(root, create=True), range(8)))
        assert {store.root for store in stores} == {root}
