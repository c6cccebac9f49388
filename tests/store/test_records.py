"""Stages on disk: asked for once, published once, refused when they are not what they say."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

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


def test_a_store_is_made_only_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere: no store here.*--store"):
        Store.open(tmp_path / "nowhere")
    Store.open(tmp_path / "here", create=True)
    assert Store.open(tmp_path / "here").root == tmp_path / "here"


def test_a_folder_with_other_files_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match="a folder with other files"):
        Store.open(tmp_path, create=True)


@pytest.mark.parametrize(("text", "message"), [("", "damaged"), ("[]", "damaged"), ('{"schema": 99}', "schema 99")])
def test_a_store_of_another_schema_is_refused(store: Store, text: str, message: str) -> None:
    store.paths.schema.write_text(text)
    with pytest.raises(StoreError, match=message):
        Store.open(store.root)


def test_a_store_that_cannot_be_written_says_which_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/store.*cannot be written.*--store"):
        Store.open(tmp_path / "file" / "store", create=True)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_can_be_read_and_not_run_in(store: Store) -> None:
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
    assert reading.former_attempts(STAGE.id) == []
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


@pytest.mark.parametrize("name", ["", "..", "a/b", "a..b", ".hidden", "-rf", "two words", "naïve", "a\nb", "it's"])
def test_names_that_are_no_single_plain_folder_are_refused(store: Store, name: str) -> None:
    for path_of in (store.paths.stage, store.paths.study, store.paths.job):
        with pytest.raises(StoreError, match="allowed are letters"):
            path_of(name)


# -- asking for a stage -----------------------------------------------------------------------------------------------


def test_a_stage_is_asked_for_once_and_again_without_harm(store: Store) -> None:
    state = code_branch(trunk(), 30).state()
    stage = Stage(id=stage_id(state), label="branch", recipe=state, parents=(STAGE.id,), role="midtrain")
    store.request(stage)
    written = store.paths.recipe(stage.id).stat().st_mtime_ns
    store.request(stage)
    assert store.paths.recipe(stage.id).stat().st_mtime_ns == written
    asked = store.requested(stage.id)
    assert (asked["kind"], asked["label"], asked["parents"]) == ("state", "branch", [STAGE.id])
    assert asked["canonical"] == stage.canonical_form
    assert asked["recipe"] == stage.expanded_form


def test_another_recipe_under_the_same_id_is_an_error_that_names_the_field(store: Store) -> None:
    store.request(STAGE)
    path = store.paths.recipe(STAGE.id)
    path.write_text(path.read_text().replace('"vocab_size": 512', '"vocab_size": 513'))
    with pytest.raises(RecipeMismatchError, match="vocab_size: found 513, asked for 512"):
        store.request(STAGE)


def test_a_record_of_another_recipe_is_an_error_that_names_the_field(store: Store) -> None:
    publish(store, STAGE)
    store.verify(STAGE)
    path = store.paths.record(STAGE.id)
    path.write_bytes(resealed(path.read_text().replace('"vocab_size": 512', '"vocab_size": 513')))
    with pytest.raises(RecipeMismatchError, match="vocab_size: found 513, asked for 512"):
        store.verify(STAGE)


def without_seal(text: str) -> str:
    """A record whose last line holds no digest of it."""
    fields = json.loads(text)
    del fields["sha256"]
    return json.dumps(fields, indent=1)


def resealed(text: str) -> bytes:
    """An edited record that says of itself that it was published like this."""
    fields = json.loads(text)
    del fields["sha256"]
    return sealed(fields)


# -- publishing -------------------------------------------------------------------------------------------------------


def test_what_is_published_is_a_record_with_its_files_environment_and_times(store: Store) -> None:
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


def test_of_racing_attempts_exactly_one_is_published_and_the_others_leave_nothing(store: Store) -> None:
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


def test_an_attempt_whose_folder_the_winner_took_away_has_lost_and_not_failed(store: Store) -> None:
    late = store.attempt(STAGE.id)
    publish(store, STAGE)
    assert not late.folder.exists()
    late.log_metrics({"step": 2})
    assert not late.publish(kind="tokenizer", label="", recipe={}, canonical={}, parents=(), metrics={})


def test_a_full_disk_publishes_nothing_and_leaves_finished_stages_alone(store: Store) -> None:
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
        (lambda text: text[:-20], "damaged"),
        (lambda text: text.replace(STAGE.id, "0" * 16), "record of stage 0000000000000000"),
        (without_seal, "not the text that was published"),
        (lambda text: text.replace('"metrics":', '"numbers":'), "missing or unknown fields: metrics, numbers"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "record of schema 2"),
        (lambda text: text.replace('"loss_nats": 5.0', '"loss_nats": 4.0'), "not the text that was published"),
        (lambda text: text.replace('"metrics": {', '"metrics": [{').replace("},", "}],", 1), "damaged"),
        (lambda text: text.replace('"loss_nats": 5.0', '"loss_nats": NaN'), "NaN is no JSON"),
        (lambda text: "\x00\xff", "damaged"),
        (lambda text: "[" * 1_000_000, "nested too deeply"),
    ],
)
def test_a_record_edited_by_hand_is_refused_by_name(store: Store, edit: object, message: str) -> None:
    publish(store, STAGE)
    path = store.paths.record(STAGE.id)
    path.write_text(edit(path.read_text()))  # type: ignore[operator]
    with pytest.raises(StoreError, match=message) as caught:
        store.record(STAGE.id)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["../recipe.json", "/etc/passwd", "checkpoint/../../recipe.json", "a//b", ""])
def test_a_record_lists_files_of_its_own_folder_alone(store: Store, name: str) -> None:
    publish(store, STAGE)
    path = store.paths.record(STAGE.id)
    path.write_bytes(resealed(path.read_text().replace("checkpoint/weights", name)))
    with pytest.raises(StoreError, match="allowed are paths inside"):
        store.record(STAGE.id)


@pytest.mark.parametrize("place", ["published/checkpoint/weights", "published/checkpoint", "published", ""])
def test_a_link_out_of_the_store_is_no_published_file(store: Store, tmp_path: Path, place: str) -> None:
    publish(store, STAGE)
    inside = store.paths.stage(STAGE.id) / place
    outside = tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(StoreError, match=r"a symbolic link to .*outside, which is outside of .*stages"):
        store.record(STAGE.id)


def test_all_stages_may_lie_on_another_disk(store: Store, tmp_path: Path) -> None:
    publish(store, STAGE)
    store.paths.stages.rename(tmp_path / "disk")
    store.paths.stages.symlink_to(tmp_path / "disk")
    assert list(store.stage_ids()) == [STAGE.id]
    assert store.record(STAGE.id).metrics == {"loss_nats": 5.0}


def test_a_published_file_that_is_gone_is_noticed(store: Store) -> None:
    publish(store, STAGE)
    (store.published_folder(STAGE.id) / "checkpoint" / "weights").unlink()
    with pytest.raises(StoreError, match=r"checkpoint/weights: found no file"):
        store.record(STAGE.id)


def test_a_damaged_recipe_says_what_to_do(store: Store) -> None:
    store.request(STAGE)
    store.paths.recipe(STAGE.id).write_text("{")
    with pytest.raises(StoreError, match=r"recipe.json: damaged.*run the study again"):
        store.requested(STAGE.id)
    with pytest.raises(StoreError, match="never asked for"):
        store.requested(fake_stage("other").id)


# -- metrics and checkpoints of attempts ------------------------------------------------------------------------------


def test_a_torn_last_line_of_metrics_is_left_out_and_a_damaged_one_before_it_is_an_error(store: Store) -> None:
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


def test_a_later_attempt_finds_the_checkpoints_before_it_and_goes_on_with_their_curve(store: Store) -> None:
    attempts = [store.attempt(STAGE.id) for _ in range(3)]
    for attempt in attempts:
        attempt.checkpoints.mkdir()
        for step in (10, 20, 30):
            attempt.log_metrics({"step": step})
        attempt.close()
    found = store.former_attempts(STAGE.id)
    assert found == [attempt.folder for attempt in reversed(attempts)]
    later = store.attempt(STAGE.id)
    later.take_over_metrics(found[0], until_step=20)
    later.log_metrics({"step": 30})
    later.publish(kind="tokenizer", label="", recipe={}, canonical={}, parents=(), metrics={})
    lines = list(read_metrics(store.published_folder(STAGE.id) / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [10, 20, 30]


def test_publication_ends_the_failure_before_it(store: Store) -> None:
    store.report_failure(STAGE.id, {"cause": "out of memory"})
    assert store.failure(STAGE.id) == {"cause": "out of memory"}
    publish(store, STAGE)
    assert store.failure(STAGE.id) is None


# -- size -------------------------------------------------------------------------------------------------------------


def test_a_record_is_read_with_one_file_opened_and_no_more_work_however_many_there_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in function calls; `benchmarks/records.py` measures seconds for ten thousand records."""
    publish(store, STAGE)
    ids = [f"{number:016x}" for number in range(200)]
    text = store.paths.record(STAGE.id).read_text()
    folder = store.published_folder(STAGE.id)
    for identity in ids:
        (store.paths.published(identity) / "checkpoint").mkdir(parents=True)
        store.paths.record(identity).write_bytes(resealed(text.replace(STAGE.id, identity)))
        for name in ("checkpoint/weights", "metrics.jsonl"):
            os.link(folder / name, store.paths.published(identity) / name)
    opened: list[str] = []
    real = os.open

    def noted(path: str, *arguments: Any, **options: Any) -> int:
        opened.append(str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", noted)
    assert len(store.published(ids)) == len(ids)
    assert opened == []
    assert len(store.records(ids)) == len(ids)
    assert sorted(opened) == sorted(str(store.paths.record(one)) for one in ids)
    few, many = (num_calls(functools.partial(store.records, ids[:number])) for number in (100, 200))
    assert many < 2.1 * few
    assert few / 100 < 500


def test_many_first_commands_at_once_make_one_store(tmp_path: Path) -> None:
    for number in range(20):
        root = tmp_path / f"store-{number}"
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _, root=root: Store.open(root, create=True), range(8)))
        assert {one.root for one in made} == {root}
