"""The small study on several trunk seeds, with claims, and the experiment file that gives its seeds by a keyword."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from builders.small_study import plan_in, small_study
from midstudy.plan.manifest import manifest_of
from midstudy.recipe import Arm, Study
from midstudy.recipe.factors import Value
from midstudy.recipe.study import Claim
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze


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


def publish(store: Store, study: Study, values: Callable[[Mapping[str, Value], str], float]) -> None:
    """Freeze the study and publish all its stages, with the values of each arm's columns; nothing is trained.

    Args:
        values: the value of a column for the factors of an arm.
    """
    plan = plan_in(store, study)
    freeze(store, manifest_of(plan, command="midstudy run seeded.py"))
    losses = {
        stage: values(entry.arm.factors, column)
        for entry in plan.arms
        for column, stages in entry.measures.items()
        for stage in stages
    }
    for stage in plan.missing:
        store.request(stage)
        metrics: dict[str, Any] = {"has_optimizer": False, "step": stage.step, "train_tokens": 100, "train_documents": 100}
        if stage.id in losses:
            metrics = {"loss_nats": losses[stage.id]}
        attempt = store.attempt(stage.id)
        if stage.kind == "counts":
            counts = np.ones((2, 300), dtype=np.int64)
            save_file({"counts": counts}, attempt.result / "counts.safetensors")
        attempt.publish(
            kind=stage.kind,
            label=stage.label,
            recipe=stage.expanded_form,
            canonical=stage.canonical_form,
            parents=stage.parents,
            metrics=metrics,
        )
