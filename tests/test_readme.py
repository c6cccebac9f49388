"""The README is correct: its example is what `midstudy new` writes, and the questions that it lists have pages.

Its commands and links are tested with those of all pages (`tests/docs/test_pages.py`).
"""

from __future__ import annotations

from builders.markdown import README, blocks
from builders.places import REPOSITORY


def test_the_example_of_a_study_is_what_midstudy_new_writes() -> None:
    (example,) = (block.text for block in blocks(README) if block.language == "python")
    assert example in (REPOSITORY / "midstudy/studies/bridging/question.py").read_text("utf-8")


def test_the_tutorial_and_ten_questions_are_listed() -> None:
    listed = README.read_text("utf-8").partition("## Your own question")[2].partition("```")[0]
    assert "(docs/tutorial.md)" in listed
    assert listed.count("?](docs/") >= 10
