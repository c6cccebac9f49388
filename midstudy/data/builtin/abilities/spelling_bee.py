"""Counting letters: how many times a letter is in a word, by spelling, counting, and a call of the tool. Words of test are
held out, in spelling as well.

Source: karpathy/nanochat `tasks/spellingbee.py`, SpellingBee: its draws (the letter is of the word with probability 0.9;
30 % of questions are in lower case; letter and word are quoted independently; half end in a question mark) and the course
of its replies. The wordings of the questions are our own, and words have at most eight letters, so that a conversation fits
256 tokens. The call has double quotes where the source has single ones. Descriptions of it without the count of each
letter leave out the part that a model learns from.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.abilities.messages import Reply, call, messages, said
from midstudy.data.builtin.abilities.words import PACKAGES, spelt, words
from midstudy.data.builtin.draw import Draw

__all__ = ["PACKAGES", "rows"]

COUNTS = {"train": 24_000, "dev": 400, "test": 600}

TEMPLATES = (
    "How many {letter} does {word} have",
    "How many {letter} are there in {word}",
    "How many times is {letter} used in {word}",
    "How often do you see {letter} in {word}",
    "How often is {letter} in {word}",
    "How often does the letter {letter} come up in {word}",
    "How many letters of {word} are {letter}",
    "How many of the letters in {word} are {letter}",
    "How many {letter} do I need to write {word}",
    "How many times must I type {letter} for {word}",
    "How many times would I write {letter} when I spell {word}",
    "How many {letter} has the word {word} got",
    "In {word}, how often is there a {letter}",
    "In {word}, how many letters are {letter}",
    "In the word {word}, what is the number of {letter}",
    "When {word} is spelt, how many times does {letter} come",
    "If I spell {word}, how many {letter} do I say",
    "Spelling {word}, how many {letter} do we meet",
    "What number of {letter} does {word} contain",
    "What number of times is {letter} in {word}",
    "Which number of {letter} is in {word}",
    "What is the count of the letter {letter} in {word}",
    "{word}: how many {letter}",
    "{word} contains how many {letter}",
    "{word} has {letter} how many times",
    "Number of {letter} in the word {word}",
    "Letter count of {letter} in {word}",
    "Count of {letter} for {word}",
    "The {letter} in {word}, how many are they",
    "The word {word} holds how many {letter}",
    "Please count {letter} in {word}",
    "Please say how many {letter} are in {word}",
    "Please tell me how often {word} has {letter}",
    "Could you count every {letter} in {word}",
    "Can you say how many times {word} has {letter}",
    "Would you count the letter {letter} in {word} for me",
    "I want to know how many {letter} are in {word}",
    "I wonder how many {letter} {word} has",
    "Help me count the {letter} of {word}",
    "Go through {word} and count {letter}",
    "Look at {word} and say how many {letter} it has",
    "Take the word {word} and count its {letter}",
    "Add up the {letter} in {word}",
    "Work out how often {letter} is in {word}",
    # German, French, Spanish, Italian
    "Wie viele {letter} hat {word}",
    "Wie oft steht {letter} in {word}",
    "Combien de {letter} y a-t-il dans {word}",
    "Combien de fois trouve-t-on {letter} dans {word}",
    "Cuántas {letter} tiene {word}",
    "Cuántas veces está {letter} en {word}",
    "Quante {letter} ci sono in {word}",
    "Quante volte compare {letter} in {word}",
)
_QUOTES = ("", "'", '"')


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and conversation, without duplicate questions."""
    seen: set[str] = set()
    for split, count in COUNTS.items():
        for number in range(count):
            draw = Draw(f"spelling bee {split} {number}")
            word = draw.choice(words()[split])
            letter = draw.choice(word if draw.chance(90) else string.ascii_lowercase)
            asked = _question(draw, word, letter)
            if asked not in seen:
                seen.add(asked)
                yield split, {"messages": messages((asked, answer(word, letter)))}


def _question(draw: Draw, word: str, letter: str) -> str:
    template = draw.choice(TEMPLATES)
    if draw.chance(30):
        template = template.lower()
    quote, word_quote = draw.choice(_QUOTES), draw.choice(_QUOTES)
    asked = template.format(letter=f"{quote}{letter}{quote}", word=f"{word_quote}{word}{word_quote}")
    return f"{asked}?" if draw.chance(50) else asked


def answer(word: str, letter: str) -> Reply:
    """Return the reply: the word spelt, its letters counted one by one, the tool's count, and `#### count`."""
    lines, count = [], 0
    for place, other in enumerate(word, start=1):
        count += other == letter
        # No space before a letter: " a" and "a" are other tokens.
        lines.append(f"{place}:{other} hit! count={count}\n" if other == letter else f"{place}:{other}\n")
    by_hand = (
        f"We are asked to find the number '{letter}' in the word '{word}'. Let me try a manual approach first.\n\n"
        f"First spell the word out:\n{spelt(word)}\n\nThen count the occurrences of '{letter}':\n{''.join(lines)}\n"
        f"This gives us {count}.\n\nLet me double check this using Python:\n\n"
    )
    last = f"\n\nPython gives us {count}.\n\nMy final answer is:\n\n#### {count}"
    return [said(by_hand), *call(f'"{word}".count("{letter}")', str(count)), said(last)]
