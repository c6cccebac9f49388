"""The small study on several trunk seeds, with claims, and the experiment file that gives its seeds by a keyword."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from builders.small_study import small_study
from midstudy.recipe import Arm, Study
from midstudy.recipe.study import Claim


def claim(text: str, column: str, **fields: float | str) -> Claim:
    """Return a claim on the code arm, in nats."""
    arms = {"mix": "code"}
    options = {"scale": "difference"}
    given = {"text": text, "source": "here", "estimator": "paired_effect", "comparison": "main", "column": column}
    return Claim(**given | {"arms": arms, "options": options} | fields)  # type: ignore[arg-type]


CLAIMS = (claim("code helps code", "sft_loss"), claim("code costs general ability", "general_loss", holds="below"))


def seeded_study(folder: Path, *, trunk_seeds: tuple[int, ...], looks: tuple[int, ...] = (), margin: float = 0.0) -> Study:
    """Return the small study with these trunk seeds; the second claim's margin is as given."""
    studies = [small_study(folder, trunk_seed=seed) for seed in trunk_seeds]
    arms: list[Arm] = [arm for one in studies for arm in one.arms]
    main = dataclasses.replace(
        studies[0].comparisons[0],
        arms=[arm for one in studies for arm in one.comparisons[0].arms],
        references=[arm for one in studies for arm in one.comparisons[0].references],
    )
    claims = (CLAIMS[0], dataclasses.replace(CLAIMS[1], margin=margin))
    return dataclasses.replace(studies[0], name="seeded", arms=arms, comparisons=[main], claims=claims, looks=looks)


EXPERIMENT = """
from pathlib import Path
from builders.seeded_study import seeded_study

def study(*, data, text: str, sizes=None, trunk_seeds: tuple[int, ...] = (0, 1), looks: tuple[int, ...] = (), margin=0.0):
    return seeded_study(Path(text), trunk_seeds=trunk_seeds, looks=looks, margin=margin)
"""
