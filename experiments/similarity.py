"""How similar are the paper's corpora and mixes to its tasks, as bags of tokens? Only a tokenizer is trained.

Mirrors. The similarity matrix and the proximity advantages of "Midtraining Bridges Pretraining and Posttraining
Distributions" (arXiv 2510.14865), on any data: how much closer a mix is to a task than general text is.

Expected cost. About one CPU-minute. Shares its stages with `bridging_micro` on the same data.

    midstudy run experiments/similarity.py --data ~/text
"""

from __future__ import annotations

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Mix, Mixture, Study, factors
from midstudy.studies.bridging.grid import MIXES, TASKS
from midstudy.studies.bridging.scale import Scale


def study(
    *,
    data: DataChoice | None = None,
    name: str = "similarity",
    vocab_size: int = 2_048,
    tokenizer_bytes: int = 2_000_000,
    general_bytes: int | None = 6_000_000,
    specialist_bytes: int | None = 3_000_000,
    task_items: int | None = 2_000,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Raises:
        RecipeError: a field is wrong; the message names it.
    """
    data = data or DataChoice()
    general = data.corpus("general", max_bytes=general_bytes)
    corpora = {midtraining.mix: data.corpus(midtraining.mix, max_bytes=specialist_bytes) for midtraining in MIXES}
    tasks = [data.task(task, folder=folder, max_items=task_items) for task, folder in TASKS.items()]
    scale = Scale(vocab_size=vocab_size, tokenizer_bytes=tokenizer_bytes)
    return Study(
        name=name,
        question="How close are the corpora and mixes to the tasks, as bags of tokens?",
        counts=scale.counts([general, *corpora.values(), *tasks], scale.tokenizer(general)),
        mixes=[
            Mix(
                name=f"{midtraining.mix} {100 * midtraining.weight:g} %",
                mixture=Mixture.blend(general, {corpora[midtraining.mix]: midtraining.weight}),
                reference=general,
                factors=factors(mix=midtraining.mix, weight=midtraining.weight),
            )
            for midtraining in MIXES
        ],
        notes=data.notes(),
    )
