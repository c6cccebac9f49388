"""The arms of the first crossing of start steps and weights, for the ids of its stages."""

from __future__ import annotations

from itertools import product
from typing import Any

from builders.first_design import MATCHED, TASKS, FirstScale

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Study
from midstudy.recipe.errors import RecipeError, inside, require_choice


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
    sft_seed: int = 1337,
    total_steps: int = 240,
    num_sequences: int = 8,
    seq_len: int = 128,
    peak_lr: float = 3e-3,
    sft_steps: int = 36,
    sft_peak_lr: float = 1e-3,
    precision: str = "fp32",
    vocab_size: int = 2_048,
    test_items: int = 192,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    data = data or DataChoice()
    require_choice("mix", mix, tuple(MATCHED))
    for keyword, main, among in (("main_start_step", main_start_step, start_steps), ("main_weight", main_weight, weights)):
        if main not in among:
            raise RecipeError(keyword, expected=f"one of {', '.join(f'{value:g}' for value in among)}", got=main)
    small: dict[str, Any] = {"total_steps": total_steps, "num_sequences": num_sequences, "seq_len": seq_len}
    small |= {"sft_steps": sft_steps, "sft_num_sequences": num_sequences, "sft_peak_lr": sft_peak_lr, "peak_lr": peak_lr}
    scale = FirstScale(size=size, precision=precision, vocab_size=vocab_size, test_items=test_items, **small)
    general, specialist = data.corpus("general", max_bytes=6_000_000), data.corpus(mix, max_bytes=3_000_000)
    task = data.task(MATCHED[mix], folder=TASKS[MATCHED[mix]], max_items=2_000)

    arms = []
    for seed in trunk_seeds:
        trunk = scale.trunk(general, seed=seed)
        arms.append(scale.tuned(trunk, task, seed=sft_seed))
        for start_step, weight in product(start_steps, weights):
            with inside(f"weights.{weight:g}"):
                run = scale.midtrain(trunk, {specialist: weight}, start_step=start_step)
            arms.append(scale.tuned(run, task, seed=sft_seed))

    return Study(
        name=name,
        question=f"From which step and at which weight does a {mix} mix help {task.name} most, and at what cost?",
        arms=arms,
        counts=scale.counts([general, specialist, task], scale.first_tokenizer(general)),
    )
