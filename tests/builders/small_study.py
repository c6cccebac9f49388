"""A real study that runs in seconds: generated text, a nano model, a dozen steps."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from midstudy.data.source import resolve_source
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.manifest import manifest_of
from midstudy.plan.packed import counts_in
from midstudy.plan.planner import Plan, make_plan
from midstudy.plan.published import published_states
from midstudy.recipe import (
    AdamW,
    Arm,
    Comparison,
    Corpus,
    Cosine,
    Curriculum,
    Evaluation,
    Measure,
    Mix,
    Mixture,
    Phase,
    Start,
    Study,
    Task,
    TokenCounts,
    Tokenizer,
    factors,
    pythia,
    where,
)
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")
SYMBOLS = ("def", "return", "self", "None", "import", "class", "for", "in", "print", "(", ")", "[", "]", ":", "=", "+", "x")


def write_text(folder: Path) -> None:
    """Write a general corpus of words, a code corpus of symbols, and a task like each of them."""
    rng = random.Random(0)

    def rows(words: tuple[str, ...], number: int, length: int) -> Iterable[dict[str, str]]:
        return ({"text": " ".join(rng.choices(words, k=length)) + "."} for _ in range(number))

    def pairs(words: tuple[str, ...], number: int) -> Iterable[dict[str, str]]:
        for _ in range(number):
            yield {"question": " ".join(rng.choices(WORDS, k=4)), "answer": " " + " ".join(rng.choices(words, k=8))}

    for name, words in (("general", WORDS), ("code", SYMBOLS)):
        write_split(folder / name, "train", rows(words, 300, 60))
        write_split(folder / name, "validation", rows(words, 30, 60))
        write_split(folder / name, "test", rows(words, 30, 60))
        for split, number in (("train", 120), ("validation", 20), ("test", 30)):
            write_split(folder / "sft" / name, split, pairs(words, number))


def write_split(folder: Path, split: str, rows: Iterable[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def exchange_two_ids(tokenizer: Path) -> None:
    """Swap two tokens of a tokenizer.json, which keeps its size."""
    fields = json.loads(tokenizer.read_text("utf-8"))
    vocab = fields["model"]["vocab"]
    first, second = (token for token, number in vocab.items() if number in (258, 259))
    vocab[first], vocab[second] = vocab[second], vocab[first]
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    tokenizer.write_bytes(text.ljust(tokenizer.stat().st_size))


def small_study(
    folder: Path,
    *,
    total_steps: int = 12,
    starts: tuple[int, ...] = (3,),
    tasks: tuple[str, ...] = ("code_task",),
    test_items: int = 16,
    items: bool = False,
    schedule: Any = None,
    optimizer: AdamW | None = None,
    precision: str = "fp32",
    start: Start | None = None,
    sft_steps: int = 4,
    trunk_seed: int = 0,
) -> Study:
    """Return a study with control and code arms of one trunk seed; `write_text` has filled `folder`."""

    def source(name: str, place: str, is_task: bool) -> Any:
        return resolve_source(str(folder), name=name, folder=place, is_task=is_task)

    general = Corpus(name="general", source=source("general", "general", False))
    code = Corpus(name="code", source=source("code", "code", False))
    places = {"code_task": "sft/code", "word_task": "sft/general"}
    all_tasks = {name: Task(name=name, source=source(name, place, True)) for name, place in places.items()}
    if start is None:
        tokenizer = Tokenizer(corpus=general, vocab_size=300, max_bytes=50_000)
        start = Start(model=pythia("nano", vocab_size=512, max_seq_len=32), tokenizer=tokenizer, seed=trunk_seed)
    optimizer = optimizer or AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0)
    shared: dict[str, Any] = {"num_sequences": 4, "seq_len": 32, "optimizer": optimizer, "precision": precision}
    reset: dict[str, Any] = {"optimizer_state": "reset", "data_positions": "reset"}
    trunk = Curriculum.of(
        start,
        Phase(
            name=f"pretrain nano seed {trunk_seed}",
            factors=factors(size="nano", trunk_seed=trunk_seed, mix="control", weight=0.0, start_step=0),
            data=Mixture.only(general),
            loss="all_tokens",
            num_steps=total_steps,
            schedule=schedule or Cosine(peak_lr=3e-3, floor_lr=0.0, warmup_steps=2, total_steps=total_steps),
            seed=trunk_seed,
            **shared,
            **reset,
        ),
    )

    def arm(run: Curriculum, task: str, name: str) -> Arm:
        sft = Phase(
            name=f"sft nano {name} → {task}, trunk {trunk_seed}, SFT 7",
            factors=factors(task=task, sft_seed=7),
            data=all_tasks[task],
            loss="target_tokens",
            num_steps=sft_steps,
            schedule=Cosine(peak_lr=1e-3, floor_lr=0.0, warmup_steps=1, total_steps=sft_steps),
            seed=7,
            **shared,
            **reset,
        )
        measured: dict[str, Any] = {"split": "test", "seq_len": 32, "max_sequences": test_items}
        tuned = run.then(sft)
        evaluations = {
            "sft_loss": Evaluation(data=all_tasks[task], loss="target_tokens", items=items, **measured),
            "general_loss": Evaluation(data=general, loss="all_tokens", **measured),
        }
        measures = {
            f"{column}{when}": Measure(state=state, evaluation=evaluation)
            for when, state in (("", tuned.state()), ("_before", run.state()))
            for column, evaluation in evaluations.items()
        }
        return Arm(curriculum=tuned, measures=measures)

    arms = []
    for task in tasks:
        arms.append(arm(trunk, task, "control"))
        for start_step in starts:
            branch = trunk.branch(
                start_step=start_step,
                data=Mixture.blend(general, {code: 0.5}),
                name=f"midtrain nano code50@{start_step} seed {trunk_seed}",
                factors=factors(mix="code", weight=0.5, start_step=start_step),
            )
            arms.append(arm(branch, task, f"code50@{start_step}"))
    datasets: list[Corpus | Task] = [general, code, *all_tasks.values()]
    counts = tuple(
        TokenCounts(data=data, tokenizer=start.tokenizer, num_documents=100, tokens_per_document=64, seed=1)
        for data in datasets
    )
    comparisons = []
    if starts:
        main = Comparison(
            name="main",
            title="Does code help?",
            arms=where(arms, mix="code"),
            references=where(arms, mix="control"),
            columns=("sft_loss", "general_loss"),
            match=("size", "task"),
            along="start_step" if len(starts) > 1 else None,
        )
        comparisons.append(main)
    mix = Mix(
        name="code 50 %",
        mixture=Mixture.blend(general, {code: 0.5}),
        reference=general,
        factors=factors(mix="code", weight=0.5),
    )
    return Study(
        name="small",
        question="Does code help code?",
        arms=arms,
        comparisons=comparisons,
        counts=counts,
        mixes=[mix],
    )


def plan_in(store: Store, study: Study) -> Plan:
    """Return the plan of `study`, given the finished stages in `store`."""
    return make_plan(
        study,
        throughput=Throughput(CPU_CORE, {}),
        published=store.published,
        kept_states=published_states(store).kept,
        counts_of=counts_in(store),
    )


def make_study(store: Store, study: Study, *, until: str | None = None) -> Plan:
    """Freeze the study and run its missing stages in order, up to the stage with label `until`, without driver and views."""
    from midstudy.execute.stage import execute_stage  # imports torch, which experiment files that use this do not need

    plan = plan_in(store, study)
    freeze(store, manifest_of(plan, command="midstudy run small.py"))
    for stage in plan.missing:
        store.request(stage)
        execute_stage(
            store, stage.id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer, should_stop=lambda: False
        )
        if stage.label == until:
            break
    return plan


EXPERIMENT = """
from pathlib import Path
from builders.small_study import small_study

def study(*, data, text: str, total_steps: int = 12):
    return small_study(Path(text), total_steps=total_steps)
"""
