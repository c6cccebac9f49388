"""A study of prepared text that runs in seconds: the raw corpus, two filters that share their first step, and a placebo."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

from builders.small_study import WORDS, write_split, write_text
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
    factors,
    pythia,
)
from midstudy.recipe.preparation import Decontaminate, ExactDuplicates, Prepared, Sample, Select, Step

TOPICS = ("law", "art", "sea")


def write_topics(folder: Path) -> None:
    """Write the small study's text, and a general corpus of 240 documents with topics, 60 of which are there twice."""
    write_text(folder)
    rng = random.Random(5)
    rows = [
        {"text": " ".join(rng.choices([*WORDS, topic], k=40)) + ".", "topic": topic} for topic in TOPICS for _ in range(80)
    ]
    rng.shuffle(rows)
    repeated = [{**row, "text": f"  {row['text']}\n"} for row in rows[:60]]
    write_split(folder / "general", "train", [*rows, *repeated])


def corpora_of(folder: Path) -> dict[str, Corpus]:
    """Return the corpora by name: raw, clean, law, sample and both (law and code together)."""

    def corpus(name: str) -> Corpus:
        return Corpus(name=name, source=resolve_source(str(folder), name=name, folder=name, is_task=False))

    def prepared(name: str, *steps: Step, of: tuple[Corpus, ...]) -> Corpus:
        return Corpus(name=name, source=Prepared(of=of, steps=steps))

    task = Task(name="task", source=resolve_source(str(folder), name="task", folder="sft/general", is_task=True))
    general, clean = corpus("general"), (ExactDuplicates(), Decontaminate(against=(task,)))
    law = prepared("law", *clean, Select(field="topic", values=("law",)), of=(general,))
    return {
        "raw": general,
        "art": prepared("art", *clean, Select(field="topic", values=("art",)), of=(general,)),
        "law": law,
        "sample": prepared("sample", *clean, Sample(share=Fraction(1, 3)), of=(general,)),
        "both": prepared("both", of=(law, corpus("code"))),
    }


def prepared_study(folder: Path, names: tuple[str, ...] = ("raw", "art", "law", "sample", "both")) -> Study:
    """Return the study on the text of `write_topics`: a few steps on each corpus, measured on the raw corpus's test text."""
    corpora = corpora_of(folder)
    tokenizer = Tokenizer(corpus=corpora["raw"], vocab_size=300, max_bytes=20_000)
    start = Start(model=pythia("nano", vocab_size=320, max_seq_len=32), tokenizer=tokenizer, seed=0)
    shared: dict[str, Any] = {"optimizer_state": "reset", "data_positions": "reset", "seed": 0, "precision": "fp32"}
    arms = []
    for name in names:
        phase = Phase(
            name=f"pretrain {name}",
            factors=factors(corpus=name),
            data=Mixture.only(corpora[name]),
            loss="all_tokens",
            num_steps=3,
            num_sequences=4,
            seq_len=32,
            optimizer=AdamW(beta1=0.9, beta2=0.95, weight_decay=0.0, clip_norm=1.0),
            schedule=Constant(lr=1e-3),
            **shared,
        )
        run = Curriculum.of(start, phase)
        measured = {
            "loss": Evaluation(data=corpora["raw"], loss="all_tokens", split="test", seq_len=32, max_sequences=20),
            "own_loss": Evaluation(data=corpora[name], loss="all_tokens", split="test", seq_len=32, max_sequences=20),
        }
        arms.append(
            Arm(
                curriculum=run,
                measures={column: Measure(state=run.state(), evaluation=one) for column, one in measured.items()},
            )
        )
    return Study(name="prepared", question="Do filters help?", arms=arms, seeds=())
