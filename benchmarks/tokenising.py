"""Benchmark: tokenise a corpus on disk; rate and memory at two sizes and two numbers of threads, against `datasets.map`.

    python benchmarks/tokenising.py [--sizes-mb 20 80] [--threads 1 2] [--rounds 3] [--text-from FILE.jsonl.gz]
                                    [--one-document] [--variants midstudy tokenizers datasets]

The corpus is gzip-compressed JSONL of the given size: paragraphs of a text in a seeded random order, by default of the
general part of the source `wheels`. Every measurement is a separate process, from the file to tokens on disk; variants run
in rotation, and medians are printed. Memory is the peak of the process and its children, without pages of mapped files.
`datasets.map(batched=True, num_proc=n)` is the common alternative: the same tokenizer on the same file, with ids written as
Arrow. `tokenizers` is midstudy without tiktoken; the ratio is MB per CPU-second relative to it. With `--one-document`, all
text is one document. The last column is the time to read 1,024 random blocks.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from midstudy.data import encoder
from midstudy.data.builtin import read_part
from midstudy.data.files import content_digest, read_rows
from midstudy.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from midstudy.data.tokens import read_split
from midstudy.execute.data import make_tokens
from midstudy.recipe import Corpus, Source
from midstudy.recipe.data import TokenizedData, Tokenizer

VARIANTS = ("midstudy", "tokenizers", "datasets")
VOCAB_SIZE = 4_096
TEXT_BYTES = 8_000_000
NUM_BLOCKS, BLOCK_TOKENS = 1_024, 2_049


def read_paragraphs(path: Path | None) -> list[str]:
    """Return the first `TEXT_BYTES` characters, as paragraphs."""
    paragraphs, size = [], 0
    for row in read_rows(path) if path else read_part("general", "train"):
        paragraphs += [paragraph for paragraph in row["text"].split("\n\n") if paragraph.strip()]
        size += len(row["text"])
        if size > TEXT_BYTES:
            break
    return paragraphs


def write_corpus(paragraphs: list[str], folder: Path, num_mb: float, *, one_document: bool) -> None:
    """Write a folder for the source `files`: a train split of `num_mb` MB of text, and dev and test of one document."""
    folder.mkdir()
    rng = random.Random(0)
    with gzip.open(folder / "train.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as file:
        num_bytes = 0
        while num_bytes < num_mb * 1e6:
            text = "\n\n".join(rng.choices(paragraphs, k=rng.randrange(1, 30)))
            if one_document:
                mean_bytes = sum(len(paragraph.encode("utf-8")) + 2 for paragraph in paragraphs) / len(paragraphs)
                text = "\n\n".join(rng.choices(paragraphs, k=round(num_mb * 1e6 / mean_bytes * 1.02)))
            file.write(json.dumps({"text": text}) + "\n")
            num_bytes += len(text.encode("utf-8"))
    for split in ("dev", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"text": paragraphs[0]}) + "\n", encoding="utf-8")


def own_bytes(pid: int) -> int:
    """Return the anonymous resident memory of a process and its children, in bytes."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # the process has exited
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return own + sum(own_bytes(int(child)) for child in children)


@contextmanager
def watched() -> Iterator[list[int]]:
    """Collect `own_bytes` of this process repeatedly, within the context."""
    seen, done = [own_bytes(os.getpid())], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            seen.append(own_bytes(os.getpid()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def with_midstudy(corpus: Path, tokenizer: Path, scratch: Path, *, through_tokenizers: bool) -> int:
    if through_tokenizers:
        encoder.plain_bpe = lambda tokenizer: None
    source = Source(kind="files", part="", revision=content_digest(corpus), location=str(corpus))
    data = Corpus(name="synthetic", source=source)
    recipe = TokenizedData(data=data, tokenizer=Tokenizer(corpus=data, vocab_size=VOCAB_SIZE, max_bytes=TEXT_BYTES))
    return int(make_tokens(recipe, tokenizer, scratch)["train_tokens"])


def with_datasets(corpus: Path, tokenizer: Path, scratch: Path, num_threads: int) -> int:
    import datasets

    datasets.disable_progress_bars()
    tokenizers = load_tokenizer(tokenizer)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        texts = [text.strip() for text in batch["text"]]
        encodings = tokenizers.encode_batch(texts, add_special_tokens=False)
        return {"ids": [[*encoding.ids, 0] for encoding in encodings]}

    rows = datasets.load_dataset("json", data_files=str(corpus / "train.jsonl.gz"), cache_dir=str(scratch), split="train")
    num_proc = num_threads if num_threads > 1 else None
    encoded = rows.map(encode, batched=True, num_proc=num_proc, remove_columns=["text"])
    return sum(len(value) for chunk in encoded.data["ids"].chunks for value in chunk)


def measure(variant: str, corpus: Path, tokenizer: Path, num_threads: int) -> dict[str, float]:
    """Run a variant in this process and return its measurements."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as scratch, watched() as seen:
        started = time.perf_counter()
        if variant == "datasets":
            num_tokens = with_datasets(corpus, tokenizer, Path(scratch), num_threads)
        else:
            through_tokenizers = variant == "tokenizers"
            num_tokens = with_midstudy(corpus, tokenizer, Path(scratch), through_tokenizers=through_tokenizers)
        wall_s = time.perf_counter() - started
        usage = os.times()
        cpu_s = usage.user + usage.system + usage.children_user + usage.children_system
        blocks_s = 0.0 if variant == "datasets" else random_blocks(Path(scratch))
    return {"wall_s": wall_s, "cpu_s": cpu_s, "num_tokens": num_tokens, "peak_bytes": max(seen), "blocks_s": blocks_s}


def random_blocks(folder: Path) -> float:
    """Return the seconds to read `NUM_BLOCKS` blocks as rows of a batch; the file is in the page cache."""
    split = read_split(folder, "train")
    chosen = np.random.default_rng(0).integers(split.num_blocks(BLOCK_TOKENS - 1), size=NUM_BLOCKS)
    rows = np.empty((NUM_BLOCKS, BLOCK_TOKENS), np.int64)
    started = time.perf_counter()
    for row, block in enumerate(chosen.tolist()):
        rows[row] = split.tokens[block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS]
    return time.perf_counter() - started


def measure_in_process(variant: str, corpus: Path, tokenizer: Path, num_threads: int) -> dict[str, float]:
    # As in a job, the tokenizer uses the job's threads. `datasets` uses the same number of processes of one thread instead.
    rayon = 1 if variant == "datasets" else num_threads
    command = [sys.executable, __file__, "--measure", variant, str(corpus), str(tokenizer), str(num_threads)]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(rayon), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(finished.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes-mb", type=float, nargs="+", default=[20, 80], help="text of the corpus, in MB")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text-from", type=Path, help="a JSONL file with texts (default: the source wheels)")
    parser.add_argument("--one-document", action="store_true", help="all text of the train split as one document")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        variant, corpus, tokenizer, num_threads = args.measure
        print(json.dumps(measure(variant, Path(corpus), Path(tokenizer), int(num_threads))))
        return

    print("| corpus | threads | | MB/s | tokens/s | MB per CPU-second | × tokenizers | peak memory, MB | 1,024 blocks, ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paragraphs = read_paragraphs(args.text_from)
        save_tokenizer(train_tokenizer(paragraphs, vocab_size=VOCAB_SIZE), folder)
        for num_mb in args.sizes_mb:
            corpus = folder / f"{num_mb:g}"
            write_corpus(paragraphs, corpus, num_mb, one_document=args.one_document)
            cells = [(num_threads, variant) for num_threads in args.threads for variant in args.variants]
            results: dict[tuple[int, str], list[dict[str, float]]] = {cell: [] for cell in cells}
            for _ in range(args.rounds):
                for num_threads, variant in cells:
                    results[num_threads, variant].append(measure_in_process(variant, corpus, folder, num_threads))
            medians = {
                cell: {name: statistics.median(row[name] for row in all_rounds) for name in all_rounds[0]}
                for cell, all_rounds in results.items()
            }
            for (num_threads, variant), median in medians.items():
                baseline = medians.get((num_threads, "tokenizers"))
                ratio = f"{baseline['cpu_s'] / median['cpu_s']:.2f}" if baseline else ""
                print(
                    f"| {num_mb:g} MB | {num_threads} | {variant} | {num_mb / median['wall_s']:.2f} "
                    f"| {median['num_tokens'] / median['wall_s']:,.0f} | {num_mb / median['cpu_s']:.2f} | {ratio} "
                    f"| {median['peak_bytes'] / 1e6:.0f} | {median['blocks_s'] * 1e3:.1f} |".replace("| 0.0 |", "| |"),
                    flush=True,
                )


if __name__ == "__main__":
    main()
