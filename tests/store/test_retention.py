"""Retention: the studies' graph decides what is kept; old checkpoints and leftovers go; files in use are not touched."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from builders.decided_study import RATES, decided_study
from builders.small_study import plan_in, small_study

from midstudy.cli.main import main
from midstudy.execute.stage import StoppedError, execute_stage
from midstudy.files.errors import StoreError
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import Plan
from midstudy.recipe import Study, WarmupStableDecay
from midstudy.recipe.stage import Stage
from midstudy.run.study import Place, begin, plan_experiment
from midstudy.store import retention
from midstudy.store.leftovers import is_alive
from midstudy.store.retention import Item, Retention
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze, load
from midstudy.train.placement import Placement
from midstudy.train.rolling import latest_valid


def request(store: Store, study: Study) -> Plan:
    """Freeze a study as `run` does, without running it."""
    plan = plan_in(store, study)
    for stage in plan.missing:
        store.request(stage)
    freeze(store, manifest_of(plan, command="midstudy run small.py"))
    return plan


def make(store: Store, stage: Stage, should_stop: Callable[[], bool] = lambda: False) -> None:
    execute_stage(
        store, stage.id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer, should_stop=should_stop
    )


@dataclass
class Made:
    store: Store
    plan: Plan

    def stage_id(self, label: str) -> str:
        return next(stage.id for stage in self.plan.stages.values() if stage.label == label)


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    store = Store.open(tmp_path_factory.mktemp("finished") / "store", create=True)
    plan = request(store, small_study(text, starts=(3, 7), tasks=("code_task", "word_task")))
    for stage in plan.missing:
        make(store, stage)
    return Made(store, plan)


@pytest.fixture
def copy(finished: Made, tmp_path: Path) -> Made:
    """Return a copy of the finished store that a test may change."""
    shutil.copytree(finished.store.root, tmp_path / "store")
    return Made(Store.open(tmp_path / "store"), finished.plan)


def resume_point(attempts: list[Path]) -> Path | None:
    return latest_valid(*(attempt / "checkpoints" for attempt in attempts))


def survey(store: Store, *, live: tuple[str, ...] = (), unreferenced: bool = False) -> Retention:
    return retention.survey(store, live_stages=live, resume_point=resume_point, unreferenced=unreferenced)


def free(store: Store, items: list[Item], *, live: tuple[str, ...] = ()) -> list[Item]:
    return retention.free(store, items, live_stages=lambda: live)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def published(store: Store) -> dict[str, bytes]:
    return {name: content for name, content in files(store.paths.stages).items() if "/published/" in name}


def unpublish(made: Made, *labels: str) -> None:
    for label in labels:
        shutil.rmtree(made.store.paths.published(made.stage_id(label)))


BRANCH = "midtrain nano code50@3 seed 0 to step 12"


@pytest.fixture
def interrupted(copy: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Return a store whose branch from step 3 to 12 stopped at step 7, with rolling checkpoints at steps 6 and 7."""
    monkeypatch.setattr("midstudy.execute.state.ROLLING_INTERVAL_S", 0.0)
    monkeypatch.setattr("midstudy.execute.state.ROLLING_MOST_OF_TIME", math.inf)
    unpublish(copy, BRANCH)
    polls = iter([False] * 8 + [True])  # polled twice per step
    with pytest.raises(StoppedError, match="stopped at step 7"):
        make(copy.store, copy.plan.stages[copy.stage_id(BRANCH)], lambda: next(polls))
    return copy


# -- what is kept, and why---------------------------------------------------------------------------------------------


def test_everything_of_a_finished_study_is_kept_with_a_reason(finished: Made) -> None:
    retained = survey(finished.store)
    assert retained.free == []
    why = {item.detail.partition(";")[0]: item.reason for item in retained.kept}
    assert why["pretrain nano seed 0 to step 3"] == why["pretrain nano seed 0 to step 7"] == "branch point of 1 branch"
    for label in ("pretrain nano seed 0 to step 12", BRANCH, "midtrain nano code50@7 seed 0 to step 12"):
        assert why[label] == "start of 2 fine-tuning runs"
    assert why["sft nano code50@3 → code_task, trunk 0, SFT 7"] == "final state of 1 arm"
    assert why["tokens general"] == "tokens: read by training and evaluation"
    assert why["token counts general"] == "counts: read by the tables"
    assert why["evaluate pretrain nano seed 0 to step 12 on general test"] == "evaluation: read by the tables"
    detail = next(item.detail for item in retained.kept if item.detail.startswith("pretrain nano seed 0 to step 3"))
    assert detail == "pretrain nano seed 0 to step 3; milestone: training continues from here"


def test_every_byte_of_the_store_is_counted_once(interrupted: Made) -> None:
    retained = survey(interrupted.store)
    assert sum(item.num_bytes for item in (*retained.free, *retained.kept)) == sum(
        map(len, files(interrupted.store.root).values())
    )
    paths = [item.path for item in (*retained.free, *retained.kept)]
    assert len(set(paths)) == len(paths)


def test_the_end_of_a_constant_rate_is_kept_for_longer_runs(text: Path, tmp_path: Path) -> None:
    schedule = WarmupStableDecay(peak_lr=3e-3, floor_lr=0.0, warmup_steps=2, decay_steps=4, total_steps=12)
    store = Store.open(tmp_path / "store", create=True)
    for stage in request(store, small_study(text, starts=(), schedule=schedule)).missing:
        make(store, stage)
    why = {item.detail.partition(";")[0]: item.reason for item in survey(store).kept}
    assert why["pretrain nano seed 0 to step 8"] == "end of a constant learning rate: longer runs start here"
    assert why["pretrain nano seed 0 to step 12"] == "start of 1 fine-tuning run"


# -- what is removed --------------------------------------------------------------------------------------------------


def test_the_newest_complete_checkpoint_of_an_unfinished_stage_is_kept_and_resumed_from(
    interrupted: Made, finished: Made
) -> None:
    store, stage_id = interrupted.store, interrupted.stage_id(BRANCH)
    (attempt,) = store.previous_attempts(stage_id)
    assert sorted(path.name for path in (attempt / "checkpoints").iterdir()) == ["step-00000006", "step-00000007"]
    retained = survey(store)
    assert [(item.reason, item.path.name) for item in retained.free] == [
        ("rolling checkpoints that are not resumed from", "step-00000006")
    ]
    kept = next(item for item in retained.kept if item.reason == "resume points of unfinished stages")
    assert kept.detail == f"{BRANCH}, step-00000007"
    assert free(store, retained.free) == retained.free
    assert survey(store).free == []
    make(store, interrupted.plan.stages[stage_id])
    assert store.record(stage_id).metrics["resumed_at_step"] == 7
    name = f"{stage_id}/published/checkpoint/model.safetensors"
    assert published(store)[name] == published(finished.store)[name]


def test_if_the_newest_checkpoint_is_damaged_the_previous_one_is_kept(interrupted: Made) -> None:
    (attempt,) = interrupted.store.previous_attempts(interrupted.stage_id(BRANCH))
    with (attempt / "checkpoints" / "step-00000007" / "model.safetensors").open("r+b") as file:
        file.write(b"\xff")
    retained = survey(interrupted.store)
    assert [item.path.name for item in retained.free] == ["step-00000007"]
    assert [item.path.name for item in retained.kept if item.reason.startswith("resume points")] == ["step-00000006"]


def test_leftovers_of_killed_processes_are_removed_but_recent_temporary_files_are_kept(interrupted: Made) -> None:
    store, stage_id = interrupted.store, interrupted.stage_id(BRANCH)
    (attempt,) = store.previous_attempts(stage_id)
    old = time.time() - 7200
    left = [attempt / "checkpoints" / ".step-00000008.1a2b.tmp", attempt / "result" / ".checkpoint.1a2b.tmp"]
    left += [store.paths.stage(stage_id) / ".attempts-1a2b3c4d", store.paths.attempts(stage_id) / ".removed.1a2b.tmp"]
    for folder in left:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"\0" * 1000)
    for name in (".recipe.json.0123456789abcdef0123456789abcdef", ".recipe.json.new"):
        (store.paths.stage(stage_id) / name).write_text("{")
    os.utime(store.paths.stage(stage_id) / ".recipe.json.0123456789abcdef0123456789abcdef", (old, old))
    left.append(store.paths.stage(stage_id) / ".recipe.json.0123456789abcdef0123456789abcdef")
    retained = [item for item in survey(store).free if item.reason == "half-written by killed jobs"]
    assert {item.path for item in retained} == set(left)
    assert len(free(store, retained)) == len(left)
    assert not any(path.exists() for path in left)
    assert (store.paths.stage(stage_id) / ".recipe.json.new").exists()


def test_attempts_at_a_finished_stage_are_removed_and_its_record_is_kept(copy: Made) -> None:
    store, stage_id = copy.store, copy.stage_id(BRANCH)
    before = published(store)
    attempt = store.attempt(stage_id)
    (attempt.checkpoints / "step-00000005").mkdir(parents=True)
    attempt.close()
    retained = survey(store)
    assert [(item.reason, item.path) for item in retained.free] == [("attempts at finished stages", attempt.folder)]
    free(store, retained.free)
    assert not attempt.folder.exists()
    assert published(store) == before


def test_stages_that_no_study_uses_any_more_are_removed_only_on_request(copy: Made, text: Path) -> None:
    store, before = copy.store, published(copy.store)
    smaller = request(store, small_study(text, starts=(3,), tasks=("code_task",)))
    reason = "finished, but no study uses it any more"
    retained = survey(store)
    assert retained.free == []
    dropped = {item.stage for item in retained.kept if item.reason == reason}
    # Everything that is not in the smaller study, except the trunk at step 7: its step 12 was trained from there.
    assert dropped == set(copy.plan.stages) - set(smaller.stages) - {copy.stage_id("pretrain nano seed 0 to step 7")}
    assert all(item.remake_s and item.remake_s > 0 for item in retained.kept if item.reason == reason)
    retained = survey(store, unreferenced=True)
    assert {item.stage for item in retained.free} == dropped
    free(store, retained.free)
    assert {name for name in before if name.split("/")[0] not in dropped} == set(published(store))
    request(store, small_study(text, starts=(3, 7), tasks=("code_task", "word_task")))
    for stage in copy.plan.stages.values():
        make(store, stage)
    weights = [name for name in before if name.endswith(".safetensors")]
    assert {name: published(store)[name] for name in weights} == {name: before[name] for name in weights}


def test_a_stage_of_two_studies_is_kept_while_one_of_them_uses_it(copy: Made, text: Path) -> None:
    freeze(copy.store, dataclasses.replace(load(copy.store, "small"), name="other"))
    request(copy.store, small_study(text, starts=(), tasks=("code_task",)))
    assert survey(copy.store, unreferenced=True).free == []


# -- candidates of decisions ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_decided(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    store = Store.open(tmp_path_factory.mktemp("decided") / "store", create=True)
    plan = request(store, decided_study(text))
    for stage in plan.missing:
        make(store, stage)
    return Made(store, plan)


@pytest.fixture
def decided(all_decided: Made, tmp_path: Path) -> Made:
    shutil.copytree(all_decided.store.root, tmp_path / "store")
    return Made(Store.open(tmp_path / "store"), all_decided.plan)


def candidates(made: Made) -> set[str]:
    return {option.state_id for choice in made.plan.study.choices for option in choice.options}


def test_judged_candidates_are_freed_only_on_request_and_the_study_stays_finished(decided: Made, text: Path) -> None:
    store, before = decided.store, published(decided.store)
    kept = {item.stage: item.reason for item in survey(store).kept}
    assert {stage for stage, reason in kept.items() if reason == "candidates of finished decisions"} == candidates(decided)
    assert {kept[choice.id] for choice in decided.plan.study.choices} == {"decision: the outcome of a choice"}
    assert survey(store).free == []
    retained = survey(store, unreferenced=True)
    assert {item.stage for item in retained.free} == candidates(decided)
    assert len(free(store, retained.free)) == len(candidates(decided))
    assert {name for name in before if name.split("/")[0] not in candidates(decided)} == set(published(store))
    # What is left is a finished study: for the manifest, which `status` and `retry` read, and for the next plan.
    manifest = load(store, "decided")
    assert store.published(manifest.stages) == set(manifest.stages)
    assert manifest.steps.planned == manifest.steps.lower_bound == decided.plan.total_steps - 4 * 4
    again = request(store, decided_study(text))
    assert again.missing == []
    assert again.total_steps == again.lower_bound_steps == manifest.steps.planned
    assert survey(store, unreferenced=True).free == []


def test_another_seed_of_a_cleaned_study_trains_with_the_recorded_outcome(decided: Made, text: Path) -> None:
    free(decided.store, survey(decided.store, unreferenced=True).free)
    larger = request(decided.store, decided_study(text, seeds=(0, 1, 2)))
    assert not {stage.id for stage in larger.missing} & candidates(decided)
    for stage in larger.missing:
        make(decided.store, stage)
    assert decided.store.published(larger.stages) == set(larger.stages)


def test_candidates_are_kept_until_every_decision_about_them_is_made(decided: Made) -> None:
    choice = decided.plan.study.choices[0]
    shutil.rmtree(decided.store.paths.published(choice.id))
    open_ones = {option.state_id for option in choice.options}
    assert {item.stage for item in survey(decided.store, unreferenced=True).free} == candidates(decided) - open_ones


def test_a_candidate_that_another_study_measures_is_kept(decided: Made, text: Path) -> None:
    """A study at one fixed rate has the candidates with that rate as arms."""
    request(decided.store, decided_study(text))
    plain = decided_study(text, rates=(RATES[0],), seeds=(0,))
    request(decided.store, dataclasses.replace(plain, name="plain"))
    shared = {arm.final_state.id for arm in plain.arms}
    assert shared < candidates(decided)
    assert {item.stage for item in survey(decided.store, unreferenced=True).free} == candidates(decided) - shared


# -- beside running jobs ----------------------------------------------------------------------------------------------


def test_a_stage_in_a_running_job_is_not_touched(interrupted: Made) -> None:
    stage_id = interrupted.stage_id(BRANCH)
    before = files(interrupted.store.root)
    retained = survey(interrupted.store, live=(stage_id,))
    assert retained.free == []
    assert "in use by a running job" in [item.reason for item in retained.kept if item.stage == stage_id]
    # The job starts after the survey:
    assert free(interrupted.store, survey(interrupted.store).free, live=(stage_id,)) == []
    assert files(interrupted.store.root) == before


def test_a_running_attempt_is_not_touched_even_without_a_known_job(copy: Made) -> None:
    store, stage_id = copy.store, copy.stage_id(BRANCH)
    unpublish(copy, BRANCH)
    attempt = store.attempt(stage_id)
    (attempt.checkpoints / ".step-00000004.tmp").mkdir(parents=True)
    (attempt.checkpoints / "step-00000003").mkdir()
    retained = survey(store)
    assert retained.free == []
    assert [item.path for item in retained.kept if item.reason == "in use by a running attempt"] == [attempt.folder]
    attempt.close()
    retained = survey(store)
    assert {item.path.name for item in retained.free} == {".step-00000004.tmp", "step-00000003"}


def test_a_stage_that_a_study_starts_to_use_after_the_survey_is_kept(copy: Made, text: Path) -> None:
    whole = load(copy.store, "small")
    request(copy.store, small_study(text, starts=(), tasks=("code_task",)))
    retained = survey(copy.store, unreferenced=True)
    assert retained.free
    freeze(copy.store, whole)
    assert free(copy.store, retained.free) == []


def test_ancestors_of_a_running_job_are_kept_even_if_its_study_shrinks(copy: Made, text: Path) -> None:
    unpublish(copy, "sft nano code50@7 → word_task, trunk 0, SFT 7")
    request(copy.store, small_study(text, starts=(), tasks=("code_task",)))
    branch = copy.stage_id("midtrain nano code50@7 seed 0 to step 12")
    assert branch in {item.stage for item in survey(copy.store, unreferenced=True).free}
    live = (copy.stage_id("sft nano code50@7 → word_task, trunk 0, SFT 7"),)
    assert branch not in {item.stage for item in survey(copy.store, live=live, unreferenced=True).free}
    free(copy.store, survey(copy.store, unreferenced=True).free, live=live)
    assert copy.store.has(branch)


def test_a_stage_that_only_a_record_names_as_a_parent_is_kept(copy: Made, text: Path) -> None:
    """The manifest says step 12 continues from step 7; only the record of step 7 knows its own parents."""
    asked = request(copy.store, small_study(text, starts=(), tasks=("code_task",)))
    at_3, at_7, at_12 = (copy.stage_id(f"pretrain nano seed 0 to step {step}") for step in (3, 7, 12))
    assert asked.stages[at_12].start_from == at_7
    assert not {at_3, at_7} & asked.stages.keys()
    assert not any(at_3 in stage.parents for stage in asked.stages.values())
    assert at_3 in copy.store.record(at_7).parents
    retained = survey(copy.store, unreferenced=True)
    assert not {at_3, at_7} & {item.stage for item in retained.free}
    free(copy.store, retained.free)
    assert {item.stage: item.reason for item in survey(copy.store).kept}[at_3] == "parent of a stage that a study uses"


def test_two_concurrent_cleanings_remove_each_item_once(interrupted: Made) -> None:
    store, stage_id = interrupted.store, interrupted.stage_id(BRANCH)
    (attempt,) = store.previous_attempts(stage_id)
    for number in range(300):
        folder = attempt / "checkpoints" / f".step-{number}.tmp"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"\0")
    retained = survey(store).free
    assert len(retained) == 301
    barrier = threading.Barrier(2)

    def free_all() -> int:
        barrier.wait()
        return len(free(Store(store.root), retained))

    with ThreadPoolExecutor(2) as threads:
        cleaners = [threads.submit(free_all) for _ in range(2)]
        assert sum(cleaner.result() for cleaner in cleaners) == len(retained)
    assert sorted(path.name for path in (attempt / "checkpoints").iterdir()) == ["step-00000007"]


def test_cleaning_beside_a_running_study_does_not_change_it(
    text: Path, finished: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clean continuously while every stage is run, stopped once, and resumed."""
    monkeypatch.setattr("midstudy.execute.state.ROLLING_INTERVAL_S", 0.0)
    monkeypatch.setattr("midstudy.execute.state.ROLLING_MOST_OF_TIME", math.inf)
    store = Store.open(tmp_path / "store", create=True)
    plan = request(store, small_study(text, starts=(3, 7), tasks=("code_task",)))
    done, failures, rounds = threading.Event(), [], []

    def clean_continuously() -> None:
        while not done.is_set():
            try:
                free(store, survey(store, unreferenced=True).free)
                rounds.append(1)
            except Exception as error:
                failures.append(error)
                return

    cleaner = threading.Thread(target=clean_continuously)
    cleaner.start()
    try:
        for stage in plan.missing:
            if stage.num_steps >= 4:
                polls = iter([False] * 3 + [True])
                with pytest.raises(StoppedError):
                    make(store, stage, lambda polls=polls: next(polls))  # type: ignore[misc]
            make(store, stage)
            if stage.num_steps >= 4:
                assert store.record(stage.id).metrics["recomputed_steps"] == 0
    finally:
        done.set()
        cleaner.join()
    assert failures == []
    assert len(rounds) > 3
    expected = published(finished.store)
    weights = {name: content for name, content in published(store).items() if name.endswith(".safetensors")}
    assert len(weights) >= 8
    assert weights == {name: expected[name] for name in weights}


# -- the next attempt -------------------------------------------------------------------------------------------------


def _dies_in_an_attempt(root: Path, stage_id: str) -> None:
    attempt = Store(root).attempt(stage_id)
    for name in ("step-00000001", "step-00000002", ".step-00000003.tmp"):
        (attempt.checkpoints / name).mkdir(parents=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_new_attempt_removes_leftovers_of_killed_ones_but_keeps_two_checkpoints(copy: Made) -> None:
    store, stage_id = copy.store, copy.stage_id(BRANCH)
    unpublish(copy, BRANCH)
    live = store.attempt(stage_id)
    (live.checkpoints / ".step-00000009.tmp").mkdir(parents=True)
    for _ in range(2):
        dying = multiprocessing.get_context("spawn").Process(target=_dies_in_an_attempt, args=(store.root, stage_id))
        dying.start()
        dying.join()
        assert dying.exitcode == -signal.SIGKILL
    *dead, alive = store.previous_attempts(stage_id)
    assert alive == live.folder
    assert [is_alive(attempt) for attempt in (*dead, alive)] == [False, False, True]
    newest = store.attempt(stage_id)
    names = {attempt: sorted(path.name for path in (attempt / "checkpoints").iterdir()) for attempt in (*dead, alive)}
    assert names[alive] == [".step-00000009.tmp"]
    assert sorted(names[dead[0]] + names[dead[1]]) == ["step-00000002", "step-00000002"]
    live.close()
    newest.discard()


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_only_lists_without_yes_and_removes_with_it(
    interrupted: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    store = interrupted.store
    before = files(store.root)
    assert main(["clean", "--store", str(store.root)]) == 0
    shown = capsys.readouterr().out
    assert "can be freed: 2.0 MB\n        2.0 MB       1  rolling checkpoints that are not resumed from\n" in shown
    assert "branch point of 1 branch" in shown
    assert "1  resume points of unfinished stages" in shown
    assert "nothing was removed: add --yes to free it" in shown
    assert main(["clean", "--store", str(store.root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert files(store.root) == before
    assert [item["path"][-13:] for item in facts["can_be_freed"]] == ["step-00000006"]
    assert facts["freed"] == []
    assert main(["clean", "--store", str(store.root), "--yes"]) == 0
    assert "freed: 2.0 MB" in capsys.readouterr().out
    gone = before.keys() - files(store.root).keys()
    assert gone == {name for name in before if "step-00000006/" in name}


def test_the_command_reports_how_long_unreferenced_stages_took(
    copy: Made, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request(copy.store, small_study(text, starts=(3,), tasks=("code_task",)))
    assert main(["clean", "--store", str(copy.store.root)]) == 0
    shown = capsys.readouterr().out
    assert "finished stages that no study requests any more are kept without --unreferenced; they took" in shown
    assert main(["clean", "--store", str(copy.store.root), "--unreferenced", "--yes"]) == 0
    assert "finished stages that no study requests any more were freed by --unreferenced" in capsys.readouterr().out
    assert survey(copy.store, unreferenced=True).free == []


def test_a_damaged_manifest_stops_the_cleaning(copy: Made, capsys: pytest.CaptureFixture[str]) -> None:
    copy.store.paths.manifest("small").write_text("{")
    before = files(copy.store.root)
    assert main(["clean", "--store", str(copy.store.root), "--yes", "--unreferenced"]) == 2
    assert "manifest.json: damaged" in capsys.readouterr().err
    assert files(copy.store.root) == before


OLD_MANIFEST = {
    "name": "small",
    "question": "Does code help code?",
    "command": "midstudy run small.py --set steps=12",
    "arms": [{"mix": "code", "final_state": "0123456789abcdef", "groups": ["main"]}],
    "stages": {"0123456789abcdef": {"label": "sft", "parents": [], "factors": {"stage_kind": "sft"}}},
}
"""A manifest as version 0.1.0 wrote it, without `schema`."""


def test_with_a_manifest_of_an_earlier_version_nothing_is_freed_until_the_study_is_run_again(
    copy: Made, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, root = copy.store, copy.store.root
    store.paths.manifest("small").write_text(json.dumps(OLD_MANIFEST))
    before = files(root)
    for verb in (
        ["status"],
        ["report"],
        ["clean"],
        ["clean", "--yes", "--unreferenced"],
        ["retry"],
        ["export", "sft", "--to", "hf"],
    ):
        assert main([*verb, "--store", str(root)]) == 2, verb
        said = capsys.readouterr().err
        assert f"{store.paths.manifest('small')}: expected schema 2, got an older one" in said, verb
        assert "Run the study again: midstudy run small.py --set steps=12. Its finished stages are reused." in said, verb
    with pytest.raises(StoreError, match="expected schema 2"):
        free(store, [Item(reason="old", path=store.paths.stage(copy.stage_id(BRANCH)), num_bytes=1)])
    assert files(root) == before

    experiment = tmp_path / "small.py"
    experiment.write_text(
        "from pathlib import Path\nfrom builders.small_study import small_study\n\n"
        "def study(*, data):\n"
        f"    return small_study(Path({str(text)!r}), starts=(3, 7), tasks=('code_task', 'word_task'))\n"
    )
    plan = plan_experiment(str(experiment), store, data=(), settings=())
    assert plan.missing == []
    where = Place(backend="local", placement=Placement(), max_jobs=1)
    begin(root, plan, where, command="midstudy run small.py", max_gpu_hours=None)
    assert main(["status", "--store", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] == len(copy.plan.stages)
    assert survey(store, unreferenced=True).free == []


def test_files_of_other_tools_in_the_store_are_kept(copy: Made) -> None:
    """Hidden folders of a repository, a notebook's checkpoints, a file system's snapshots."""
    store = copy.store
    theirs = [store.root / ".git", store.paths.studies / "small" / ".ipynb_checkpoints", store.root / ".snapshot"]
    for folder in theirs:
        folder.mkdir(parents=True)
        (folder / "file").write_text("mine")
        os.utime(folder / "file", (0, 0))
    free(store, survey(store, unreferenced=True).free)
    assert all((folder / "file").exists() for folder in theirs)
