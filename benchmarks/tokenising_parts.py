"""Benchmark: tokenise a corpus of several files in one job, and in parts with one and two jobs at a time.

    python benchmarks/tokenising_parts.py [--mb 120] [--files 8] [--parts 8] [--rounds 1]

The corpus is gzip-compressed JSONL: paragraphs of the general part of the source `wheels` in a seeded random order. Every
measurement is a run of the driver with processes of one thread in a new store: from a finished tokenizer to published
tokens, so starts of processes count. CPU seconds are those that the stages record. The files must be equal; their digest is
compared. The last line is what the plan needs: bytes of text for each CPU second of measuring and of tokenising.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tokenising import TEXT_BYTES, VOCAB_SIZE, read_paragraphs, write_corpus

from midstudy.data.files import content_digest
from midstudy.execute.stage import execute_stage
from midstudy.launch.driver import Driver
from midstudy.launch.local import LocalLauncher
from midstudy.plan import parts
from midstudy.recipe import Corpus, Source
from midstudy.recipe.data import TokenizedData, Tokenizer
from midstudy.recipe.parts import DocumentSizes, TokensPart
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.store import Store


def drive(store: Store, stages: Mapping[str, Stage], num_jobs: int) -> float:
    """Make the stages with at most `num_jobs` jobs at a time; return the wall seconds."""
    for stage in stages.values():
        store.request(stage)

    async def run() -> None:
        async with Driver(
            store, stages, LocalLauncher(store), study="benchmark", max_jobs=num_jobs, job_budget_s=60.0
        ) as driver:
            outcomes = await asyncio.gather(*(driver.finished(stage_id) for stage_id in stages))
        assert {outcome.status for outcome in outcomes} <= {"published", "reused"}, outcomes

    began = time.perf_counter()
    asyncio.run(run())
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mb", type=float, default=120, help="text of the corpus, in MB")
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paragraphs = read_paragraphs(None)
        for number in range(args.files):
            write_corpus(paragraphs[number :: args.files], folder / "made", args.mb / args.files, one_document=False)
            (folder / "set" / "train").mkdir(parents=True, exist_ok=True)
            (folder / "made" / "train.jsonl.gz").rename(folder / "set" / "train" / f"{number}.jsonl.gz")
            for split in ("dev", "test"):
                shutil.copy(folder / "made" / f"{split}.jsonl", folder / "set" / f"{split}.jsonl")
            shutil.rmtree(folder / "made")
        source = Source(kind="files", part="", revision=content_digest(folder / "set"), location=str(folder / "set"))
        data = Corpus(name="set", source=source)
        tokenizer = Tokenizer(corpus=data, vocab_size=VOCAB_SIZE, max_bytes=TEXT_BYTES)
        tokenized = TokenizedData(data=data, tokenizer=tokenizer)
        begun = Store.open(folder / "begun", create=True)
        first = Stage(id=stage_id(tokenizer), label="tokenizer", recipe=tokenizer, parents=(), role="data")
        begun.request(first)
        execute_stage(begun, first.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)

        text_bytes = args.mb * 1e6
        parts.PART_BYTES = int(text_bytes / args.parts)
        parts.SHARD_BYTES = parts.PART_BYTES // 4
        divided = parts.divide(tokenized, first.id, text_bytes=text_bytes, bytes_per_s=None)
        assert divided is not None
        tokens_id = stage_id(tokenized)

        def token_stage(*part_ids: str) -> Stage:
            parents = (first.id, *part_ids)
            return Stage(
                id=tokens_id, label="tokens", recipe=tokenized, parents=parents, cost_s=1.0, role="data", data="set"
            )

        alone = {first.id: first, tokens_id: token_stage()}
        in_parts = {
            first.id: first,
            **{stage.id: stage for stage in divided.stages},
            tokens_id: token_stage(*divided.part_ids),
        }
        variants = {
            "one job": (alone, 1),
            f"{len(divided.part_ids)} parts, one job at a time": (in_parts, 1),
            f"{len(divided.part_ids)} parts, two jobs at a time": (in_parts, 2),
        }
        walls: dict[str, list[float]] = {name: [] for name in variants}
        cpus: dict[str, list[float]] = {name: [] for name in variants}
        tokens, rates = set(), {DocumentSizes: 0.0, TokensPart: 0.0}
        for number in range(args.rounds):
            for name, (stages, num_jobs) in variants.items():
                root = folder / f"store {number} {num_jobs} {len(stages)}"
                shutil.copytree(begun.root, root)
                store = Store.open(root)
                walls[name].append(drive(store, stages, num_jobs))
                records = {stage: store.record(stage) for stage in stages if stage != first.id}
                cpus[name].append(sum(record.timing["cpu_s"] for record in records.values()))
                tokens.add(records[tokens_id].metrics["train_tokens"])
                for kind in rates:
                    cpu_s = sum(records[one].timing["cpu_s"] for one in records if isinstance(stages[one].recipe, kind))
                    if cpu_s:
                        rates[kind] = text_bytes / cpu_s
                shutil.rmtree(root)
        assert len(tokens) == 1
        print(f"load {os.getloadavg()[0]:.1f}; {args.mb:g} MB in {args.files} files; {tokens.pop():,} tokens")
        print("| | wall, s | of one job | CPU, s |")
        print("|---|---|---|---|")
        base = statistics.median(walls["one job"])
        for name in variants:
            wall, cpu = statistics.median(walls[name]), statistics.median(cpus[name])
            print(f"| {name} | {wall:.1f} | {wall / base:.2f} | {cpu:.1f} |")
        print(", ".join(f"{kind.__name__} {rate / 1e6:.1f} MB a CPU second" for kind, rate in rates.items()))


if __name__ == "__main__":
    main()
