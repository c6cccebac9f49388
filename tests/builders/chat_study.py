"""A study of conversations that runs in seconds: half of them in a mixture, then as a task."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from builders.small_study import WORDS, write_split
from midstudy.data.source import resolve_source
from midstudy.recipe import (
    AdamW,
    Arm,
    Constant,
    Corpus,
    Curriculum,
    Evaluation,
    Measure,
    Mixture,
    Phase,
    Start,
    Study,
    Task,
    Tokenizer,
    pythia,
)
from midstudy.recipe.data import CONVERSATION_TOKENS
from midstudy.recipe.generation import Generation


def write_chat(folder: Path) -> None:
    """Write conversations whose replies repeat the last word of the question, which is easy to learn."""
    rng = random.Random(5)
    for split, number in (("train", 200), ("validation", 10), ("test", 20)):
        rows = []
        for _ in range(number):
            messages: list[dict[str, Any]] = []
            for _ in range(rng.randint(1, 3)):
                asked = rng.choices(WORDS, k=3)
                messages += [
                    {"role": "user", "content": " ".join(asked)},
                    {"role": "assistant", "content": [{"type": "text", "text": f"The {asked[-1]}."}]},
                ]
            rows.append({"messages": messages})
        write_split(folder / "sft" / "chat", split, rows)


def chat_study(folder: Path) -> Study:
    """Return the study on the small study's general text and the conversations of `write_chat`."""

    def source(name: str, place: str, is_task: bool) -> Any:
        return resolve_source(str(folder), name=name, folder=place, is_task=is_task)

    general = Corpus(name="general", source=source("general", "general", False))
    annealed = Corpus(name="talk", source=source("talk", "sft/chat", False))
    task = Task(name="chat", source=source("chat", "sft/chat", True))
    tokenizer = Tokenizer(corpus=general, vocab_size=300, max_bytes=50_000, special_tokens=CONVERSATION_TOKENS)
    start = Start(model=pythia("nano", vocab_size=512, max_seq_len=64), tokenizer=tokenizer, seed=0)
    shared: dict[str, Any] = {
        "num_sequences": 4,
        "seq_len": 64,
        "optimizer": AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        "schedule": Constant(lr=3e-3),
        "precision": "fp32",
        "seed": 0,
        "optimizer_state": "reset",
        "data_positions": "reset",
        "loss": "target_tokens",
    }
    trunk = Curriculum.of(
        start,
        Phase(name="pretrain", data=Mixture.only(general), num_steps=6, **shared | {"loss": "all_tokens"}),
        Phase(name="anneal", data=Mixture.blend(general, {annealed: 0.5}), num_steps=6, **shared),
    )
    tuned = trunk.then(Phase(name="sft", data=task, num_steps=40, **shared))
    evaluation = Evaluation(data=task, split="test", loss="target_tokens", seq_len=64, max_sequences=20)
    packed = replace(evaluation, data=annealed, max_sequences=8)
    measures = {
        "before": Measure(state=trunk.state(), evaluation=evaluation),
        "after": Measure(state=tuned.state(), evaluation=evaluation),
        "packed": Measure(state=tuned.state(), evaluation=packed),
    }
    asked = Generation(
        data=task, split="test", score="exact_text", seq_len=64, max_sequences=20, max_new_tokens=12, tool=True, batch_size=8
    )
    drawn = replace(asked, temperature=1, top_k=20, num_samples=3, seed=5, max_sequences=6, pass_at=(1, 2, 3))
    measures |= {
        "answers": Measure(state=tuned.state(), evaluation=asked, metric="exact_match", better="higher"),
        "drawn": Measure(state=tuned.state(), evaluation=drawn, metric="pass_at_2", better="higher"),
    }
    arm = Arm(curriculum=tuned, measures=measures)
    return Study(name="chat", question="Does it answer?", arms=[arm], seeds=())
