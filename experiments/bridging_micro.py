"""Does midtraining bridge pretraining and fine-tuning? The whole study, at micro scale, in minutes on two CPU cores.

Hypothesis. A specialist mix in the middle of training helps fine-tuning most on the task whose token distribution is close
to the mix, and costs less general ability than training on the specialist alone ("Midtraining Bridges Pretraining and
Posttraining Distributions", arXiv 2510.14865). Proximity advantage (how much closer a mix is to a task than general text
is) should correlate with the improvement; an earlier start should help more.

Mirrors. Tables 2 and 3 of the paper (SFT loss and general loss after SFT, for midtraining, the general-only control and
continued pretraining), its timing and weight ablations, and its correlation figure. Mixes, weights, relative start points,
schedule and optimizer are those of the paper; model, data and training length are small. Beside them stand the controls
that the paper lacks: a placebo, and a later start at equal dose (learning rate × share); with `full=True` also continued
pretraining at equal dose, a start with equally many specialist tokens, the specialist read after pretraining, fine-tuning
from the start step, a rising share, fine-tuning to four epochs, and a second model size.

Expected cost. By default about four CPU-minutes on a processor with bfloat16 instructions, two to three times as many on one
without; 0.2 GB of disk. Control, placebo, the matched mixes and the later start run on the matched tasks with three trunk
seeds; every mix runs on every task with the first. `--set full=True` is forecast at 40 minutes of two cores: the main
arms on five trunk seeds, all others on three. `--set` takes any keyword of `study`: for the paper's grid,
`sizes=('70m','160m','410m','1b') total_steps=61035 num_sequences=1024 seq_len=2048 ...` on other data.
"""

from __future__ import annotations

from typing import Any

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Study, where
from midstudy.recipe.errors import RecipeError
from midstudy.studies.bridging.claims import claims_for
from midstudy.studies.bridging.comparisons import comparisons_of
from midstudy.studies.bridging.grid import Grid
from midstudy.studies.bridging.scale import Scale, mixes_of
from midstudy.studies.bridging.text import PLACEBO, SPECIALISTS, Text


def study(
    *,
    data: DataChoice | None = None,
    name: str = "bridging_micro",
    sizes: tuple[str, ...] | None = None,
    trunk_seeds: tuple[int, ...] | None = None,
    total_steps: int = 240,
    num_sequences: int = 2,
    seq_len: int = 384,
    peak_lr: float = 6e-3,
    sft_steps: int = 72,
    sft_lengths: tuple[int, ...] = (240, 960),
    sft_num_sequences: int = 2,
    sft_peak_lr: float = 3e-3,
    sft_peak_lrs: tuple[float, ...] | None = None,
    precision: str = "fp32",
    vocab_size: int = 2_048,
    tokenizer_bytes: int = 2_000_000,
    general_bytes: int | None = 6_000_000,
    specialist_bytes: int | None = 3_000_000,
    task_items: int | None = 480,
    test_items: int = 128,
    full: bool = False,
    looks: tuple[int, ...] = (),
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Args:
        sizes: model sizes; by default nano, with `full` also micro. All but the first have the main arms only.
        trunk_seeds: the first one alone carries the arms that are not repeated; with `full`, the first three. By default
            three, with `full` five.
        looks: numbers of trunk seeds at which the claims will be judged, the last one the number planned, for a study to
            which seeds are added; see `Study`.
        sft_lengths: other lengths of fine-tuning, in steps, with `full`.
        sft_peak_lrs: peak learning rates of fine-tuning, of which each mix and task chooses one on dev of the first trunk;
            by default `sft_peak_lr` for all, with `full` a choice of three.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    sizes = (("nano", "micro") if full else ("nano",)) if sizes is None else sizes
    trunk_seeds = tuple(range(5 if full else 3)) if trunk_seeds is None else trunk_seeds
    if not trunk_seeds or len(set(trunk_seeds)) < len(trunk_seeds):
        raise RecipeError("trunk_seeds", expected="at least one seed, each once", got=trunk_seeds)
    data = data or DataChoice()
    text = Text.of(data, general_bytes=general_bytes, specialist_bytes=specialist_bytes, task_items=task_items)
    same: dict[str, Any] = {"total_steps": total_steps, "num_sequences": num_sequences, "seq_len": seq_len}
    same |= {"sft_steps": sft_steps, "sft_num_sequences": sft_num_sequences, "sft_peak_lr": sft_peak_lr}
    same |= {"precision": precision, "test_items": test_items, "vocab_size": vocab_size, "tokenizer_bytes": tokenizer_bytes}
    grids = [Grid(scale=Scale(size=size, peak_lr=peak_lr, **same), text=text) for size in sizes]
    rates = ((1e-3, 3e-3, 1e-2) if full else ()) if sft_peak_lrs is None else sft_peak_lrs
    arms = []
    for seed in trunk_seeds:
        cells = grids[0].main()
        if seed in trunk_seeds[: 3 if full else 1]:
            cells += grids[0].every_mix()
            if full:
                cells += [*grids[0].ablations(), *grids[0].further(), *grids[0].lengths(sft_lengths)]
        arms += grids[0].arms(cells, seed=seed, sft_peak_lrs=rates)
    for grid in grids[1:]:
        arms += [arm for seed in trunk_seeds[:3] for arm in grid.arms(grid.main(), seed=seed, sft_peak_lrs=rates)]
    comparisons = comparisons_of(arms, grids[0])
    return Study(
        name=name,
        question="Which midtraining mix, from which step and at which weight, helps which fine-tuning target?",
        arms=arms,
        comparisons=comparisons,
        claims=claims_for(comparisons),
        counts=grids[0].counts(),
        mixes=mixes_of(where(arms, mix=(*SPECIALISTS, PLACEBO), sft_steps=sft_steps)),
        report="bridging",
        looks=looks,
        notes=data.notes(),
    )
