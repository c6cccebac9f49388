"""nanochat's own scale, planned: the d20 shape, its batch, and its sources as declared until `--data` gives them.

Sources, rows and steps: karpathy/nanochat at 92c6654 (`speedrun.sh`, `mid_train.py`, `chat_sft.py`, `chat_rl.py`). Bytes
follow from the mean lengths of appendix B of the walk-through, at 4 bytes a token: 95.2 million tokens of midtraining, which
are 182 steps, where its log has 800 at one line and 2,000 at another. No commit of a set is recorded, so none is here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from midstudy.data.data_args import DataChoice
from midstudy.recipe import ModelShape, Task
from midstudy.recipe.data import MESSAGES_FIELDS, Source, declared
from midstudy.studies.nanochat.optimizer import muon_groups
from midstudy.studies.nanochat.scale import Rewards, Scale
from midstudy.studies.nanochat.text import PROMPTS, Text

BYTES_PER_TOKEN = 4

BASE_STEPS = 21_400
"""Twenty tokens for each of the 561 million parameters of the source's model."""

NUM_SEQUENCES = 256
"""Rows of 2,048 tokens: 524,288 a step."""

STREAMS = 8
"""The ranks of the source, each of which reads every eighth conversation."""


@dataclass(frozen=True)
class Declared:
    """A set of conversations by the name of its task, with its train rows and their mean length in tokens."""

    part: str
    rows: int
    num_tokens: int
    given_by: str


SETS = {
    "chat": Declared("HuggingFaceTB/smol-smoltalk", 460_000, 150, "hub:HuggingFaceTB/smol-smoltalk@COMMIT"),
    "choices": Declared("cais/mmlu:auxiliary_train", 100_000, 100, "FOLDER"),
    "calculation": Declared("openai/gsm8k:main", 8_000, 250, "FOLDER"),
    "identity": Declared("nanochat's identity_conversations.jsonl", 1_000, 80, "FILE"),
    "spelling": Declared("SimpleSpelling", 200_000, 30, "FOLDER"),
    "spelling_bee": Declared("SpellingBee", 80_000, 100, "FOLDER"),
}
"""Midtraining. Sets that are not rows of `messages` have to be rendered as such into a folder."""

CONTROLS = {"mmlu": Declared("cais/mmlu:all", 14_000, 100, "FOLDER"), PROMPTS: Declared("four prompts", 4, 15, "wheels")}

ARC = {
    "arc_easy": Declared("allenai/ai2_arc:ARC-Easy", 2_300, 125, "FOLDER"),
    "arc_challenge": Declared("allenai/ai2_arc:ARC-Challenge", 1_100, 125, "FOLDER"),
}
"""Questions of four choices that the source reads in SFT alone."""

TUNING_ROWS = {"calculation": 8_000, "chat": 10_000, "identity": 1_000, "spelling": 300, "spelling_bee": 300}
"""Items of SFT, beside ARC: 23,000 in all."""


REWARDS = Rewards(num_prompts=16, num_samples=16, num_steps=467)
"""RL: 7,473 prompts of GSM8K once."""


def scale_d20() -> Scale:
    """Return the d20 shape with the source's batches and steps."""
    width = 1_280
    return Scale(
        model=ModelShape(name="d20", num_layers=20, width=width, num_heads=10, vocab_size=65_536, max_seq_len=2_048),
        optimizer=muon_groups(width),
        tokenizer_bytes=2_000_000_000,
        seq_len=2_048,
        base_steps=BASE_STEPS,
        num_sequences=NUM_SEQUENCES,
        sft_num_sequences=32,
        streams=STREAMS,
        precision="bf16_mixed",
    )


def text_d20(data: DataChoice) -> Text:
    """Return the source's text: declared, where `--data` does not give it."""
    general = declared("karpathy/fineweb-edu-100b-shuffle", num_bytes=60_000_000_000, note="--data general=FOLDER")
    sets = {**SETS, **CONTROLS, **ARC}
    tasks = {name: data.task(name, folder=name, max_items=None, otherwise=_source(name, one)) for name, one in sets.items()}
    tuning = {
        name: Task(name=f"{name} for SFT", source=tasks[name].source, max_items=most) for name, most in TUNING_ROWS.items()
    }
    return Text(
        general=data.corpus("general", max_bytes=None, otherwise=general),
        tasks={name: task for name, task in tasks.items() if name not in ARC},
        tuning={**{name: tasks[name] for name in ARC}, **tuning},
    )


def _source(name: str, one: Declared) -> Source:
    source = declared(one.part, num_bytes=one.rows * one.num_tokens * BYTES_PER_TOKEN, note=f"--data {name}={one.given_by}")
    return replace(source, fields=((MESSAGES_FIELDS[0], "messages"),))
