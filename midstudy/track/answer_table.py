"""The answers of an evaluation as the table that MLflow shows on a run's page, and compares between runs.

The store's files hold tokens, scores and no question: good to check, hard to read. The table has the questions as the state
read them, and columns of the same names for generated answers and for choices, so that both are read alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.recipe.choices import CHOICES_FILE
from midstudy.recipe.generation import TRANSCRIPTS_FILE
from midstudy.recipe.manifest import Manifest
from midstudy.store.record import Record
from midstudy.store.store import Store

TABLE_FILE = "answers.json"
TABLES_TAG = "mlflow.loggedArtifacts"
"""The tag by which MLflow's page knows which artifacts are tables; `mlflow.log_table` writes it, too."""
TABLES = json.dumps([{"path": TABLE_FILE, "type": "table"}])
"""Its value for a run with this table."""

_ANSWERS_FILES = (TRANSCRIPTS_FILE, CHOICES_FILE)


@dataclass(frozen=True, kw_only=True)
class AnswerTable:
    """Where a table comes from: the file of answers, the folders of the tokens and of their tokenizer, and the split.

    `digest` is that of the file of answers, which all else follows from.
    """

    answers: Path
    tokens: Path
    tokenizer: Path
    split: str
    digest: str

    def text(self) -> str:
        """Return the table as MLflow reads it: JSON with `columns`, and `data` by rows."""
        lines = [json.loads(line) for line in self.answers.read_text("utf-8").splitlines()]
        questions = dict(self._questions({int(line["item"]) for line in lines}))
        read = _chosen if self.answers.name == CHOICES_FILE else _generated
        rows = [{"question": questions[line["item"]], **read(line)} for line in lines]
        columns = [*rows[0]] if rows else []
        return json.dumps({"columns": columns, "data": [[*row.values()] for row in rows]}, ensure_ascii=False)

    def _questions(self, items: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Yield what each item asks: its messages before the last reply, one below the other, without marks."""
        from midstudy.data.prompts import prompt_lengths
        from midstudy.data.tokenizer import load_tokenizer
        from midstudy.data.tokens import read_split

        tokenizer, split = load_tokenizer(self.tokenizer), read_split(self.tokens, self.split)
        lengths = prompt_lengths(split, tokenizer)
        marks = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        for item in sorted(items):
            messages: list[list[int]] = [[]]
            for token in split.document(item)[: lengths[item]].tolist():
                if token in marks:
                    messages.append([])
                else:
                    messages[-1].append(token)
            yield item, "\n".join(tokenizer.decode(message) for message in messages if message)


def answer_table(store: Store, manifest: Manifest, records: Mapping[str, Record], stage_id: str) -> AnswerTable | None:
    """Return the table of a finished stage; None if it keeps no answers, or the store has no questions to them."""

    def parent(stage_id: str, kind: str) -> str | None:
        return next((one for one in manifest.stages[stage_id].parents if one in records and records[one].kind == kind), None)

    files = records[stage_id].files
    name = next((name for name in _ANSWERS_FILES if name in files), None)
    tokens = parent(stage_id, "tokens")
    tokenizer = parent(tokens, "tokenizer") if tokens is not None else None
    if name is None or tokens is None or tokenizer is None:
        return None
    return AnswerTable(
        answers=store.published_folder(stage_id) / name,
        tokens=store.published_folder(tokens),
        tokenizer=store.published_folder(tokenizer),
        split=manifest.stages[stage_id].split,
        digest=files[name]["sha256"],
    )


def _generated(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "reply": line["text"],
        "reference": line["reference"],
        "right": line["right"],
        "well_formed": line["well_formed"],
        "tool_calls": line["tool_calls_answered"],
        "item": line["item"],
        "sample": line["sample"],
    }


def _chosen(line: Mapping[str, Any]) -> dict[str, Any]:
    choices = line["choices"]
    return {
        "reply": None if line["chosen"] is None else choices[line["chosen"]],
        "reference": choices[line["answer"]],
        "right": line["right"],
        "subject": line["subject"],
        "item": line["item"],
    }
