"""Which mix, mixed in or alone, and from which start? Three decisions for one GPU in 45 minutes. Has not met a GPU.

Hypothesis. A: code lowers pycode loss most and math word-problem loss most, each by more than 1 %. B: at equal start and
equal dose (Σ learning rate × share), a specialist mixed in at 20 % beats the specialist alone, on its task and on general
text. C: at equal dose, starts of code at 10, 33 or 65 % of the training differ by less than 0.5 %. Margins and one Holm
family of twelve claims are registered before the first result (`midstudy/studies/bridging/decisions.py`). D, with
`rank_first=True`: the mix that `midstudy recommend` names for a task is the one that lowers its loss most; the ranking is
computed from the text before anything is trained and registered with its claim, in a family of its own.

Design. Six layers of width 256, vocabulary 8,192, context 512, bf16; trunks of 60M tokens at a constant rate with a decay
over the last tenth, so that Σ learning rate is nearly linear in steps. Per trunk seed: control, placebo and five mixes at
20 % from 50 %, on both tasks; code and math alone from 50 % until they have the dose of the mix, then general text; code
from 10, 33 and 65 % at that dose. Two seeds repeat C with the paper's cosine. Fine-tuning: three epochs of 2,496 items.

Text. The built-in corpora are small for 60M tokens: the trunk reads 1.4M tokens of general text 43 times, the high-quality
web mix its 0.35M tokens 17 times, so models of this size memorise them. For a decision on your text use `--data DIR`, with
15M tokens of general text for four epochs. One model size, two tasks: nothing here is about sizes.

Order of calls on the GPU machine, each with `--device cuda`; whole seeds are complete grids:

    python benchmarks/on_gpu.py --wheels wheels                                 # rates, which `--record FILE` keeps
    # every `run` with --set rank_first=True for D: it reads the text, which takes a minute the first time
    midstudy run experiments/decision_gpu.py --set "trunk_seeds=(0,)"           # one seed of everything
    midstudy run experiments/decision_gpu.py --set "trunk_seeds=(0, 1)"         # the first look: power table; stop or go
    midstudy run experiments/decision_gpu.py --set "trunk_seeds=(0, 1, 2, 3)"   # and so on, by twos

The first seed trains 0.94B tokens (a third of them trials of fine-tuning rates), the second 0.67B, every other one 0.49B.
So 35 minutes of training hold 2 seeds at 0.8M tokens/s, 4 at 1.5M and 8 at 2.5M. Before the second call, set `looks` to end
there, and keep it: `looks=(2,)`, `(2, 4)` or `(2, 4, 6, 8)`.

`--set scale=0.01` is a rehearsal on a CPU in minutes: 1/100 of the tokens of every phase, as a tenth of the steps and a
tenth of the batch, and 1/100 of the items; shape nano, vocabulary 1,024, fp32, limited text. Its effects mean nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Study, where
from midstudy.recipe.errors import RecipeError
from midstudy.run.recommend import recommend
from midstudy.studies.bridging.decisions import (
    COSINE,
    STABLE,
    arms_of_decisions,
    claims_of_decisions,
    comparisons_of_decisions,
)
from midstudy.studies.bridging.grid import BLOCK_SHARE, MATCHED, Grid
from midstudy.studies.bridging.recommended import claims_of_rankings, notes_of_rankings, rankings_of
from midstudy.studies.bridging.scale import Scale, mixes_of
from midstudy.studies.bridging.text import PLACEBO, SPECIALISTS, Text

SFT_PEAK_LRS = (3e-4, 1e-3, 3e-3)


def study(
    *,
    data: DataChoice | None = None,
    name: str = "decision_gpu",
    trunk_seeds: tuple[int, ...] = tuple(range(8)),
    looks: tuple[int, ...] = (2, 4, 6, 8),
    scale: float = 1.0,
    rank_first: bool = False,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Args:
        trunk_seeds: the first one alone tries the peak learning rates of fine-tuning; the first two repeat decision C with
            the cosine schedule.
        looks: numbers of trunk seeds at which the claims are judged, the last one the number planned.
        scale: tokens of every phase, as a share of those of the study; below 1 with the smallest model.
        rank_first: whether mixes are ranked for the tasks by their text, and the claims of D are made.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    if not trunk_seeds or len(set(trunk_seeds)) < len(trunk_seeds):
        raise RecipeError("trunk_seeds", expected="at least one seed, each once", got=trunk_seeds)
    if not 0.01 <= scale <= 1:
        raise RecipeError("scale", expected="a number in [0.01, 1]", got=scale)
    is_small, root, task_items = scale < 1, math.sqrt(scale), round(2_496 * scale)
    data = data or DataChoice()
    general_bytes, specialist_bytes = (3_000_000, 1_500_000) if is_small else (None, None)
    text = Text.of(data, general_bytes=general_bytes, specialist_bytes=specialist_bytes, task_items=task_items)
    total_steps, sft_num_sequences = round(1_831 * root), max(1, round(32 * root))
    stable = Scale(
        size="nano" if is_small else "31m",
        vocab_size=1_024 if is_small else 8_192,
        precision="fp32" if is_small else "bf16_mixed",
        peak_lr=6e-3 if is_small else 2e-3,
        total_steps=total_steps,
        decay_steps=round(total_steps / 10),
        num_sequences=max(1, round(64 * root)),
        seq_len=512,
        sft_steps=round(3 * task_items / sft_num_sequences),
        sft_num_sequences=sft_num_sequences,
        tokenizer_bytes=round(9_000_000 * root),
        test_items=round(512 * root),
    )
    grid = Grid(scale=stable, text=text, labels={"schedule": STABLE})
    cosine = Grid(scale=replace(stable, decay_steps=None), text=text, labels={"schedule": COSINE})
    arms = arms_of_decisions(grid, cosine, seeds=trunk_seeds, sft_peak_lrs=SFT_PEAK_LRS)
    rankings = rankings_of(text, MATCHED.values(), partial(recommend, share=BLOCK_SHARE)) if rank_first else []
    return Study(
        name=name,
        question="Which mix helps which task, mixed in or alone, and does its start matter at equal dose?",
        arms=arms,
        comparisons=comparisons_of_decisions(arms, grid, cosine),
        claims=[*claims_of_decisions(), *claims_of_rankings(rankings)],
        counts=grid.counts(MATCHED.values()),
        mixes=mixes_of(where(arms, mix=(*SPECIALISTS, PLACEBO))),
        report="bridging",
        looks=looks,
        notes=[*data.notes(), *notes_of_rankings(rankings)],
    )
