"""Experiment files that fail, print or exit, and unusable names: one message says where the problem is."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from builders import small_study as small_study_module
from builders.fake_execute import fake_stage
from builders.places import PYTHONPATH
from builders.small_recipes import corpus, phase, task
from builders.small_study import small_study, write_text

from midstudy.cli.main import main
from midstudy.launch.job import write_failure
from midstudy.launch.job_file import EXECUTE_STAGE, Job, JobStage, job_name
from midstudy.launch.process import this_process
from midstudy.recipe import Mixture, RecipeError
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.train.placement import Placement

MIDSTUDY = (sys.executable, "-m", "midstudy.cli.main")
ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH}

NO_EXIT = "expected study(...) to return a study or to raise an error, got an exit with status "

WRONG = {
    "raises when it is read": ("x = 1\nraise RuntimeError('no such cluster')\n", ":2: RuntimeError: no such cluster"),
    "raises its own exception class": ("class Odd(Exception): pass\ndef study(*, data):\n    raise Odd('!')", ":3: Odd: !"),
    "asserts": ("def study(*, data):\n    assert data == 3, 'three!'\n", ":2: AssertionError: three!"),
    "reads a missing file": ("def study(*, data):\n    open('/nowhere/x')\n", ":2: FileNotFoundError: "),
    "imports a missing module": ("import no_such_module_anywhere\n", ":1: ModuleNotFoundError: No module named"),
    "ends the program": (
        "import sys\nsys.exit(0)\n",
        ":2: SystemExit: " + NO_EXIT + "0",
    ),
    "ends it from study": (
        "def study(*, data):\n    exit('bye')\n",
        ":2: SystemExit: " + NO_EXIT + "'bye'",
    ),
    "has a syntax error": ("def study(*, data)\n    return 1\n", ":1: SyntaxError: expected ':'\n    def study(*, data)"),
    "has a null byte": ("x = 1\0\n", "SyntaxError: source code string cannot contain null bytes"),
    "defines no study": ("def studies(): pass\n", ".study: expected def study(*, data, ...) -> midstudy.recipe.Study, got "),
    "has a study that is not a function": (
        "study = 3\n",
        ".study: expected def study(*, data, ...) -> midstudy.recipe.Study, got ",
    ),
    "returns something else": (
        "def study(*, data): return {'arms': []}\n",
        ".study: expected a function that returns a Study, got dict",
    ),
    "takes no data": ("def study(): pass\n", "TypeError: study() got an unexpected keyword argument 'data'"),
    "recurses": ("def study(*, data): return study(data=data)\n", ":1: RecursionError: "),
    "is empty": ("", ".study: expected def study(*, data, ...) -> midstudy.recipe.Study, got "),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_message_for_a_wrong_experiment_names_its_line_and_nothing_is_written(what, tmp_path, capsys):
    text, message = WRONG[what]
    path = tmp_path / "my 'best' experiment.py"
    path.write_text(text)
    for verb in ("plan", "run"):
        assert main([verb, str(path), "--store", str(tmp_path / "store")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"midstudy {verb}: ")
        assert path.name in error
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "store" / "stages").exists()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    write_text(tmp_path / "text")
    return tmp_path / "text"


def test_what_an_experiment_prints_does_not_mix_with_json(text, tmp_path, capsys):
    experiment = tmp_path / "talks"  # the name need not end with .py
    experiment.write_text(
        "print('hello')\nfrom pathlib import Path\nfrom builders.small_study import small_study\n"
        f"def study(*, data):\n    print('thinking')\n    return small_study(Path({str(text)!r}))\n"
    )
    assert main(["plan", str(experiment), "--store", str(tmp_path / "store"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["study"] == "small"
    assert captured.err == "hello\nthinking\n"


def status(arguments: list[str]) -> int | str | None:
    """Return the exit status of the command, also where argparse rejects the arguments."""
    try:
        return main(arguments)
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--set", "x"], "--set: expected KEYWORD=VALUE, got x."),
        (["--set", "=1"], "argument --set: expected KEYWORD=VALUE, and KEYWORD=\"''\" for an empty string, got =1."),
        (["--set", "steps=" + "(" * 10_000], "expected a Python int, such as 12"),
        (["--set", "steps={[]: 1}"], "expected a Python int, such as 12"),
        (["--set", "steps=" + "9" * 5_000], "expected a Python int, such as 12"),
        (["--set", "steps=__import__('os').system('true')"], "expected a Python int, such as 12"),
    ],
)
def test_a_setting_that_is_not_a_literal_is_rejected_and_never_executed(settings, message, tmp_path, capsys):
    experiment = tmp_path / "experiment.py"
    experiment.write_text("def study(*, data, steps: int = 12): raise ValueError('reached')\n")
    assert status(["plan", str(experiment), *settings]) == 2
    assert message in capsys.readouterr().err


# -- names ------------------------------------------------------------------------------------------------------------

UNFIT = ["", " ", " code", "code ", "two\nlines", "a\0b", "\x1b[2J", "\ud800", "\u202eedoc", "x" * 101, None, 7]
FIT = [
    "code",
    "two words",
    "it's",
    '"quoted"',
    "naïve Ünïcode",
    "数学",
    "../../etc/passwd",
    "-rf",
    "a=b",
    "100 %",
    "🙂",
    "{x}",
]

NAMED: dict[str, Callable[[Any], Any]] = {
    "corpus": corpus,
    "task": task,
    "phase": lambda name: phase(Mixture.only(corpus("general")), 10, name=name),
}


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize("name", UNFIT, ids=repr)
def test_the_message_for_an_unusable_name_names_its_field(kind, name):
    with pytest.raises(RecipeError, match=rf"{kind}\.name: expected 1 to 100 printable characters.*, got .*") as caught:
        NAMED[kind](name) if kind == "phase" else dataclasses.replace(NAMED[kind]("x"), name=name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", FIT)
def test_every_other_printable_name_is_accepted(name):
    assert [NAMED[kind](name).name for kind in NAMED] == [name] * 3


@pytest.mark.parametrize("name", ["", "two words", "..", "-rf", "a/b", "it's", "naïve", "a\n", "x" * 61, None, 7, ["a"]])
def test_the_name_of_a_study_must_be_a_plain_folder_name(text, name):
    study = small_study(text)
    with pytest.raises(RecipeError, match=r"study\.name: expected 1 to 60 letters, digits, - and _.*, got .*") as caught:
        dataclasses.replace(study, name=name)
    assert len(str(caught.value)) < 250


# -- end to end -------------------------------------------------------------------------------------------------------

ODD_NAME = r"""it's "数学" ../.. {x} 100 % <b>$\frac$ -rf"""


def oddly_named(text: Path, name: str) -> str:
    """Return the text of an experiment file: the small study, called `name`, whose corpus, mix and task have odd names."""
    source = Path(small_study_module.__file__).read_text()
    for plain in ('name="code"', 'mix="code"', '"code_task"', "name=name, source=source(name,"):
        assert plain in source
    source = source.replace('Corpus(name="code"', f"Corpus(name={ODD_NAME!r}").replace('mix="code"', f"mix={ODD_NAME!r}")
    source = source.replace('"code_task"', repr(f"task {ODD_NAME}")).replace('name="small"', f"name={name!r}")
    return (
        f"{source}\n\ndef study(*, data, steps: int = 12):\n    return small_study(Path({str(text)!r}), total_steps=steps)\n"
    )


@pytest.mark.slow
def test_two_studies_with_odd_names_run_at_the_same_time_in_a_store_with_an_odd_path(text, tmp_path):
    """Two commands on one store: each shared stage is made once, and both finish with their report."""
    folder = tmp_path / """it's a "store"; $HOME `ünï 数学` -rf & \\ {x}"""
    folder.mkdir()
    store = folder / "store"
    processes = []
    for name, steps in (("one", 12), ("two", 15)):
        experiment = folder / f"{name} 'odd'.py"
        experiment.write_text(oddly_named(text, name))
        command = [*MIDSTUDY, "run", experiment.name, "--store", "store", "--set", f"steps={steps}"]
        processes.append(subprocess.Popen(command, cwd=folder, stdout=PIPE, stderr=PIPE, text=True, env=ENVIRONMENT))
    outputs = [process.communicate() for process in processes]
    for process, (out, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
        assert " 0 failed, 0 skipped" in out
        assert "Traceback" not in err
        line = next(line for line in out.splitlines() if line.startswith("MLflow and Prefect: "))
        words = subprocess.run(
            ["sh", "-c", f"for word in {line.removeprefix('MLflow and Prefect: ')}; do printf '%s\\0' \"$word\"; done"],
            capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        assert (folder / words[-2]).resolve() == store  # printed relative to the folder of the command
    made = Store.open(store)
    shared = set.intersection(*(set(load(made, name).stages) for name in ("one", "two")))
    assert len(shared) > 8
    attempts = [line for log in made.paths.jobs.glob("*/submitit/*.out") for line in log.read_text().splitlines()]
    starts = Counter(line.split()[2] for line in attempts if line.startswith("=== stage "))
    reused = Counter(attempts)["reused"]
    assert sum(starts.values()) - reused == len(list(made.stage_ids()))
    for name in ("one", "two"):
        page = (made.paths.study(name) / "report" / "report.html").read_text()
        assert html.escape(ODD_NAME, quote=False) in page
        assert "<b>" not in page
    label = f"sft nano control → task {ODD_NAME}, trunk 0, SFT 7"
    done = subprocess.run(
        [*MIDSTUDY, "export", label, "--to", "hf", "--store", store, "--study", "one"],
        cwd=folder, capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.glob("sft-nano-control*")]


def test_the_command_that_retries_a_stage_survives_copy_and_paste(tmp_path):
    folder = tmp_path / """it's a "store"; $HOME `ünï` & \\ {x}"""
    store = Store.open(folder / "store", create=True)
    stage = fake_stage("broken")
    store.request(stage)
    job = Job(
        name=job_name(stage.id), study="small", stages=(JobStage(id=stage.id, start_from=None, keeps_optimizer=False),),
        backend="local", placement=Placement(), entry=EXECUTE_STAGE, driver=this_process(),
    )  # fmt: skip
    write_failure(store, job, stage.id, label="broken", cause="it broke")
    failure = store.failure(stage.id)
    assert failure is not None
    shell = 'midstudy() { printf "%s\\0" "$@"; }; '
    words = subprocess.run(["sh", "-c", shell + failure["retry"]], capture_output=True, text=True, check=True).stdout
    assert words.split("\0")[:-1] == ["retry", "--store", str(store.root), "small", stage.id]
