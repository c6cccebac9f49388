"""Costs of stages other than training: data stages by bytes of text, evaluations by forward pass plus fixed overhead."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from builders.small_recipes import CODE, GENERAL, PYCODE, TOKENIZER, source_of

from midstudy.data import builtin
from midstudy.data.size import text_bytes, unprepared_parts
from midstudy.plan.cost import (
    DATA_STAGE_S,
    EVALUATION_S,
    FORWARD_SHARE,
    PREPARING_BYTES_PER_S,
    TOKENISING_BYTES_PER_S,
    TOKENIZER_BYTES_PER_S,
    Calibrated,
    Throughput,
    Workload,
    checkpoint_bytes,
)
from midstudy.plan.device import CPU_CORE, H100
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import make_plan
from midstudy.recipe import Corpus, Evaluation, Source, Study, Task, TokenCounts, Tokenizer, llama, placebo, pythia

NANO = pythia("nano", vocab_size=512, max_seq_len=64)


def files(folder: Path, **changes: Any) -> Corpus:
    return Corpus(name="mine", source=Source(kind="files", part="", revision="r1", location=str(folder)), **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("train.jsonl", 5_000), ("validation.jsonl.gz", 200), ("test.jsonl", 1_000), ("other.txt", 9_000)):
        (tmp_path / name).write_bytes(b"x" * size)
    return tmp_path


def test_the_text_of_a_folder_is_the_text_of_its_splits(folder: Path) -> None:
    assert text_bytes(files(folder)) == 5_000 + 3 * 200 + 1_000
    assert text_bytes(files(folder, max_bytes=800)) == 800 + 600 + 800
    assert text_bytes(files(folder / "nowhere")) == 0
    rest, fifth = placebo(files(folder, max_bytes=800), 0.2)
    assert text_bytes(rest) == 640 + 600 + 800  # train is split after the limit, dev and test stay whole
    assert text_bytes(fifth) == 160 + 600 + 800


def test_the_text_of_the_wheels_follows_from_their_manifest() -> None:
    part = builtin.frozen_manifest()["parts"]["general"]["splits"]
    assert text_bytes(GENERAL) == sum(split["bytes"] for split in part.values())
    limited = dataclasses.replace(GENERAL, max_bytes=1_000)
    assert text_bytes(limited) == 3_000
    part = builtin.frozen_manifest()["parts"]["pycode"]["splits"]
    every, some = text_bytes(PYCODE), text_bytes(dataclasses.replace(PYCODE, max_items=100))
    assert every == sum(split["bytes"] for split in part.values())
    assert some == pytest.approx(sum(100 * split["bytes"] / split["docs"] for split in part.values()))


def test_the_text_of_a_hub_data_set_is_bounded_by_its_limit() -> None:
    source = Source(kind="hub", part="a/b", revision="c" * 40)
    limited = Corpus(name="mine", source=source, max_bytes=2_000_000)
    assert text_bytes(limited) == 6_000_000
    assert text_bytes(Corpus(name="mine", source=source)) > 50_000_000
    assert text_bytes(Task(name="mine", source=source, max_items=1_000)) < 2_000_000


def test_a_part_of_the_wheels_is_prepared_once_together_with_the_tasks_it_must_not_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))
    assert set(unprepared_parts(GENERAL.source)) == {"general", *builtin.TASKS}
    assert set(unprepared_parts(PYCODE.source)) == {"pycode"}
    for part in builtin.TASKS:
        (tmp_path / "prepared" / builtin.list_digest()[:16] / part).mkdir(parents=True)
    assert set(unprepared_parts(GENERAL.source)) == {"general"}
    assert unprepared_parts(files(tmp_path).source) == {}


def test_tokens_are_priced_by_bytes_and_preparation_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def costs() -> dict[str, float]:
        counts = tuple(
            TokenCounts(data=data, tokenizer=TOKENIZER, num_documents=10, tokens_per_document=32, seed=0)
            for data in (GENERAL, CODE, PYCODE)
        )
        study = Study(name="s", question="q", counts=counts)
        plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
        return {stage.label: stage.cost_s for stage in plan.stages.values()}

    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))
    first = costs()
    for part in builtin.PARTS:
        (tmp_path / "prepared" / builtin.list_digest()[:16] / part).mkdir(parents=True)
    again = costs()
    for data in (GENERAL, CODE, PYCODE):
        assert again[f"tokens {data.name}"] == pytest.approx(DATA_STAGE_S + text_bytes(data) / TOKENISING_BYTES_PER_S)
    needed = [dataclasses.replace(source_of(GENERAL), part=part) for part in ("general", "code", *builtin.TASKS)]
    text = sum(text_bytes(Corpus(name="part", source=source)) for source in needed)
    assert sum(first.values()) - sum(again.values()) == pytest.approx(text / PREPARING_BYTES_PER_S)


def test_a_tokenizer_is_priced_by_what_it_reads_of_each_corpus_and_named_after_all(folder: Path) -> None:
    """Of 90,000 bytes, the folder holds 6,600 (its estimate covers all splits); the wheels hold their share."""
    mine = files(folder)
    tokenizer = Tokenizer.of({GENERAL: 0.5, mine: 0.5}, vocab_size=512, max_bytes=90_000)
    counts = TokenCounts(data=mine, tokenizer=tokenizer, num_documents=10, tokens_per_document=32, seed=0)
    study = Study(name="s", question="q", counts=(counts,))
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    (stage,) = [stage for stage in plan.stages.values() if stage.kind == "tokenizer"]
    assert (stage.label, stage.data) == ("tokenizer 512 on mine + general", "mine + general")
    prepared_s = sum(unprepared_parts(GENERAL.source).values()) / PREPARING_BYTES_PER_S
    assert stage.cost_s - prepared_s == pytest.approx(DATA_STAGE_S + (45_000 + 6_600) / TOKENIZER_BYTES_PER_S)
    assert manifest_of(plan, command="midstudy run x.py").sources.keys() == {"mine", "general"}


def test_an_evaluation_costs_its_measured_forward_pass() -> None:
    look = Evaluation(data=GENERAL, split="test", loss="all_tokens", seq_len=64, max_sequences=10)
    training_s = Throughput(CPU_CORE, {("nano", "fp32"): 1e9}).training_s(NANO, "fp32", num_tokens=640, seq_len=64)
    stores = Throughput(CPU_CORE, {("nano", "fp32"): 1e9})
    assert stores.evaluation_s(NANO, "fp32", look) == pytest.approx(EVALUATION_S + FORWARD_SHARE * training_s)
    calibrated = Throughput(CPU_CORE, {}, {("nano", "fp32"): Calibrated(1e9, 0.6)})
    assert calibrated.evaluation_s(NANO, "fp32", look) == pytest.approx(EVALUATION_S + 0.6 * training_s)


def test_rates_come_from_the_store_then_from_calibration_then_from_recorded_measurements() -> None:
    kind = ("micro", "fp32")
    micro = pythia("micro", vocab_size=4_096)
    calibrated = {kind: Calibrated(2e9, 0.5)}
    each = (Throughput(CPU_CORE, {kind: 1e9}, calibrated), Throughput(CPU_CORE, {}, calibrated), Throughput(CPU_CORE, {}))
    assert [rates.source(micro, "fp32", seq_len=256) for rates in each] == ["store", "calibrated", "recorded"]
    flops = micro.flops_per_token(seq_len=256)
    seen = [rates.training_s(micro, "fp32", num_tokens=1, seq_len=256) for rates in each[:2]]
    assert seen == pytest.approx([flops / 1e9, flops / 2e9])


def test_a_llama_is_priced_by_its_own_products_and_its_rates_are_not_pythias() -> None:
    """Llama 3 8B at the rate assumed for large models, and a micro Llama beside a measured rate of Pythia's micro shape."""
    large = llama("3-8b")
    priced = Throughput(H100, {}).training_s(large, "bf16_mixed", num_tokens=10**9, seq_len=8_192)
    assert priced == pytest.approx(1e9 * (6 * (8_030_261_248 - 128_256 * 4_096) + 12 * 32 * 4_096 * 8_192) / (0.4 * 989e12))
    rates = Throughput(CPU_CORE, {("micro", "fp32"): 1e9})
    assert rates.source(llama("micro", vocab_size=4_096), "fp32", seq_len=256) == "assumed"
    assert checkpoint_bytes(llama("3.2-1b"), precision="bf16_mixed", optimizer=None) == 4 * 1_235_814_400


def test_the_slowdown_of_emulation_needs_both_rates() -> None:
    rates = {("nano", "fp32"): Calibrated(4e9, 0.5), ("nano", "bf16_true"): Calibrated(1e9, 0.5)}
    workload = Workload(NANO, "bf16_true", 64, 8)
    assert Throughput(CPU_CORE, {}, rates, emulates_bfloat16=True).times_fp32(workload) == 4.0
    assert Throughput(CPU_CORE, {}, rates).times_fp32(workload) is None
    for kind in rates:
        assert Throughput(CPU_CORE, {}, {kind: rates[kind]}, emulates_bfloat16=True).times_fp32(workload) is None
    fp32 = dataclasses.replace(workload, precision="fp32")
    assert Throughput(CPU_CORE, {}, rates, emulates_bfloat16=True).times_fp32(fp32) is None
