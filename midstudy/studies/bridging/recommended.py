"""Does a ranking that was made before any training name the best mix? The ranking, as a claim keeps it, and its estimator.

The ranking is computed from text alone when the study is built, and frozen with the claim: in the manifest it lies beside
the claim's registration, before the first result. This module knows nothing of how it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from midstudy.analysis.estimators import Estimate, best_of
from midstudy.analysis.tables import Tables
from midstudy.data.named_text import NamedText
from midstudy.recipe import Claim, Corpus, Task
from midstudy.recipe.data import Source
from midstudy.recipe.errors import RecipeError
from midstudy.similarity.ranking import Ranked
from midstudy.studies.bridging.claims import OWN
from midstudy.studies.bridging.text import Text

GAIN = "gain:"
"""Begins the name of a claim's option that holds the gain of a mix, in bits per byte of the task's dev text."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Expected gains of mixes on a task, and the mixes of the first group: those that cannot be told apart from the best.

    `gains` are in bits per byte of the task's dev split. `first` is empty if no mix gains more than general text.
    """

    task: str
    gains: Mapping[str, float]
    first: tuple[str, ...]


def as_named(data: Corpus | Task) -> NamedText:
    """Return a corpus or task of a study as the text that a ranking reads.

    Raises:
        RecipeError: the corpus has several sources.
    """
    if not isinstance(data.source, Source):
        raise RecipeError(f"data.{data.name}", expected="one source, as rankings read it", got=str(data.source))
    return NamedText(
        name=data.name,
        values=(str(data.source),),
        source=data.source,
        path=None,
        is_task=isinstance(data, Task),
        revision=data.source.revision,
    )


def rankings_of(text: Text, tasks: Iterable[str], recommend: Callable[..., Any]) -> list[Ranking]:
    """Return the ranking of the specialists for each task.

    Args:
        recommend: `midstudy.run.recommend.recommend` with the share of the mixes; no study decides what is ranked.
    """
    general, candidates = as_named(text.general), [as_named(corpus) for corpus in text.specialists.values()]
    found = {task: recommend(target=as_named(text.tasks[task]), general=general, candidates=candidates) for task in tasks}
    return [ranking_of(task, [one.ranked for one in one_found.ranked]) for task, one_found in found.items()]


def ranking_of(task: str, ranked: Sequence[Ranked]) -> Ranking:
    """Return the ranking of mixes for a task, given the ranked candidates."""
    first = [one for one in ranked if one.group == 1]
    gain_more = any(one.over_placebo_low > 0 for one in first)
    return Ranking(
        task=task,
        gains={one.name: one.gain for one in ranked},
        first=tuple(one.name for one in first) if gain_more else (),
    )


def claims_of_rankings(rankings: Sequence[Ranking]) -> list[Claim]:
    """Return the claim of each ranking that names one mix: it lowers the loss of the task more than every other mix.

    They are a family of their own, so that the levels of the other decisions do not depend on them.
    """
    return [
        Claim(
            text=f"D: {one.first[0]}, which recommend names for {one.task}, lowers its loss more than every other mix",
            source=OWN,
            estimator="midstudy.studies.bridging.recommended:names_the_best",
            comparison="main",
            column="sft_loss",
            arms={"mix": one.first[0], "task": one.task},
            options={f"{GAIN}{mix}": gain for mix, gain in one.gains.items()},
            family="ranking",
        )
        for one in rankings
        if len(one.first) == 1
    ]


def notes_of_rankings(rankings: Sequence[Ranking]) -> list[str]:
    """Return a note on each ranking that names no mix, of which nothing is claimed."""
    return [
        f"recommend names no mix for {one.task}: "
        + (f"{', '.join(one.first)} cannot be told apart" if one.first else "none gains more than general text")
        for one in rankings
        if len(one.first) != 1
    ]


def names_the_best(tables: Tables, claim: Claim) -> Estimate:
    """Return `best_of` of the mix that the registered ranking names; its words show the ranking.

    Raises:
        ValueError: the claim's mix is not the first of its ranking.
    """
    gains = {name.removeprefix(GAIN): float(gain) for name, gain in claim.options.items() if name.startswith(GAIN)}
    ranked = sorted(gains, key=lambda mix: -gains[mix])
    if not ranked or ranked[0] != claim.arms.get("mix"):
        expected = "the gains of a ranking whose first is the claim's mix"
        raise ValueError(f"options: expected {expected}, got {dict(claim.options)}")
    found = best_of(tables, replace(claim, options={}))
    shown = ", ".join(f"{mix} {gains[mix]:+.3f}" for mix in ranked)
    return replace(found, text="; ".join(filter(None, (found.text, f"registered ranking, bits per byte: {shown}"))))
