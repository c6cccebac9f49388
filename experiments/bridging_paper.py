"""The grid that the paper published, at its scale: what it costs, how long it takes, and what a budget leaves of it.

Hypothesis. That of `bridging_micro`, and the paper's ("Midtraining Bridges Pretraining and Posttraining Distributions",
arXiv 2510.14865): a mix helps most on the task whose token distribution it is close to, mixing costs less general ability
than training on the specialist alone, and an early start helps more.

Mirrors. Pythia 70M to 1B on 128 B tokens; C4 alone and five mixes at the paper's shares and start steps; start steps,
weights and continued pretraining at 70M and 160M; four tasks; five seeds of fine-tuning; fine-tuning of every checkpoint of
10,000 steps. One trunk a size, as in the paper: intervals are over seeds of fine-tuning and say nothing about another
pretraining. The paper chooses each checkpoint's rate of fine-tuning among rates that it does not state; here it is 1e-3.

Expected cost. `plan` states it, without network and without text: sets are named as the paper names them, their sizes are
declared. A run needs every set by `--data NAME=hub:OWNER/SET@COMMIT` and `--set tokenizer=hub:EleutherAI/pythia-1b@COMMIT`;
without them it is refused, and the message has the options to fill in. It has not been run.

    midstudy plan experiments/bridging_paper.py --price-on h100 --makespan gpus=64,gpus_per_job=8,preempted_every=6h
    midstudy plan experiments/bridging_paper.py --price-on h100 --budget-gpu-hours 2000
"""

from __future__ import annotations

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Study, where
from midstudy.recipe.data import Dataset
from midstudy.recipe.errors import RecipeError
from midstudy.studies.bridging.claims import claims_for
from midstudy.studies.bridging.paper_grid import SFT_SEEDS, PaperGrid, paper_scale
from midstudy.studies.bridging.paper_text import PaperText, paper_tokenizer
from midstudy.studies.bridging.scale import mixes_of


def study(
    *,
    data: DataChoice | None = None,
    name: str = "bridging_paper",
    sizes: tuple[str, ...] = PaperGrid.sizes,
    mixes: tuple[str, ...] = PaperGrid.mixes,
    tasks: tuple[str, ...] = PaperGrid.tasks,
    sft_seeds: tuple[int, ...] = SFT_SEEDS,
    cuts: int = 0,
    tokenizer: str = "",
    tokens: float = 1.0,
    precision: str = "bf16_true",
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Args:
        cuts: how many cuts are made of the grid, in the order in which a budget makes them (`PaperGrid.nested`).
        tokenizer: a folder or `hub:OWNER/NAME@COMMIT`; Pythia's is declared if it is empty.
        tokens: share of the paper's tokens, in every phase.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    if not 0 < tokens <= 1:
        raise RecipeError("tokens", expected="a share in (0, 1]", got=tokens)
    data = data or DataChoice()
    grid, cut = PaperGrid(sizes=sizes, mixes=mixes, tasks=tasks, sft_seeds=sft_seeds).cut(cuts)
    text, words = PaperText.of(data, scale=tokens), paper_tokenizer(tokenizer)
    arms = grid.arms(text=text, tokenizer=words, tokens=tokens, precision=precision)
    total_steps = paper_scale(sizes[0], tokens=tokens).total_steps
    comparisons = grid.comparisons(arms, total_steps=total_steps)
    final = where(arms, at_step=total_steps, mix=tuple(text.specialists))
    specialists = [corpus for mix, corpus in text.specialists.items() if mix in grid.mixes]
    counted: list[Dataset] = [text.general, *specialists, *(text.tasks[task] for task in grid.tasks)]
    return Study(
        name=name,
        question="Does midtraining bridge pretraining and fine-tuning, at the paper's scale?",
        arms=arms,
        comparisons=comparisons,
        claims=claims_for(comparisons),
        seeds=("sft_seed", "trunk_seed"),
        counts=paper_scale(sizes[0]).counts(counted, words) if comparisons else (),
        mixes=mixes_of(final) if comparisons else (),
        report="bridging" if comparisons else "study",
        notes=[*data.notes(), *text.notes(), *(f"cut {number}: {what}" for number, what in enumerate(cut, start=1))],
    )
