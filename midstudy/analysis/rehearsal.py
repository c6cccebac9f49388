"""Try a study's claims on its grid with made-up values, before anything is measured.

What an estimator says about the grid is true whatever the values: that a claim selects the wrong cells, over how many seeds
it is decided, and whether it can be decided at all.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from midstudy.analysis.estimators import Estimate, find_estimator
from midstudy.analysis.tables import Tables
from midstudy.recipe.manifest import Manifest


def rehearse(manifest: Manifest) -> tuple[Estimate, ...]:
    """Return the estimate of every claim as if all arms were finished, with values drawn at random.

    Nothing is similar to anything yet, so an estimate that rests on similarities is NaN.

    Raises:
        ValueError: a claim names no estimator, or its estimator rejects it, for example because it selects several cells and
            not one; the message names the claim and the cells.
    """
    tables = made_up_tables(manifest)
    found = []
    for index, claim in enumerate(manifest.claims):
        try:
            found.append(find_estimator(claim.estimator)(tables, claim))
        except ValueError as error:
            raise ValueError(f"study.claims[{index}], {claim.text!r}: {error}") from error
    return tuple(found)


def made_up_tables(manifest: Manifest) -> Tables:
    """Return the tables of the study with all arms finished: what the manifest knows, and values near 1."""
    rng = np.random.default_rng(0)
    measured = [name for name, column in manifest.columns.items() if not column.is_curve]
    rows = [
        {
            "study": manifest.name,
            **arm.factors,
            **{name: 1 + 0.01 * float(rng.standard_normal()) for name in measured},
            "state": arm.state,
            "num_steps": arm.num_steps,
            "num_tokens": sum(arm.tokens.values()),
            "flops": arm.flops,
            **{f"tokens:{name}": number for name, number in arm.tokens.items()},
            **{f"dose:{name}": dose for name, dose in arm.dose.items()},
        }
        for arm in manifest.arms
    ]
    curves = pd.DataFrame(columns=["arm", *manifest.factor_names, "column", "step", "value"])
    return Tables(manifest, pd.DataFrame(rows), curves, None, None)
