"""What a plan learns from the states of a store: where training can go on from, and how fast one whole device is."""

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


def test_rates_are_the_operations_that_one_core_made_a_second(finished: tuple[Store, Plan]) -> None:
    store, plan = finished
    trained = [s for s in plan.stages.values() if isinstance(s.recipe, State) and s.keeps_optimizer]
    found = published_states(store)
    assert {one.id for one in found.kept} == {stage.id for stage in trained}
    assert list(found.rates) == ["cpu-core"]
    model = plan.arms[0].arm.curriculum.start.model
    expected = [
        ("nano", "fp32", store.record(stage.id).metrics["tokens_per_s"] * model.flops_per_token(seq_len=32))
        for stage in trained
    ]
    assert sorted(found.rates["cpu-core"]) == sorted(expected)


@pytest.mark.parametrize(
    ("device", "placement", "name"),
    [
        ("cpu", {}, "cpu-core"),
        ("cpu", {"num_threads": 2}, None),
        ("cpu", {"num_ranks": 2}, None),
        ("NVIDIA H100 80GB HBM3", {}, "h100"),
        ("NVIDIA H100 80GB HBM3", {"num_threads": 8}, "h100"),
        ("NVIDIA H100 80GB HBM3", {"num_ranks": 2}, None),
        ("NVIDIA H100 80GB HBM3", {"jobs_per_gpu": 4}, None),
        ("NVIDIA A100-SXM4-80GB", {}, None),
    ],
)
def test_only_one_whole_device_says_how_fast_it_is(
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
    ("asked", "num_threads", "known"),
    [
        (this_processor(), 1, True),
        (None, 1, True),  # cluster nodes of any kind
        (this_processor(), 2, False),
        (Processor("another", this_processor().has_bfloat16), 1, False),
        (Processor(this_processor().name, not this_processor().has_bfloat16), 1, False),
    ],
    ids=["this one", "any", "other threads", "another name", "without its instructions"],
)
def test_a_store_that_was_carried_from_another_processor_says_nothing_of_this_one(
    finished: tuple[Store, Plan], asked: Processor | None, num_threads: int, known: bool
) -> None:
    store, _ = finished
    assert list(published_states(store, processor=asked, num_threads=num_threads).rates) == (["cpu-core"] if known else [])
    assert published_states(store, processor=asked).kept, "training can go on from them all the same"


def test_records_that_do_not_say_their_instructions_are_not_believed(
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
