"""A study whose lengths are whole epochs: estimated in a plan, exact before it is frozen, and equal when it is resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.chat_study import write_chat
from builders.places import PYTHONPATH
from builders.small_study import write_text
from builders.task_mixture_study import EXPERIMENT

from midstudy.cli.main import main
from midstudy.execute.stage import execute_stage
from midstudy.plan.experiment import load_study, study_parameters
from midstudy.plan.planner import Plan
from midstudy.recipe.packing import Packing
from midstudy.run.study import Place, begin, plan_experiment
from midstudy.run.whole_epochs import begin_data, with_whole_epochs
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.train.placement import Placement

HERE = Place(backend="local", placement=Placement(), max_jobs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    write_text(folder)
    write_chat(folder)
    (folder / "mixed.py").write_text(EXPERIMENT)
    return folder


def plan_in(store: Store | None, folder: Path, *settings: str) -> Plan:
    return plan_experiment(
        str(folder / "mixed.py"), store, data=(), settings=[f"text={folder}", *settings], where=HERE, price_on="cpu-core"
    )


def make(store: Store, plan: Plan) -> Mapping[str, str]:
    for stage in plan.missing:
        execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    return {}


def test_an_experiment_is_given_its_lengths_and_they_are_no_setting(folder: Path) -> None:
    assert set(study_parameters(folder / "mixed.py")) == {"text", "packing", "order"}
    study = load_study(folder / "mixed.py", settings=[f"text={folder}"])
    assert study.arms[0].curriculum.num_steps > 4
    with pytest.raises(ValueError, match=r"--set steps_of: expected a keyword of study\(\.\.\.\)"):
        load_study(folder / "mixed.py", settings=[f"text={folder}", "steps_of=3"])


def test_a_plan_says_what_is_estimated_and_when_it_is_resolved(folder: Path, capsys: Any) -> None:
    asked = [
        "plan",
        str(folder / "mixed.py"),
        "--store",
        str(folder / "no"),
        "--set",
        f"text={folder}",
        "--price-on",
        "h100",
    ]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"  epochs   chat \+ words ×2 \(shuffled, packing stream\): 1 epoch in about \d+ steps of 4 × 32 tokens, estimated "
        r"from the size of the text; resolved when the data stages are done\n",
        text,
    )
    assert main([*asked, "--json"]) == 0
    [epochs] = json.loads(capsys.readouterr().out)["epochs"].values()
    assert epochs["is_estimated"]


@pytest.mark.parametrize("settings", [(), ("packing=best_fit", "order=sequential")], ids=["stream", "best fit"])
def test_the_frozen_manifest_holds_the_exact_lengths(folder: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    root, made = tmp_path / "store", []
    estimated = plan_in(None, folder, *settings)
    [packing] = estimated.unresolved

    def make_once(store: Store, plan: Plan) -> Mapping[str, str]:
        made.append(plan)
        assert load(store, "mixed").arms == ()
        assert {stage.kind for stage in plan.missing} == {"tokenizer", "tokens", "packing"}
        return make(store, plan)

    plan = with_whole_epochs(
        estimated, root, HERE, command="run", make=make_once, plan_again=lambda store: plan_in(store, folder, *settings)
    )
    assert len(made) == 1
    assert plan.unresolved == ()
    store = begin(root, plan, HERE, command="run", max_gpu_hours=None)
    num_steps = store.record(packing.id).metrics["packed_steps"]
    manifest = load(store, "mixed")
    [arm] = manifest.arms
    assert arm.num_steps == 4 + num_steps == plan.arms[0].arm.curriculum.num_steps
    assert arm.items == store.record(packing.id).metrics["packed_items"]
    assert {name: arm.tokens[name] for name in arm.items} == store.record(packing.id).metrics["packed_tokens"]
    assert num_steps / 4 < estimated.epochs[packing.id].num_steps < 4 * num_steps  # the files are JSON, with short texts
    again = plan_in(store, folder, *settings)  # of a run that was killed and is started again
    assert again.unresolved == ()
    assert list(again.stages) == list(plan.stages)


def test_arms_frozen_before_are_not_replaced_by_data(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    plan = with_whole_epochs(
        plan_in(None, folder), root, HERE, command="run", make=make, plan_again=lambda store: plan_in(store, folder)
    )
    store = begin(root, plan, HERE, command="run", max_gpu_hours=None)
    grown = plan_in(store, folder, "packing=rows")
    assert [one.mixture.packing for one in grown.unresolved] == ["rows"]
    _, data_plan = begin_data(grown, root, HERE, command="run")
    assert data_plan.study.name == "mixed-data"
    assert len(load(store, "mixed").arms) == 1


def test_a_failed_data_stage_names_what_follows_from_it(folder: Path, tmp_path: Path) -> None:
    wanted = plan_in(None, folder)

    def fail(store: Store, plan: Plan) -> Mapping[str, str]:
        return {stage.id: "disk full" for stage in plan.missing if isinstance(stage.recipe, Packing)}

    with pytest.raises(
        ValueError, match=r"mixed: its lengths follow from packing chat .* which failed: disk full\. midstudy logs"
    ):
        with_whole_epochs(wanted, tmp_path / "store", HERE, command="run", make=fail, plan_again=lambda store: wanted)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_of_the_command_ends_with_the_same_ids(folder: Path, tmp_path: Path) -> None:
    """One driver is killed while the data is made, and one while the model is trained."""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}

    def command(store: Path) -> list[str]:
        words = ["run", str(folder / "mixed.py"), "--store", str(store), "--set", f"text={folder}", "--jobs", "1"]
        return [sys.executable, "-m", "midstudy.cli.main", *words]

    calm = subprocess.run(command(tmp_path / "calm"), env=environment, capture_output=True, text=True, check=False)
    assert calm.returncode == 0, calm.stderr
    assert calm.stdout.count("epochs   chat + words ×2 (shuffled, packing stream): 1 epoch in") == 2
    expected = load(Store.open(tmp_path / "calm"), "mixed")
    for kind in ("tokens", "state"):
        driver = subprocess.Popen(command(tmp_path / "killed"), env=environment, stdout=subprocess.DEVNULL)
        while driver.poll() is None and not _has_begun(tmp_path / "killed", kind):
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    ended = subprocess.run(command(tmp_path / "killed"), env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    manifest = load(Store.open(tmp_path / "killed"), "mixed")
    assert list(manifest.stages) == list(expected.stages)
    assert manifest.arms == expected.arms


def _has_begun(root: Path, kind: str) -> bool:
    for path in root.glob("stages/*/*/recipe.json"):
        if json.loads(path.read_text())["kind"] == kind and (path.parent / "attempts").exists():
            return True
    return False
