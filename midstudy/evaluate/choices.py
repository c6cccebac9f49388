"""Compare the choices of questions by a state's probabilities: which reply it finds most likely, and whether it is right."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from midstudy.data.batch import IGNORED, Batch
from midstudy.data.batches import PAD_MULTIPLE
from midstudy.data.encoder import Encoder
from midstudy.data.question import Question
from midstudy.evaluate.answers import Marks, prompts_and_references
from midstudy.evaluate.items import write_items
from midstudy.evaluate.sequences import SEQUENCES_PER_BATCH, chosen_sequences, sequences_tally
from midstudy.evaluate.subject import Subject
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.choices import ACCURACY, CENTRED_ACCURACY, CHOICES_FILE, Choices


class Row(NamedTuple):
    """What a model reads: a prompt, up to the mark that starts the reply, and a reply whose nats are measured; or a prompt
    alone (`reply` is empty) whose next token is compared among `letters`."""

    prompt: list[int]
    reply: list[int]
    letters: list[int]

    @property
    def num_inputs(self) -> int:
        """The tokens that the model reads: nothing has to follow the last one of a reply."""
        return len(self.prompt) + max(0, len(self.reply) - 1)


def evaluate_choices(evaluation: Choices, subject: Subject) -> dict[str, Any]:
    """Return the accuracy, centred and by subject; write the scores of every question into the stage's folder.

    Accuracies are NaN if a score is not finite, as of a diverged state.

    Raises:
        ValueError: an item has no choices, a letter is not a single token, no question fits within `seq_len`, or almost
            nothing of the split is used (`Tally.require_enough`).
    """
    split, tokenizer = subject.split, subject.tokenizer()
    tally = sequences_tally(evaluation, split)
    tally.require_enough()
    items = chosen_sequences(evaluation, split)
    _require_questions(evaluation, items, split.questions)
    marks = Marks(tokenizer, split.end_of_text_id)
    prompts = {item: prompt for item, prompt, _ in prompts_and_references(split, items, marks)}
    rows = _rows(evaluation, prompts, split.questions, tokenizer, end=marks.assistant_end)
    fitting = {item: own for item, own in rows.items() if max(row.num_inputs for row in own) <= evaluation.seq_len}
    print(f"{tally.sentence}; {len(fitting)} questions fit within {evaluation.seq_len} tokens", flush=True)
    if not fitting:
        raise ValueError(
            f"choices.{evaluation.data.name}.seq_len: expected questions of at most {evaluation.seq_len} tokens with their "
            f"longest choice, got none among {len(rows)}. Raise seq_len."
        )
    # By length, which only reduces padding.
    places = sorted(
        ((item, place) for item, own in fitting.items() for place in range(len(own))),
        key=lambda one: (fitting[one[0]][one[1]].num_inputs, one),
    )
    scores: dict[tuple[int, int], list[float]] = {}
    groups = [places[first : first + SEQUENCES_PER_BATCH] for first in range(0, len(places), SEQUENCES_PER_BATCH)]
    with subject.model() as model:
        for group in subject.until_stopped(groups):
            read = [fitting[item][place] for item, place in group]
            scores |= zip(group, _scores(model, read, seq_len=evaluation.seq_len), strict=True)
    by_item = {
        item: [score for place in range(len(own)) for score in scores[item, place]] for item, own in sorted(fitting.items())
    }
    if evaluation.by == "cloze":
        for item, found in by_item.items():
            sizes = (len(choice.encode("utf-8")) for choice in split.questions[item].choices)
            by_item[item] = [score / num_bytes for score, num_bytes in zip(found, sizes, strict=True)]
    metrics = _published(subject, by_item)
    return {
        **metrics,
        "questions_without_room": len(rows) - len(fitting),
        "left_out": {evaluation.split: tally.as_metrics()},
    }


def _require_questions(evaluation: Choices, items: NDArray[np.int64], questions: dict[int, Question]) -> None:
    missing = sorted(int(item) for item in items if int(item) not in questions)
    if missing:
        raise ValueError(
            f"choices.{evaluation.data.name}.data: expected choices in every row, got none in {len(missing)} of the "
            f"{len(items)} items of {evaluation.split}, the first of them item {missing[0]}. Give the rows `choices`, or "
            "evaluate a task whose rows have them."
        )


def _rows(
    evaluation: Choices,
    prompts: dict[int, list[int]],
    questions: dict[int, Question],
    tokenizer: tokenizers.Tokenizer,
    *,
    end: int,
) -> dict[int, list[Row]]:
    """Return the rows of every item: one with its letters, or one with each whole reply, to which `end` belongs."""
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    encoder, rows = Encoder(tokenizer, unread=special), {}
    for item, prompt in prompts.items():
        texts = questions[item].choices
        choices = [ids.tolist() for ids in encoder.ids(texts)]
        if evaluation.by == "cloze":
            rows[item] = [Row(prompt, [*choice, end], []) for choice in choices]
            continue
        for text, ids in zip(texts, choices, strict=True):
            if len(ids) != 1:
                raise ValueError(
                    f"choices.{evaluation.data.name}.by: expected choices of a single token, for letters, got {text!r:.40} "
                    f"of {len(ids)} tokens in item {item} of {evaluation.split}. Use by='cloze', or a tokenizer that has "
                    "them."
                )
        rows[item] = [Row(prompt, [], [letter for (letter,) in choices])]
    return rows


@torch.no_grad()
def _scores(model: LanguageModel, rows: Sequence[Row], *, seq_len: int) -> Iterator[list[float]]:
    """Yield the scores of each row: the logits of its letters, or minus the nats of its reply."""
    batch, device = _padded(rows, seq_len=seq_len), model.device
    input_ids = torch.from_numpy(batch.input_ids).to(device)
    if rows[0].reply:
        losses = model.token_losses(input_ids, torch.from_numpy(batch.targets).to(device))
        yield from ([-nats] for nats in losses.sum(dim=1, dtype=torch.float64).tolist())
        return
    last = torch.tensor([len(row.prompt) - 1 for row in rows], device=device)
    hidden = model.hidden(input_ids)[torch.arange(len(rows), device=device), last]
    for row, logits in zip(rows, F.linear(hidden, model.head_weight).float().cpu(), strict=True):
        yield logits[row.letters].tolist()


def _padded(rows: Sequence[Row], *, seq_len: int) -> Batch:
    longest = max(row.num_inputs for row in rows)
    width = min(seq_len, -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE)
    input_ids, targets = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), IGNORED, np.int64)
    for place, row in enumerate(rows):
        input_ids[place, : row.num_inputs] = [*row.prompt, *row.reply[:-1]]
        if row.reply:
            targets[place, len(row.prompt) - 1 : row.num_inputs] = row.reply
    return Batch(input_ids=input_ids, targets=targets)


def _published(subject: Subject, scores: dict[int, list[float]]) -> dict[str, Any]:
    """Write the file of choices and the items; return the accuracies."""
    lines = [_line(item, subject.split.questions[item], found) for item, found in scores.items()]
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    (subject.folder / CHOICES_FILE).write_bytes(text.encode("utf-8"))
    right = np.array([math.nan if line["right"] is None else line["right"] for line in lines], float)
    subjects = np.array([line["subject"] for line in lines], object)
    named = [] if all(name is None for name in subjects) else [("subject", subjects)]
    write_items(subject.folder, np.array([*scores], np.int64), {"right": right, **dict(named)})
    accuracy, chance = float(right.mean()), float(np.mean([1 / len(line["choices"]) for line in lines]))
    metrics: dict[str, Any] = {
        ACCURACY.name: accuracy,
        CENTRED_ACCURACY.name: (accuracy - chance) / (1 - chance),
        "chance": chance,
        "num_questions": len(lines),
    }
    if named and np.isfinite(right).all():
        names = sorted({name for name in subjects if name is not None})
        metrics["accuracy_by_subject"] = {name: float(right[subjects == name].mean()) for name in names}
    return metrics


def _line(item: int, question: Question, scores: list[float]) -> dict[str, Any]:
    is_known = all(map(math.isfinite, scores))
    chosen = int(np.argmax(scores)) if is_known else None
    return {
        "item": item,
        "subject": question.subject,
        "choices": question.choices,
        "scores": scores if is_known else None,
        "chosen": chosen,
        "answer": question.answer,
        "right": None if chosen is None else chosen == question.answer,
    }
