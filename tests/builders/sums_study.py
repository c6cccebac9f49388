"""A study of one-step sums as conversations: fine-tuning on a few of them, then rollouts rewarded for right answers."""

from __future__ import annotations

import random
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
    Generation,
    Linear,
    Measure,
    Mixture,
    Phase,
    Rollouts,
    Start,
    Study,
    Task,
    Tokenizer,
    pythia,
)
from midstudy.recipe.data import CONVERSATION_TOKENS

QUESTIONS = ("{}+{}", "{} plus {}", "add {} to {}", "{} and {} make")


def write_sums(folder: Path, *, with_tool: bool = False) -> None:
    """Write a general corpus of words, and each sum of two digits in four wordings, of which one in ten is held out.

    With a tool, the reply calls the calculator and repeats its answer.
    """
    rng = random.Random(3)
    rows = []
    for first in range(10):
        for second in range(10):
            for question in QUESTIONS:
                text = {"type": "text", "text": str(first + second)}
                call = [{"type": "python", "text": f"{first}+{second}"}, {"type": "python_output", "text": text["text"]}]
                messages = [
                    {"role": "user", "content": question.format(first, second)},
                    {"role": "assistant", "content": [*call, text] if with_tool else [text]},
                ]
                rows.append({"messages": messages})
    rng.shuffle(rows)
    for split, part in (("validation", rows[:10]), ("test", rows[10:50]), ("train", rows[50:])):
        write_split(folder / "sft" / "sums", split, part)
        words = ({"text": " ".join(rng.choices([*WORDS, *"0123456789"], k=40)) + "."} for _ in range(len(part)))
        write_split(folder / "general", split, words)


def sums_study(
    folder: Path,
    *,
    sft_steps: int = 30,
    rl_steps: int = 6,
    milestone: int | None = None,
    num_prompts: int = 4,
    num_samples: int = 4,
    rl_lr: float = 1e-3,
    score: str = "exact_text",
    tool: bool = False,
    changes: dict[str, Any] | None = None,
) -> Study:
    """Return the study on the text of `write_sums`, measured after fine-tuning and after RL, or at a step before its end.

    Args:
        milestone: step of the RL phase whose state is measured too.
        changes: other fields of the RL phase.
    """

    def source(name: str, place: str, is_task: bool) -> Any:
        return resolve_source(str(folder), name=name, folder=place, is_task=is_task)

    general = Corpus(name="general", source=source("general", "general", False))
    task = Task(name="sums", source=source("sums", "sft/sums", True))
    tokenizer = Tokenizer(corpus=general, vocab_size=280, max_bytes=50_000, special_tokens=CONVERSATION_TOKENS)
    start = Start(model=pythia("nano", vocab_size=320, max_seq_len=48), tokenizer=tokenizer, seed=0)
    shared: dict[str, Any] = {
        "seq_len": 48,
        "optimizer": AdamW(beta1=0.9, beta2=0.95, weight_decay=0.0, clip_norm=1.0),
        "precision": "fp32",
        "seed": 0,
        "optimizer_state": "reset",
        "data_positions": "reset",
    }
    tuned = Curriculum.of(
        start,
        Phase(
            name="pretrain",
            data=Mixture.only(general),
            loss="all_tokens",
            num_steps=4,
            num_sequences=4,
            schedule=Constant(lr=3e-3),
            **shared,
        ),
        Phase(
            name="sft",
            data=task,
            loss="target_tokens",
            num_steps=sft_steps,
            num_sequences=16,
            schedule=Linear(peak_lr=3e-3, floor_lr=0.0, warmup_steps=0, total_steps=sft_steps),
            **shared,
        ),
    )
    rollouts = Rollouts(prompts=task, score=score, num_samples=num_samples, max_new_tokens=10 if tool else 4, tool=tool)
    rl: dict[str, Any] = {
        "name": "rl",
        "data": rollouts,
        "loss": "policy_gradient",
        "num_steps": rl_steps,
        "num_sequences": num_prompts * num_samples,
        "schedule": Linear(peak_lr=rl_lr, floor_lr=0.0, warmup_steps=0, total_steps=rl_steps),
    }
    learned = tuned.then(Phase(**shared | rl | (changes or {})))
    answers = Generation(
        data=task,
        split="test",
        score=score,
        seq_len=48,
        max_sequences=40,
        max_new_tokens=rollouts.max_new_tokens,
        tool=tool,
        temperature=1,
        num_samples=8,
    )
    states = {"before": tuned.state(), "after": learned.state()}
    if milestone is not None:
        states["between"] = learned.state(tuned.num_steps + milestone)
    measures = {
        name: Measure(state=state, evaluation=answers, metric="exact_match", better="higher")
        for name, state in states.items()
    }
    return Study(name="sums", question="Do rewards teach sums?", arms=[Arm(curriculum=learned, measures=measures)], seeds=())
