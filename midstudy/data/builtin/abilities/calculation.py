"""Word problems in GSM8K's form, whose calculations are calls of the tool. Test is the test split of `word_problems`.

Source: karpathy/nanochat `tasks/gsm8k.py`, which makes `<<3*4=12>>` a call `3*4` and the tool's `12`, in the text around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin import word_problems
from midstudy.data.builtin.abilities.messages import Reply, call, messages, said

PACKAGES: tuple[str, ...] = ()
NUM_TRAIN = 11_500
"""Drawn from the templates of train. The first are those of `word_problems`, which are drawn in the same way."""

_CALCULATION = re.compile(r"<<([^<>=]+)=([^<>]+)>>")


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and conversation."""
    for split, row in word_problems.drawn(NUM_TRAIN, word_problems.NUM_TEST):
        yield split, {"messages": messages((row["question"], with_calls(row["answer"]))), "source": row["source"]}


def with_calls(answer: str) -> Reply:
    """Return a worked answer as parts: text, and the calls that its `<<expression=result>>` marks are."""
    parts, end = [], 0
    for mark in _CALCULATION.finditer(answer):
        parts += [said(answer[end : mark.start()]), *call(mark[1], mark[2])]
        end = mark.end()
    return [part for part in (*parts, said(answer[end:])) if part["text"]]
