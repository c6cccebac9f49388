"""A study that runs in seconds: one epoch of a mixture of conversations and pairs after a little pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from midstudy.data.source import resolve_source
from midstudy.plan.steps_of import StepsOf
from midstudy.recipe import (
    AdamW,
    Arm,
    Constant,
    Corpus,
    Curriculum,
    Evaluation,
    Measure,
    Mixture,
    Packing,
    Phase,
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

EXPERIMENT = """
from pathlib import Path
from builders.task_mixture_study import task_mixture_study

def study(*, data, steps_of, text: str, packing: str = "stream", order: str = "shuffled"):
    return task_mixture_study(Path(text), steps_of, packing=packing, order=order)
"""


def task_mixture_study(
    folder: Path,
    steps_of: StepsOf,
    *,
    loss: str = "all_tokens",
    seq_len: int = 32,
    num_sequences: int = 4,
    repeats: int = 2,
    **changes: Any,
) -> Study:
    """Return the study on the texts of `write_text` and `write_chat`; `changes` are of the mixture."""

    def source(name: str, place: str, is_task: bool) -> Any:
        return resolve_source(str(folder), name=name, folder=place, is_task=is_task)

    general = Corpus(name="general", source=source("general", "general", False))
    chat = Task(name="chat", source=source("chat", "sft/chat", True))
    words = Task(name="words", source=source("words", "sft/general", True))
    tokenizer = Tokenizer(corpus=general, vocab_size=300, max_bytes=50_000, special_tokens=CONVERSATION_TOKENS)
    start = Start(model=pythia("nano", vocab_size=512, max_seq_len=64), tokenizer=tokenizer, seed=0)
    shared: dict[str, Any] = {
        "num_sequences": num_sequences,
        "seq_len": seq_len,
        "optimizer": AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        "precision": "fp32",
        "seed": 0,
        "optimizer_state": "reset",
        "data_positions": "reset",
    }
    parts = (TaskPart(task=chat), TaskPart(task=words, repeats=repeats))
    mixture = TaskMixture(parts=parts, **({"packing": "stream"} | changes))
    packing = Packing(mixture=mixture, tokenizer=tokenizer, seq_len=seq_len, num_sequences=num_sequences, seed=0)
    base = Phase(
        name="base", data=Mixture.only(general), loss="all_tokens", num_steps=4, schedule=Constant(lr=3e-3), **shared
    )
    mid = Phase(
        name="mid",
        data=mixture,
        loss=loss,
        num_steps=steps_of(packing),
        schedule=steps_of.hold_then_linear(packing, peak_lr=3e-3, hold_share=0.8),
        factors=factors(order=mixture.order),
        **shared,
    )
    whole = Curriculum.of(start, base).then(mid)
    evaluation = Evaluation(data=chat, split="test", loss="target_tokens", seq_len=32, max_sequences=20)
    measures = {"chat_loss": Measure(state=whole.state(), evaluation=evaluation)}
    return Study(name="mixed", question="Does it mix?", arms=[Arm(curriculum=whole, measures=measures)], seeds=())
