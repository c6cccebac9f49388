"""Manifest of a study that has only stages, for benchmarks of the driver and its views."""

from __future__ import annotations

from collections.abc import Mapping

from midstudy.recipe.manifest import SCHEMA, Manifest, StageEntry, StepsEntry


def bare_manifest(name: str, stages: Mapping[str, StageEntry], *, question: str, command: str) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name=name,
        question=question,
        notes=(),
        report="study",
        command=command,
        seeds=(),
        columns={},
        arms=(),
        comparisons=(),
        claims=(),
        stages=stages,
        counts=(),
        mixes=(),
        uses=(),
        sources={},
        steps=StepsEntry(planned=0, lower_bound=0, without_sharing=0),
    )
