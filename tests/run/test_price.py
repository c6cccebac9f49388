"""The device a plan is priced on and the source of its rates: this machine or a named device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders.small_study import make_study, small_study

from midstudy.cli.main import main
from midstudy.environment import num_cores
from midstudy.execute import calibration
from midstudy.execute.calibration import Machine
from midstudy.launch.slurm.placement_file import PlacementFile
from midstudy.plan.cost import Calibrated, Throughput, Workload
from midstudy.plan.device import CPU_CORE, H100, Device
from midstudy.recipe import pythia
from midstudy.run.study import Place, forecast_s, plan_experiment
from midstudy.store import processor
from midstudy.store.processor import Processor
from midstudy.store.store import Store
from midstudy.train import environment
from midstudy.train.placement import Placement

EXPERIMENT = """
from pathlib import Path
from builders.small_study import small_study

def study(*, data, text: str, precision: str = "fp32"):
    return small_study(Path(text), precision=precision)
"""

HERE = Place(backend="local", placement=Placement(), max_jobs=2)
ON_GPU = Place(backend="local", placement=Placement(device="cuda"), max_jobs=1, gpus=("0",))
ON_NODES = Place(backend="slurm", placements=PlacementFile(), max_jobs=100)
ON_GPU_NODES = Place(backend="slurm", placements=PlacementFile({("sft", None): {"device": "cuda"}}), max_jobs=100)
NANO = pythia("nano", vocab_size=512, max_seq_len=32)
RATES = {"fp32": Calibrated(4e9, 0.5), "bf16_mixed": Calibrated(1e9, 0.25), "bf16_true": Calibrated(2e9, 0.25)}


class Calibrations:
    """Records calibration requests and answers with `RATES`; `cached` lists the workloads that the cache holds."""

    def __init__(self) -> None:
        self.requests: list[tuple[Sequence[Workload], Machine]] = []
        self.cached: Sequence[Workload] = ()

    def calibrate(self, workloads: Sequence[Workload], machine: Machine) -> dict[tuple[str, str], Calibrated]:
        self.requests.append((workloads, machine))
        return {(workload.model.name, workload.precision): RATES[workload.precision] for workload in workloads}

    def calibrated(self, workloads: Sequence[Workload], machine: Machine) -> dict[tuple[str, str], Calibrated]:
        cached = [workload for workload in workloads if workload in self.cached]
        return {(workload.model.name, workload.precision): RATES[workload.precision] for workload in cached}


@pytest.fixture
def calibrations(monkeypatch: pytest.MonkeyPatch) -> Calibrations:
    recorder = Calibrations()
    monkeypatch.setattr(calibration, "calibrate", recorder.calibrate)
    monkeypatch.setattr(calibration, "calibrated", recorder.calibrated)
    return recorder


@pytest.fixture
def plan_of(text: Path, tmp_path: Path) -> Any:
    """Return a function that plans the small study, by default without a store."""
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)

    def plan(where: Place | None = None, *, store: Store | None = None, precision: str = "fp32", **options: Any) -> Any:
        settings = [f"text={text}", f"precision={precision}"]
        return plan_experiment(str(path), store, data=(), settings=settings, where=where, **options)

    return plan


def pretend_processor(monkeypatch: pytest.MonkeyPatch, *, has_bfloat16: bool) -> None:
    here = Processor(processor.this_processor().name, has_bfloat16)
    monkeypatch.setattr(processor, "this_processor", lambda: here)


@pytest.mark.parametrize(
    ("where", "price_on", "device", "is_calibrated", "has_forecast"),
    [
        (None, None, CPU_CORE, True, True),
        (HERE, None, CPU_CORE, True, True),
        (HERE, "cpu-core", CPU_CORE, False, True),
        (HERE, "h100", H100, False, False),
        (None, "h100", H100, False, False),
        (ON_GPU, None, H100, False, True),
        (ON_GPU, "h100", H100, False, True),
        (ON_GPU, "cpu-core", CPU_CORE, False, False),
        (ON_NODES, None, CPU_CORE, False, True),
        (ON_GPU_NODES, None, H100, False, True),
        (ON_GPU_NODES, "h100", H100, False, True),
    ],
    ids=[
        "by default", "here", "a core as recorded", "another device", "by default on another device", "on a GPU",
        "on a named GPU", "on a GPU, as a core", "on nodes", "on nodes with GPUs", "on nodes with named GPUs",
    ],
)  # fmt: skip
def test_a_plan_counts_the_hours_of_the_device_that_computes_or_is_named(
    where: Place | None,
    price_on: str | None,
    device: Device,
    is_calibrated: bool,
    has_forecast: bool,
    plan_of: Any,
    calibrations: Calibrations,
) -> None:
    plan = plan_of(where, price_on=price_on)
    assert plan.throughput.device is device
    assert bool(calibrations.requests) == is_calibrated
    known = {("nano", "fp32"): RATES["fp32"]} if is_calibrated else {}
    rates = Throughput(device, {}, known)
    trained = [stage for stage in plan.stages.values() if stage.num_steps]
    assert trained
    for stage in trained:
        expected_s = rates.training_s(NANO, "fp32", num_tokens=stage.num_tokens, seq_len=32)
        assert stage.cost_s == pytest.approx(expected_s)
    assert (forecast_s(plan, where) is not None) == has_forecast


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        ([], "CPU core"),
        (["--device", "cuda"], "H100"),
        (["--device", "cuda", "--price-on", "h100"], "H100"),
        (["--price-on", "h100"], "H100"),
    ],
)
def test_the_command_line_names_the_device_a_run_is_priced_on(
    arguments: list[str],
    title: str,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calibrations: Calibrations,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(environment, "visible_gpus", lambda: ("0",))
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    study = [str(path), "--set", f"text={text}", "--store", str(tmp_path / "store")]
    assert main(["run", *study, "--max-gpu-hours", "0.000000001", *arguments]) == 2
    assert f" of one {title}, more than the limit of 0 s" in capsys.readouterr().err
    price_on = [argument for argument in arguments if argument not in ("--device", "cuda")]
    assert main(["plan", *study, "--json", *price_on]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == (title if price_on or not arguments else "CPU core")


def test_calibration_measures_the_workloads_and_threads_of_the_run(plan_of: Any, calibrations: Calibrations) -> None:
    where = Place(backend="local", placement=Placement(num_threads=2, num_ranks=2), max_jobs=100)
    plan_of(where)
    ((workloads, machine),) = calibrations.requests
    assert workloads == [Workload(NANO, "fp32", 32, 4)]
    assert machine.num_threads == 4
    assert machine.num_jobs == max(1, num_cores() // 4)


def test_a_cached_calibration_is_not_measured_again(plan_of: Any, calibrations: Calibrations) -> None:
    first = plan_of(HERE)
    assert first.priced_by == {"calibrated": ("nano",)}
    ((calibrations.cached, _),) = calibrations.requests
    calibrations.requests.clear()
    second = plan_of(HERE)
    assert calibrations.requests == []
    assert second.stages == first.stages
    assert (second.priced_by, second.throughput.calibration_s) == (first.priced_by, 0.0)


def test_rates_of_finished_stages_replace_a_calibration_unless_measured_on_another_processor(
    text: Path, tmp_path: Path, plan_of: Any, calibrations: Calibrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "store", create=True)
    make_study(store, small_study(text), until="pretrain nano seed 0 to step 12")
    assert plan_of(HERE, store=store).priced_by == {"store": ("nano",)}
    assert calibrations.requests == []
    monkeypatch.setattr(processor, "this_processor", lambda: Processor("another", True))
    assert plan_of(HERE, store=store).priced_by == {"calibrated": ("nano",)}
    assert plan_of(ON_NODES, store=store).priced_by == {"store": ("nano",)}, "on nodes of any processor"


def test_a_plan_of_a_finished_study_calibrates_nothing(
    text: Path, tmp_path: Path, plan_of: Any, calibrations: Calibrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "store", create=True)
    make_study(store, small_study(text))
    monkeypatch.setattr(processor, "this_processor", lambda: Processor("another", False))
    plan = plan_of(HERE, store=store)
    assert plan.missing == []
    assert calibrations.requests == []
    assert forecast_s(plan, HERE) == 0


@pytest.mark.parametrize(
    ("precision", "has_bfloat16", "calibrated", "note"),
    [
        ("fp32", True, ["fp32"], None),
        ("fp32", False, ["fp32"], None),
        ("bf16_mixed", True, ["bf16_mixed"], None),
        ("bf16_mixed", False, ["bf16_mixed", "fp32"], "bf16_mixed is emulated on this CPU: 4.0 × the time of fp32"),
        ("bf16_true", False, ["bf16_true", "fp32"], "bf16_true is emulated on this CPU: 2.0 × the time of fp32"),
    ],
)
def test_the_plan_notes_emulated_bfloat16_with_its_slowdown(
    precision: str,
    has_bfloat16: bool,
    calibrated: list[str],
    note: str | None,
    plan_of: Any,
    calibrations: Calibrations,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from midstudy.plan.summary import plan_facts, plan_text

    pretend_processor(monkeypatch, has_bfloat16=has_bfloat16)
    plan = plan_of(HERE, precision=precision)
    ((workloads, _),) = calibrations.requests
    assert [workload.precision for workload in workloads] == calibrated
    text, facts = plan_text(plan), plan_facts(plan)
    assert facts["bfloat16_is_emulated"] == (not has_bfloat16)
    if note is None:
        assert "emulated" not in text
        assert facts["times_fp32"] == {}
    else:
        assert f"  note     {note} for nano (measured); --set precision=fp32 avoids it" in text
        assert facts["times_fp32"] == {f"nano {precision}": {"bf16_mixed": 4.0, "bf16_true": 2.0}[precision]}


def test_the_plan_notes_emulated_bfloat16_even_if_its_slowdown_could_not_be_measured(
    plan_of: Any, calibrations: Calibrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    from midstudy.plan.summary import plan_text

    pretend_processor(monkeypatch, has_bfloat16=False)
    monkeypatch.setattr(calibration, "calibrate", lambda workloads, machine: {})
    text = plan_text(plan_of(HERE, precision="bf16_mixed"))
    assert "bf16_mixed is emulated on this CPU: it may take several times as long as fp32; --set precision=fp32" in text


def test_the_plan_shows_how_long_the_run_takes_and_the_source_of_its_rates(
    text: Path, tmp_path: Path, calibrations: Calibrations, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    assert main(["plan", str(path), "--set", f"text={text}", "--store", str(tmp_path / "none"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["forecast_s"] > 10, "the report alone takes so long"
    assert facts["rate_calibrated_for"] == ["nano"]
    assert facts["calibration_s"] > 0
    assert main(["plan", str(path), "--set", f"text={text}", "--store", str(tmp_path / "none")]) == 0
    output = capsys.readouterr().out
    assert "  time     about " in output
    assert "calibrated on this machine for nano in 0.0 s" in output
