"""What a state reaches that always gives the same answer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from midstudy.analysis.commonest import commonest_share


def write(folder: Path, name: str, lines: list[dict[str, object]]) -> None:
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def test_numbers_are_the_same_however_they_are_written_and_samples_of_an_item_count_once(tmp_path: Path) -> None:
    references = ["so #### 1,000", "#### 1000", "#### 3", "#### 2"]
    lines = [{"item": item, "sample": one, "reference": text} for item, text in enumerate(references) for one in range(2)]
    write(tmp_path, "transcripts.jsonl", [*lines, *({**lines[-1], "sample": one} for one in range(2, 9))])
    assert commonest_share(tmp_path, {"score": "exact_number"}) == 0.5
    assert commonest_share(tmp_path, {"score": "exact_text"}) == 0.25


def test_of_choices_it_is_the_letter_that_is_right_most_often(tmp_path: Path) -> None:
    write(tmp_path, "choices.jsonl", [{"answer": answer} for answer in (0, 2, 2, 3, 2, 1)])
    assert commonest_share(tmp_path, {}) == pytest.approx(0.5)


def test_an_evaluation_without_answers_has_none(tmp_path: Path) -> None:
    assert math.isnan(commonest_share(tmp_path, {}))
