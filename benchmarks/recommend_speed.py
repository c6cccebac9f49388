"""Benchmark: `midstudy recommend` on general text and five candidates of 10 MB each and a target of 1 MB.

    python benchmarks/recommend_speed.py [--corpus-bytes 10000000] [--target-bytes 1000000]

The text is that of the source `wheels`, its documents drawn with replacement up to the size, with a number added so that no
two are equal. The command runs in a new process, from start to end: cold with an empty cache, then warm, three times each;
the least time and the most memory count. Memory: proportional set size (PSS) of the process and its workers together,
sampled every 20 ms from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from midstudy.data.builtin import read_part
from midstudy.data.rows import as_text

CANDIDATES = ("code", "math", "instruction", "qa", "hqweb")
TARGET = "pycode"
SHARE = 0.2
REPETITIONS = 3


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


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process and its descendants; 0 for those that have ended."""
    own = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                own = 1024 * int(line.split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return own + sum(pss_bytes(int(child)) for child in children)


@dataclass(frozen=True)
class Measured:
    """One run of a command: time, CPU time of all its processes, and the peak of their memory together."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def measured(command: list[str]) -> Measured:
    """Run a command and sample its memory.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    start_s, before, peak_bytes = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak_bytes = max(peak_bytes, pss_bytes(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    wall_s, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Measured(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak_bytes)


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
        command = [sys.executable, "-m", "midstudy.cli.main", "recommend", "--target", f"{TARGET}={root / TARGET}"]
        command += ["--general", f"general={root / 'general.jsonl'}", "--share", str(SHARE), "--store", str(root / "store")]
        command += ["--candidates", *(f"{part}={root / part}.jsonl" for part in CANDIDATES)]
        cold, warm = [], []
        for _ in range(REPETITIONS):
            shutil.rmtree(root / "cache", ignore_errors=True)
            cold.append(measured(command))
            warm.append(measured(command))
    print("| cold, s (CPU s) | warm, s (CPU s) | peak memory of all processes, cold, MB | warm, MB |")
    print("|---|---|---|---|")
    times = (f"{min(one.wall_s for one in runs):.1f} ({min(one.cpu_s for one in runs):.1f})" for runs in (cold, warm))
    memory = (f"{max(one.peak_bytes for one in runs) / 1e6:.0f}" for runs in (cold, warm))
    print(f"| {' | '.join([*times, *memory])} |")


if __name__ == "__main__":
    main()
