"""When should midtraining start, and at which weight? Every start step is crossed with every weight.

Hypothesis. An early start and a large weight are two ways to the same number of specialist tokens. For a mix close to its
task, of two arms with equally many specialist tokens the one that starts earlier has the lower loss after fine-tuning; an
early start at a large weight costs the most general ability ("Midtraining Bridges Pretraining and Posttraining
Distributions", arXiv 2510.14865).

Mirrors. The paper's timing and weight ablations, which vary one factor at a time; here they are crossed. Weights, relative
start points, schedule and optimizer are those of the paper; model, data and training length are small. In the report, the
curve over start steps is at `main_weight` and the curve over weights at `main_start_step`; the table of arms has the whole
grid.

Expected cost. About 8 CPU-minutes, 0.5 GB of disk. Reuses the trunks and ablation arms of a `bridging_micro` run with the
same settings.

    midstudy run experiments/timing_weight.py
    midstudy run experiments/timing_weight.py --set mix=math --set main_weight=0.12 --set "weights=(0.12, 0.5)"
"""

from __future__ import annotations

from itertools import product
from typing import Any

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Comparison, Study, where
from midstudy.recipe.errors import RecipeError, inside, require_choice
from midstudy.studies.bridging.claims import claims_for
from midstudy.studies.bridging.comparisons import MATCH, earliest_latest
from midstudy.studies.bridging.grid import MATCHED, sft_seed
from midstudy.studies.bridging.scale import COLUMNS, Scale, mixes_of
from midstudy.studies.bridging.text import Text


def study(
    *,
    data: DataChoice | None = None,
    name: str = "timing_weight",
    mix: str = "code",
    size: str = "nano",
    start_steps: tuple[int, ...] = (24, 79, 157, 197),
    weights: tuple[float, ...] = (0.1, 0.2, 0.5, 0.8),
    main_start_step: int = 24,
    main_weight: float = 0.2,
    trunk_seeds: tuple[int, ...] = (0, 1, 2),
    total_steps: int = 240,
    num_sequences: int = 2,
    seq_len: int = 384,
    peak_lr: float = 6e-3,
    sft_steps: int = 72,
    sft_peak_lr: float = 3e-3,
    precision: str = "fp32",
    vocab_size: int = 2_048,
    test_items: int = 128,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    require_choice("mix", mix, tuple(MATCHED))
    for keyword, main, among in (("main_start_step", main_start_step, start_steps), ("main_weight", main_weight, weights)):
        if main not in among:
            raise RecipeError(keyword, expected=f"one of {', '.join(f'{value:g}' for value in among)}", got=main)
    small: dict[str, Any] = {"total_steps": total_steps, "num_sequences": num_sequences, "seq_len": seq_len}
    small |= {"sft_steps": sft_steps, "sft_peak_lr": sft_peak_lr, "peak_lr": peak_lr}
    scale = Scale(size=size, precision=precision, vocab_size=vocab_size, test_items=test_items, **small)
    data = data or DataChoice()
    text = Text.of(data)
    specialist, task, tokenizer = text.specialists[mix], text.tasks[MATCHED[mix]], scale.tokenizer(text.corpora)

    arms = []
    for seed in trunk_seeds:
        runs = [scale.pretrain(text.general, tokenizer=tokenizer, seed=seed)]
        for start_step, weight in product(start_steps, weights):
            with inside(f"weights.{weight:g}"):
                runs.append(scale.midtrain(runs[0], {specialist: weight}, start_step=start_step))
        arms += [scale.finetune(run, task, seed=sft_seed(seed)) for run in runs]

    control, timing = where(arms, mix="control"), where(arms, mix=mix, weight=main_weight)
    comparisons = [
        Comparison(name=key, title=title, arms=compared, references=control, columns=COLUMNS, match=MATCH, along=along)
        for key, title, compared, along in (
            ("main", "The main arm", where(arms, mix=mix, start_step=main_start_step, weight=main_weight), None),
            ("timing", "When to start", timing, "start_step"),
            ("weight", "At which weight", where(arms, mix=mix, start_step=main_start_step), "weight"),
        )
    ]
    comparisons += filter(None, [earliest_latest(timing)])  # None if there is only one start step
    return Study(
        name=name,
        question=f"From which step and at which weight does a {mix} mix help {task.name} most, and at what cost?",
        arms=arms,
        comparisons=comparisons,
        claims=claims_for(comparisons),
        counts=scale.counts([text.general, specialist, task], tokenizer),
        mixes=mixes_of(arms),
        report="bridging",
        notes=data.notes(),
    )
