"""A study with every kind of training in one chain, in seconds: corpus, one epoch of packed tasks, rows, rollouts.

Its states are measured by generated answers, by choices and by the gradient noise scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.places import TESTS
from builders.quiz_study import write_quiz
from builders.sums_study import write_sums
from midstudy.data.source import resolve_source
from midstudy.plan.steps_of import StepsOf
from midstudy.recipe import (
    AdamW,
    Arm,
    Choices,
    Constant,
    Corpus,
    Curriculum,
    Generation,
    Linear,
    Measure,
    Mixture,
    NoiseScale,
    Packing,
    Phase,
    Rollouts,
    Start,
    Study,
    Task,
    TaskMixture,
    TaskPart,
    Tokenizer,
    factors,
    pythia,
)
from midstudy.recipe.data import CONVERSATION_TOKENS

NAME = "staged"
RL_STEPS = 6

EXPERIMENT = """\
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
from builders.staged_study import staged_study

def study(*, data=None, steps_of, text: str = {text!r}, name: str = {name!r}):
    return dataclasses.replace(staged_study(Path(text), steps_of), name=name)
"""


def write_staged(folder: Path) -> Path:
    """Write the text of the study and, beside it, its experiment file; return the file."""
    write_sums(folder / "text")
    write_quiz(folder / "text")
    experiment = folder / "staged.py"
    experiment.write_text(EXPERIMENT.format(tests=str(TESTS), text=str(folder / "text"), name=NAME), "utf-8")
    return experiment


def staged_study(folder: Path, steps_of: StepsOf) -> Study:
    """Return the study on the text of `write_staged`: base, mid, SFT and RL."""

    def task(name: str) -> Task:
        return Task(name=name, source=resolve_source(str(folder), name=name, folder=f"sft/{name}", is_task=True))

    general = Corpus(name="general", source=resolve_source(str(folder), name="general", folder="general", is_task=False))
    sums, letters = task("sums"), task("letters")
    tokenizer = Tokenizer(corpus=general, vocab_size=280, max_bytes=50_000, special_tokens=CONVERSATION_TOKENS)
    shared: dict[str, Any] = {
        "seq_len": 48,
        "optimizer": AdamW(beta1=0.9, beta2=0.95, weight_decay=0.0, clip_norm=1.0),
        "precision": "fp32",
        "seed": 0,
        "optimizer_state": "reset",
        "data_positions": "reset",
    }
    mixture = TaskMixture(parts=(TaskPart(task=sums), TaskPart(task=letters)), streams=2)
    packing = Packing(mixture=mixture, tokenizer=tokenizer, seq_len=48, num_sequences=8, seed=0)
    base = Curriculum.of(
        Start(model=pythia("nano", vocab_size=320, max_seq_len=48), tokenizer=tokenizer, seed=0),
        Phase(
            name="base",
            data=Mixture.only(general),
            loss="all_tokens",
            num_steps=4,
            num_sequences=4,
            schedule=Constant(lr=3e-3),
            **shared,
        ),
    )
    mid = base.then(
        Phase(
            name="mid",
            data=mixture,
            loss="all_tokens",
            num_steps=steps_of(packing),
            num_sequences=8,
            schedule=steps_of.hold_then_linear(packing, peak_lr=3e-3, hold_share=0.8),
            factors=factors(order=mixture.order),
            **shared,
        )
    )
    tuned = mid.then(
        Phase(
            name="sft",
            data=sums,
            loss="target_tokens",
            num_steps=30,
            num_sequences=16,
            schedule=Linear(peak_lr=3e-3, floor_lr=0.0, warmup_steps=0, total_steps=30),
            factors=factors(task="sums"),
            **shared,
        )
    )
    learned = tuned.then(
        Phase(
            name="rl",
            data=Rollouts(prompts=sums, score="exact_text", num_samples=4, max_new_tokens=4, tool=False),
            loss="policy_gradient",
            num_steps=RL_STEPS,
            num_sequences=16,
            schedule=Linear(peak_lr=1e-3, floor_lr=0.0, warmup_steps=0, total_steps=RL_STEPS),
            **shared,
        )
    )
    answers = Generation(
        data=sums,
        split="test",
        score="exact_text",
        seq_len=48,
        max_sequences=40,
        max_new_tokens=4,
        tool=False,
        temperature=1,
        num_samples=4,
        pass_at=(1, 4),
    )
    asked = Choices(data=letters, split="test", by="letters", seq_len=48, max_sequences=100)
    noise = NoiseScale(data=general, split="test", seq_len=16, num_batches=3, small=2, large=8, seed=1)

    def higher(state: Any, evaluation: Any, metric: str) -> Measure:
        return Measure(state=state, evaluation=evaluation, metric=metric, better="higher")

    measures = {
        "exact_match": higher(learned.state(), answers, "exact_match"),
        "pass_at_4": higher(learned.state(), answers, "pass_at_4"),
        "exact_match_sft": higher(tuned.state(), answers, "exact_match"),
        "accuracy": higher(learned.state(), asked, "accuracy"),
        "accuracy_mid": higher(mid.state(), asked, "accuracy"),
        "noise_scale": Measure(state=base.state(), evaluation=noise, metric="noise_scale_sequences"),
    }
    arm = Arm(curriculum=learned, measures=measures)
    return Study(name=NAME, question="Do four kinds of training follow each other?", arms=[arm], seeds=())
