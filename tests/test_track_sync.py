"""MLflow is filled from the store: the same runs and rows however often, whatever was lost on its side."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from synthetic_study import SFT_STEPS, STEPS, SyntheticStudy, frozen, synthetic_study

from midstudy.store.store import Store
from midstudy.track.facts import CURVE_PREFIX, STAGE_ID_TAG, curve_points
from midstudy.track.follow import Follower
from midstudy.track.sync import TrackingError, default_tracking_uri, sync

STUDY = "synthetic"


@pytest.fixture(scope="module")
def synced_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, synced once; MLflow's database is slow to create, so tests copy this one."""
    store = Store.open(tmp_path_factory.mktemp("synced") / "store", create=True)
    frozen(store, synthetic_study(STUDY)).publish_all(store)
    report = sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert (report.created, report.unchanged, report.failed_stages) == (len(synthetic_study().stages), 0, 0)
    return store.root


@pytest.fixture
def store(synced_store: Path, tmp_path: Path) -> Store:
    return Store.open(Path(shutil.copytree(synced_store, tmp_path / "store")))


@pytest.fixture
def study() -> SyntheticStudy:
    return synthetic_study(STUDY)


def _query(store: Store, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{store.paths.mlflow / 'mlflow.db'}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def _rows(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Everything MLflow knows of active runs, keyed by stage instead of MLflow's own random ids."""
    stage = f"(SELECT t.value FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = '{STAGE_ID_TAG}')"
    active = "r.lifecycle_stage = 'active'"
    joined = "JOIN runs r ON r.run_uuid = x.run_uuid WHERE " + active
    return {
        "runs": sorted(_query(store, f"SELECT {stage}, name, status, start_time, end_time FROM runs r WHERE {active}")),
        "metrics": sorted(_query(store, f"SELECT {stage}, x.key, x.value, timestamp, x.step FROM metrics x {joined}")),
        "latest": sorted(_query(store, f"SELECT {stage}, x.key, x.value, x.step FROM latest_metrics x {joined}")),
        "params": sorted(_query(store, f"SELECT {stage}, x.key, x.value FROM params x {joined}")),
        "tags": sorted(_query(store, f"SELECT {stage}, x.key, x.value FROM tags x {joined}")),
    }


def _run(store: Store, stage_id: str) -> Any:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(default_tracking_uri(store))
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], filter_string=f"tags.`{STAGE_ID_TAG}` = '{stage_id}'")
    assert len(runs) == 1, "one run per (study, stage)"
    return runs[0]


def _delete_runs(store: Store, stage_ids: Collection[str] = ()) -> None:
    """Delete the runs of these stages, or all of them, as one does in the UI."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(default_tracking_uri(store))
    tagged = _query(store, f"SELECT run_uuid, value FROM tags WHERE key = '{STAGE_ID_TAG}'")
    for run_id, stage_id in tagged:
        if not stage_ids or stage_id in stage_ids:
            client.delete_run(run_id)


def _first_sft(study: SyntheticStudy) -> dict[str, Any]:
    return next(arm for arm in study.manifest["arms"] if arm["mix"] == "code" and arm["task"] == "pycode")


def test_one_run_per_stage_named_as_the_stage(store: Store, study: SyntheticStudy) -> None:
    runs = {stage: name for stage, name, *_ in _rows(store)["runs"]}
    assert runs == {stage_id: stage["label"] for stage_id, stage in study.stages.items()}
    assert _query(store, f"SELECT COUNT(*) FROM experiments WHERE name = '{STUDY}'") == [(1,)]


def test_sft_runs_have_factors_as_parameters_and_losses_as_metrics(store: Store, study: SyntheticStudy) -> None:
    arm = _first_sft(study)
    run = _run(store, arm["final_state"])
    assert run.data.params == {
        "size": "micro", "mix": "code", "weight": "0.2", "start_step": "30", "task": "pycode", "trunk_seed": "0",
        "sft_seed": "0", "step": "80",
    }  # fmt: skip
    for name, evaluation in (
        ("sft_loss_test", "task_evaluation"),
        ("general_loss_test", "general_evaluation"),
        ("sft_loss_test_before", "task_evaluation_before"),
        ("general_loss_test_before", "general_evaluation_before"),
    ):
        assert run.data.metrics[name] == store.record(arm[evaluation]).metrics["loss_nats"], name


def test_runs_can_be_filtered_by_kind_and_name_their_parents(store: Store, study: SyntheticStudy) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(default_tracking_uri(store))
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], filter_string="tags.stage_kind = 'sft'")
    assert {run.data.tags[STAGE_ID_TAG] for run in found} == {arm["final_state"] for arm in study.manifest["arms"]}
    for run in found:
        assert run.data.tags["midstudy.parents"].split(",") == study.stages[run.data.tags[STAGE_ID_TAG]]["parents"]


def test_the_curve_in_mlflow_is_the_published_file(store: Store, study: SyntheticStudy) -> None:
    stage_id = _first_sft(study)["final_state"]
    lines = [json.loads(line) for line in (store.published_folder(stage_id) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(STEPS + 1, STEPS + SFT_STEPS + 1))
    for name in ("loss_nats", "lr", "grad_norm"):
        rows = [row[2:] for row in _rows(store)["metrics"] if row[:2] == (stage_id, CURVE_PREFIX + name)]
        expected = [(line[name], round(1000 * line["time"]), line["step"]) for line in lines]
        assert sorted(rows, key=lambda row: row[2]) == expected, name


def test_a_second_sync_changes_nothing(store: Store) -> None:
    before = _rows(store)
    report = sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert (report.created, report.updated, report.points) == (0, 0, 0)
    assert report.unchanged == len(before["runs"])
    assert _rows(store) == before


def test_an_emptied_mlflow_is_rebuilt_run_for_run(store: Store) -> None:
    before = _rows(store)
    shutil.rmtree(store.paths.mlflow)
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert _rows(store) == before


def test_runs_deleted_in_the_ui_come_back_once(store: Store, study: SyntheticStudy) -> None:
    before = _rows(store)
    _delete_runs(store, [_first_sft(study)["final_state"]])
    report = sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert report.created == 1
    assert _rows(store) == before


def test_a_deleted_experiment_is_restored(store: Store) -> None:
    from mlflow.tracking import MlflowClient

    before = _rows(store)
    client = MlflowClient(default_tracking_uri(store))
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert _rows(store)["metrics"] == before["metrics"]


@pytest.mark.parametrize("method", ["log_batch", "set_terminated"])
def test_a_sync_that_died_between_two_writes_is_completed(
    synced_store: Path, store: Store, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from mlflow.tracking import MlflowClient

    whole = _rows(store)
    original, calls = getattr(MlflowClient, method), 0

    def dies(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    _delete_runs(store)
    monkeypatch.setattr(MlflowClient, method, dies)
    with pytest.raises(KeyboardInterrupt):
        sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    monkeypatch.undo()
    assert len(_rows(store)["runs"]) == 9
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert _rows(store) == whole


def test_a_failed_stage_is_a_failed_run_until_it_is_published(store: Store, study: SyntheticStudy) -> None:
    arm = _first_sft(study)
    whole = _rows(store)
    record = store.paths.published(arm["final_state"])
    record.rename(store.root / "aside")
    failure = {
        "cause": "DivergedError: loss is nan at step 63",
        "log": ["step 62"],
        "time": 1.7e9,
        "retry": "midstudy retry",
    }
    store.report_failure(arm["final_state"], failure)
    report = sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert report.failed_stages == 1
    failed = _run(store, arm["final_state"])
    assert failed.info.status == "FAILED"
    assert "nan at step 63" in failed.data.tags["mlflow.note.content"]

    store.clear_failure(arm["final_state"])
    (store.root / "aside").rename(record)
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert _rows(store) == whole


def test_losses_that_come_later_are_added_to_the_sft_run(store: Store, study: SyntheticStudy) -> None:
    whole = _rows(store)
    arm = _first_sft(study)
    _delete_runs(store, [arm["final_state"], arm["general_evaluation"]])
    store.paths.published(arm["general_evaluation"]).rename(store.root / "aside")
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert "general_loss_test" not in _run(store, arm["final_state"]).data.metrics
    (store.root / "aside").rename(store.paths.published(arm["general_evaluation"]))
    report = sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert (report.created, report.updated) == (1, 1)
    assert _rows(store) == whole


def test_a_renamed_factor_makes_the_run_anew_and_leaves_no_double(store: Store, study: SyntheticStudy) -> None:
    from midstudy.store.study_manifest import freeze

    arm = _first_sft(study)
    study.stages[arm["final_state"]]["factors"]["mix"] = "source code"
    freeze(store, study.manifest)
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert _run(store, arm["final_state"]).data.params["mix"] == "source code"


def test_a_torn_last_line_is_left_out_and_a_step_computed_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"time": 1.0, "step": 1, "loss_nats": 5.0}\n'
        '{"time": 2.0, "step": 2, "loss_nats": 4.0}\n'
        '{"time": 3.0, "step": 2, "loss_nats": 4.5}\n'
        '{"time": 4.0, "step": 3, "loss_'
    )
    assert [(p.name, p.value, p.time_ms, p.step) for p in curve_points(path)] == [
        ("train/loss_nats", 5.0, 1000, 1),
        ("train/loss_nats", 4.5, 3000, 2),
    ]


def test_two_syncs_at_once_make_each_run_once(store: Store) -> None:
    whole = _rows(store)
    _delete_runs(store)
    command = [sys.executable, "-m", "midstudy.track", str(store.root), STUDY]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    created = [json.loads(process.communicate(timeout=60)[0])["created"] for process in both]
    assert sorted(created) == [0, len(whole["runs"])]
    assert _rows(store) == whole


def test_a_held_lock_is_an_error_that_names_the_file(store: Store) -> None:
    import fcntl

    lock = store.paths.mlflow / f"{STUDY}.lock"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TrackingError, match=f"{STUDY}.lock"):
            sync(store, STUDY, tracking_uri=default_tracking_uri(store), lock_timeout_s=0.2)


def test_the_follower_ends_with_everything_that_was_published_meanwhile(store: Store, study: SyntheticStudy) -> None:
    arm = _first_sft(study)
    whole = _rows(store)
    _delete_runs(store)
    store.paths.published(arm["final_state"]).rename(store.root / "aside")
    with Follower(store, STUDY) as follower:
        (store.root / "aside").rename(store.paths.published(arm["final_state"]))
        report = follower.finish()
    assert report.created == len(whole["runs"])
    assert _rows(store) == whole


def test_the_follower_says_why_it_failed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    with Follower(store, "nowhere") as follower, pytest.raises(TrackingError, match="nowhere"):
        follower.finish()
