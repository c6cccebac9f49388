"""MLflow is filled from the store: the same runs and rows however often, whatever was lost on its side."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders.mlflow_database import forget_connections, mlflow_rows, query
from builders.synthetic_study import SFT_STEPS, STEPS, SyntheticStudy, frozen, synthetic_study
from builders.waiting import wait_until

from midstudy.recipe.manifest import ArmEntry
from midstudy.store.attempt import Attempt
from midstudy.store.store import Store
from midstudy.track.client import TrackingError, default_tracking_uri
from midstudy.track.facts import STAGE_ID_TAG, run_names
from midstudy.track.follow import Follower
from midstudy.track.points import CURVE_PREFIX, curve_points, final_metrics
from midstudy.track.sync import sync

STUDY = "synthetic"


@pytest.fixture(scope="module")
def synced_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, synced once, and a copy of it beside it; MLflow's database is slow to create."""
    store = Store.open(tmp_path_factory.mktemp("synced") / "store", create=True)
    frozen(store, synthetic_study(STUDY)).publish_all(store)
    write_report(store)
    report = sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert (report.created, report.unchanged, report.failed_stages) == (1 + len(synthetic_study().stages), 0, 0)
    shutil.copytree(store.root, store.root.with_name("copy"))
    return store.root


@pytest.fixture
def store(synced_store: Path) -> Store:
    """The synced study as it was, where it was: runs name its folders."""
    shutil.rmtree(synced_store)
    forget_connections()
    return Store.open(Path(shutil.copytree(synced_store.with_name("copy"), synced_store)))


def write_report(store: Store, text: str = "Code helps code.") -> None:
    folder = store.paths.study(STUDY)
    (folder / "report" / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "arms.csv").write_text("mix,task\n")
    (folder / "report" / "report.html").write_text(text)
    (folder / "report" / "figures" / "effects.png").write_bytes(b"a picture")


@pytest.fixture
def study() -> SyntheticStudy:
    return synthetic_study(STUDY)


def _query(store: Store, sql: str) -> list[tuple[Any, ...]]:
    return query(store.paths.mlflow / "mlflow.db", sql)


def _rows(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    return mlflow_rows(store.paths.mlflow / "mlflow.db")


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
    stage = f"(SELECT value FROM tags t WHERE t.run_uuid = r.run_uuid AND key = '{STAGE_ID_TAG}')"
    for run_id, stage_id in _query(store, f"SELECT run_uuid, {stage} FROM runs r"):
        if not stage_ids or stage_id in stage_ids:
            client.delete_run(run_id)


def _study_artifacts(store: Store) -> Path:
    [(uri,)] = _query(store, f"SELECT artifact_uri FROM runs WHERE name = '{STUDY}' AND lifecycle_stage = 'active'")
    return Path(uri.removeprefix("file://"))


def _first_sft(study: SyntheticStudy) -> ArmEntry:
    return study.arm(mix="code", task="pycode")


def test_one_run_for_the_study_and_one_per_stage_named_by_what_tells_it_from_others(
    store: Store, study: SyntheticStudy
) -> None:
    runs = {stage: name for stage, name, *_ in _rows(store)["runs"]}
    assert runs.keys() == {f"study {STUDY}", *study.stages}
    arm = _first_sft(study)
    assert runs[arm.state] == "code20@30 → pycode, trunk 0, SFT 0"
    assert runs[study.start_of(arm)] == "code20@30 seed 0 to step 60"
    assert runs[arm.measures["sft_loss"][0]] == "code20@30 → pycode, trunk 0, SFT 0 on pycode test"
    assert all(runs[stage_id] in stage.label for stage_id, stage in study.stages.items()), "midstudy logs finds them"
    assert _query(store, f"SELECT COUNT(*) FROM experiments WHERE name = '{STUDY}'") == [(1,)]


def test_stages_are_nested_below_the_study_and_evaluations_below_their_state(store: Store, study: SyntheticStudy) -> None:
    for stage_id, parent in _rows(store)["nesting"]:
        stage = study.stages[stage_id]
        assert parent == (stage.parents[0] if stage.kind == "evaluation" else f"study {STUDY}")
    assert len(_rows(store)["nesting"]) == len(study.stages)


def test_sft_runs_have_factors_as_parameters_and_losses_as_metrics(store: Store, study: SyntheticStudy) -> None:
    arm = _first_sft(study)
    run = _run(store, arm.state)
    assert run.data.params == {
        "size": "micro", "mix": "code", "weight": "0.2", "start_step": "30", "task": "pycode", "trunk_seed": "0",
        "sft_seed": "0", "step": "80", "model": "micro",
    }  # fmt: skip
    for name, evaluation in (
        ("arm/sft_loss", "sft_loss"),
        ("arm/general_loss", "general_loss"),
        ("arm/sft_loss_before", "sft_loss_before"),
        ("arm/general_loss_before", "general_loss_before"),
    ):
        assert run.data.metrics[name] == store.record(arm.measures[evaluation][0]).metrics["loss_nats"], name
    assert sorted(run.data.metrics)[0] == "arm/general_loss", "the first section of charts is of losses"
    assert run.data.metrics["mix/epochs/general"] == 0.5
    assert run.data.metrics["work/wall_s"] == store.record(arm.state).timing["wall_s"]


def test_tags_say_where_a_run_comes_from(store: Store, study: SyntheticStudy) -> None:
    arm = _first_sft(study)
    record = store.record(arm.state)
    tags = _run(store, arm.state).data.tags
    assert tags["midstudy.parent_state"] == study.start_of(arm)
    assert tags["midstudy.folder"] == str(store.published_folder(arm.state))
    for name in ("host", "torch", "git_commit", "git_dirty"):
        assert tags.get(f"environment.{name}", "None") == str(record.environment[name]), name
    assert tags.get("mlflow.source.git.commit") == record.environment["git_commit"]
    assert _run(store, arm.measures["sft_loss"][0]).data.tags["midstudy.parent_state"] == arm.state


def test_what_was_read_is_a_dataset_of_the_run(store: Store, study: SyntheticStudy) -> None:
    """The digest is that of the split's files, so that one on other text, or of another split, is another data set."""
    arm = _first_sft(study)
    tokens = study.stages[arm.state].parents[1]
    trained, evaluated = (_run(store, one).inputs.dataset_inputs[0] for one in (arm.state, arm.measures["sft_loss"][0]))
    for found, split in ((trained, "train"), (evaluated, "test")):
        sha256 = hashlib.sha256(f"tokens pycode {split}".encode()).hexdigest()
        digest = hashlib.sha256(f"{split}-00000.tokens {sha256}\n".encode()).hexdigest()[:16]
        assert (found.dataset.name, found.dataset.digest) == ("pycode", digest)
        assert json.loads(found.dataset.source) == {"uri": store.published_folder(tokens).as_uri()}
        assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": split}
        assert json.loads(found.dataset.profile) == {
            "split": split,
            "tokens": 4096,
            "documents": 16,
            "text": "wheels:pycode",
        }
    assert _run(store, arm.state).data.tags["midstudy.data.pycode"] == trained.dataset.digest


def test_the_last_states_of_arms_are_models_whose_weights_stay_in_the_store(store: Store, study: SyntheticStudy) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(default_tracking_uri(store))
    models = client.search_logged_models([_run(store, _first_sft(study).state).info.experiment_id])
    by_stage = {model.tags[STAGE_ID_TAG]: model for model in models}
    assert by_stage.keys() == {arm.state for arm in study.manifest.arms}
    arm = _first_sft(study)
    model, run = by_stage[arm.state], _run(store, arm.state)
    assert model.tags["midstudy.checkpoint"] == (store.published_folder(arm.state) / "checkpoint").as_uri()
    assert (model.source_run_id, model.params["mix"], str(model.status)) == (run.info.run_id, "code", "READY")
    assert run.outputs.model_outputs[0].model_id == model.model_id
    losses = {metric.key: metric.value for metric in model.metrics or ()}
    assert losses["arm/sft_loss"] == store.record(arm.measures["sft_loss"][0]).metrics["loss_nats"]


def test_the_report_is_an_artifact_of_the_study_and_a_new_one_replaces_it(store: Store) -> None:
    folder = _study_artifacts(store)
    assert (folder / "report" / "report.html").read_text() == "Code helps code."
    assert (folder / "report" / "figures" / "effects.png").read_bytes() == b"a picture"
    assert (folder / "arms.csv").exists()
    write_report(store, "Code helps code, a little.")
    report = sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert (report.created, report.updated) == (0, 1)
    assert (folder / "report" / "report.html").read_text() == "Code helps code, a little."


def test_runs_can_be_filtered_by_kind_and_name_their_parents(store: Store, study: SyntheticStudy) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(default_tracking_uri(store))
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], filter_string="tags.stage_kind = 'sft'")
    assert {run.data.tags[STAGE_ID_TAG] for run in found} == {arm.state for arm in study.manifest.arms}
    for run in found:
        assert run.data.tags["midstudy.parents"].split(",") == [*study.stages[run.data.tags[STAGE_ID_TAG]].parents]


def test_the_curve_in_mlflow_is_the_published_file(store: Store, study: SyntheticStudy) -> None:
    stage_id = _first_sft(study).state
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
    forget_connections()
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert _rows(store) == before


def test_runs_deleted_in_the_ui_come_back_once(store: Store, study: SyntheticStudy) -> None:
    before = _rows(store)
    _delete_runs(store, [_first_sft(study).state])
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
    assert len(_rows(store)["runs"]) == 9, "which the next sync completes"
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert _rows(store) == whole


def test_a_failed_stage_is_a_failed_run_until_it_is_published(store: Store, study: SyntheticStudy) -> None:
    arm = _first_sft(study)
    whole = _rows(store)
    record = store.paths.published(arm.state)
    record.rename(store.root / "aside")
    failure = {
        "cause": "DivergedError: loss is nan at step 63",
        "log": ["step 62"],
        "time": 1.7e9,
        "retry": "midstudy retry",
    }
    store.report_failure(arm.state, failure)
    report = sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert report.failed_stages == 1
    failed = _run(store, arm.state)
    assert failed.info.status == "FAILED"
    assert "nan at step 63" in failed.data.tags["mlflow.note.content"]

    store.clear_failure(arm.state)
    (store.root / "aside").rename(record)
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert _rows(store) == whole


def test_losses_that_come_later_are_added_to_the_sft_run(store: Store, study: SyntheticStudy) -> None:
    whole = _rows(store)
    arm = _first_sft(study)
    _delete_runs(store, [arm.state, arm.measures["general_loss"][0]])
    store.paths.published(arm.measures["general_loss"][0]).rename(store.root / "aside")
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert "arm/general_loss" not in _run(store, arm.state).data.metrics
    (store.root / "aside").rename(store.paths.published(arm.measures["general_loss"][0]))
    report = sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert (report.created, report.updated) == (1, 2), "the evaluation; its state and the study"
    assert _rows(store) == whole


def test_a_renamed_factor_makes_the_run_again_and_leaves_one(store: Store, study: SyntheticStudy) -> None:
    from midstudy.store.study_manifest import freeze

    arm = _first_sft(study)
    stage = study.stages[arm.state]
    renamed = dataclasses.replace(stage, factors={**stage.factors, "mix": "source code"})
    freeze(store, dataclasses.replace(study.manifest, stages={**study.stages, arm.state: renamed}))
    sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    assert _run(store, arm.state).data.params["mix"] == "source code"


def _log_steps(attempt: Attempt, steps: range) -> None:
    for step in steps:
        attempt.log_metrics({"step": step, "loss_nats": 5.0 - 0.001 * step, "lr": 1e-3})


def test_a_state_that_trains_is_shown_while_it_does_and_ends_as_if_it_had_been_told_at_once(
    store: Store, study: SyntheticStudy
) -> None:
    """A second attempt computes steps again, at other times: what the first was told of them may not stay."""
    stage_id = _first_sft(study).state
    stage = study.stages[stage_id]
    shutil.rmtree(store.paths.published(stage_id))
    tell = partial(sync, store, STUDY, tracking_uri=default_tracking_uri(store))

    first = store.attempt(stage_id)
    _log_steps(first, range(61, 66))
    tell()
    assert _run(store, stage_id).info.status == "RUNNING"
    assert _curve_steps(store, stage_id) == [61, 62, 63, 64, 65]
    assert _study_run(store) == ("RUNNING", f"{len(study.stages) - 1} of {len(study.stages)} finished, 0 failed")

    _log_steps(first, range(66, 71))
    assert tell().points == 2 * 5, "only what is new"
    assert tell().points == 0
    first._lock.close()  # as when its process ends
    tell()
    assert (_run(store, stage_id).info.status, _study_run(store)[0]) == ("SCHEDULED", "SCHEDULED")

    second = store.attempt(stage_id)
    _log_steps(second, range(61, 81))
    tell()
    assert (_run(store, stage_id).info.status, _curve_steps(store, stage_id)) == ("RUNNING", list(range(61, 81)))
    second.publish(
        kind="state", label=stage.label, recipe={}, canonical={}, parents=tuple(stage.parents), metrics={"step": 80}
    )
    tell()
    told_as_it_went = _rows(store)
    assert _run(store, stage_id).info.status == "FINISHED"
    _delete_runs(store)
    tell()
    assert _rows(store) == told_as_it_went


def _curve_steps(store: Store, stage_id: str) -> list[int]:
    return sorted(row[4] for row in _rows(store)["metrics"] if row[:2] == (stage_id, "train/loss_nats"))


def _study_run(store: Store) -> tuple[str, str]:
    """Status of the study's run, and what it says of the stages."""
    [status] = [row[2] for row in _rows(store)["runs"] if row[0] == f"study {STUDY}"]
    [stages] = [row[2] for row in _rows(store)["tags"] if row[1] == "midstudy.stages"]
    return status, stages


def test_a_curve_of_many_batches_that_broke_off_goes_on_where_it_stopped(
    store: Store, study: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    stage_id = _first_sft(study).state
    shutil.rmtree(store.paths.published(stage_id))
    _log_steps(store.attempt(stage_id), range(1, 2001))
    original, calls = MlflowClient.log_batch, 0

    def dies(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        sync(store, STUDY, tracking_uri=default_tracking_uri(store))
    monkeypatch.undo()
    assert 0 < len(_curve_steps(store, stage_id)) < 2000
    assert sync(store, STUDY, tracking_uri=default_tracking_uri(store)).points < 2 * 2000, "not all again"
    assert _curve_steps(store, stage_id) == list(range(1, 2001))


def test_a_store_that_was_moved_is_shown_where_it_is(store: Store) -> None:
    """MLflow cannot move an experiment's artifacts: the old experiment stays among the deleted ones."""
    moved = Store.open(store.root.rename(store.root.with_name("moved")))
    report = sync(moved, STUDY, tracking_uri=default_tracking_uri(moved))
    assert report.unchanged == 0
    assert (moved.paths.mlflow / "artifacts").is_dir()
    artifacts = _study_artifacts(moved)
    assert artifacts.is_relative_to(moved.root)
    assert (artifacts / "report" / "report.html").exists()
    assert not store.root.exists(), "nothing is written where it was"
    moved.root.rename(store.root)


def test_a_database_removed_under_a_follower_is_filled_again(store: Store) -> None:
    """MLflow would go on writing into the removed file."""
    whole = _rows(store)
    lock = store.paths.mlflow / f"{STUDY}.lock"
    lock.unlink()
    with Follower(store, STUDY, every_s=0.2) as follower:
        wait_until(lock.exists)  # syncing has begun
        shutil.rmtree(store.paths.mlflow)
        report = follower.finish()
    assert report.created in (len(whole["runs"]), 0), "by the last sync, or by one before it"
    assert _rows(store) == whole


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


def test_metrics_nested_under_a_data_sets_name_have_names_that_mlflow_accepts() -> None:
    metrics = {"left_out": {"train c++": {"used": 3}}, "train_bytes_by_corpus": {"c++": 20}}
    assert dict(final_metrics(metrics)) == {"left_out/train c__/used": 3, "train_bytes_by_corpus/c__": 20}


def test_two_syncs_at_once_make_each_run_once(store: Store) -> None:
    whole = _rows(store)
    _delete_runs(store)
    command = [sys.executable, "-m", "midstudy.track", str(store.root), STUDY]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    created = [json.loads(process.communicate()[0])["created"] for process in both]
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
    store.paths.published(arm.state).rename(store.root / "aside")
    with Follower(store, STUDY) as follower:
        (store.root / "aside").rename(store.paths.published(arm.state))
        report = follower.finish()
    assert report.created == len(whole["runs"])
    assert _rows(store) == whole


def test_the_follower_says_why_it_failed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    with Follower(store, "nowhere") as follower, pytest.raises(TrackingError, match="nowhere"):
        follower.finish()


def test_runs_are_called_by_what_tells_them_apart_and_numbers_keep_their_names() -> None:
    manifest = synthetic_study(trunk_seeds=2).manifest
    names = {stage.label: run_names(manifest)[stage_id] for stage_id, stage in manifest.stages.items()}
    trunks = {label: name for label, name in names.items() if label.startswith("pretrain")}
    assert len(trunks) >= 2
    assert all(name.startswith("seed ") for name in trunks.values()), trunks
    assert all(name in label for label, name in names.items())


def test_a_run_whose_label_differs_by_a_last_number_keeps_the_word_before_it() -> None:
    """One trunk at several steps: `step 24` and not `24`."""
    manifest = synthetic_study().manifest
    first, *others = [stage_id for stage_id, stage in manifest.stages.items() if stage.role == "data"]
    labels = {first: "mid to step 24", **{other: f"mid to step {30 + number}" for number, other in enumerate(others)}}
    stages = {
        stage_id: dataclasses.replace(stage, label=labels.get(stage_id, stage.label))
        for stage_id, stage in manifest.stages.items()
    }
    names = run_names(dataclasses.replace(manifest, stages=stages))
    assert others
    assert names[first] == "step 24"
