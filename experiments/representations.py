"""Does fine-tuning change a midtrained model's representations less, and do models that change more forget more?

Hypothesis. After midtraining, fine-tuning leaves the layers more like they were (linear CKA of mid with mid-SFT is closer
to 1 than that of base with base-SFT), chiefly in late layers, and what is distorted more is forgotten more ("Midtraining
Bridges Pretraining and Posttraining Distributions", arXiv 2510.14865).

Mirrors. The paper's four pairs (base and mid, base and base-SFT, mid and mid-SFT, base-SFT and mid-SFT) with all layers of
one against all layers of the other, and its distortion of the last block's MLP. Mixes, weights, relative start points,
schedule and optimizer are those of the paper; model, data, training length and probes (the task's test split) are small.

Expected cost. About 3 CPU-minutes. Reuses the trunks and arms of a `bridging_micro` run with the same settings.

    midstudy run experiments/representations.py
    midstudy run experiments/representations.py --set "trunk_seeds=(0, 1, 2, 3, 4)"
"""

from __future__ import annotations

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Claim, Comparison, Study, where
from midstudy.studies.bridging.comparisons import MATCH
from midstudy.studies.bridging.grid import MATCHED, Grid, Run
from midstudy.studies.bridging.pairs import with_pairs
from midstudy.studies.bridging.scale import COLUMNS, Scale, mixes_of
from midstudy.studies.bridging.text import Text


def study(
    *,
    data: DataChoice | None = None,
    name: str = "representations",
    size: str = "nano",
    mixes: tuple[str, ...] = ("code", "math"),
    tasks: tuple[str, ...] = ("pycode", "word_problems"),
    trunk_seeds: tuple[int, ...] = (0, 1),
    total_steps: int = 240,
    sft_steps: int = 72,
    test_items: int = 128,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    data = data or DataChoice()
    scale = Scale(size=size, total_steps=total_steps, sft_steps=sft_steps, test_items=test_items)
    text = Text.of(data)
    grid = Grid(scale=scale, text=text)
    cells = [(run, task, sft_steps) for run in (Run(), *map(grid.paper, mixes)) for task in tasks]
    arms = with_pairs([arm for seed in trunk_seeds for arm in grid.arms(cells, seed=seed)], scale=scale)
    mixed, control = where(arms, mix=mixes), where(arms, mix="control")
    comparisons = [
        Comparison(name=key, title=title, arms=mixed, references=control, columns=columns, match=MATCH)
        for key, title, columns in (
            ("main", "Which mix helps which task", COLUMNS),
            ("changes", "What fine-tuning changes", ("sft_mean_diagonal_cka", "sft_layer_distortion")),
        )
    ]
    return Study(
        name=name,
        question="Does fine-tuning change the representations of midtrained models less?",
        arms=arms,
        comparisons=comparisons,
        claims=[
            Claim(
                text=f"fine-tuning on {task} changes the layers less after {mix} midtraining",
                source="arXiv 2510.14865",
                estimator="paired_effect",
                comparison="changes",
                column="sft_mean_diagonal_cka",
                arms={"mix": mix, "task": task},
                family="representations",
            )
            for mix, task in MATCHED.items()
            if mix in mixes and task in tasks
        ],
        counts=scale.counts([*text.corpora, *(text.tasks[task] for task in tasks)], scale.tokenizer(text.corpora)),
        mixes=mixes_of(arms),
        report="bridging",
        notes=data.notes(),
    )
