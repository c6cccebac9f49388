"""Benchmark: `midstudy recommend` on general text and five candidates of 10 MB each and a target of 1 MB.

    python benchmarks/recommend_speed.py [--corpus-bytes 10000000] [--target-bytes 1000000]

The text is that of the source `wheels`, its documents drawn with replacement up to the size, with a number added so that no
two are equal. Cold: an empty cache, in this process, with worker processes; the ranking ends where the scan begins. Warm:
the command in a new process, from start to end. Memory: the peak of this process, and of its largest worker for every core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from midstudy.data.builtin import read_part
from midstudy.data.named_text import named_text
from midstudy.data.rows import as_text
from midstudy.run.recommend import recommend

CANDIDATES = ("code", "math", "instruction", "qa", "hqweb")
TARGET = "pycode"
SHARE = 0.2


def write_corpus(path: Path, part: str, split: str, num_bytes: int) -> None:
    """Write documents of a part, drawn with replacement."""
    texts = [as_text(row, part) for row in read_part(part, split)]
    rng, written, number = random.Random(part + split), 0, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            number += 1
            line = json.dumps({"text": f"{rng.choice(texts)} {number}"}) + "\n"
            written += len(line)
            file.write(line)


def cpu_s() -> float:
    """Return the CPU seconds of this process and of workers that have ended."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpus-bytes", type=int, default=10_000_000)
    parser.add_argument("--target-bytes", type=int, default=1_000_000)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["MIDSTUDY_CACHE"] = str(root / "cache")
        for part in ("general", *CANDIDATES):
            write_corpus(root / f"{part}.jsonl", part, "train", args.corpus_bytes)
        for split, tenths in (("train", 8), ("dev", 1), ("test", 1)):
            write_corpus(root / TARGET / f"{split}.jsonl", TARGET, split, args.target_bytes * tenths // 10)
        target, general = f"{TARGET}={root / TARGET}", f"general={root / 'general.jsonl'}"
        candidates = [f"{part}={root / part}.jsonl" for part in CANDIDATES]

        marks: list[tuple[float, float, str]] = []
        begin_s, begin_cpu_s = time.perf_counter(), cpu_s()
        recommend(
            target=named_text(target, where="--target"),
            general=named_text(general, where="--general"),
            candidates=[named_text(one, where="--candidates") for one in candidates],
            share=SHARE,
            store=root / "store",
            on_progress=lambda line: marks.append((time.perf_counter() - begin_s, cpu_s() - begin_cpu_s, line)),
        )
        end_s, end_cpu_s = time.perf_counter() - begin_s, cpu_s() - begin_cpu_s
        ranking_s, ranking_cpu_s = next(mark[:2] for mark in marks if mark[2].startswith("reading the test split"))
        own, worker = (resource.getrusage(who).ru_maxrss / 1e3 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        num_cores = len(os.sched_getaffinity(0))
        command = [sys.executable, "-m", "midstudy.cli.main", "recommend", "--target", target, "--general", general]
        command += ["--candidates", *candidates, "--share", str(SHARE), "--store", str(root / "store")]
        warm_s = []
        for _ in range(3):
            start_s = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            warm_s.append(time.perf_counter() - start_s)
    print("| ranking, cold, s (CPU s) | scan, cold, s (CPU s) | whole command, warm, s | peak memory, MB |")
    print("|---|---|---|---|")
    cold = f"{ranking_s:.1f} ({ranking_cpu_s:.1f}) | {end_s - ranking_s:.1f} ({end_cpu_s - ranking_cpu_s:.1f})"
    print(f"| {cold} | {min(warm_s):.1f} | {own:.0f} + {num_cores} × {worker:.0f} |")


if __name__ == "__main__":
    main()
