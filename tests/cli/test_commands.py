"""The command line: a small set of verbs, fast help, one clear message for bad input, all output read from the store."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders.changed_studies import measured_like
from builders.places import PYTHONPATH, REPOSITORY
from builders.small_study import EXPERIMENT, make_study, small_study, write_split

from midstudy.cli.main import _parser, main
from midstudy.data.cache import cache_dir
from midstudy.data.data_args import DataChoice
from midstudy.recipe import Corpus, Mixture, MixtureRamp, RecipeError, factors
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze, load
from midstudy.track.client import tracking_uri_of

COUNTS_ALONE = """
import dataclasses
from pathlib import Path
from builders.changed_studies import measured_like
from builders.small_study import small_study

def study(*, data, text: str):
    small = small_study(Path(text))
    return dataclasses.replace(small, name="small_similarity", arms=(), comparisons=())
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the small study in it, made without driver and views."""
    store = Store.open(tmp_path_factory.mktemp("cli") / "store", create=True)
    make_study(store, small_study(text))
    return store


def test_the_command_has_exactly_these_verbs():
    """A new verb is a deliberate decision; adding one must change this list."""
    help_text = subprocess.run(
        [sys.executable, "-m", "midstudy.cli.main", "--help"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout
    verbs = [line.split()[0] for line in help_text.splitlines() if line.startswith("    ") and line[4] != " "]
    assert verbs == [
        "new", "plan", "allocate", "run", "status", "logs", "retry", "cancel", "report", "track", "ui", "clean", "explain",
        "compare-studies", "compare", "recommend", "sample", "verify", "chat", "export",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["run", "allocate", "compare"])
def test_help_imports_nothing_heavy(verb):
    code = (
        "import sys\nfrom midstudy.cli.main import main\n"
        f"try: main(['{verb}', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'prefect', 'mlflow', 'pandas', 'pydantic', 'numpy', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.splitlines()[-1] == "[]"


def test_plan_prints_the_cost_and_writes_nothing(experiment, text, tmp_path, capsys):
    assert main(["plan", str(experiment), "--store", str(tmp_path / "store"), "--set", f"text={text}", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] == facts["steps_lower_bound"] == 12 + 9 + 4 + 4
    assert facts["steps_without_sharing"] == 2 * 16
    assert facts["stages_finished"] == 0
    assert facts["comparisons"] == [{"name": "main", "arms": 1, "references": 1}]
    assert not (tmp_path / "store").exists()
    assert main(["plan", str(experiment), "--set", f"text={text}"]) == 0
    output = capsys.readouterr().out
    assert "  arms     2 from 1 trunk and 1 branch\n  compare  main: 1 arm against 1 reference\n" in output
    assert "lower bound 29; 32 without sharing" in output
    # Both prices contain data and evaluations, so the ratio is below that of the training steps.
    assert facts["device_hours_missing"] < facts["device_hours_without_sharing"] < 32 / 29 * facts["device_hours_missing"]


def test_a_plan_of_a_finished_study_imports_no_pytorch(experiment, text, finished):
    code = (
        "import sys\nfrom midstudy.cli.main import main\n"
        f"main(['plan', {str(experiment)!r}, '--store', {str(finished.root)!r}, '--set', 'text={text}'])\n"
        "print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=REPOSITORY
    )
    assert ", 0 to run\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_a_plan_of_a_study_without_arms_mentions_no_training(text, tmp_path, capsys):
    experiment = tmp_path / "counts.py"
    experiment.write_text(COUNTS_ALONE)
    assert main(["plan", str(experiment), "--set", f"text={text}"]) == 0
    output = capsys.readouterr().out
    assert [line.split()[0] for line in output.splitlines()[1:4]] == ["stages", "data", "cost"]
    assert "similarity 4" in output
    assert "arms" not in output
    assert "trunk" not in output
    assert "without sharing" not in output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-gpu-hours", "0.0000001"], "--max-gpu-hours: the plan needs"),
        (["--set", "total_steps=1"], "total_steps"),
        (["--set", "text=/nowhere"], "/nowhere: no such directory"),
        (["--set", "nothing=1"], "--set nothing"),
        (["--backend", "slurm", "--placement", "/nowhere"], "a file that says what jobs request, got /nowhere"),
        (["full disk"], "GB are free; the plan writes"),
    ],
)
def test_a_rejected_run_leaves_nothing_behind(more, message, experiment, text, tmp_path, capsys, monkeypatch):
    if more == ["full disk"]:
        more = []
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    store = tmp_path / "to" / "be" / "made"
    assert main(["run", str(experiment), "--store", str(store), "--set", f"text={text}", *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_a_full_id_finds_the_log_even_if_no_study_requests_the_stage_now(finished, text, tmp_path, capsys):
    """The `midstudy logs` command printed with a failure keeps working after the study has changed."""
    copy = tmp_path / "store"
    shutil.copytree(finished.root, copy)
    store = Store.open(copy)
    shared, previous = (arm.state for arm in load(store, "small").arms)
    text_without = store.paths.manifest("small").read_text().replace(previous, "0" * len(previous))
    store.paths.manifest("small").write_text(text_without)  # as if run again with other settings
    freeze(store, dataclasses.replace(load(store, "small"), name="other"))  # no study requests `previous` now

    def outcome(*arguments: str) -> tuple[int, str]:
        status = main([*arguments, "--store", str(copy)])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    for name in (shared, previous, previous[:12]):
        assert f"stage {name if len(name) > 12 else previous}: no job has run it yet" in outcome("logs", name)[1]
    status, output = outcome("logs", "evaluate")
    assert (status, "matches 8 stages; give more of its id or name:" in output) == (2, True)
    assert "no stage 'nothing'" in outcome("logs", "nothing")[1]
    assert "no study called 'none'; there are: other, small" in outcome("logs", previous, "--study", "none")[1]
    status, output = outcome("export", shared, "--to", "hf", "--output", str(tmp_path / "out"))
    assert status == 0, output
    assert f"stage {previous}: not in the current manifest of study 'small'" in outcome("retry", "small", previous)[1]
    assert f"stage {previous}: not in the current manifest of any study" in outcome("export", previous, "--to", "hf")[1]
    store.paths.manifest("other").write_text("{")  # a damaged manifest of one study does not affect the others
    assert f"stage {previous}: no job has run it yet" in outcome("logs", previous)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "nowhere.py"], "experiment: expected an existing Python file that defines study(...), got nowhere.py"),
        (["plan", "{experiment}"], "text"),
        (["plan", "{experiment}", "--set", "tex=1"], "Did you mean text?"),
        (["plan", "{experiment}", "--set", "text={text}", "--data", "code=nowhere"], "--data code"),
        (["plan", "{experiment}", "--set", "text=/nowhere"], "/nowhere: no such directory"),
        (["status", "--store", "{tmp}/none"], "no store here. Run a study first"),
        (["run", "{experiment}", "--set", "text={text}", "--store", "{text}"], "a folder with other files"),
        (["run", "{experiment}", "--set", "text={text}", "--store", "/proc/store"], "cannot be written"),
        (["report", "other", "--store", "{store}"], "no study called 'other'; there are: small"),
        (["logs", "nothing", "--store", "{store}"], "no stage 'nothing'"),
        (["explain", "evaluate", "tokenizer", "--store", "{store}"], "matches 8 stages; give more of its id or name"),
        (["retry", "small", "tokenizer", "--store", "{store}"], "has not failed; failed stages: none"),
        (["run", "{experiment}", "--set", "text={text}", "--backend", "debug", "--ranks", "2"], "one process"),
        pytest.param(
            ["run", "{experiment}", "--set", "text={text}", "--device", "cuda"],
            "--device: expected cpu, got cuda: PyTorch sees no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_input_gives_one_message_and_status_two(arguments, message, experiment, text, tmp_path, finished, capsys):
    places = {"experiment": experiment, "text": text, "tmp": tmp_path, "store": finished.root}
    assert main([argument.format(**places) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


EMPTY = [
    (["new", ""], "FILE"),
    (["plan", "", "--store", "s"], "EXPERIMENT"),
    (["plan", "x.py", "--store", ""], "--store"),
    (["plan", "x.py", "--data", ""], "--data"),
    (["plan", "x.py", "--data", "folder", "--data", "code="], "--data"),
    (["plan", "x.py", "--data", "=folder"], "--data"),
    *((["plan", "x.py", "--budget-gpu-hours", odd], "--budget-gpu-hours") for odd in ("", "nan", "-1")),
    (["plan", "x.py", "--makespan", ""], "--makespan"),
    (["plan", "x.py", "--set", ""], "--set"),
    (["plan", "x.py", "--set", "name="], "--set"),
    (["plan", "x.py", "--set", "=3"], "--set"),
    (["run", "x.py", "--store", ""], "--store"),
    (["run", "x.py", "--placement", ""], "--placement"),
    (["run", "x.py", "--tracking-uri", ""], "--tracking-uri"),
    *((["run", "x.py", "--max-gpu-hours", odd], "--max-gpu-hours") for odd in ("", "nan", "inf", "-1", "many")),
    (["run", "x.py", "--jobs", ""], "--jobs"),
    (["run", "x.py", "--price-on", ""], "--price-on"),
    (["run", "x.py", "--backend", ""], "--backend"),
    (["status", ""], "STUDY"),
    (["status", "--store", ""], "--store"),
    (["logs", ""], "STAGE"),
    (["logs", "a", "--study", ""], "--study"),
    (["logs", "a", "--lines", ""], "--lines"),
    (["sample", "", "--prompt", "a"], "STAGE"),
    (["sample", "a", "--prompt", ""], "--prompt"),
    (["sample", "a", "--prompt", "a", "--study", ""], "--study"),
    *((["sample", "a", "--prompt", "a", "--temperature", odd], "--temperature") for odd in ("", "nan", "inf", "-1", "hot")),
    *((["sample", "a", "--prompt", "a", name, odd], name) for name in ("--tokens", "--top-k") for odd in ("", "0", "few")),
    (["sample", "a", "--prompt", "a", "--seed", ""], "--seed"),
    (["sample", "a", "--prompt", "a", "--samples", ""], "--samples"),
    (["chat", ""], "STAGE"),
    (["retry", ""], "STUDY"),
    (["retry", "study", ""], "STAGE"),
    (["retry", "--placement", ""], "--placement"),
    (["cancel", ""], "STUDY"),
    (["report", ""], "STUDY"),
    (["track", "sync", ""], "STUDY"),
    (["track", "sync", "--tracking-uri", ""], "--tracking-uri"),
    (["ui", "--tracking-uri", ""], "--tracking-uri"),
    (["clean", "--store", ""], "--store"),
    (["explain", "", "b"], "A"),
    (["explain", "a", ""], "B"),
    (["compare-studies", "", "b"], "A"),
    (["compare-studies", "a", ""], "B"),
    (["compare-studies", "a", "b", "--other-store", ""], "--other-store"),
    (["compare", ""], "NAME=SOURCE"),
    (["compare", "a=wheels", "--over", ""], "--over"),
    (["compare", "a=wheels", "--plot", ""], "--plot"),
    (["compare", "a=wheels", "--tokenizer", ""], "--tokenizer"),
    (["recommend", "--target", ""], "--target"),
    (["recommend", "--target", "a=wheels", "--general", ""], "--general"),
    (["recommend", "--target", "a=wheels", "--general", "b=wheels", "--candidates", ""], "--candidates"),
    (["recommend", "--target", "a=wheels", "--general", "b=wheels", "--candidates", "c=wheels", "--share", ""], "--share"),
    (
        ["recommend", "--target", "a=wheels", "--general", "b=wheels", "--candidates", "c=wheels", "--proxy", ""],
        "--proxy",
    ),
    (["export", "", "--to", "hf"], "STAGE"),
    (["export", "a", "--to", "hf", "--output", ""], "--output"),
    (["export", "a", "--to", "hf", "--study", ""], "--study"),
]


@pytest.mark.parametrize("blank", ["", " ", "\n"])
@pytest.mark.parametrize(("arguments", "option"), EMPTY)
def test_the_empty_value_of_an_unset_variable_is_rejected_with_the_options_name(
    arguments, option, blank, tmp_path, monkeypatch, capsys
):
    """Accepted, it would silently select the wheels, one folder for all data, or a store in the current folder."""
    monkeypatch.chdir(tmp_path)
    emptied = [
        blank if argument == "" else argument + blank if argument.endswith("=") else argument for argument in arguments
    ]
    with pytest.raises(SystemExit) as ended:
        main(emptied)
    assert ended.value.code == 2
    assert f"error: argument {option}: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_argument_is_checked_and_each_that_takes_a_path_or_name_is_in_the_list_of_empty_values():
    verbs = next(action for action in _parser()._actions if action.dest == "verb").choices
    assert isinstance(verbs, dict)
    taken = [action for parser in verbs.values() for action in parser._actions if action.nargs != 0 and not action.choices]
    assert [action.dest for action in taken if action.type is None] == []
    names = {action.option_strings[0] if action.option_strings else action.metavar for action in taken}
    numbers = {"--jobs", "--threads", "--ranks", "--micro-batch", "--lines", "--max-gpu-hours", "--budget"}
    assert names - numbers == {option for _, option in EMPTY} - numbers - {"--price-on", "--backend"}


@pytest.mark.parametrize("value", ["", " ", "nan", "-1", "-inf", "two"])
def test_an_hour_limit_that_limits_nothing_is_rejected(value, capsys):
    with pytest.raises(SystemExit):
        main(["run", "x.py", f"--max-gpu-hours={value}"])
    got = "nothing (is a variable not set?)" if not value.strip() else value
    assert f"argument --max-gpu-hours: expected a number of hours of at least 0, got {got}" in capsys.readouterr().err


@pytest.mark.parametrize("value", [None, "", "  "])
@pytest.mark.parametrize("name", ["MIDSTUDY_STORE", "MIDSTUDY_CACHE", "XDG_CACHE_HOME", "MLFLOW_TRACKING_URI"])
def test_an_empty_environment_variable_counts_as_not_set(name, value, tmp_path, monkeypatch):
    for other in ("MIDSTUDY_STORE", "MIDSTUDY_CACHE", "XDG_CACHE_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is not None:
        monkeypatch.setenv(name, value)
    assert _parser().parse_args(["status"]).store == "store"
    assert cache_dir() == tmp_path / ".cache" / "midstudy"
    assert tracking_uri_of(Store.open(tmp_path / "store", create=True)).endswith("mlflow.db")


@pytest.mark.parametrize(
    ("argument", "field"),
    [("", "--data"), (" ", "--data"), ("code=", "--data code"), ("code= ", "--data code"), ("=x", "--data")],
)
def test_an_empty_data_source_is_rejected_outside_the_command_line_too(argument, field):
    with pytest.raises(RecipeError, match="Is a variable not set") as raised:
        DataChoice(("folder", argument))
    assert raised.value.path == field


@pytest.mark.parametrize(
    ("name", "is_read"), [("general", True), ("code", False), ("sft/code", False)], ids=["evaluated", "trained", "task"]
)
def test_a_plan_rejects_an_empty_carved_split_that_an_evaluation_reads(name, is_read, experiment, text, tmp_path, capsys):
    """Of the forty rows none is assigned to test; of the nine items none is assigned to dev."""
    copy = tmp_path / "text"
    shutil.copytree(text, copy)
    (copy / name / "validation.jsonl").unlink()
    if name.startswith("sft"):
        write_split(copy / name, "train", ({"question": f"{number}?", "answer": "y"} for number in range(9)))
    else:
        (copy / name / "test.jsonl").unlink()
        write_split(copy / name, "train", ({"text": f"x = {number}"} for number in range(40)))
    arguments = ["plan", str(experiment), "--set", f"text={copy}"]
    assert main(arguments) == (2 if is_read else 0)
    if is_read:
        message = capsys.readouterr().err
        assert f"{copy / name}: the test split is empty: of the 40 rows of train.jsonl" in message
        assert "Supply test.jsonl, or more rows" in message
        counts = tmp_path / "counts.py"
        counts.write_text(COUNTS_ALONE)
        assert main(["plan", str(counts), "--set", f"text={copy}"]) == 0


def test_status_and_explain_read_the_store(finished, capsys):
    assert main(["status", "--store", str(finished.root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["finished"] == facts["stages"]
    assert (facts["running"], facts["failed"], facts["waiting"]) == ([], [], 0)

    pair = ["sft nano control → code_task, trunk 0, SFT 7", "sft nano code50@3 → code_task, trunk 0, SFT 7"]
    assert main(["explain", *pair, "--store", str(finished.root), "--json"]) == 0
    explained = json.loads(capsys.readouterr().out)
    paths = [field["path"] for field in explained["differences"]]
    assert any(path.startswith("curriculum.stretches[1]") for path in paths)


@pytest.fixture(scope="module")
def two_stores(finished: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """The finished store, and a copy in which the study also exists under the name `again`."""
    other = Store.open(Path(shutil.copytree(finished.root, tmp_path_factory.mktemp("other") / "store")))
    freeze(other, dataclasses.replace(load(other, "small"), name="again"))
    return finished, other


def test_two_studies_of_two_stores_are_compared(two_stores, capsys):
    finished, other = two_stores
    stores = ["--store", str(finished.root), "--other-store", str(other.root)]
    assert main(["compare-studies", "small", "again", *stores, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["a"], facts["b"], facts["own_arms"], facts["recipes"]) == ("small", "again", [0, 0], [])
    arms = load(finished, "small").arms
    assert len(facts["arms"]) == len(arms) * len({row["column"] for row in facts["arms"]})
    assert all(row["difference"] == 0 for row in facts["arms"])
    (loss,) = (row["a"] for row in facts["arms"] if row["mix"] == "control" and row["column"] == "sft_loss")
    assert loss == finished.record(arms[0].measures["sft_loss"][0]).metrics["loss_nats"]
    assert {row["agreement"] for row in facts["effects"]} == {"equal"}
    assert facts["effects"][0]["low"] is None, "one seed has no interval, and JSON no NaN"

    assert main(["compare-studies", "small", "again", "--store", str(other.root)]) == 0
    text = capsys.readouterr().out
    assert f"B  again in {other.root}: 2 arms" in text
    assert f"{loss:.4f}" in text
    assert "The arms in both have the same recipes." in text


@pytest.mark.parametrize(
    ("studies", "message"),
    [
        (("again", "again"), "expected two studies, got 'again' twice; for a study of another store, add --other-store."),
        (("small", "nowhere"), "no study called 'nowhere'; there are: again, small."),
    ],
)
def test_two_studies_that_cannot_be_compared_are_an_error_of_one_line(studies, message, two_stores, capsys):
    assert main(["compare-studies", *studies, "--store", str(two_stores[1].root)]) == 2
    assert message in capsys.readouterr().err


def test_a_study_with_a_ramped_mixture_runs_through_to_its_report(text, tmp_path):
    """The share of code rises from 0.1 to 0.5 over 4 of the 9 steps after step 3 and stays there.

    The arm's tokens count all nine steps.
    """
    study = small_study(text)
    control, code = study.arms
    corpora = {dataset.name: dataset for dataset in study.datasets() if isinstance(dataset, Corpus)}
    before, after = (Mixture.blend(corpora["general"], {corpora["code"]: share}) for share in (0.1, 0.5))
    ramp = MixtureRamp(from_mixture=before, to_mixture=after, num_steps=4)
    trunk, sft = control.curriculum.until(12), control.curriculum.stretches[-1].phase
    labels = factors(mix="ramp to code", weight=0.411, start_step=3)
    curriculum = trunk.branch(start_step=3, data=ramp, name="ramp to code", factors=labels).then(sft)
    assert len(curriculum.stretches) == 4
    ramped = measured_like(code, curriculum)
    store = Store.open(tmp_path / "store", create=True)
    compared = dataclasses.replace(study.comparisons[0], arms=[ramped], references=[control])
    make_study(store, dataclasses.replace(study, arms=(control, ramped), comparisons=[compared]))
    assert load(store, "small").arms[1].tokens["code"] == pytest.approx((4 * 0.3 + 5 * 0.5) * 4 * 32, abs=32)
    assert main(["report", "small", "--store", str(store.root)]) == 0
    assert "ramp to code" in (store.paths.study("small") / "report" / "report.html").read_text()


def test_status_shows_a_failed_stage_with_the_command_that_retries_it(finished, capsys, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(finished.root, copy)
    store = Store.open(copy)
    manifest = load(store, "small")
    arm = manifest.arms[1]
    stage = manifest.stages[arm.state].start_from
    assert stage is not None
    for stage_id in (stage, arm.state, *arm.measures["sft_loss"]):
        shutil.rmtree(store.paths.published(stage_id))
    store.report_failure(stage, {"cause": "MemoryError: no more", "retry": "midstudy retry small", "log": []})
    assert main(["status", "--store", str(copy), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [failure["cause"] for failure in facts["failed"]] == ["MemoryError: no more"]
    assert facts["skipped"] == 2
    assert {row["id"]: row["label"] for row in facts["by_stage"]} == {
        stage_id: entry.label for stage_id, entry in manifest.stages.items()
    }
    statuses = [row["is"] for row in facts["by_stage"]]
    assert {status: statuses.count(status) for status in set(statuses)} == {
        "failed": 1, "skipped": 2, "finished": len(manifest.stages) - 3,
    }  # fmt: skip
    assert main(["status", "--store", str(copy)]) == 0
    assert "midstudy retry small" in capsys.readouterr().out


@pytest.mark.slow
def test_the_placement_is_recorded_and_does_not_affect_any_id(experiment, text, tmp_path, finished):
    store = tmp_path / "store"
    where = ["--micro-batch", "2", "--threads", "1", "--jobs", "1"]
    command = ["run", str(experiment), "--store", str(store), "--set", f"text={text}", *where]
    done = subprocess.run(
        [sys.executable, "-m", "midstudy.cli.main", *command],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},  # lets the experiment import the small study
    )
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout
    made = Store.open(store)
    manifest = load(made, "small")
    assert set(manifest.stages) == set(load(finished, "small").stages)
    for arm in manifest.arms:
        record = made.record(arm.state)
        assert record.environment["placement"]["micro_batch"] == 2
        assert "noise_scale_sequences" in record.metrics
        (evaluation,) = arm.measures["sft_loss"]
        expected = finished.record(evaluation).metrics["loss_nats"]
        assert made.record(evaluation).metrics["loss_nats"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_study_is_run_and_reused_from_the_command_line(experiment, text, tmp_path, capfd):
    """The whole path with real jobs, a real Prefect server and a real MLflow store."""
    store = tmp_path / "store"
    arguments = [str(experiment), "--store", str(store), "--set", f"text={text}"]
    assert main(["run", *arguments]) == 0
    assert "0 failed" in capfd.readouterr().out
    assert (store / "studies" / "small" / "report" / "report.html").exists()
    assert main(["run", *arguments]) == 0
    assert "0 stages run" in capfd.readouterr().out
    assert main(["report", "--store", str(store), "--json"]) == 0
    assert "report" in json.loads(capfd.readouterr().out.splitlines()[-1])
