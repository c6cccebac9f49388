"""Count what a study's data leaves out, from the records and tokens of finished data stages, before any training.

A use is what a phase or an evaluation reads from a split. Many stages share few uses, so the manifest stores uses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from midstudy.data.tally import Tally, blocks_tally, items_tally, prompts_tally
from midstudy.data.tokenizer import load_tokenizer
from midstudy.data.tokens import read_split
from midstudy.files.errors import StoreError
from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import Dataset, Task, TokenizedData
from midstudy.recipe.decode import decode
from midstudy.recipe.manifest import Manifest, Use
from midstudy.recipe.measure import StateEvaluation
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.stage import Stage
from midstudy.recipe.task_mixture import TaskMixture
from midstudy.store.record import Record
from midstudy.store.store import Store

_OWN_USE = {
    "tokenizer": "tokenizer",
    "tokens": "text",
    "packing": "packing",
    "counts": "similarity",
    "preparation": "preparation",
}
"""Stage kinds whose records count what they left out of their text, and the name of their use."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Tallies in the order of the study's data, and labels of finished data stages whose records have no tallies.

    `yields` has what each step of a finished preparation kept, as its record has it, by the label of the stage.
    """

    tallies: tuple[Tally, ...] = ()
    not_counted: tuple[str, ...] = ()
    yields: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences to report, without duplicates."""
        return tuple(dict.fromkeys(tally.sentence for tally in self.tallies if tally.is_much))

    def as_json(self) -> dict[str, Any]:
        return {
            "tallies": [tally.as_json() for tally in self.tallies],
            "not_counted": list(self.not_counted),
            "yields": {label: [*found] for label, found in self.yields.items()},
        }


def uses_of(stages: Mapping[str, Stage]) -> tuple[Use, ...]:
    """Return what the stages' phases and evaluations read, without duplicates."""
    return tuple(dict.fromkeys(use for stage in stages.values() for use in uses_by(stage, stages)))


def uses_by(stage: Stage, stages: Mapping[str, Stage]) -> list[Use]:
    """Return what one stage's last phase, or its evaluation, reads; `stages` holds its data stages."""

    def of(data: Dataset, **facts: Any) -> list[Use]:
        recipes = {parent: stages[parent].recipe for parent in stage.parents if parent in stages}
        return [
            Use(tokens=parent, data=data.name, is_task=isinstance(data, Task), **facts)
            for parent, recipe in recipes.items()
            if isinstance(recipe, TokenizedData) and recipe.data == data
        ]

    recipe = stage.recipe
    if isinstance(recipe, State) and recipe.step > 0:
        phase = recipe.curriculum.stretches[-1].phase
        if isinstance(phase.data, TaskMixture):  # its packing reads the tokens, and counts for itself
            return []
        if isinstance(phase.data, Rollouts):
            longest = phase.seq_len - phase.data.max_new_tokens
            return of(phase.data.prompts, split="train", use="prompts", seq_len=longest, target_only=True)
        facts = {"seq_len": phase.seq_len, "target_only": phase.loss == "target_tokens"}
        return [use for data in phase.datasets for use in of(data, split="train", use="training", **facts)]
    if isinstance(recipe, StateEvaluation):
        evaluation = recipe.evaluation
        facts = {"seq_len": evaluation.seq_len, "target_only": evaluation.target_only}
        return of(evaluation.data, split=evaluation.split, use="evaluation", max_sequences=evaluation.max_sequences, **facts)
    return []


def left_out(store: Store, stages: Iterable[tuple[str, str, str, str]], uses: Iterable[Use]) -> LeftOut:
    """Return what the finished data stages leave out.

    Stages with a damaged record or damaged tokens are skipped; a stage that needs them reports the damage.

    Args:
        stages: (id, kind, data name, label) of a study's stages.
    """
    tallies: dict[str, list[Tally]] = {}
    not_counted = []
    yields: dict[str, Any] = {}
    of_tokens: dict[str, list[Use]] = {}
    for use in uses:
        of_tokens.setdefault(use.tokens, []).append(use)
    for stage_id, kind, data, label in stages:
        if kind not in _OWN_USE or not store.has(stage_id):
            continue
        with contextlib.suppress(StoreError, ValueError, TypeError, OSError):
            record = store.record(stage_id)
            own = _own(record, kind, data)
            if not own and not (kind == "tokenizer" and "train_bytes" not in record.metrics):  # released: no text
                not_counted.append(label)
            if "yields" in record.metrics:
                yields[label] = record.metrics["yields"]
            used = [tally_of(store, use) for use in of_tokens.get(stage_id, ())]
            tallies.setdefault(data, []).extend((*own, *used))
    every = tuple(tally for group in tallies.values() for tally in group)
    return LeftOut(tallies=every, not_counted=tuple(not_counted), yields=yields)


def left_out_of(store: Store, stages: Mapping[str, Stage]) -> LeftOut:
    """Call `left_out` for planned stages."""
    rows = ((stage.id, stage.kind, stage.data, stage.label) for stage in stages.values())
    return left_out(store, rows, uses_of(stages))


def left_out_in(store: Store, manifest: Manifest) -> LeftOut:
    """Call `left_out` for a frozen study."""
    rows = ((stage_id, entry.kind, entry.data, entry.label) for stage_id, entry in manifest.stages.items())
    return left_out(store, rows, manifest.uses)


class Notices:
    """Report what a data stage left out once it finishes. Called with a stage id and its status."""

    def __init__(self, store: Store, stages: Mapping[str, Stage], on_notice: Callable[[str], None]) -> None:
        self._store, self._stages, self._on_notice = store, stages, on_notice
        self._uses = uses_of(stages)

    def __call__(self, stage_id: str, status: str) -> None:
        stage = self._stages[stage_id]
        if status == "published" and stage.kind in _OWN_USE:
            row = (stage_id, stage.kind, stage.data, stage.label)
            for sentence in left_out(self._store, [row], self._uses).sentences:
                self._on_notice(sentence)


def _own(record: Record, kind: str, data: str) -> list[Tally]:
    tallies = []
    for where, facts in record.metrics.get("left_out", {}).items():
        split, _, name = where.partition(" ")  # of several corpora of a tokenizer: the split and the name
        use = "preparation" if split == "all" else _OWN_USE[kind]
        tallies.append(Tally.from_metrics(facts, data=name or data, split=split, use=use))
    return tallies


def tally_of(store: Store, use: Use) -> Tally:
    """Count what a use reads and leaves out of the tokens of a finished data stage.

    Raises:
        StoreError, ValueError, OSError: the tokens are missing or damaged.
    """
    split = read_split(store.published_folder(use.tokens), use.split)
    if use.use == "prompts":
        tokens: TokenizedData = decode(store.record(use.tokens).recipe)
        tokenizer = load_tokenizer(store.published_folder(identify(tokens.tokenizer)))
        return prompts_tally(split, tokenizer, data=use.data, split_name=use.split, longest=use.seq_len)
    facts: dict[str, Any] = {
        "data": use.data,
        "split_name": use.split,
        "use": use.use,
        "seq_len": use.seq_len,
        "max_sequences": use.max_sequences,
    }
    return items_tally(split, target_only=use.target_only, **facts) if use.is_task else blocks_tally(split, **facts)
