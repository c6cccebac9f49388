"""A real study whose fine-tuning rates are chosen on dev: two trunk seeds, two rates, a dozen steps; seconds to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from midstudy.data.source import resolve_source
from midstudy.recipe import Comparison, Corpus, Study, Task, where
from midstudy.studies.bridging.scale import Scale

RATES = (1e-4, 3e-3)
"""The larger one wins after four steps from these trunks."""

SCALE: dict[str, Any] = {
    "total_steps": 12,
    "num_sequences": 4,
    "seq_len": 32,
    "sft_steps": 4,
    "sft_num_sequences": 4,
    "vocab_size": 300,
    "tokenizer_bytes": 50_000,
    "test_items": 16,
}


def decided_study(
    folder: Path, *, rates: tuple[float, ...] = RATES, seeds: tuple[int, ...] = (0, 1), mixes: tuple[str, ...] = ("code",)
) -> Study:
    """Return a study of the control and of mixes at two trunk seeds; each arm chooses its rate among `rates`.

    `small_study.write_text` has filled `folder`. With one rate, nothing is chosen.
    """

    def source(name: str, place: str, is_task: bool) -> Any:
        return resolve_source(str(folder), name=name, folder=place, is_task=is_task)

    general = Corpus(name="general", source=source("general", "general", False))
    code = Corpus(name="code", source=source("code", "code", False))
    task = Task(name="code_task", source=source("code_task", "sft/code", True))
    scale = Scale(**SCALE)
    arms = []
    chosen: dict[str, Any] = {}
    for seed in seeds:
        trunk = scale.pretrain(general, tokenizer=scale.tokenizer([general]), seed=seed)
        runs = {"control": trunk} | {mix: scale.midtrain(trunk, {code: 0.5}, start_step=3, mix=mix) for mix in mixes}
        for mix, run in runs.items():
            if mix not in chosen:  # on the first seed
                several = len(rates) > 1
                chosen[mix] = scale.choose_sft_peak_lr(run, task, seed=seed, among=rates) if several else rates[0]
            arms.append(scale.finetune(run, task, seed=seed, sft_peak_lr=chosen[mix]))
    comparison = Comparison(
        name="main",
        arms=where(arms, mix=mixes),
        references=where(arms, mix="control"),
        columns=("sft_loss", "general_loss"),
        match=("size", "task"),
    )
    return Study(
        name="decided",
        question="Does code help code?",
        arms=arms,
        comparisons=[comparison] if mixes else (),
        seeds=("trunk_seed",),
    )
