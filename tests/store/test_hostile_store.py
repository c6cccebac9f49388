"""Damaged, edited, replaced or locked stores: every verb reports the problem or works without the file, and loses nothing.

Each test damages a copy of a finished study and runs every verb on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.places import PYTHONPATH
from builders.small_study import EXPERIMENT, make_study, small_study

from midstudy.cli.main import main
from midstudy.execute.stage import execute_stage
from midstudy.files.errors import StoreError
from midstudy.launch.job_file import EXECUTE_STAGE, Job, JobStage, write_job, write_process
from midstudy.launch.process import Process
from midstudy.recipe.stage import Stage
from midstudy.run.conduct import RunSummary
from midstudy.store.paths import LONGEST_ROOT, checked_root
from midstudy.store.store import Store
from midstudy.train.placement import Placement


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store.open(tmp_path_factory.mktemp("hostile") / "store", create=True)
    make_study(store, small_study(text))
    return store.root


@pytest.fixture
def experiment(tmp_path: Path, text: Path) -> Path:
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT.replace("text: str", f"text: str = {str(text)!r}"))
    return path


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    shutil.copytree(finished, tmp_path / "store")
    return Store.open(tmp_path / "store")


@pytest.fixture(autouse=True)
def without_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run stages in this process, one after the other, without Prefect, MLflow and notebooks."""

    def run_study(store: Store, stages: Mapping[str, Stage], name: str, **where: Any) -> RunSummary:
        failed = {}
        for stage_id, stage in stages.items():
            try:
                execute_stage(
                    store, stage_id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer,
                    should_stop=lambda: False, placement=Placement(),
                )  # fmt: skip
            except (ValueError, OSError) as error:
                failed[stage_id] = str(error)
        where["when_done"]()
        return RunSummary(finished=(), reused=(), failed=failed, skipped={}, wall_s=0.0, warnings=())

    monkeypatch.setattr("midstudy.run.conduct.run_study", run_study)
    monkeypatch.setattr("midstudy.track.sync.sync", lambda *arguments, **keywords: None)
    monkeypatch.setattr("midstudy.report.notebook.render", lambda folder: folder / "report" / "report.html")


# -- states -----------------------------------------------------------------------------------------------------------


def stage_of(store: Store, label: str) -> str:
    """Return the id of the stage with this label."""
    for path in store.paths.stages.glob("*/recipe.json"):
        if json.loads(path.read_text())["label"] == label:
            return path.parent.name
    raise AssertionError(label)


TRUNK = "pretrain nano seed 0 to step 12"


def replace_file(path: Path, how: str) -> None:
    """Replace a file by something else."""
    text = path.read_bytes() if path.is_file() else b"{}"
    path.unlink(missing_ok=True)
    if how == "folder":
        path.mkdir()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(text[: len(text) // 2])
    elif how == "list":
        path.write_bytes(b"[1, 2]")
    elif how == "nested":
        path.write_bytes(b"[" * 2_000_000)
    elif how == "nested objects":
        path.write_bytes(text.rstrip()[:-1] + b', "more": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_001)
    elif how == "bytes":
        path.write_bytes(b"\x80\x04\x95\xff\xfe")
    elif how == "loop":
        path.symlink_to(path)


SLOW_HOW = ("empty", "list", "nested", "bytes", "loop")
HOW = ["folder", "cut", "nested objects", *(pytest.param(how, marks=pytest.mark.slow) for how in SLOW_HOW)]

FILES: Mapping[str, Callable[[Store], Path]] = {
    "store.json": lambda store: store.paths.schema,
    "manifest.json": lambda store: store.paths.manifest("small"),
    "recipe.json": lambda store: store.paths.recipe(unfinished(store, TRUNK)),
    "record.json": lambda store: store.paths.record(stage_of(store, TRUNK)),
    "failure.json": lambda store: store.paths.failure(unfinished(store, TRUNK)),
    "claim.json": lambda store: store.paths.claim(stage_of(store, TRUNK)),
    "job.json": lambda store: store.paths.job_spec(killed_job(store)),
    "process.json": lambda store: store.paths.job_process(killed_job(store)),
    "end.json": lambda store: store.paths.job_end(killed_job(store)),
}


def unfinished(store: Store, label: str) -> str:
    """Make the stage with this label unfinished; return its id."""
    stage_id = stage_of(store, label)
    shutil.rmtree(store.paths.published(stage_id), ignore_errors=True)
    return stage_id


def killed_job(store: Store) -> str:
    """Add a job that was killed during a stage, together with its driver; return its name."""
    gone = Process(pid=1 << 30, start_ticks=0, host=socket.gethostname(), boot_id="another")
    stage = JobStage(id=stage_of(store, TRUNK), start_from=None, keeps_optimizer=True)
    job = Job(
        name="killed",
        study="small",
        stages=(stage,),
        backend="local",
        placement=Placement(),
        entry=EXECUTE_STAGE,
        driver=gone,
    )
    write_job(store, job)
    write_process(store, job.name, gone)
    return job.name


def verbs(store: Store, experiment: Path) -> dict[str, list[str]]:
    """Return the arguments of every verb, as a user would type them."""
    where = ["--store", str(store.root)]
    stage = TRUNK
    return {
        "plan": ["plan", str(experiment), *where],
        "status": ["status", *where],
        "status --json": ["status", *where, "--json"],
        "logs": ["logs", stage, *where],
        "explain": ["explain", stage, "tokenizer", *where],
        "export": ["export", stage, "--to", "hf", "--output", str(store.root.parent / "exported"), *where],
        "clean": ["clean", *where],
        "cancel": ["cancel", *where],
        "report": ["report", *where],
        "clean --yes": ["clean", "--yes", *where],
        "retry": ["retry", *where],
        "run": ["run", str(experiment), *where],
    }


def published(store: Store) -> dict[str, str]:
    """Return the digest of every file of every finished stage, by path."""
    digests = {}
    for folder in store.paths.stages.glob("*/published"):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 30:
                digests[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def run_every_verb(store: Store, experiment: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[int, str]]:
    """Return the exit status and stderr of each verb. No verb may raise or change a finished stage."""
    before = published(store)
    results = {}
    for verb, arguments in verbs(store, experiment).items():
        capsys.readouterr()
        status = main(arguments)
        said = capsys.readouterr().err
        assert status in (0, 1, 2), verb
        assert "Traceback" not in said, verb
        if status == 2:
            assert said.startswith(f"midstudy {arguments[0]}: "), (verb, said)
            assert said.rstrip().endswith((".", "]", "none")), (verb, said)
            assert "[Errno" not in said, (verb, said)
        results[verb] = (status, said)
        after = published(store)
        assert {path: after.get(path) for path in before} == before, verb
    return results


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", FILES)
def test_a_replaced_file_is_reported_by_path_and_nothing_is_lost(name, how, store, experiment, capsys):
    path = FILES[name](store)
    replace_file(path, how)
    results = run_every_verb(store, experiment, capsys)
    rejected = {verb: said for verb, (status, said) in results.items() if status == 2 and str(path) in said}
    readers = {
        "store.json": set(results),
        "manifest.json": set(results) - {"plan", "explain", "run"},  # these read the experiment or only stages
        "recipe.json": {"explain", "retry", "run"},
        "record.json": {"plan", "export", "clean", "report", "retry", "run"},
        "failure.json": {"status", "logs", "report", "retry"},
        "claim.json": {"logs"},
        "job.json": {"status", "clean", "cancel"},
        "process.json": {"status", "clean", "cancel"},
        "end.json": set(),  # its existence is all that is read
    }
    is_absent = how == "loop" and name in (
        "manifest.json",
        "recipe.json",
        "record.json",
        "job.json",
    )  # looks like a missing file
    is_extra = (name, how) == ("recipe.json", "nested objects")  # a field that no verb reads
    if not is_absent and not is_extra:
        assert readers[name] <= set(rejected), {verb: results[verb] for verb in readers[name] - set(rejected)}


def test_the_suggested_fix_works(store, experiment, capsys):
    """Following the message about a damaged `record.json` makes the study complete again."""
    stage_id = stage_of(store, TRUNK)
    store.paths.record(stage_id).write_text("{")
    assert main(["run", str(experiment), "--store", str(store.root)]) == 2
    said = capsys.readouterr().err
    assert f"Remove {store.paths.published(stage_id)} to make the stage again." in said
    shutil.rmtree(store.paths.published(stage_id))
    assert main(["run", str(experiment), "--store", str(store.root)]) == 0
    assert store.record(stage_id).label == TRUNK


# -- links, names, and other things between the files -----------------------------------------------------------------


def test_other_files_among_the_stages_are_ignored(store, experiment, capsys):
    for name in ("notes.txt", "two words", "-rf", "naïve", "x" * 200, "..."):
        (store.paths.stages / name).mkdir()
        (store.paths.studies / name).mkdir()
        if name != "notes.txt":
            (store.paths.studies / name / "manifest.json").write_text("{}")
    (store.paths.stages / "file").touch()
    (store.paths.stages / "gone").symlink_to("/nowhere")
    (store.paths.jobs / "it's").mkdir(parents=True)
    results = run_every_verb(store, experiment, capsys)
    assert {verb for verb, (status, _) in results.items() if status == 2} <= {"logs"}, results


def test_cleaning_never_follows_a_link(store, experiment, tmp_path, capsys):
    """If a stage's folder of attempts is a link to the user's own folder, that folder is kept."""
    outside = tmp_path / "thesis"
    for name in ("chapter", "chapter/checkpoints", "chapter/checkpoints/step-1", "chapter/.draft.tmp", ".old.tmp"):
        (outside / name).mkdir(parents=True)
        (outside / name / "text").write_text("years of work")
    before = sorted(path.relative_to(outside) for path in outside.rglob("*"))
    done, not_done = stage_of(store, "tokenizer 300 on general"), unfinished(store, TRUNK)
    for stage_id in (done, not_done):
        store.paths.attempts(stage_id).symlink_to(outside)
    store.paths.jobs.mkdir(exist_ok=True)
    (store.paths.jobs / ".thesis.tmp").symlink_to(outside)
    (store.root / ".removed.thesis.tmp").symlink_to(outside)
    results = run_every_verb(store, experiment, capsys)
    assert results["clean --yes"][0] == 0
    assert results["run"][0] == 1
    assert sorted(path.relative_to(outside) for path in outside.rglob("*")) == before
    with pytest.raises(StoreError, match=r"attempts: expected a folder, got a symbolic link to .*thesis\. Remove it"):
        store.attempt(not_done)


# -- paths ------------------------------------------------------------------------------------------------------------


def test_a_store_that_is_a_file_is_rejected_by_every_verb(finished, experiment, tmp_path, capsys):
    (tmp_path / "file").write_text("a thesis")
    store = Store(tmp_path / "file")
    for verb, (status, said) in run_every_verb(store, experiment, capsys).items():
        if verb != "plan":  # which can plan for a store that does not exist yet
            message = "/file: expected a folder, got a file. Name another folder with --store."
            assert (status, message in said) == (2, True), (verb, said)
    assert (tmp_path / "file").read_text() == "a thesis"


@pytest.mark.parametrize("sign", ["%", "?", "#", "\n", "\x1b", "\udc80", "\u202e"])
def test_a_path_that_other_tools_would_interpret_is_rejected_before_anything_is_made(sign, experiment, tmp_path, capsys):
    store = Store(tmp_path / f"a{sign}j")
    for verb, (status, said) in run_every_verb(store, experiment, capsys).items():
        if verb != "plan":
            assert status == 2, verb
            assert f"expected a store path without {sign!r}, which" in said, (verb, said)
            assert said.isascii() or sign not in said
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.py"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["d" * 99] * 6, "expected a store path of at most 485 bytes"),
        (["ü" * 50] * 5, "expected a store path of at most 485 bytes"),
    ],
)
def test_a_path_that_databases_cannot_open_is_rejected_before_anything_is_made(parts, message, experiment, tmp_path, capsys):
    store = Store(tmp_path.joinpath(*parts))
    for verb, (status, said) in run_every_verb(store, experiment, capsys).items():
        if verb != "plan":
            assert status == 2, verb
            assert message in said, (verb, said)
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.py"]


def test_sqlite_opens_the_longest_allowed_path_and_no_longer_one(tmp_path):
    for longer in (0, 1):
        folder = tmp_path
        while (left := LONGEST_ROOT + longer - len(os.fsencode(folder)) - 1) > 0:
            folder = folder / ("d" * (left if left <= 200 else 100))
        assert len(os.fsencode(folder)) == LONGEST_ROOT + longer
        (folder / "prefect").mkdir(parents=True)
        with pytest.raises(sqlite3.OperationalError) if longer else contextlib.nullcontext():
            sqlite3.connect(folder / "prefect" / "prefect.db").close()
        with pytest.raises(StoreError) if longer else contextlib.nullcontext():
            checked_root(str(folder))


def test_a_link_to_a_long_path_counts_as_a_long_path(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path.joinpath(*(["d" * 99] * 6)))
    with pytest.raises(StoreError, match="at most 485 bytes after following symbolic links"):
        checked_root(str(tmp_path / "link"))


def test_a_relative_store_path_is_resolved_when_the_store_is_opened(finished, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(finished, tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    store = Store.open(Path("elsewhere/../store"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.root == tmp_path / "store"
    assert store.has(stage_of(store, TRUNK))


READ_ONLY = """
set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
shift
exec "$@"
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0, reason="may not mount here"
)
def test_a_read_only_store_works_for_verbs_that_read_and_is_rejected_by_those_that_write(store, experiment):
    failed = unfinished(store, TRUNK)
    store.report_failure(failed, {"cause": "it broke", "retry": "midstudy retry"})
    writing = {"cancel", "report", "clean --yes", "retry", "run"}
    reading = {"plan", "status", "explain", "clean"}
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(store.root), sys.executable, "-m", "midstudy.cli.main"]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    for verb, arguments in verbs(store, experiment).items():
        if verb in writing | reading:
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
            assert "Traceback" not in done.stderr, verb
            assert done.returncode == (2 if verb in writing else 0), (verb, done.stderr)
            if verb in writing:
                assert "cannot be written (Read-only file system)" in done.stderr, verb
                assert "finished stages are untouched" in done.stderr
    assert store.failure(failed) is not None
