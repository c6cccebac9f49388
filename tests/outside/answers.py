"""Recompute the accuracy of published answers, importing nothing of midstudy.

    python tests/outside/answers.py FOLDER TOKENS TOKENIZER SPLIT SCORE

FOLDER is the evaluation's published folder with transcripts.jsonl, TOKENS and TOKENIZER are those of the data stage and of
the tokenizer. Prints the shares of right and of well-formed answers as JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import tokenizers

MARKS = [f"<|{who}_{where}|>" for who in ("user", "assistant", "python", "output") for where in ("start", "end")]


def visible(text: str) -> str:
    """Return the text outside tool calls and their output, without marks."""
    for who in ("python", "output"):
        text = re.sub(rf"<\|{who}_start\|>.*?(<\|{who}_end\|>|$)", "", text, flags=re.DOTALL)
    for mark in (*MARKS, "<|endoftext|>"):
        text = text.replace(mark, "")
    return text


def is_well_formed(text: str) -> bool:
    """Return whether what the state wrote itself, so not what a tool returned, has closed calls and ends its turn."""
    marks = re.findall(r"<\|\w+\|>", text)
    calls = r"(<\|python_start\|><\|python_end\|>)*<\|assistant_end\|>"
    return text.endswith("<|assistant_end|>") and bool(re.fullmatch(calls, "".join(marks)))


def number(text: str) -> str | None:
    found = re.search(r"#### (-?[0-9.,]+)", text)
    return found and found[1].replace(",", "")


def main(folder: Path, tokens: Path, tokenizer: Path, split: str, score: str) -> dict[str, float]:
    known = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    ids = np.fromfile(tokens / f"{split}-00000.tokens", "<u2")
    ends = np.fromfile(tokens / f"{split}-00000.offsets", "<i8")
    right, formed = [], []
    for line in map(json.loads, (folder / "transcripts.jsonl").read_text("utf-8").splitlines()):
        document = known.decode(ids[ends[line["item"]] : ends[line["item"] + 1]].tolist(), skip_special_tokens=False)
        reference = visible(document.rpartition("<|assistant_start|>")[2])
        said = known.decode(line["tokens"], skip_special_tokens=False)
        numbers = (number(visible(said)), number(reference))
        is_number = score == "exact_number"
        right.append(
            numbers[0] is not None and numbers[0] == numbers[1] if is_number else visible(said).strip() == reference.strip()
        )
        own = [token for place, token in enumerate(line["tokens"]) if place not in line["forced"]]
        formed.append(is_well_formed(known.decode(own, skip_special_tokens=False)))
    return {"exact_match": float(np.mean(right)), "well_formed": float(np.mean(formed))}


if __name__ == "__main__":
    print(json.dumps(main(*(Path(one) for one in sys.argv[1:4]), *sys.argv[4:6])))  # type: ignore[arg-type]
