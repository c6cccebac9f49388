"""Which of some corpora helps a target most? `midstudy recommend` proposes this study for those it cannot tell apart.

Hypothesis. Midtraining on one of the corpora lowers the target's loss after fine-tuning more than on the others. Every
corpus enters one trunk at the same step and share, so that all have the same dose (learning rate × share).

Mirrors. The comparison of mixes with a general-only control in "Midtraining Bridges Pretraining and Posttraining
Distributions" (arXiv 2510.14865), restricted to the corpora in question.

Expected cost. With two corpora and six trunk seeds about seven CPU-minutes on a processor with bfloat16 instructions.
"""

from __future__ import annotations

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Arm, Chosen, Comparison, Study, where
from midstudy.studies.bridging.scale import Scale


def study(
    *,
    data: DataChoice | None = None,
    name: str = "deciding",
    general: str = "general",
    candidates: tuple[str, ...] = ("code", "math"),
    target: str = "pycode",
    target_folder: str = "sft/pycode",
    share: float = 0.2,
    start_step: int = 24,
    sft_peak_lrs: tuple[float, ...] = (),
    trunk_seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
) -> Study:
    """Return the study; `--set` overrides its keyword arguments, `--data NAME=SOURCE` names the text.

    Args:
        sft_peak_lrs: peak learning rates of fine-tuning, of which the control and each corpus choose one on dev of the first
            trunk; by default that of `Scale` for all.
    """
    scale = Scale(size="nano")
    data = data or DataChoice()
    trunk_text = data.corpus(general, max_bytes=3_000_000)
    corpora = [data.corpus(candidate, max_bytes=1_500_000) for candidate in candidates]
    task = data.task(target, folder=target_folder, max_items=500)
    tokenizer = scale.tokenizer([trunk_text, *corpora])
    arms: list[Arm] = []
    chosen: list[Chosen] = []
    for seed in trunk_seeds:
        trunk = scale.pretrain(trunk_text, tokenizer=tokenizer, seed=seed)
        runs = [trunk, *(scale.midtrain(trunk, {corpus: share}, start_step=start_step) for corpus in corpora)]
        if sft_peak_lrs and not chosen:
            chosen = [scale.choose_sft_peak_lr(run, task, seed=1337 + seed, among=sft_peak_lrs) for run in runs]
        for place, run in enumerate(runs):
            arms.append(scale.finetune(run, task, seed=1337 + seed, sft_peak_lr=chosen[place] if chosen else None))
    comparisons = [
        Comparison(
            name="against control",
            arms=where(arms, mix=candidates),
            references=where(arms, mix="control"),
            columns=("sft_loss", "general_loss"),
            match=("size", "task"),
        )
    ]
    for other in candidates[1:]:
        comparisons.append(
            Comparison(
                name=f"{candidates[0]} against {other}",
                arms=where(arms, mix=candidates[0]),
                references=where(arms, mix=other),
                columns=("sft_loss", "general_loss"),
                match=("size", "task"),
            )
        )
    return Study(
        name=name,
        question=f"Which of {', '.join(candidates)} helps {target} most?",
        arms=arms,
        comparisons=comparisons,
        notes=data.notes(),
    )
