"""Pairs of a candidate corpus and a target task in finished studies, with what their text says and what training gave.

A pair is an arm that mixes one corpus into a base corpus at one share and is then fine-tuned on one task, beside references
that read the base corpus alone, as a comparison of the study lists them. Its outcome is the comparison's first column that
measures the arm's last state on the task's test split. Of several arms with the same corpus and task, the first counts. The
text is scored as `midstudy recommend` would score it: whole corpora, however much of them the study read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pandas as pd

from midstudy.analysis.calibration import Pairs
from midstudy.analysis.pairs import pair_by_seed
from midstudy.data.named_text import NamedText
from midstudy.files.errors import StoreError
from midstudy.recipe.data import Corpus, Source, Task, TokenizedData
from midstudy.recipe.decode import decode
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.manifest import ArmEntry, ComparisonEntry, Manifest
from midstudy.run.counts_cache import Arrays, cached
from midstudy.run.expert_scores import expert_scores, processes_for
from midstudy.store.store import Store
from midstudy.store.study_manifest import load

OnProgress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class FinishedPair:
    """A trained candidate. `score` is `ExpertScores.relative_gain`, `improvements` are relative, by the first seed."""

    study: str
    candidate: str
    task: str
    share: float
    score: float
    advantage: float
    candidate_bytes: int
    improvements: Mapping[Hashable, float]

    @property
    def improvement(self) -> float:
        return fmean(self.improvements.values())


@dataclass(frozen=True, kw_only=True)
class FinishedPairs:
    """All pairs, and what could not be used: a sentence each, with the study's name."""

    pairs: tuple[FinishedPair, ...]
    left_out: tuple[str, ...]

    def by_study(self) -> dict[str, Pairs]:
        """Return scores and improvements by study, for `calibrate`."""
        names = dict.fromkeys(one.study for one in self.pairs)
        return {name: _arrays([one for one in self.pairs if one.study == name]) for name in names}


def _arrays(pairs: Sequence[FinishedPair]) -> Pairs:
    return np.array([one.score for one in pairs]), np.array([one.improvement for one in pairs])


def finished_studies(store: Store) -> list[str]:
    """Return the studies of a store with a table of arms and an arm with a corpus mixed in and a task after it.

    A study whose manifest cannot be read is among them: `finished_pairs` says why it is left out.
    """
    return [
        name
        for name in store.studies()
        if (store.paths.study(name) / "arms.parquet").exists() and _has_candidates(store, name)
    ]


def _has_candidates(store: Store, name: str) -> bool:
    try:
        return any(_mixed(arm) for arm in load(store, name).arms)
    except StoreError:
        return True


def finished_pairs(
    store: Store, studies: Sequence[str] | None = None, *, on_progress: OnProgress = lambda line: None
) -> FinishedPairs:
    """Return the pairs of studies in a store; by default of `finished_studies`.

    Args:
        on_progress: called with a line of text.

    Raises:
        StoreError: a study that is named does not exist, or has no readable manifest.
    """
    names = finished_studies(store) if studies is None else studies
    pairs: list[FinishedPair] = []
    left_out: list[str] = []
    for name in names:
        on_progress(f"study {name}")
        try:
            found = _of_study(store, load(store, name))
        except (StoreError, RecipeError, ValueError, OSError) as error:  # such as text that has changed since
            if studies is not None and isinstance(error, StoreError):
                raise
            left_out.append(f"{name}: {error}")
            continue
        pairs += found.pairs
        left_out += found.left_out
    return FinishedPairs(pairs=tuple(pairs), left_out=tuple(left_out))


def _of_study(store: Store, manifest: Manifest) -> FinishedPairs:
    path = store.paths.study(manifest.name) / "arms.parquet"
    if not path.exists():
        raise StoreError(f"{path}: expected the table of a finished study, got none. midstudy report {manifest.name}")
    table = pd.read_parquet(path)
    if table["state"].tolist() != [arm.state for arm in manifest.arms]:
        raise StoreError(f"{path}: expected the arms of the study's manifest, got others. midstudy report {manifest.name}")
    data, left_out = _text_of(store, manifest)
    cells: dict[tuple[str, str], _Cell] = {}
    for comparison in manifest.comparisons:
        for cell in _cells(manifest, comparison, table):
            cells.setdefault((cell.candidate, cell.task), cell)
    groups: dict[tuple[str, str, float], list[_Cell]] = {}
    for cell in cells.values():
        missing = [name for name in (cell.base, cell.candidate, cell.task) if name not in data]
        if missing or data[cell.base].source == data[cell.candidate].source:
            continue  # several sources, said in `left_out`; or a part of the base corpus, which is no candidate
        groups.setdefault((cell.base, cell.task, cell.share), []).append(cell)
    pairs = []
    for (base, task, share), members in groups.items():
        scores = _scores(data[task], data[base], [data[cell.candidate] for cell in members], share)
        pairs += [
            FinishedPair(
                study=manifest.name,
                candidate=cell.candidate,
                task=task,
                share=share,
                score=float(scores["relative_gain"][place]),
                advantage=float(scores["advantage"][place]),
                candidate_bytes=int(scores["bytes"][place]),
                improvements=cell.improvements,
            )
            for place, cell in enumerate(members)
        ]
    return FinishedPairs(pairs=tuple(pairs), left_out=tuple(f"{manifest.name}: {one}" for one in left_out))


def _scores(target: NamedText, general: NamedText, candidates: Sequence[NamedText], share: float) -> Arrays:
    """Return relative gains, advantages and sizes in bytes of the candidates, in their order, from the cache if known."""

    def scored() -> Arrays:
        processes = processes_for((general, *candidates), at_most=len(candidates))
        found = expert_scores(target=target, general=general, candidates=candidates, share=share, num_processes=processes)
        return {
            "relative_gain": np.array([found.relative_gain(one.name) for one in candidates]),
            "advantage": np.array([found.advantage(one.name).combined for one in candidates]),
            "bytes": np.array([found.counts[one.name]["whole_bytes"] for one in candidates]),
        }

    return cached(["score", share, *(one.identity for one in (target, general, *candidates))], scored)


def _text_of(store: Store, manifest: Manifest) -> tuple[dict[str, NamedText], list[str]]:
    """Return the text of each data set by name, and what cannot be read as one text."""
    found: dict[str, NamedText] = {}
    left_out = []
    for stage_id, stage in manifest.stages.items():
        if stage.kind != "tokens":
            continue
        recipe = decode(store.requested(stage_id)["recipe"], f"stages.{stage_id}.recipe")
        assert isinstance(recipe, TokenizedData)
        data: Corpus | Task = recipe.data
        if not isinstance(data.source, Source):
            left_out.append(f"{data.name} has several sources")
            continue
        found[stage.data] = NamedText(
            data.name, (str(data.source),), data.source, None, isinstance(data, Task), data.source.revision
        )
    return found, left_out


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """Arms that differ in their seeds alone."""

    candidate: str
    task: str
    base: str
    share: float
    improvements: Mapping[Hashable, float]


def _cells(manifest: Manifest, comparison: ComparisonEntry, table: pd.DataFrame) -> Iterator[_Cell]:
    members: dict[tuple[object, ...], list[int]] = {}
    for row in comparison.arms:
        factors = manifest.arms[row].factors
        members.setdefault(tuple(value for name, value in factors.items() if name not in manifest.seeds), []).append(row)
    for rows in members.values():
        arm = manifest.arms[rows[0]]
        mixed = _mixed(arm)
        if mixed is None or (column := _outcome(manifest, comparison, arm)) is None:
            continue
        candidate, base, share, task = mixed
        references = [
            row
            for row in comparison.references
            if set(manifest.arms[row].tokens) == {base}
            and set(manifest.arms[row].items) == {task}
            and all(manifest.arms[row].factors.get(name) == arm.factors.get(name) for name in comparison.match)
        ]
        by_seed = pair_by_seed(
            table.iloc[rows],
            table.iloc[references],
            column=column,
            seeds=manifest.seeds,
            better=manifest.columns[column].better,
        )
        if manifest.seeds and len(by_seed):
            improvements = dict(zip(by_seed[manifest.seeds[0]], by_seed["relative_improvement"].astype(float), strict=True))
            yield _Cell(candidate=candidate, task=task, base=base, share=share, improvements=improvements)


def _mixed(arm: ArmEntry) -> tuple[str, str, float, str] | None:
    """Return candidate, base, share and task of an arm with one candidate mixed into one base corpus, else `None`."""
    if len(arm.items) != 1:
        return None
    (task,) = arm.items
    shares = [phase.shares for phase in arm.phases if set(phase.shares) != {task}]
    if not shares or len(shares[0]) != 1:
        return None
    (base,) = shares[0]
    mixed = {tuple(one.items()): one for one in shares if set(one) != {base}}
    if len(mixed) != 1:
        return None
    (only,) = mixed.values()
    others = set(only) - {base}
    if base not in only or len(others) != 1:
        return None
    (candidate,) = others
    return candidate, base, only[candidate], task


def _outcome(manifest: Manifest, comparison: ComparisonEntry, arm: ArmEntry) -> str | None:
    """Return the comparison's first column that measures the arm's last state on the test split of its task."""
    for column in comparison.columns:
        stages = [manifest.stages[one] for one in arm.measures.get(column, ())]
        if manifest.columns[column].is_curve or len(stages) != 1:
            continue
        if stages[0].split == "test" and stages[0].data in arm.items and arm.state in stages[0].parents:
            return column
    return None
