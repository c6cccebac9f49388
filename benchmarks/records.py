"""Benchmark: read the records of 10,000 finished stages, as plans and tables do.

.venv/bin/python benchmarks/records.py [--stages 10000]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

from midstudy.recipe import Corpus, Source, Tokenizer
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", type=int, default=10_000)
    num_stages = parser.parse_args().stages
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "store", create=True)
        ids = _publish(store, num_stages)
        for what, read in (("check which are finished", store.published), ("read their records", store.records)):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            assert len(read(ids)) == num_stages
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            each_us = cpu_s / num_stages * 1e6
            print(f"{num_stages:,} stages, {what}: {wall_s:.2f} s, {cpu_s:.2f} CPU s, {each_us:.0f} µs each")


def _publish(store: Store, num_stages: int) -> list[str]:
    """Publish one real stage, and copies of it under other ids with hard-linked files; return the ids of the copies."""
    source = Source(kind="wheels", part="general", revision="r1")
    recipe = Tokenizer(corpus=Corpus(name="general", source=source), vocab_size=512, max_bytes=1000)
    stage = Stage(id=stage_id(recipe), label="stage", recipe=recipe, parents=(), role="data")
    attempt = store.attempt(stage.id)
    (attempt.result / "weights").write_text("made")
    attempt.publish(
        kind=stage.kind, label="", recipe=stage.expanded_form, canonical=stage.canonical_form, parents=(), metrics={}
    )
    record = store.record(stage.id)
    ids = [f"{number:016x}" for number in range(num_stages)]
    for copy_id in ids:
        folder = store.paths.published(copy_id)
        folder.mkdir(parents=True)
        store.paths.record(copy_id).write_bytes(dataclasses.replace(record, id=copy_id).as_bytes())
        os.link(store.published_folder(stage.id) / "weights", folder / "weights")
    return ids


if __name__ == "__main__":
    main()
