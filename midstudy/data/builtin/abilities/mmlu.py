"""A control that is never trained on: MMLU's dev questions (Hendrycks et al. 2021, arXiv 2009.03300).

They are in the package lm-eval with their answers worked out, five for most of the 57 subjects. A row's `subject` is that
package's group of subjects (stem, humanities, social_sciences, other), since five items say nothing of one; `source` names
the subject. One question has five choices there, and one stands twice: 280 are left.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.abilities.choices import LETTERS, by_letter
from midstudy.data.builtin.packages import ABILITIES_LIST, Archive, open_wheel

PACKAGES = ("lm-eval",)

_TASKS = "lm_eval/tasks/mmlu"
_ITEM = re.compile(
    r"(?P<asked>.*?)\n\(A\) (?P<A>.*?) ?\(B\) (?P<B>.*?) ?\(C\) (?P<C>.*?) ?\(D\) (?P<D>.*?)\nA: .*"
    r"The answer is \((?P<right>[A-D])\)",
    re.DOTALL,
)


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `test` and conversation, by subject, without duplicates."""
    seen: set[str] = set()
    with open_wheel("lm-eval", ABILITIES_LIST) as archive:
        groups = _groups(archive)
        for subject, text in json.loads(archive.text(f"{_TASKS}/flan_cot_fewshot/_cot_prompts.json")).items():
            for item in re.split(r"^Q: ", text, flags=re.MULTILINE)[1:]:
                if (match := _ITEM.match(item)) is not None and match[0] not in seen:
                    seen.add(match[0])
                    choices = [match[letter] for letter in LETTERS]
                    row = by_letter(match["asked"], choices, LETTERS.index(match["right"]), groups[subject])
                    yield "test", {**row, "source": f"mmlu {subject}"}


def _groups(archive: Archive) -> dict[str, str]:
    for node in ast.parse(archive.text(f"{_TASKS}/_generate_configs.py")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SUBJECTS":
            return ast.literal_eval(node.value)
    raise AssertionError("lm-eval: no table SUBJECTS in _generate_configs.py")
