"""Small recipes that the tests of identity, planning and slots share; no file or network behind them."""

from __future__ import annotations

from typing import Any

from midstudy.recipe import (
    AdamW,
    Arm,
    Constant,
    Corpus,
    Curriculum,
    Evaluation,
    Mixture,
    Phase,
    Source,
    Start,
    Task,
    Tokenizer,
    pythia,
)


def corpus(name: str) -> Corpus:
    return Corpus(name=name, source=Source(kind="wheels", part=name, revision="r1"))


def task(name: str) -> Task:
    return Task(name=name, source=Source(kind="wheels", part=name, revision="r1"))


GENERAL, CODE, MATH = corpus("general"), corpus("code"), corpus("math")
PYCODE, WORDS = task("pycode"), task("word_problems")
TOKENIZER = Tokenizer(corpus=GENERAL, vocab_size=512, max_bytes=100_000)


def start(seed: int = 0, size: str = "nano") -> Start:
    return Start(model=pythia(size, vocab_size=512, max_seq_len=64), tokenizer=TOKENIZER, seed=seed)


def phase(data: Any, num_steps: int, **changes: Any) -> Phase:
    fields: dict[str, Any] = {
        "name": "pretrain",
        "data": data,
        "loss": "all_tokens",
        "num_steps": num_steps,
        "num_sequences": 8,
        "seq_len": 64,
        "optimizer": AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        "schedule": Constant(lr=1e-3),
        "precision": "fp32",
        "seed": 0,
        "optimizer_state": "continue",
        "data_positions": "continue",
    }
    return Phase(**(fields | changes))


def sft(data: Task, num_steps: int = 5, **changes: Any) -> Phase:
    return phase(data, num_steps, **({"name": "sft", "optimizer_state": "reset", "data_positions": "reset"} | changes))


def trunk(num_steps: int = 60, *, seed: int = 0, **changes: Any) -> Curriculum:
    return Curriculum.of(start(seed), phase(Mixture.only(GENERAL), num_steps, **changes))


def code_branch(curriculum: Curriculum, start_step: int, weight: float = 0.2) -> Curriculum:
    return curriculum.branch(start_step=start_step, data=Mixture.blend(GENERAL, {CODE: weight}), name="midtrain code")


def arm(curriculum: Curriculum, *, data: Task = PYCODE, **changes: Any) -> Arm:
    """An arm whose curriculum ends with fine-tuning on `data`."""
    fields: dict[str, Any] = {
        "size": "nano",
        "mix": "control",
        "weight": 0.0,
        "start_step": 0,
        "task": data.name,
        "trunk_seed": 0,
        "sft_seed": 0,
        "groups": ("main",),
        "curriculum": curriculum.then(sft(data, seed=changes.get("sft_seed", 0))),
        "task_evaluation": Evaluation(data=data, split="test", loss="all_tokens", seq_len=64, max_sequences=8),
        "general_evaluation": Evaluation(data=GENERAL, split="test", loss="all_tokens", seq_len=64, max_sequences=8),
    }
    return Arm(**(fields | changes))


def wrong(value: object) -> Any:
    """What a type checker would refuse, and an experiment file can hold all the same."""
    return value
