"""Calibration: what is measured in a subprocess and cached for this machine's next plan."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from midstudy.execute import calibration
from midstudy.execute.calibration import STEP_FLOPS, Machine, stand_in
from midstudy.plan.cost import Calibrated, Workload
from midstudy.recipe import pythia
from midstudy.recipe.model import SIZES

calibrate, calibrated = calibration.calibrate, calibration.calibrated  # before tests/conftest.py replaces them
MACHINE = Machine(num_threads=1, num_jobs=1)


def workload(size: str = "nano", precision: str = "fp32", **changes: int) -> Workload:
    shape = {"vocab_size": changes.pop("vocab_size", 300)}
    return Workload(pythia(size, **shape), precision, changes.get("seq_len", 16), changes.get("num_sequences", 2))


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Workload]:
    """The workloads sent to subprocesses; each returns a rate equal to its number of parameters."""
    found: list[Workload] = []

    def answer(workloads: Sequence[Workload], machine: Machine) -> list[Calibrated]:
        found.extend(workloads)
        return [Calibrated(1e3 * one.model.num_parameters, 0.4) for one in workloads]

    monkeypatch.setattr(calibration, "_side_by_side", answer)
    return found


def test_a_real_calibration_trains_and_its_rate_is_kept() -> None:
    one = workload()
    assert calibrated([one], MACHINE) == {}
    seen = calibrate([one], MACHINE)
    assert list(seen) == [("nano", "fp32")]
    assert seen["nano", "fp32"].flops_per_s > 0
    assert 0 < seen["nano", "fp32"].forward_share < 1
    assert calibrated([one], MACHINE) == seen


def test_a_plan_is_calibrated_without_pytorch_in_its_own_process() -> None:
    code = (
        "import sys\nfrom midstudy.execute import calibration\n"
        "calibration.calibrated([], calibration.Machine(num_threads=1, num_jobs=1))\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    "other",
    [
        workload("micro"),
        workload(precision="bf16_mixed"),
        workload(vocab_size=400),
        workload(seq_len=32),
        workload(num_sequences=4),
    ],
    ids=["shape", "precision", "vocabulary", "length", "batch"],
)
def test_what_is_kept_stands_for_the_same_work_alone(other: Workload, asked: list[Workload]) -> None:
    calibrate([workload()], MACHINE)
    assert calibrated([workload()], MACHINE)
    assert calibrated([other], MACHINE) == {}


def test_what_is_kept_stands_for_the_same_machine_alone(asked: list[Workload], monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate([workload()], MACHINE)
    assert calibrated([workload()], dataclasses.replace(MACHINE, num_threads=2)) == {}
    assert calibrated([workload()], dataclasses.replace(MACHINE, num_jobs=2)) == {}
    here = calibration.this_processor()
    monkeypatch.setattr(calibration, "this_processor", lambda: dataclasses.replace(here, has_bfloat16=not here.has_bfloat16))
    assert calibrated([workload()], MACHINE) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"flops_per_s": "fast", "forward_share": 0.3}', '{"flops_per_s": 0, '
                                  '"forward_share": 0.3}'])  # fmt: skip
def test_a_damaged_file_is_measured_again(text: str, asked: list[Workload], tmp_path: Path) -> None:
    calibrate([workload()], MACHINE)
    (file,) = (tmp_path / "cache" / "rates").iterdir()
    file.write_text(text)
    assert calibrated([workload()], MACHINE) == {}
    calibrate([workload()], MACHINE)
    assert calibrated([workload()], MACHINE)


def test_a_cache_that_cannot_be_written_costs_nothing(asked: list[Workload], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", "/proc/nowhere")
    assert calibrate([workload()], MACHINE)
    assert calibrated([workload()], MACHINE) == {}


def test_few_shapes_are_measured_and_larger_ones_take_the_rate_of_the_largest(asked: list[Workload]) -> None:
    sizes = ("410m", "nano", "160m", "micro", "70m", "14m", "1b")
    seen = calibrate([workload(size, vocab_size=50_304) for size in sizes], MACHINE)
    assert [one.model.name for one in asked] == ["nano", "micro", "14m", "70m"]
    assert {size for size, _ in seen} == set(sizes)
    assert seen["1b", "fp32"] == seen["410m", "fp32"] == seen["70m", "fp32"] != seen["micro", "fp32"]
    assert calibrated([workload("1b", vocab_size=50_304)], MACHINE) == {}, "what was not measured is not kept"


@pytest.mark.parametrize(
    "command",
    [["false"], ["true"], ["echo", "[]"], ["echo", '[{"odd": 1}]'], ["echo", "[1]"], ["nowhere/at/all"]],
    ids=["fails", "says nothing", "says too little", "says other things", "says a number", "cannot be started"],
)
def test_what_cannot_be_measured_is_not_known_and_said(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda arguments, **options: start(command, **options))
    with pytest.warns(UserWarning, match="the speed of this machine could not be measured"):
        assert calibrate([workload()], MACHINE) == {}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("vocab_size", [2_048, 50_304])
@pytest.mark.parametrize(("num_sequences", "seq_len"), [(16, 128), (2, 512), (1_024, 2_048)])
def test_a_calibrated_step_is_small_whatever_the_study_trains(
    size: str, vocab_size: int, num_sequences: int, seq_len: int
) -> None:
    asked = Workload(pythia(size, vocab_size=vocab_size), "fp32", seq_len, num_sequences)
    one = stand_in(asked)
    num_tokens = one.num_sequences * one.seq_len
    assert num_tokens * one.model.flops_per_token(seq_len=one.seq_len) < 4 * STEP_FLOPS
    assert one.model.num_parameters < 8e7, "weights, gradients and moments fit beside those of other processes"
    assert (one.model.width, one.precision) == (asked.model.width, "fp32")
    assert one.seq_len <= seq_len
    assert one.num_sequences <= num_sequences


def test_the_small_shape_is_calibrated_on_its_own_step() -> None:
    asked = Workload(pythia("micro", vocab_size=2_048, max_seq_len=128), "fp32", 128, 16)
    assert stand_in(asked) == asked


def test_a_process_reads_what_it_was_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import io

    seen: list[tuple[Workload, int]] = []

    def measure(one: Workload, *, num_threads: int) -> Calibrated:
        seen.append((one, num_threads))
        return Calibrated(1.0, 0.5)

    monkeypatch.setattr(calibration, "measure", measure)
    monkeypatch.setattr(calibration, "configure_threads", lambda number: None)
    text = json.dumps({"num_threads": 3, "workloads": [dataclasses.asdict(workload())]})
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    calibration.main()
    assert seen == [(stand_in(workload()), 3)]
    assert json.loads(capsys.readouterr().out) == [{"flops_per_s": 1.0, "forward_share": 0.5}]
