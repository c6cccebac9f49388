"""Rates of devices: measured rates are preferred to assumed ones, and a plan reports which it used."""

from __future__ import annotations

import pytest
from builders.small_recipes import GENERAL, PYCODE, TOKENIZER, arm, trunk

from midstudy.cli.main import PRICED_DEVICES
from midstudy.plan import device as devices
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE, DEVICES, H100, Rate, recorded_rates
from midstudy.plan.planner import Plan, make_plan
from midstudy.plan.summary import plan_facts, plan_text
from midstudy.recipe import Study, TokenCounts, pythia
from midstudy.recipe.model import SIZES
from midstudy.recipe.phase import PRECISIONS


def rate(**changes: object) -> Rate:
    fields: dict[str, object] = {
        "device": "h100",
        "shape": "160m",
        "precision": "bf16_true",
        "vocab_size": 50_304,
        "seq_len": 2_048,
        "flops_per_token": pythia("160m").flops_per_token(seq_len=2_048),
        "compiled": True,
        "tokens_per_s": 300_000.0,
        "date": "2026-11-24",
        "command": "benchmarks/train_step.py",
    }
    return Rate(**(fields | changes))  # type: ignore[arg-type]


def tokens_per_s(throughput: Throughput, size: str, precision: str = "bf16_true", *, seq_len: int = 2_048) -> float:
    return 1 / throughput.training_s(pythia(size), precision, num_tokens=1, seq_len=seq_len)


@pytest.mark.parametrize(("size", "target"), [("70m", 860e3), ("160m", 358e3), ("410m", 145e3)])
def test_unmeasured_gpu_rates_are_the_targets(size: str, target: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "recorded_rates", lambda: ())
    assert tokens_per_s(Throughput(H100, {}), size) == pytest.approx(target, rel=0.01)


def test_a_measured_rate_is_preferred_to_the_assumed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "recorded_rates", lambda: (rate(), rate(device="cpu-core", tokens_per_s=1.0)))
    throughput = Throughput(H100, {})
    assert tokens_per_s(throughput, "160m") == pytest.approx(300_000)
    assert throughput.source(pythia("160m"), "bf16_true", seq_len=2_048) == "recorded"
    assert throughput.source(pythia("160m"), "fp32", seq_len=2_048) == "assumed"
    assert throughput.source(pythia("70m"), "bf16_true", seq_len=2_048) == "assumed"


def test_the_rate_of_the_nearest_sequence_length_is_converted_by_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    short = pythia("160m").flops_per_token(seq_len=512)
    rates = (rate(), rate(seq_len=512, flops_per_token=short, tokens_per_s=400_000.0))
    monkeypatch.setattr(devices, "recorded_rates", lambda: rates)
    assert tokens_per_s(Throughput(H100, {}), "160m", seq_len=512) == pytest.approx(400_000)
    expected = 400_000 * short / pythia("160m").flops_per_token(seq_len=1_024)
    assert tokens_per_s(Throughput(H100, {}), "160m", seq_len=1_024) == pytest.approx(expected)


def test_rates_of_the_stores_finished_stages_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "recorded_rates", lambda: (rate(device="cpu-core"),))
    throughput = Throughput(CPU_CORE, {("160m", "bf16_true"): 7.0 * pythia("160m").flops_per_token(seq_len=2_048)})
    assert tokens_per_s(throughput, "160m") == pytest.approx(7)
    assert throughput.source(pythia("160m"), "bf16_true", seq_len=2_048) == "store"
    # For another vocabulary and sequence length the rate is converted by FLOPs per token.
    other = pythia("160m", vocab_size=512)
    expected = 7.0 * pythia("160m").flops_per_token(seq_len=2_048) / other.flops_per_token(seq_len=128)
    assert 1 / throughput.training_s(other, "bf16_true", num_tokens=1, seq_len=128) == pytest.approx(expected)


def plan_on(device: devices.Device) -> Plan:
    course = trunk(precision="bf16_true")
    counts = tuple(
        TokenCounts(data=data, tokenizer=TOKENIZER, num_documents=10, tokens_per_document=32, seed=0)
        for data in (GENERAL, PYCODE)
    )
    study = Study(name="s", question="q", arms=(arm(course),), counts=counts)
    return make_plan(study, throughput=Throughput(device, {}), published=lambda ids: set(), kept_states=())


def test_the_plan_says_where_its_rates_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "recorded_rates", lambda: ())
    assumed = plan_on(H100)
    assert plan_facts(assumed)["rate_assumed_for"] == ["nano"]
    assert "of one H100" in plan_text(assumed)
    assert "assumed for nano: targets at context 2,048: 30 % of 989 TFLOP/s" in plan_text(assumed)
    nano = pythia("nano", vocab_size=512).flops_per_token(seq_len=64)
    rows = tuple(
        rate(shape="nano", precision=precision, seq_len=64, flops_per_token=nano) for precision in ("fp32", "bf16_true")
    )
    monkeypatch.setattr(devices, "recorded_rates", lambda: rows)
    measured = plan_on(H100)
    assert plan_facts(measured)["rate_assumed_for"] == []
    assert plan_facts(measured)["rate_recorded_for"] == ["nano"]
    assert "as measured by the benchmark for nano" in plan_text(measured)
    assert list(measured.stages) == list(assumed.stages), "rates must not change what runs"


def test_gpu_hours_count_only_training_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "recorded_rates", lambda: ())
    plan = plan_on(H100)
    models = [stage for stage in plan.missing if stage.role not in ("data", "similarity")]
    assert 0 < plan.missing_s == pytest.approx(sum(stage.cost_s for stage in models))
    assert plan.unshared_s == pytest.approx(plan.missing_s)  # one arm shares nothing
    on_cpu = plan_on(CPU_CORE)
    assert on_cpu.missing_s == pytest.approx(sum(stage.cost_s for stage in on_cpu.missing))
    assert on_cpu.unshared_s == pytest.approx(on_cpu.missing_s)


def test_the_command_line_offers_all_devices() -> None:
    assert sorted(PRICED_DEVICES) == sorted(DEVICES)
    assert PRICED_DEVICES[0] == CPU_CORE.name


def test_recorded_rates_have_known_devices_shapes_and_precisions() -> None:
    for row in recorded_rates():
        assert row.device in DEVICES
        assert row.shape in SIZES
        assert row.precision in PRECISIONS
        shape = pythia(row.shape, vocab_size=row.vocab_size)
        assert row.flops_per_token == shape.flops_per_token(seq_len=row.seq_len)
        assert row.tokens_per_s > 0
