"""Calibration: rates are measured in subprocesses and cached for later plans on this machine."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from midstudy.execute import calibration
from midstudy.execute.calibration import STEP_FLOPS, Machine, request_of, stand_in
from midstudy.plan.cost import Calibrated, Workload
from midstudy.recipe import llama, pythia
from midstudy.recipe.model import SIZES
from midstudy.recipe.shape import AnyShape

calibrate, calibrated = calibration.calibrate, calibration.calibrated  # imported before tests/conftest.py replaces them
MACHINE = Machine(num_threads=1, num_jobs=1)


def workload(size: str = "nano", precision: str = "fp32", **changes: int) -> Workload:
    shape = {"vocab_size": changes.pop("vocab_size", 300)}
    return Workload(pythia(size, **shape), precision, changes.get("seq_len", 16), changes.get("num_sequences", 2))


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Workload]:
    """Return the list of workloads sent to subprocesses, which return rates proportional to the number of parameters."""
    sent: list[Workload] = []

    def measure(workloads: Sequence[Workload], machine: Machine) -> list[Calibrated]:
        sent.extend(workloads)
        return [Calibrated(1e3 * workload.model.num_parameters, 0.4) for workload in workloads]

    monkeypatch.setattr(calibration, "_in_processes", measure)
    return sent


def test_a_real_calibration_trains_and_its_rate_is_cached() -> None:
    nano = workload()
    assert calibrated([nano], MACHINE) == {}
    rates = calibrate([nano], MACHINE)
    assert list(rates) == [("nano", "fp32")]
    assert rates["nano", "fp32"].flops_per_s > 0
    assert 0 < rates["nano", "fp32"].forward_share < 1
    assert calibrated([nano], MACHINE) == rates


def test_the_calling_process_does_not_import_pytorch() -> None:
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
def test_a_cached_rate_is_not_used_for_other_workloads(other: Workload, sent: list[Workload]) -> None:
    calibrate([workload()], MACHINE)
    assert calibrated([workload()], MACHINE)
    assert calibrated([other], MACHINE) == {}


def test_a_cached_rate_is_not_used_for_other_machines(sent: list[Workload], monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate([workload()], MACHINE)
    assert calibrated([workload()], dataclasses.replace(MACHINE, num_threads=2)) == {}
    assert calibrated([workload()], dataclasses.replace(MACHINE, num_jobs=2)) == {}
    here = calibration.this_processor()
    monkeypatch.setattr(calibration, "this_processor", lambda: dataclasses.replace(here, has_bfloat16=not here.has_bfloat16))
    assert calibrated([workload()], MACHINE) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"flops_per_s": "fast", "forward_share": 0.3}'])
def test_a_damaged_cache_file_is_measured_again(text: str, sent: list[Workload], tmp_path: Path) -> None:
    calibrate([workload()], MACHINE)
    (file,) = (tmp_path / "cache" / "rates").iterdir()
    file.write_text(text)
    assert calibrated([workload()], MACHINE) == {}
    calibrate([workload()], MACHINE)
    assert calibrated([workload()], MACHINE)


def test_a_cache_that_is_not_writable_is_ignored(sent: list[Workload], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", "/proc/nowhere")
    assert calibrate([workload()], MACHINE)
    assert calibrated([workload()], MACHINE) == {}


def test_few_shapes_are_measured_and_larger_ones_get_the_rate_of_the_largest(sent: list[Workload]) -> None:
    sizes = ("410m", "nano", "160m", "micro", "70m", "14m", "1b")
    rates = calibrate([workload(size, vocab_size=50_304) for size in sizes], MACHINE)
    assert [measured.model.name for measured in sent] == ["nano", "micro", "14m", "70m"]
    assert {size for size, _ in rates} == set(sizes)
    assert rates["1b", "fp32"] == rates["410m", "fp32"] == rates["70m", "fp32"] != rates["micro", "fp32"]
    assert calibrated([workload("1b", vocab_size=50_304)], MACHINE) == {}, "an extrapolated rate was cached"


@pytest.mark.parametrize(
    "command",
    [["false"], ["true"], ["nowhere/at/all"]],
    ids=["fails", "no output", "cannot be started"],
)
def test_a_failed_calibration_warns_and_returns_nothing(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda arguments, **options: start(command, **options))
    with pytest.warns(UserWarning, match="the speed of this machine could not be measured"):
        assert calibrate([workload()], MACHINE) == {}


SHAPES = [*map(pythia, SIZES), llama("micro"), llama("3.2-1b")]


@pytest.mark.parametrize("model", SHAPES, ids=lambda model: model.name)
@pytest.mark.parametrize("vocab_size", [2_048, 50_304])
@pytest.mark.parametrize(("num_sequences", "seq_len"), [(16, 128), (2, 512), (1_024, 2_048)])
def test_a_calibrated_step_is_small_for_any_workload(
    model: AnyShape, vocab_size: int, num_sequences: int, seq_len: int
) -> None:
    original = Workload(dataclasses.replace(model, vocab_size=vocab_size), "fp32", seq_len, num_sequences)
    small = stand_in(original)
    num_tokens = small.num_sequences * small.seq_len
    assert num_tokens * small.model.flops_per_token(seq_len=small.seq_len) < 4 * STEP_FLOPS
    assert small.model.num_parameters < 8e7, "weights, gradients and moments of all processes must fit in memory"
    assert (small.model.width, small.precision) == (original.model.width, "fp32")
    assert small.seq_len <= seq_len
    assert small.num_sequences <= num_sequences


def test_a_small_shape_is_calibrated_on_its_own_step() -> None:
    micro = Workload(pythia("micro", vocab_size=2_048, max_seq_len=128), "fp32", 128, 16)
    assert stand_in(micro) == micro


@pytest.mark.parametrize("model", [workload().model, llama("nano", vocab_size=512)], ids=lambda model: model.name)
def test_a_process_measures_the_workloads_of_its_input(
    model: AnyShape, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    measured: list[tuple[Workload, int]] = []

    def measure(workload: Workload, *, num_threads: int) -> Calibrated:
        measured.append((workload, num_threads))
        return Calibrated(1.0, 0.5)

    monkeypatch.setattr(calibration, "measure", measure)
    monkeypatch.setattr(calibration, "configure_threads", lambda number: None)
    given = dataclasses.replace(workload(), model=model)
    text = json.dumps({"num_threads": 3, "workloads": [request_of(given)]})
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    calibration.main()
    assert measured == [(stand_in(given), 3)]
    assert json.loads(capsys.readouterr().out) == [{"flops_per_s": 1.0, "forward_share": 0.5}]
