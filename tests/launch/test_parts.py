"""A source in parts as jobs of a driver: processes here, killed while they write shards; the bytes of one process."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from builders.divided import (
    digests,
    divided,
    finished_tokenizer,
    in_one_process,
    joined_stage,
    num_finished,
    source_of,
    write_file,
)
from builders.places import PYTHONPATH
from builders.small_study import WORDS

from midstudy.launch.driver import Driver
from midstudy.launch.job_file import job_names, job_process
from midstudy.launch.local import LocalLauncher
from midstudy.recipe.data import Corpus, TokenizedData
from midstudy.recipe.parts import TokensPart
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.store import Store

pytestmark = pytest.mark.slow  # eleven jobs, each of which starts a Python
SHARD_BYTES = 150_000
NUM_FILES, NUM_PARTS = 6, 4


def write_set(folder: Path) -> None:
    """Write six files of about a megabyte, and small ones of dev and test."""
    rng = random.Random(5)
    for number in range(NUM_FILES):
        rows = [{"text": " ".join(rng.choices(WORDS, k=rng.randrange(50, 400)))} for _ in range(600)]
        write_file(folder / f"train-{number}.jsonl", rows)
    for split in ("dev", "test"):
        write_file(folder / f"{split}.jsonl", [{"text": " ".join(rng.choices(WORDS, k=50))} for _ in range(20)])


def kill_within(store: Store, parts: list[Stage], killed: list[str], *, rng: random.Random) -> None:
    """Kill the jobs of two parts, each after it has finished a random number of shards."""
    left = {part.id: rng.randrange(1, 4) for part in rng.sample(parts, 2)}
    deadline = time.monotonic() + 100.0
    while left and time.monotonic() < deadline:
        for part_id, num_shards in list(left.items()):
            if num_finished(store, part_id) < num_shards:
                continue
            (job,) = (name for name in job_names(store) if name.startswith(part_id))
            process = job_process(store, job)
            assert process is not None
            os.killpg(process.pid, signal.SIGKILL)
            killed.append(part_id)
            del left[part_id]
        time.sleep(0.002)


def test_parts_whose_processes_are_killed_restart_alone_and_give_the_bytes_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    write_set(tmp_path / "set")
    store, tokenizer = finished_tokenizer(tmp_path / "store", tmp_path / "set")
    data = TokenizedData(data=Corpus(name="set", source=source_of(tmp_path / "set")), tokenizer=tokenizer)
    in_one_process(store, data, tmp_path / "alone", shard_bytes=SHARD_BYTES)
    plan = divided(data, num_parts=NUM_PARTS, shard_bytes=SHARD_BYTES)
    assert plan is not None
    stages = {stage.id: stage for stage in (*plan.stages, joined_stage(data, plan))}
    for stage in stages.values():
        store.request(stage)
    parts = [stage for stage in plan.stages if isinstance(stage.recipe, TokensPart)]
    killed: list[str] = []

    async def drive() -> set[str]:
        launcher = LocalLauncher(store)
        async with Driver(store, stages, launcher, study="set", max_jobs=2, job_budget_s=0.1) as driver:
            outcomes = await asyncio.gather(*(driver.finished(stage_id) for stage_id in stages))
            return {outcome.status for outcome in outcomes}

    killer = threading.Thread(target=kill_within, args=(store, parts, killed), kwargs={"rng": random.Random(11)})
    killer.start()
    try:
        assert asyncio.run(drive()) == {"published"}
    finally:
        killer.join()
    assert len(killed) == 2
    assert digests(store.published_folder(stage_id(data))) == digests(tmp_path / "alone")
    for part in parts:
        record = store.record(part.id)
        causes = [one["cause"] for one in record.environment.get("interruptions", ())]
        assert causes == ["killed"] * (part.id in killed)
        assert (record.metrics["shards_taken_over"] > 0) == (part.id in killed)
