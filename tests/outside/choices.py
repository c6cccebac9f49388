"""Recompute the accuracy of published choices, importing nothing of midstudy.

    python tests/outside/choices.py FOLDER TOKENS TOKENIZER SPLIT

FOLDER is the evaluation's published folder with choices.jsonl, TOKENS and TOKENIZER are those of the data stage and of the
tokenizer. Which choice is right is read from the reply in the tokens; which is chosen, from the scores. Prints the accuracy,
centred and by subject, as JSON, and whether the items beside the choices say the same.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import tokenizers
from pyarrow import parquet


def main(folder: Path, tokens: Path, tokenizer: Path, split: str) -> dict[str, object]:
    known = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    ids = np.fromfile(tokens / f"{split}-00000.tokens", "<u2")
    ends = np.fromfile(tokens / f"{split}-00000.offsets", "<i8")
    right: dict[int, bool] = {}
    by_subject, chances = defaultdict(list), []
    for line in map(json.loads, (folder / "choices.jsonl").read_text("utf-8").splitlines()):
        document = known.decode(ids[ends[line["item"]] : ends[line["item"] + 1]].tolist(), skip_special_tokens=False)
        reply = document.rpartition("<|assistant_start|>")[2].removesuffix("<|assistant_end|>")
        best = max(range(len(line["scores"])), key=lambda place: (line["scores"][place], -place))
        right[line["item"]] = line["choices"][best] == reply
        chances.append(1 / len(line["choices"]))
        by_subject[line["subject"]].append(right[line["item"]])
    accuracy, chance = float(np.mean([*right.values()])), float(np.mean(chances))
    items = parquet.read_table(folder / "items.parquet").to_pydict()
    return {
        "accuracy": accuracy,
        "centred_accuracy": (accuracy - chance) / (1 - chance),
        "accuracy_by_subject": {name: float(np.mean(one)) for name, one in by_subject.items() if name is not None},
        "items_agree": dict(zip(items["item"], items["right"], strict=True)) == right,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))
