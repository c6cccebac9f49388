"""Synthetic studies and items whose true effects are known, drawn again and again, to judge intervals and verdicts by.

Written before any run that judges them. A study has two tasks, a control, mixes at a weight, trunk seeds, and two SFT seeds
within each. An arm's loss is level − gain + trunk + arm × trunk + SFT + items. All arms of a task share the trunk's offset;
arm × trunk has another variance in every cell; SFT and the test items add noise to every evaluation. Levels are 4 nats, so
that a gain of 0.04 nats is an improvement of 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.analysis_tables import tables_of
from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim

NUM_TABLES = 2_000
COVERAGE_BOUNDS = (0.93, 0.97)
"""Of every 95 % interval that a verdict rests on, over all tables. The standard error of a coverage of 0.95 is 0.005."""
FAMILYWISE_LEVEL = 0.05
ALLOWANCE = 0.999
"""False verdicts may be as frequent as the 99.9 % point of a binomial distribution at the familywise level."""

LEVEL_NATS = 4.0
TRUNK_SD_NATS = 0.03
SFT_SD_NATS = 0.01
ITEM_SD_NATS = 0.005
SFT_SEEDS = (10, 11)

Cell = tuple[str, float, str]
"""Mix, weight, task."""

ARM_SDS_NATS: Mapping[Cell, float] = {
    ("control", 0.0, "a"): 0.010,
    ("code", 0.1, "a"): 0.015,
    ("code", 0.2, "a"): 0.005,
    ("code", 0.4, "a"): 0.030,
    ("math", 0.2, "a"): 0.040,
    ("web", 0.2, "a"): 0.010,
    ("control", 0.0, "b"): 0.005,
    ("code", 0.2, "b"): 0.020,
    ("math", 0.2, "b"): 0.010,
    ("web", 0.2, "b"): 0.004,
}
"""Standard deviation over trunks of what a trunk adds to one arm alone: tenfold between cells."""

BOUNDARY: Mapping[Cell, float] = {("code", 0.2, "b"): 0.02, ("web", 0.2, "b"): 0.04}
"""Gains in nats, 0 where none is given, with which every claim lies at its boundary: any verdict but one is false."""
MIXED: Mapping[Cell, float] = {
    ("code", 0.1, "a"): 0.06,
    ("code", 0.2, "a"): 0.12,
    ("code", 0.4, "a"): 0.24,
    ("code", 0.2, "b"): 0.02,
    ("math", 0.2, "b"): -0.06,
    ("web", 0.2, "b"): 0.04,
}
"""Clear effects beside effects of zero and effects at a margin."""
FAINT: Mapping[Cell, float] = {
    ("code", 0.1, "a"): 0.004,
    ("code", 0.2, "a"): 0.008,
    ("code", 0.4, "a"): 0.016,
    ("math", 0.2, "a"): -0.015,
    ("web", 0.2, "a"): 0.006,
    ("code", 0.2, "b"): 0.026,
    ("math", 0.2, "b"): -0.006,
    ("web", 0.2, "b"): 0.037,
}
"""Effects of about a standard error, where a verdict may have the wrong direction."""
SCENARIOS: Mapping[str, Mapping[Cell, float]] = {"boundary": BOUNDARY, "mixed": MIXED, "faint": FAINT}

_NATS = {"scale": "difference"}


def _claim(text: str, estimator: str, *, comparison: str = "main", **fields: Any) -> Claim:
    return Claim(
        text=text, source="planted", estimator=estimator, comparison=comparison, column="loss", family="planted", **fields
    )


CLAIMS = (
    _claim("code helps a", "paired_effect", arms={"mix": "code", "task": "a"}, options=_NATS),
    _claim("math helps a", "paired_effect", arms={"mix": "math", "task": "a"}, options=_NATS),
    _claim("code helps b by 0.5 %", "paired_effect", arms={"mix": "code", "task": "b"}, margin=0.005),
    _claim("math hurts b", "paired_effect", arms={"mix": "math", "task": "b"}, holds="below", options=_NATS),
    _claim("code is the best on a", "best_of", arms={"mix": "code", "task": "a"}),
    _claim(
        "others leave b within 1 %", "all_within", arms={"mix": ("math", "web"), "task": "b"}, holds="within", margin=0.01
    ),
    _claim(
        "code helps a more than b",
        "interaction",
        arms={"mix": "code"},
        margin=-0.02,
        options={**_NATS, "factor": "task", "level": "a", "other": "b"},
    ),
    _claim("more code helps less", "trend", comparison="weights", holds="below", options=_NATS),
)


@dataclass(frozen=True, eq=False)
class Planted:
    """A study's tables with the true gain of every cell in nats."""

    tables: Tables
    gains: Mapping[Cell, float]

    def gain(self, mix: str, task: str, weight: float = 0.2) -> float:
        return self.gains.get((mix, weight, task), 0.0)

    @property
    def truths(self) -> tuple[float, ...]:
        """The true value of each of `CLAIMS`, in its unit: of `best_of` that against the nearest rival, of `all_within` the
        largest in size."""
        code_a, code_b = self.gain("code", "a"), self.gain("code", "b")
        weights = (0.1, 0.2, 0.4)
        return (
            code_a,
            self.gain("math", "a"),
            code_b / LEVEL_NATS,
            self.gain("math", "b"),
            min(code_a - rival for rival in (0.0, self.gain("math", "a"), self.gain("web", "a"))),
            max(abs(self.gain(mix, "b")) for mix in ("math", "web")) / LEVEL_NATS,
            code_a - code_b,
            float(np.polyfit(weights, [self.gain("code", "a", weight) for weight in weights], deg=1)[0]),
        )


def is_false(claim: Claim, truth: float, verdict: str) -> bool:
    """True if a verdict contradicts the truth. At its margin, a directional claim has no true verdict, and a claim
    `within` is false."""
    truth, margin = round(truth, 12), claim.margin
    if verdict == "inconclusive":
        return False
    if claim.holds == "within":
        return verdict != ("yes" if truth < margin else "no")
    above = truth - margin if claim.holds == "above" else margin - truth
    return above <= 0 if verdict == "yes" else above >= 0


@cache
def _study(num_seeds: int) -> Tables:
    """Return the tables without losses; their rows are ordered by cell, trunk seed and SFT seed."""
    rows = [
        {"mix": mix, "weight": weight, "task": task, "trunk_seed": seed, "sft_seed": sft_seed, "loss": 0.0}
        for mix, weight, task in ARM_SDS_NATS
        for seed in range(num_seeds)
        for sft_seed in SFT_SEEDS
    ]
    control: dict[str, Any] = {"references": {"mix": "control"}, "columns": ("loss",), "match": ("task",)}
    comparisons = [
        {"name": "main", "arms": {"mix": ("code", "math", "web"), "weight": 0.2}, **control},
        {"name": "weights", "arms": {"mix": "code", "task": "a"}, "along": "weight", **control},
    ]
    tables = tables_of(rows, comparisons, columns={"loss": "lower"}, claims=CLAIMS)
    return replace(tables, arms=tables.arms[list(rows[0])])


def planted_study(rng: np.random.Generator, gains: Mapping[Cell, float], *, num_seeds: int) -> Planted:
    """Draw a study with these true gains."""
    tables = _study(num_seeds)
    trunk = {task: rng.normal(0, TRUNK_SD_NATS, num_seeds) for task in ("a", "b")}
    losses: list[NDArray[np.float64]] = []
    for cell, arm_sd in ARM_SDS_NATS.items():
        by_trunk = LEVEL_NATS - gains.get(cell, 0.0) + trunk[cell[2]] + rng.normal(0, arm_sd, num_seeds)
        shape = (num_seeds, len(SFT_SEEDS))
        losses.append(by_trunk[:, None] + rng.normal(0, SFT_SD_NATS, shape) + rng.normal(0, ITEM_SD_NATS, shape))
    return Planted(replace(tables, arms=tables.arms.assign(loss=np.concatenate(losses).ravel())), gains)


@dataclass(frozen=True, eq=False)
class PlantedItems:
    """Items as `crossed_interval` takes them, with the true effect in nats per target token."""

    differences_nats: NDArray[np.float64]
    target_tokens: NDArray[np.int64]
    clusters: NDArray[np.int64]
    truth: float


def planted_items(
    rng: np.random.Generator, *, num_seeds: int, sds_nats: Sequence[float], num_clusters: int = 40, num_items: int = 160
) -> PlantedItems:
    """Draw items of 5 to 80 target tokens, in clusters of unequal size, with seeds crossed.

    Args:
        sds_nats: standard deviations, in nats per token, of seeds, of clusters, of items within a cluster, and of what a
            seed adds to one item.
    """
    seed_sd, cluster_sd, item_sd, residual_sd = sds_nats
    clusters = np.concatenate([np.arange(num_clusters), rng.integers(0, num_clusters, num_items - num_clusters)])
    tokens = np.tile(rng.integers(5, 81, num_items), (num_seeds, 1))
    per_token = (
        0.02
        + rng.normal(0, seed_sd, (num_seeds, 1))
        + rng.normal(0, cluster_sd, num_clusters)[clusters]
        + rng.normal(0, item_sd, num_items)
        + rng.normal(0, residual_sd, (num_seeds, num_items))
    )
    return PlantedItems(per_token * tokens, tokens, clusters, truth=0.02)


ITEM_SDS_NATS: Mapping[str, tuple[float, float, float, float]] = {
    "seeds dominate": (0.02, 0.01, 0.01, 0.02),
    "items dominate": (0.002, 0.04, 0.04, 0.02),
    "both": (0.008, 0.03, 0.03, 0.05),
    "residual dominates": (0.0, 0.002, 0.002, 0.10),
}
"""Of seeds, clusters, items and residual."""
