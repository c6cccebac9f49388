"""No file of a store is ever unpickled. The tests plant pickles everywhere that leave a trace when they are read.

submitit's job process reads one pickle, which the driver wrote for it: it names a midstudy function, the store and the job.
"""

from __future__ import annotations

import ast
import functools
import io
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.fake_execute import ENTRY, fake_stage
from builders.places import PYTHONPATH, REPOSITORY
from builders.small_study import EXPERIMENT, make_study, small_study
from builders.waiting import wait_until

from midstudy.analysis.tables import write_tables
from midstudy.data.release import released_start
from midstudy.execute.stage import execute_stage
from midstudy.launch.job_file import Job, JobStage, job_name, write_job
from midstudy.launch.local import LocalLauncher
from midstudy.launch.process import this_process
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.train.placement import Placement

ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH}


class Planted:
    """An object that creates the folder `trace` when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._trace),)


def payloads(trace: Path) -> dict[str, bytes]:
    """Return pickles in every file format that a library would unpickle."""
    planted = Planted(trace)
    array, tensors = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([planted], dtype=object), allow_pickle=True)
    torch.save({"model": planted}, tensors)
    bare = pickle.dumps(planted)
    return {
        **dict.fromkeys(("data.pkl", "state.pickle", "model.joblib", "optimizer.bin", "result.pkl"), bare),
        **dict.fromkeys(("counts.npy", "tokens.npy", "train.npy"), array.getvalue()),
        **dict.fromkeys(("checkpoint.pt", "model.pth", "pytorch_model.bin", "model.ckpt"), tensors.getvalue()),
    }


def planted_everywhere(store: Store, trace: Path) -> int:
    """Put the payloads into every folder of the store, under names that readers try first; return their number."""
    number = 0
    folders = [store.root, *(path for path in store.root.rglob("*") if path.is_dir())]
    for folder in folders:
        for name, payload in payloads(trace).items():
            (folder / name).write_bytes(payload)
            number += 1
    return number


@pytest.fixture
def store(text: Path, tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store", create=True)
    make_study(store, small_study(text))
    return store


AUDITED = """
import runpy, sys
def watch(event, arguments):
    if event == "pickle.find_class":
        print("UNPICKLED", *arguments, file=sys.__stderr__, flush=True)
sys.addaudithook(watch)
sys.argv = ["midstudy", *sys.argv[1:]]
runpy.run_module("midstudy.cli.main", run_name="__main__")
"""


def test_the_payloads_leave_a_trace_when_they_are_unpickled(tmp_path: Path) -> None:
    """Otherwise the tests below could not fail."""
    read: dict[str, Callable[[io.BytesIO], Any]] = {
        "data.pkl": pickle.load,
        "counts.npy": functools.partial(np.load, allow_pickle=True),
        "model.pth": functools.partial(torch.load, weights_only=False),
    }
    for name, unpickle in read.items():
        unpickle(io.BytesIO(payloads(tmp_path / "trace")[name]))
        (tmp_path / "trace").rmdir()


def test_no_verb_reads_planted_pickles(store: Store, text: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    experiment = tmp_path / "experiment.py"
    experiment.write_text(EXPERIMENT.replace("text: str", f"text: str = {str(text)!r}"))
    state = next(stage_id for stage_id in store.stage_ids() if store.record(stage_id).kind == "state")
    where = ["--store", str(store.root)]
    assert planted_everywhere(store, trace) > 500
    for arguments in (
        ["plan", str(experiment)],
        ["status"],
        ["explain", "tokenizer", "pretrain nano seed 0 to step 12"],
        ["export", state, "--to", "hf", "--output", str(tmp_path / "exported")],
        ["clean"],
        ["cancel"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", AUDITED, *arguments, *where], capture_output=True, text=True, env=ENVIRONMENT
        )
        assert done.returncode == 0, done.stderr
        assert "UNPICKLED" not in done.stderr, arguments
    write_tables(store, load(store, "small"), store.paths.study("small"))
    assert not trace.exists()


def test_stages_are_made_from_parents_and_attempts_full_of_pickles(store: Store, tmp_path: Path) -> None:
    """Run a job's work, resumed from the leftovers of an interrupted attempt."""
    trace = tmp_path / "trace"
    manifest = load(store, "small")
    (evaluation,) = manifest.arms[1].measures["sft_loss_before"]
    state = manifest.stages[evaluation].parents[0]
    expected = {stage_id: store.record(stage_id).metrics for stage_id in (state, evaluation)}
    for stage_id in expected:
        shutil.rmtree(store.paths.published(stage_id))
    interrupted = store.attempt(state)
    (interrupted.checkpoints / "step-4").mkdir(parents=True)
    interrupted.close()
    assert planted_everywhere(store, trace) > 500
    for stage_id in expected:
        start_from, keeps = manifest.stages[stage_id].start_from, manifest.stages[stage_id].keeps_optimizer
        execute_stage(store, stage_id, start_from=start_from, keeps_optimizer=keeps, should_stop=lambda: False)
    assert not trace.exists()
    assert store.record(evaluation).metrics["loss_nats"] == expected[evaluation]["loss_nats"]


@pytest.mark.parametrize("name", ["checkpoint/model.safetensors", "checkpoint/checkpoint.json", "record.json"])
def test_a_pickle_in_place_of_a_published_file_is_reported_as_damage(store: Store, name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    manifest = load(store, "small")
    (evaluation,) = manifest.arms[0].measures["sft_loss_before"]
    shutil.rmtree(store.paths.published(evaluation))
    path = store.published_folder(manifest.stages[evaluation].parents[0]) / name
    pickled = payloads(trace)["model.pth" if name.endswith("safetensors") else "data.pkl"]
    path.write_bytes(pickled.ljust(path.stat().st_size, b"\0"))  # of the same size, so that only the content differs
    with pytest.raises(ValueError, match=rf"{name}: (.* damaged|damaged)"):
        execute_stage(store, evaluation, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    assert not trace.exists()


def test_a_pickled_released_checkpoint_is_rejected_by_name(tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    (release / "config.json").write_text('{"model_type": "gpt_neox"}')
    (release / "pytorch_model.bin").write_bytes(payloads(tmp_path / "trace")["pytorch_model.bin"])
    with pytest.raises(
        ValueError, match=r"pytorch_model\.bin: expected model\.safetensors, got pickled weights, which can run code"
    ):
        released_start(str(release))
    assert not (tmp_path / "trace").exists()


# -- submitit's folder ------------------------------------------------------------------------------------------------


def submitted(store: Store) -> tuple[Job, Path]:
    """Return a job that was submitted and has ended, and its submitit folder."""
    stage = fake_stage("one")
    store.request(stage)
    job = Job(
        name=job_name(stage.id),
        study="study",
        stages=(JobStage(id=stage.id, start_from=None, keeps_optimizer=False),),
        backend="local",
        placement=Placement(),
        entry=ENTRY,
        driver=this_process(),
    )
    write_job(store, job)
    launcher = LocalLauncher(store, entry=ENTRY)
    assert launcher.submit([job]) == {}
    wait_until(lambda: launcher.poll([job]))
    assert store.has(stage.id)
    return job, store.paths.job_submitit(job.name)


def test_submitits_pickle_holds_only_a_function_the_store_and_the_job(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    store = Store.open(tmp_path / "it's a store", create=True)
    job, folder = submitted(store)
    assert folder.parent == store.paths.job(job.name)
    pickles = list(store.root.rglob("*.pkl"))
    assert {path.parent for path in pickles} == {folder}
    (written,) = [path for path in pickles if path.name.endswith("_submitted.pkl")]
    words = [argument for _, argument, _ in pickletools.genops(written.read_bytes()) if isinstance(argument, str)]
    paths_and_names = {word for word in words if "/" in word or job.stage_ids[0] in word}
    assert paths_and_names == {str(store.root), job.name}
    functions = {word for word in words if word.startswith(("midstudy", "submitit"))}
    assert functions == {"submitit.core.utils", "midstudy.launch.job"}
    assert "run_job" in words
    assert written.stat().st_size < 1000
    assert not [word for word in words if "token" in word.lower() or "secret" in word.lower() or "recipe" in word.lower()]


def test_the_result_that_submitit_writes_is_never_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    store = Store.open(tmp_path / "store", create=True)
    job, folder = submitted(store)
    trace = tmp_path / "trace"
    for path in folder.glob("*.pkl"):
        path.write_bytes(pickle.dumps(Planted(trace)))
    later = LocalLauncher(store, entry=ENTRY)
    assert job.name in later.poll([job])
    later.cancel([job])
    assert not trace.exists()


# -- the code ---------------------------------------------------------------------------------------------------------

UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"read_pickle", "unsafe_load", "full_load", "load_dill", "to_pickle"}
FOLDERS = ("midstudy", "flows", "experiments", "reports")


def test_no_code_of_midstudy_can_unpickle() -> None:
    """No module that unpickles is imported, and no code calls `torch.load`, `numpy.load` or similar functions."""
    sources = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(sources) > 100
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not {alias.name.partition(".")[0] for alias in node.names} & UNPICKLERS, where
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in UNPICKLERS, where
                assert node.module not in ("torch", "numpy") or "load" not in {alias.name for alias in node.names}, where
            elif isinstance(node, ast.Attribute):
                of = node.value.id if isinstance(node.value, ast.Name) else ""
                assert node.attr not in CALLS, where
                assert node.attr != "load" or of not in ("torch", "np", "numpy", "yaml"), where
            elif isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", where
