"""Generate the last reply of conversations, score it, and publish what was said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.generate import Decoding, Generated, calculator_tool, generate, special_ids
from midstudy.evaluate.items import write_items
from midstudy.evaluate.pass_at_k import pass_at_k
from midstudy.evaluate.scores import is_right
from midstudy.evaluate.sequences import chosen_sequences, sequences_tally
from midstudy.evaluate.subject import Subject
from midstudy.recipe.generation import EXACT_MATCH, TRANSCRIPTS_FILE, WELL_FORMED, Generation, pass_metric


class Marks:
    """The ids of the marks of conversations, and what of a reply they delimit."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, end_of_text_id: int) -> None:
        self._tokenizer = tokenizer
        ids = special_ids(tokenizer)
        self.assistant_start, self.assistant_end = ids[2:4]
        self._python_start, self._python_end, self._output_start, self._output_end = ids[4:]
        self.every = {end_of_text_id, *ids}
        self.ends = frozenset((end_of_text_id, self.assistant_end))

    def text(self, reply: Sequence[int]) -> str:
        """Return the text of a reply, without tool calls, their output, and marks."""
        kept, closing = [], None
        for token in reply:
            if closing is None and token in (self._python_start, self._output_start):
                closing = self._python_end if token == self._python_start else self._output_end
            elif token == closing:
                closing = None
            elif closing is None and token not in self.every:
                kept.append(token)
        return self._tokenizer.decode(kept)

    def is_well_formed(self, reply: Sequence[int], is_forced: Sequence[bool]) -> bool:
        """Return whether a reply ends its turn, closes each tool call, and holds no other mark of its own."""
        if not reply or reply[-1] != self.assistant_end:
            return False
        in_call = False
        for token, forced in zip(reply[:-1], is_forced, strict=False):
            if forced or token not in self.every:
                continue
            if token != (self._python_end if in_call else self._python_start):
                return False
            in_call = not in_call
        return not in_call


def prompts_and_references(
    split: TokenizedSplit, items: NDArray[np.int64], marks: Marks
) -> list[tuple[int, list[int], list[int]]]:
    """Return each item with its tokens up to the mark that starts its last reply, and the tokens of that reply."""
    found = []
    for item in items:
        tokens = split.document(int(item)).astype(np.int64)
        begin = int(np.flatnonzero(tokens == marks.assistant_start)[-1]) + 1
        found.append((int(item), tokens[:begin].tolist(), tokens[begin:].tolist()))
    return found


def evaluate_answers(evaluation: Generation, subject: Subject) -> dict[str, Any]:
    """Return the share of right answers and of well-formed ones, and pass@k; write every answer into the stage's folder.

    Raises:
        ValueError: no prompt leaves room for an answer, or almost nothing of the split is used (`Tally.require_enough`).
    """
    tokenizer = subject.tokenizer()
    marks = Marks(tokenizer, subject.split.end_of_text_id)
    tally = sequences_tally(evaluation, subject.split)
    tally.require_enough()
    every = prompts_and_references(subject.split, chosen_sequences(evaluation, subject.split), marks)
    longest = evaluation.seq_len - evaluation.max_new_tokens
    fitting = [one for one in every if len(one[1]) <= longest]
    print(f"{tally.sentence}; {len(fitting)} prompts leave room for {evaluation.max_new_tokens} tokens", flush=True)
    if not fitting:
        raise ValueError(
            f"generation.{evaluation.data.name}: expected prompts of at most {longest} tokens, seq_len less max_new_tokens, "
            f"got none among {len(every)}. Raise seq_len, or lower max_new_tokens."
        )
    references = {item: marks.text(reply) for item, _, reply in fitting}
    rows: list[Generated] = []
    with subject.model() as model:
        for group in subject.until_stopped(_groups(evaluation, fitting)):
            rows += generate(
                model,
                [prompt for _, prompt, _ in group],
                items=[item for item, _, _ in group],
                decoding=_decoding(evaluation),
                ends=marks.ends,
                num_samples=evaluation.num_samples,
                tool=calculator_tool(tokenizer) if evaluation.tool else None,
            )
    lines = [_line(row, references[row.item], marks, evaluation.score) for row in rows]
    lines.sort(key=lambda line: (line["item"], line["sample"]))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8")
    (subject.folder / TRANSCRIPTS_FILE).write_bytes(text)
    items = np.array(sorted(references), np.int64)
    by_sample = {
        name: np.array([line[name] for line in lines]).reshape(len(items), evaluation.num_samples)
        for name in ("right", "well_formed")
    }
    columns = {name: values.mean(axis=1) for name, values in by_sample.items()}
    num_right = by_sample["right"].sum(axis=1)
    passed = {pass_metric(k).name: pass_at_k(num_right, num_samples=evaluation.num_samples, k=k) for k in evaluation.pass_at}
    write_items(subject.folder, items, columns | passed)
    return {
        EXACT_MATCH.name: float(columns["right"].mean()),
        WELL_FORMED.name: float(columns["well_formed"].mean()),
        **{name: float(values.mean()) for name, values in passed.items()},
        "num_answers": len(lines),
        "prompts_without_room": len(every) - len(fitting),
        "tool_calls_answered": sum(line["tool_calls_answered"] for line in lines),
        "transcripts_sha256": hashlib.sha256(text).hexdigest(),
        "left_out": {evaluation.split: tally.as_metrics()},
    }


def _decoding(evaluation: Generation) -> Decoding:
    return Decoding(
        max_new_tokens=evaluation.max_new_tokens,
        temperature=evaluation.temperature,
        top_k=evaluation.top_k,
        seed=evaluation.seed,
    )


_Prompt = tuple[int, list[int], list[int]]


def _groups(evaluation: Generation, prompts: Sequence[_Prompt]) -> Iterator[list[_Prompt]]:
    """Yield the prompts that are answered together: by length, then by digest, so that the items' order does not matter."""

    def place(prompt: _Prompt) -> tuple[int, str]:
        return len(prompt[1]), hashlib.sha256(np.array(prompt[1], "<i8").tobytes()).hexdigest()

    ordered, size = sorted(prompts, key=place), max(1, evaluation.batch_size // evaluation.num_samples)
    for first in range(0, len(ordered), size):
        yield ordered[first : first + size]


def _line(row: Generated, reference: str, marks: Marks, score: str) -> dict[str, Any]:
    text = marks.text(row.tokens)
    return {
        "item": row.item,
        "sample": row.sample,
        "text": text,
        "reference": reference,
        "right": is_right(text, reference, score),
        "well_formed": marks.is_well_formed(row.tokens, row.is_forced),
        "tool_calls_answered": row.num_answered,
        "tokens": row.tokens,
        "forced": [place for place, is_forced in enumerate(row.is_forced) if is_forced],
    }
