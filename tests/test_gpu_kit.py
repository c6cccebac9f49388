"""The kit for a bare GPU machine: its imports, the wheels it needs, and a result file that is always up to date."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from builders.places import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.append(str(REPOSITORY / "benchmarks"))

import on_gpu

ABSENT = (
    *("prefect", "mlflow", "hypothesis", "pandas", "scipy", "datasets", "submitit", "pyarrow", "matplotlib"),
    *("huggingface_hub", "transformers", "litgpt", "nbformat", "fastapi", "ipykernel"),
)
"""Packages that the machine lacks, or that come from a wheel that only the compared libraries need."""

BLOCKED = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ImportError(f"{{name}} is not on the machine")
sys.meta_path.insert(0, Refuse())
"""


def run_bare(code: str) -> subprocess.CompletedProcess[str]:
    """Run code with only the packages of the GPU machine."""
    path = os.pathsep.join(str(REPOSITORY / name) for name in (".", "tests", "benchmarks"))
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_the_kit_imports_only_packages_of_the_machine() -> None:
    """This covers engine, models, evaluation, data, recipes, store and plans; the benchmarks; and the tests."""
    done = run_bare(
        """
        import importlib.util, pathlib
        import midstudy.recipe, midstudy.plan.planner, midstudy.plan.device
        import midstudy.data.batches, midstudy.data.tokens, midstudy.data.tokenizer, midstudy.model.huggingface
        import midstudy.train.engine, midstudy.train.averaging, midstudy.evaluate.model_cache, midstudy.evaluate.loss
        import midstudy.store.store, midstudy.execute.stage, midstudy.similarity.counts
        import train_step, shared_device, recording, on_gpu
        for path in sorted(pathlib.Path("tests/gpu").glob("*.py")):
            spec = importlib.util.spec_from_file_location(path.stem, path)
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        """
    )
    assert done.returncode == 0, done.stderr


def test_the_kit_script_itself_needs_only_python() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-I", str(REPOSITORY / "benchmarks" / "on_gpu.py"), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--collect" in done.stdout


def test_the_kits_wheels_are_complete() -> None:
    """Every requirement of a wheel is another wheel or is on the machine."""
    on_the_machine = {"numpy"}
    missing = {}
    for name in on_gpu.WHEELS:
        for text in requires(name) or []:
            need = Requirement(text)
            applies = need.marker is None or need.marker.evaluate({"extra": "", "python_version": "3.12"})
            if applies and canonicalize_name(need.name) not in {*on_gpu.WHEELS, *on_the_machine}:
                missing[name] = need.name
    assert missing == {}


def test_the_kits_wheels_are_locked() -> None:
    lock = (REPOSITORY / "requirements-dev.lock").read_text()
    assert [name for name in on_gpu.WHEELS if not re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE)] == []
    assert set(on_gpu.WHEELS).isdisjoint({"torch", "numpy"})


@pytest.fixture
def kit(tmp_path: Path) -> on_gpu.Kit:
    (tmp_path / "work").mkdir()
    return on_gpu.Kit(tmp_path / "on_gpu.json", tmp_path / "work", device="cpu", seconds=200.0)


def python_part(name: str, code: str, *, gather: Any = None, least_s: float = 0.0, most_s: float = 60.0) -> on_gpu.Part:
    return on_gpu.Part(name, [sys.executable, "-c", code], least_s, most_s, gather or (lambda result, log: None))


def written(kit: on_gpu.Kit) -> dict[str, Any]:
    return json.loads(kit.output.read_text())


def test_a_part_that_fails_hangs_or_does_not_fit_does_not_affect_the_others(kit: on_gpu.Kit) -> None:
    parts = [
        python_part("fails", "print('the cause'); raise SystemExit(3)"),
        python_part("hangs", "import time; print('begun', flush=True); time.sleep(600)", most_s=2.0),
        python_part("too long", "print()", least_s=1_000.0),
        python_part("well", "print('ok')"),
    ]
    assert [kit.run(part) for part in parts] == [False, False, False, True]
    rows = written(kit)["parts"]
    assert [row["part"] for row in rows] == ["fails", "hangs", "too long", "well"]
    states = [row["state"] for row in rows]
    assert states[0] == "exit status 3"
    assert states[1] == "stopped after 2 s"
    assert states[2].startswith("left out: ")
    assert states[3] == "done"
    assert rows[0]["last_lines"] == ["the cause"]


def test_test_outcomes_are_collected_while_the_tests_run() -> None:
    log = (
        "tests/gpu/test_a.py::test_one[cuda-fp32] PASSED      [ 10%]\n"
        "tests/gpu/test_a.py::test_two[cuda] SKIPPED (PyTorch sees no CUDA device here) [ 20%]\n"
        "tests/gpu/test_a.py::test_three[cuda-a b] FAILED [ 30%]\n"
        "tests/gpu/test_a.py::test_four PASSED [ 40%]\n"
        "tests/gpu/test_a.py::test_four ERROR [ 40%]\n"
        "tests/gpu/test_a.py::test_five "
    )
    result: dict[str, Any] = {"tests": {}}
    on_gpu._tests(result, log)
    on_gpu._tests(result, log)
    assert {name.rpartition("::")[2]: outcome for name, outcome in result["tests"].items()} == {
        "test_one[cuda-fp32]": "passed",
        "test_two[cuda]": "skipped",
        "test_three[cuda-a b]": "failed",
        "test_four": "error",
    }


def test_a_terminated_kit_keeps_its_results_and_leaves_no_process(tmp_path: Path) -> None:
    """After termination during a part, the file has the part's results so far, and its processes are gone."""
    code = f"""
        import sys, signal
        sys.path.insert(0, {str(REPOSITORY / "benchmarks")!r})
        import on_gpu
        from pathlib import Path
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        kit = on_gpu.Kit(Path("on_gpu.json").resolve(), Path.cwd(), device="cpu", seconds=500)
        sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
        def gather(result, log):
            result["pid"] = log.strip()
        kit.run(on_gpu.Part("sleeps", [sys.executable, "-c", sleeper], 0, 400, gather))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        output = tmp_path / "on_gpu.json"
        while not (output.exists() and json.loads(output.read_text()).get("pid")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    finally:
        process.kill()
    result = json.loads(output.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(int(result["pid"]), 0)


def result_of(device_name: str) -> dict[str, Any]:
    rate = {
        **{"device": "cuda", "shape": "70m", "precision": "bf16_true", "vocab_size": 50_304, "seq_len": 2_048},
        **{"flops_per_token": 3.7e8, "compiled": True, "tokens_per_s": 900_000, "date": "2026-11-26", "command": "x"},
    }
    return {"machine": {"device_name": device_name}, "steps": [{"rate": rate}, {"rate": rate | {"precision": "fp32"}}]}


def test_rates_of_a_result_are_recorded_for_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They replace older rates of the same kind; all others are kept."""
    import recording

    from midstudy.plan.device import RATES, Rate

    table = tmp_path / "rates.json"
    table.write_text(RATES.read_text())
    monkeypatch.setattr(recording, "RATES", table)
    before = json.loads(table.read_text())
    (tmp_path / "r.json").write_text(json.dumps(result_of("NVIDIA H100 80GB HBM3")))
    on_gpu.record_rates(tmp_path / "r.json")
    on_gpu.record_rates(tmp_path / "r.json")
    rows = json.loads(table.read_text())
    assert [row for row in rows if row["device"] != "h100"] == [row for row in before if row["device"] != "h100"]
    new = [Rate(**row) for row in rows if row["device"] == "h100" and row["date"] == "2026-11-26"]
    assert [(rate.precision, rate.tokens_per_s) for rate in new] == [("bf16_true", 900_000), ("fp32", 900_000)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            json.dumps(result_of("NVIDIA L40S")),
            r"expected a device with a price, one of .*h100, got NVIDIA L40S\.",
        ),
        (json.dumps(result_of("CPU")), r"expected a device with a price, .*, got CPU\."),
        (json.dumps(result_of("NVIDIA H100 80GB HBM3") | {"steps": []}), "no training step"),
        ("{}", "not a result file of this kit"),
        ("[1", "not a result file of this kit"),
        ("[]", "not a result file of this kit"),
        (None, "not a result file of this kit"),
    ],
)
def test_a_file_that_is_not_a_result_of_a_known_gpu_is_rejected(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    with pytest.raises(SystemExit, match=words):
        on_gpu.record_rates(tmp_path / "r.json")
