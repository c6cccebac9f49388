"""Small recipes for the tests of ids, planning and slots, without files or network."""

from __future__ import annotations

import dataclasses
from typing import Any

from midstudy.recipe import (
    AdamW,
    Arm,
    Constant,
    Corpus,
    Curriculum,
    Evaluation,
    Group,
    Measure,
    Mixture,
    Muon,
    Phase,
    Source,
    Start,
    Task,
    Tokenizer,
    factors,
    llama,
    pythia,
)
from midstudy.recipe.shape import AnyShape


def corpus(name: str) -> Corpus:
    return Corpus(name=name, source=Source(kind="wheels", part=name, revision="r1"))


def task(name: str) -> Task:
    return Task(name=name, source=Source(kind="wheels", part=name, revision="r1"))


def source_of(data: Corpus | Task) -> Source:
    """Return the only source of a corpus or task."""
    assert isinstance(data.source, Source)
    return data.source


GENERAL, CODE, MATH = corpus("general"), corpus("code"), corpus("math")
PYCODE, WORDS = task("pycode"), task("word_problems")
TOKENIZER = Tokenizer(corpus=GENERAL, vocab_size=512, max_bytes=100_000)


NEOX = pythia("nano", vocab_size=512, max_seq_len=64)
LLAMA = llama("nano", vocab_size=512, max_seq_len=64)
TIED = dataclasses.replace(LLAMA, name="tied", is_tied=True)
ARCHITECTURES: tuple[AnyShape, ...] = (NEOX, LLAMA, TIED)


def start(seed: int = 0, model: AnyShape = NEOX) -> Start:
    return Start(model=model, tokenizer=TOKENIZER, seed=seed)


def with_muon(width: int = 64, **changes: Any) -> AdamW:
    """Return nanochat's optimizer for a model of this width, with a rate for vectors, which its model does not have."""
    scale = (width / 768) ** -0.5
    groups = (
        Group(select="embedding", lr_factor=0.2 * scale),
        Group(select="head", lr_factor=0.004 * scale),
        Group(select="matrices", lr_factor=0.02, rule=Muon(momentum=0.95, warm_from=0.85, warm_updates=300)),
        Group(select="vectors", lr_factor=0.004),
    )
    fields: dict[str, Any] = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-10, "weight_decay": 0.0, "clip_norm": 1.0}
    return AdamW(**({"groups": groups} | fields | changes))


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


LABELS: dict[str, Any] = {"size": "nano", "mix": "control", "weight": 0.0, "start_step": 0, "trunk_seed": 0, "sft_seed": 0}


def whole_arm(curriculum: Curriculum, *, before: int | None = None, changes: Any = None, **labels: Any) -> Arm:
    """Return an arm of a curriculum, measured on general text and on its last task, at its end and at step `before`.

    Args:
        changes: changed fields of the evaluation of general text.
    """
    tasks = [placed.phase.data for placed in curriculum.stretches if isinstance(placed.phase.data, Task)]
    values = LABELS | {"task": tasks[-1].name if tasks else "none"} | labels
    labelled = curriculum.then(phase(Mixture.only(GENERAL), 0, factors=factors(**values)))
    usual: dict[str, Any] = {"split": "test", "loss": "all_tokens", "seq_len": 64, "max_sequences": 8}
    evaluations = {"general_loss": Evaluation(data=GENERAL, **(usual | (changes or {})))}
    if tasks:
        evaluations["task_loss"] = Evaluation(data=tasks[-1], **usual)
    states = {"": labelled.state()} | ({} if before is None else {"_before": labelled.state(before)})
    return Arm(
        curriculum=labelled,
        measures={
            column + when: Measure(state=state, evaluation=evaluation)
            for when, state in states.items()
            for column, evaluation in evaluations.items()
        },
    )


def arm(curriculum: Curriculum, *, data: Task = PYCODE, changes: Any = None, **labels: Any) -> Arm:
    """Return an arm that adds fine-tuning on `data` to a curriculum, measured before and after it."""
    tuned = curriculum.then(sft(data, seed=labels.get("sft_seed", 0)))
    return whole_arm(tuned, before=curriculum.num_steps, changes=changes, **labels)


def wrong(value: object) -> Any:
    """Return a value that a type checker would reject but that an experiment file can contain."""
    return value
