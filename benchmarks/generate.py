"""Tokens per second of generation, beside transformers' `generate` with the same weights, prompts, batch and precision.

    .venv/bin/python benchmarks/generate.py
    .venv/bin/python benchmarks/generate.py --size 70m --batch 8 --rounds 5

Both decode greedily in one process, taking turns, and each round starts with the other; ratios are computed within a round.
The prompts have different lengths, padded on the right here and on the left there. The tokens of each prompt are compared:
they can differ only where two logits are equal up to rounding, after which the rest of that text differs too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from midstudy.evaluate.generate import Decoding, generate
from midstudy.model.config import huggingface_config
from midstudy.model.huggingface import to_huggingface
from midstudy.model.initialise import initialised
from midstudy.model.language_model import LanguageModel
from midstudy.recipe import ModelShape, pythia
from midstudy.train.environment import configure_threads

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
NO_END: frozenset[int] = frozenset()


def lively(shape: ModelShape) -> LanguageModel:
    """Return a model whose next tokens are clear enough to compare: a larger head than at the start of training."""
    model = initialised(shape, seed=0)
    with torch.no_grad():
        model.head.weight.mul_(20)
    return model


def theirs(model: LanguageModel, prompts: list[list[int]], folder: Path, num_tokens: int) -> Callable[[], list[list[int]]]:
    """Return a function that generates with transformers, from the same weights."""
    import transformers

    (folder / "config.json").write_text(json.dumps(huggingface_config(model.shape)))
    save_file(to_huggingface(model.state_dict(), model.shape), folder / "model.safetensors", metadata={"format": "pt"})
    peer = transformers.GPTNeoXForCausalLM.from_pretrained(folder, dtype=model.head.weight.dtype).eval()
    peer.generation_config.eos_token_id = None
    longest = max(map(len, prompts))
    ids, seen = torch.zeros(2, len(prompts), longest, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        seen[row, longest - len(prompt) :] = 1

    def run() -> list[list[int]]:
        with torch.no_grad():
            made = peer.generate(
                ids,
                attention_mask=seen,
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return made[:, longest:].tolist()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano", help="size of the model (default: nano, as in the micro studies)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of each text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    configure_threads(options.threads)
    shape = pythia(options.size, vocab_size=2_048, max_seq_len=64 + options.tokens)
    model = lively(shape).to(PRECISIONS[options.precision])
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 2_048, size).tolist() for size in rng.integers(16, 64, options.batch)]
    decoding = Decoding(max_new_tokens=options.tokens)

    def ours() -> list[list[int]]:
        return [row.tokens for row in generate(model, prompts, decoding=decoding, ends=NO_END)]

    with tempfile.TemporaryDirectory() as folder:
        runs = {"midstudy": ours, "transformers": theirs(model, prompts, Path(folder), options.tokens)}
        texts = {name: run() for name, run in runs.items()}
        took: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(options.rounds):
            for name in (*runs,) if number % 2 else (*reversed(runs),):
                began = time.perf_counter()
                runs[name]()
                took[name].append(time.perf_counter() - began)
    same = sum(a == b for a, b in zip(texts["midstudy"], texts["transformers"], strict=True))
    num_tokens = options.batch * options.tokens
    print(
        f"{options.size}, {options.precision}, batch {options.batch}, {options.tokens} tokens, {options.threads} thread(s)"
    )
    for name, seconds in took.items():
        print(f"{name:13} {num_tokens / statistics.median(seconds):8,.0f} tokens per second")
    ratios = sorted(b / a for a, b in zip(took["midstudy"], took["transformers"], strict=True))
    print(f"midstudy is {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(f"the same tokens in {same} of {options.batch} texts")


if __name__ == "__main__":
    main()
