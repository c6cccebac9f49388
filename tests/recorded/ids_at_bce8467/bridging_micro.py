"""The arms of the first flagship study, for the ids of its stages."""

from __future__ import annotations

from itertools import product
from typing import Any

from builders.first_design import MIXES, TASKS, FirstScale, Grid, first_comparisons

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Study
from midstudy.recipe.errors import RecipeError
from midstudy.studies.bridging.claims import claims_for


def study(
    *,
    data: DataChoice | None = None,
    name: str = "bridging_micro",
    sizes: tuple[str, ...] = ("nano",),
    trunk_seeds: tuple[int, ...] = (0, 1, 2),
    sft_seeds: tuple[int, ...] = (1337, 895),
    total_steps: int = 240,
    num_sequences: int = 8,
    seq_len: int = 128,
    peak_lr: float = 3e-3,
    sft_steps: int = 36,
    sft_num_sequences: int = 8,
    sft_peak_lr: float = 1e-3,
    precision: str = "fp32",
    vocab_size: int = 2_048,
    tokenizer_bytes: int = 2_000_000,
    general_bytes: int | None = 6_000_000,
    specialist_bytes: int | None = 3_000_000,
    task_items: int | None = 2_000,
    test_items: int = 192,
    full: bool = False,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    data = data or DataChoice()
    for keyword, seeds in (("trunk_seeds", trunk_seeds), ("sft_seeds", sft_seeds)):
        if not seeds or len(set(seeds)) < len(seeds):
            raise RecipeError(keyword, expected="at least one seed, each once", got=seeds)
    limits = {"general": general_bytes} | dict.fromkeys((midtraining.mix for midtraining in MIXES), specialist_bytes)
    corpora = {corpus: data.corpus(corpus, max_bytes=limit) for corpus, limit in limits.items()}
    tasks = {task: data.task(task, folder=folder, max_items=task_items) for task, folder in TASKS.items()}
    common: dict[str, Any] = {"total_steps": total_steps, "num_sequences": num_sequences, "seq_len": seq_len}
    common |= {
        "sft_steps": sft_steps,
        "sft_num_sequences": sft_num_sequences,
        "sft_peak_lr": sft_peak_lr,
        "peak_lr": peak_lr,
    }
    common |= {"vocab_size": vocab_size, "tokenizer_bytes": tokenizer_bytes, "test_items": test_items}
    arms = []
    for size in sizes:
        grid = Grid(scale=FirstScale(size=size, precision=precision, **common), corpora=corpora, tasks=tasks)
        for trunk_seed, sft_seed in product(trunk_seeds, sft_seeds):
            if full or (trunk_seed, sft_seed) == (trunk_seeds[0], sft_seeds[0]):
                arms += grid.everything(trunk_seed=trunk_seed, sft_seed=sft_seed)
            elif sft_seed == sft_seeds[0]:
                arms += grid.matched_tasks(trunk_seed=trunk_seed, sft_seed=sft_seed)
            elif trunk_seed == trunk_seeds[0]:  # a second SFT seed adds no replicate of the trunk
                arms += grid.main_contrasts(trunk_seed=trunk_seed, sft_seed=sft_seed)
    comparisons = first_comparisons(arms, total_steps=total_steps)
    scale = FirstScale(vocab_size=vocab_size, tokenizer_bytes=tokenizer_bytes)
    return Study(
        name=name,
        question="Which midtraining mix, from which step and at which weight, helps which fine-tuning target?",
        arms=arms,
        comparisons=comparisons,
        claims=claims_for(comparisons),
        counts=scale.counts([*corpora.values(), *tasks.values()], scale.first_tokenizer(corpora["general"])),
    )
