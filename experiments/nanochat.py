"""Does nanochat's mid stage teach what it is said to teach? Base → mid → SFT at micro scale.

Hypothesis. A stage of conversations between pretraining and SFT teaches a small model a format, a tool and simple tasks that
SFT alone cannot teach it; the tasks have to be shuffled, since one after another the early ones are forgotten.

Mirrors. karpathy/nanochat at 92c6654: its tasks, renderer, loaders, optimizer, schedules and losses, with the arms that its
walk-through argues for and does not run. Data are built in; the model is this project's.

Expected cost. Measured in LOG.md.
"""

from __future__ import annotations

from midstudy.data.data_args import DataChoice
from midstudy.plan.steps_of import StepsOf
from midstudy.recipe import Arm, Comparison, Study, pythia, where
from midstudy.studies.nanochat.abilities import Abilities
from midstudy.studies.nanochat.scale import Scale
from midstudy.studies.nanochat.text import Text

ROWS = {
    "chat": 3_000,
    "choices": 4_000,
    "calculation": 1_000,
    "identity": 200,
    "spelling": 24_000,
    "spelling_bee": 4_000,
    "sums": 4_000,
}
"""Items of each task in an epoch of midtraining."""

TUNING_ROWS = {"chat": 400, "choices": 200, "calculation": 200, "identity": 100, "spelling": 100, "spelling_bee": 100}
"""Items of each task in SFT."""


def study(
    *,
    data: DataChoice | None = None,
    steps_of: StepsOf | None = None,
    name: str = "nanochat",
    size: str = "nano",
    trunk_seeds: tuple[int, ...] = (0, 1, 2),
    base_steps: int = 400,
    num_sequences: int = 8,
    seq_len: int = 256,
    vocab_size: int = 1_024,
    num_items: int = 100,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    data, steps_of = data or DataChoice(), steps_of or StepsOf()
    text = Text.of(data, rows=ROWS, tuning_rows=TUNING_ROWS, general_bytes=6_000_000)
    scale = Scale(
        model=pythia(size, vocab_size=vocab_size, max_seq_len=seq_len),
        tokenizer_bytes=2_000_000,
        seq_len=seq_len,
        base_steps=base_steps,
        num_sequences=num_sequences,
        sft_num_sequences=8,
    )
    abilities = Abilities(text=text, seq_len=seq_len, num_items=num_items)
    arms = []
    for seed in trunk_seeds:
        base = scale.base(text, seed=seed)
        runs = [base]
        for mid, order in (("mixed", "shuffled"), ("sequential", "sequential")):
            runs.append(scale.midtrain(base, text, steps_of=steps_of, order=order, mid=mid))
        runs += [scale.finetune(run, text, steps_of=steps_of) for run in tuple(runs)]
        arms += [Arm(curriculum=run, measures=abilities.of(run.state()) | abilities.losses(run.state())) for run in runs]
    columns = tuple(arms[0].measures)
    comparisons = [
        Comparison(
            name="stages",
            title="What midtraining and SFT teach",
            arms=[arm for arm in arms if arm.factors["stage"] != "base"],
            references=where(arms, stage="base"),
            columns=columns,
        ),
        Comparison(
            name="order",
            title="Mixed or one task after another",
            arms=where(arms, mid="mixed"),
            references=where(arms, mid="sequential"),
            columns=columns,
            match=("stage",),
        ),
    ]
    return Study(
        name=name,
        question="Does a mid stage of conversations teach what SFT cannot?",
        arms=arms,
        comparisons=comparisons,
        seeds=("trunk_seed",),
        notes=data.notes(),
    )
