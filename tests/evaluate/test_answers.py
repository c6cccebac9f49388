"""Which answers are right, and which are well-formed."""

from __future__ import annotations

import pytest

from midstudy.data.tokenizer import train_tokenizer
from midstudy.evaluate.answers import Marks
from midstudy.evaluate.generate import special_ids
from midstudy.evaluate.scores import final_number, is_exact_number, is_exact_text
from midstudy.recipe.data import CONVERSATION_TOKENS

TOKENIZER = train_tokenizer(["12+30=42 The answer is 7. #### 1,234 "], vocab_size=280, special_tokens=CONVERSATION_TOKENS)
MARKS = Marks(TOKENIZER, 0)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3.\n#### 1,234", "1234"),
        ("#### -7 apples", "-7"),
        ("#### 0.5\n#### 9", "0.5"),
        ("####7", None),
        ("the answer is 7", None),
        ("#### seven", None),
    ],
)
def test_the_final_number_is_that_after_the_first_mark(text: str, number: str | None) -> None:
    """As `GSM_RE` of openai/grade-school-math and nanochat's `gsm8k.py`."""
    assert final_number(text) == number


def test_an_answer_without_a_number_is_wrong_even_if_the_reference_has_none() -> None:
    assert not is_exact_number("a", "a")
    assert is_exact_number("it is #### 1,000", "#### 1000")
    assert is_exact_text(" The year.\n", "The year.")
    assert not is_exact_text("The year", "The year.")


def reply(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


CALL = "<|python_start|>3+4<|python_end|>"
OUTPUT = "<|output_start|>7<|output_end|>"
END = "<|assistant_end|>"


@pytest.mark.parametrize(
    ("said", "text", "well_formed"),
    [
        (f"The answer is 7.{END}", "The answer is 7.", True),
        (f"The {CALL}{OUTPUT}answer{END}", "The answer", True),
        (f"{CALL}{CALL}{END}", "", True),
        ("The answer", "The answer", False),
        ("The answer<|endoftext|>", "The answer", False),
        (f"The <|python_start|>3+4{END}", "The ", False),
        (f"3<|python_end|>4{END}", "34", False),
        (f"The <|user_start|>answer{END}", "The answer", False),
        (f"<|python_start|>3<|python_start|>4<|python_end|>{END}", "", False),
    ],
)
def test_a_well_formed_answer_closes_its_calls_and_ends_its_turn(said: str, text: str, well_formed: bool) -> None:
    tokens = reply(said)
    forced = [False] * len(tokens)
    if OUTPUT in said:
        begin = tokens.index(special_ids(TOKENIZER)[6])
        stop = tokens.index(special_ids(TOKENIZER)[7]) + 1
        forced[begin:stop] = [True] * (stop - begin)
    assert MARKS.text(tokens) == text
    assert MARKS.is_well_formed(tokens, forced) == well_formed


def test_an_output_that_the_model_writes_itself_is_not_well_formed() -> None:
    tokens = reply(f"{CALL}{OUTPUT}7{END}")
    assert not MARKS.is_well_formed(tokens, [False] * len(tokens))
