"""How similar are the paper's corpora and mixes to its tasks, as bags of tokens? Only a tokenizer is trained.

Mirrors. The similarity matrix and the proximity advantages of "Midtraining Bridges Pretraining and Posttraining
Distributions" (arXiv 2510.14865), on any data: how much closer a mix is to a task than general text is.

Expected cost. About one CPU-minute. Shares its stages with `bridging_micro` on the same data.

    midstudy run experiments/similarity.py --data ~/text
"""

from __future__ import annotations

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Mix, Mixture, Study, factors
from midstudy.studies.bridging.grid import MIXES
from midstudy.studies.bridging.scale import Scale
from midstudy.studies.bridging.text import Text


def study(
    *,
    data: DataChoice | None = None,
    name: str = "similarity",
    vocab_size: int = 2_048,
    tokenizer_bytes: int = 2_000_000,
    general_bytes: int | None = 6_000_000,
    specialist_bytes: int | None = 3_000_000,
    task_items: int | None = 480,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Raises:
        RecipeError: a field is wrong; the message names it.
    """
    data = data or DataChoice()
    text = Text.of(data, general_bytes=general_bytes, specialist_bytes=specialist_bytes, task_items=task_items)
    scale = Scale(vocab_size=vocab_size, tokenizer_bytes=tokenizer_bytes)
    return Study(
        name=name,
        question="How close are the corpora and mixes to the tasks, as bags of tokens?",
        counts=scale.counts([*text.corpora, *text.tasks.values()], scale.tokenizer(text.corpora)),
        mixes=[
            Mix(
                name=f"{one.mix} {100 * one.weight:g} %",
                mixture=Mixture.blend(text.general, {text.specialists[one.mix]: one.weight}),
                reference=text.general,
                factors=factors(mix=one.mix, weight=one.weight),
            )
            for one in MIXES
        ],
        notes=data.notes(),
    )
