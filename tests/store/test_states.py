"""What a plan reads from the states of a store: which ones training can resume from, and the speed of a device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from builders.small_study import make_study, small_study

from midstudy.plan.planner import Plan
from midstudy.plan.published import published_states
from midstudy.recipe.curriculum import State
from midstudy.store.processor import Processor, this_processor
from midstudy.store.record import Record
from midstudy.store.store import Store


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    store = Store.open(tmp_path_factory.mktemp("states") / "store", create=True)
    return store, make_study(store, small_study(text))


def test_rates_are_flops_per_second_of_one_core(finished: tuple[Store, Plan]) -> None:
    store, plan = finished
    trained = [s for s in plan.stages.values() if isinstance(s.recipe, State) and s.keeps_optimizer]
    states = published_states(store)
    assert {state.id for state in states.kept} == {stage.id for stage in trained}
    assert list(states.rates) == ["cpu-core"]
    model = plan.arms[0].arm.curriculum.start.model
    expected = [
        ("nano", "fp32", store.record(stage.id).metrics["tokens_per_s"] * model.flops_per_token(seq_len=32))
        for stage in trained
    ]
    assert sorted(states.rates["cpu-core"]) == sorted(expected)


@pytest.mark.parametrize(
    ("device", "placement", "name"),
    [
        ("cpu", {}, "cpu-core"),
        ("cpu", {"num_threads": 2}, None),
        ("cpu", {"num_ranks": 2}, None),
        ("NVIDIA H100 80GB HBM3", {}, "h100"),
        ("NVIDIA H100 80GB HBM3", {"num_threads": 8}, "h100"),
        ("NVIDIA H100 80GB HBM3", {"num_ranks": 2}, None),
        ("NVIDIA A100-SXM4-80GB", {}, "a100"),
        ("NVIDIA L40S", {}, None),
    ],
)
def test_only_states_trained_on_a_single_whole_device_give_a_rate(
    finished: tuple[Store, Plan], monkeypatch: pytest.MonkeyPatch, device: str, placement: dict[str, Any], name: str | None
) -> None:
    store, _ = finished
    read = store.record

    def elsewhere(stage_id: str) -> Record:
        record = read(stage_id)
        environment = {**record.environment, "placement": {**record.environment["placement"], **placement}}
        return dataclasses.replace(record, metrics={**record.metrics, "device": device}, environment=environment)

    monkeypatch.setattr(store, "record", elsewhere)
    assert list(published_states(store).rates) == ([name] if name else [])


@pytest.mark.parametrize(
    ("processor", "num_threads", "known"),
    [
        (this_processor(), 1, True),
        (None, 1, True),  # cluster nodes of any kind
        (this_processor(), 2, False),
        (Processor("another", this_processor().has_bfloat16), 1, False),
        (Processor(this_processor().name, not this_processor().has_bfloat16), 1, False),
    ],
    ids=["this one", "any", "other threads", "another name", "without its instructions"],
)
def test_rates_of_another_processor_are_ignored(
    finished: tuple[Store, Plan], processor: Processor | None, num_threads: int, known: bool
) -> None:
    store, _ = finished
    states = published_states(store, processor=processor, num_threads=num_threads)
    assert list(states.rates) == (["cpu-core"] if known else [])
    assert published_states(store, processor=processor).kept, "training can resume from these states anyway"


def test_records_without_bfloat16_information_give_no_rate_for_a_processor(
    finished: tuple[Store, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = finished
    read = store.record

    def older(stage_id: str) -> Record:
        record = read(stage_id)
        return dataclasses.replace(record, environment={k: v for k, v in record.environment.items() if "bfloat" not in k})

    monkeypatch.setattr(store, "record", older)
    assert published_states(store, processor=this_processor()).rates == {}
    assert list(published_states(store).rates) == ["cpu-core"]
