"""A study of questions with choices that runs in seconds: letters that a word of the question fixes, and whole replies."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builders.small_study import WORDS, write_split
from midstudy.data.source import resolve_source
from midstudy.recipe import (
    AdamW,
    Arm,
    Choices,
    Constant,
    Corpus,
    Curriculum,
    Evaluation,
    Measure,
    Mixture,
    NoiseScale,
    Phase,
    Start,
    Study,
    Task,
    Tokenizer,
    pythia,
)
from midstudy.recipe.data import CONVERSATION_TOKENS

LETTERS = ("A", "B", "C", "D")
_KEYS = WORDS[: len(LETTERS)]
_REPLIES = ("a day", "the whole long year", "people", "it is a life", "no")


def _letters(rng: random.Random) -> tuple[str, list[str], str, str]:
    """Return a question whose word, the key, fixes the letter."""
    place = rng.randrange(len(LETTERS))
    question = " ".join([_KEYS[place], rng.choice(WORDS[4:]), _KEYS[place]])
    return question, [*LETTERS], LETTERS[place], "school" if place % 2 else "world"


def _scrambled(rng: random.Random) -> tuple[str, list[str], str, str]:
    """Return a question of `_letters` with a right letter that nothing fixes."""
    question, choices, _, subject = _letters(rng)
    return question, choices, rng.choice(choices), subject


def _replies(rng: random.Random) -> tuple[str, list[str], str, str | None]:
    """Return a question with two to four whole replies, as long as it may."""
    choices = rng.sample(_REPLIES, rng.randint(2, 4))
    return rng.choice(WORDS), choices, rng.choice(choices), None


def write_quiz(folder: Path) -> None:
    """Write the three tasks, with many questions to test on."""
    makers: dict[str, Callable[[random.Random], tuple[str, list[str], str, str | None]]]
    makers = {"letters": _letters, "scrambled": _scrambled, "replies": _replies}
    for name, make in makers.items():
        rng = random.Random(name)
        for split, number in (("train", 300), ("validation", 12), ("test", 200)):
            rows = []
            for _ in range(number):
                question, choices, right, subject = make(rng)
                said = [{"role": "user", "content": question}, {"role": "assistant", "content": right}]
                rows.append({"messages": said, "choices": choices, **({"subject": subject} if subject else {})})
            write_split(folder / "sft" / name, split, rows)


def quiz_study(folder: Path) -> Study:
    """Return the study on the small study's general text and the questions of `write_quiz`, trained on their letters."""

    def source(name: str, place: str, is_task: bool) -> Any:
        return resolve_source(str(folder), name=name, folder=place, is_task=is_task)

    general = Corpus(name="general", source=source("general", "general", False))
    tasks = {name: Task(name=name, source=source(name, f"sft/{name}", True)) for name in ("letters", "scrambled", "replies")}
    tokenizer = Tokenizer(corpus=general, vocab_size=300, max_bytes=50_000, special_tokens=CONVERSATION_TOKENS)
    shared: dict[str, Any] = {
        "num_sequences": 16,
        "seq_len": 32,
        "optimizer": AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        "schedule": Constant(lr=3e-3),
        "precision": "fp32",
        "seed": 0,
        "optimizer_state": "reset",
        "data_positions": "reset",
    }
    start = Start(model=pythia("nano", vocab_size=512, max_seq_len=64), tokenizer=tokenizer, seed=0)
    trunk = Curriculum.of(
        start, Phase(name="pretrain", data=Mixture.only(general), num_steps=4, loss="all_tokens", **shared)
    )
    tuned = trunk.then(Phase(name="sft", data=tasks["letters"], num_steps=40, loss="target_tokens", **shared))
    asked = {
        name: Choices(data=task, split="test", by="cloze" if name == "replies" else "letters", seq_len=64, max_sequences=200)
        for name, task in tasks.items()
    }
    by_position = Evaluation(
        data=general, split="test", loss="all_tokens", seq_len=32, max_sequences=20, items=True, by_position=4
    )
    noise = NoiseScale(data=general, split="test", seq_len=16, num_batches=3, small=2, large=8, seed=1)
    measures = {
        "before": Measure(state=trunk.state(), evaluation=asked["letters"], metric="accuracy", better="higher"),
        **{
            name: Measure(state=tuned.state(), evaluation=one, metric="accuracy", better="higher")
            for name, one in asked.items()
        },
        "centred": Measure(state=tuned.state(), evaluation=asked["replies"], metric="centred_accuracy", better="higher"),
        "late_loss": Measure(state=trunk.state(), evaluation=by_position, metric="loss_nats_4_of_4"),
        "noise": Measure(state=trunk.state(), evaluation=noise, metric="noise_scale_sequences"),
    }
    return Study(name="quiz", question="Does it know?", arms=[Arm(curriculum=tuned, measures=measures)], seeds=())
