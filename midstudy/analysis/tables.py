"""The tables of a study, read from the store: arms, curves, items, similarity, representations, training and cost.

Values of unfinished stages are NaN, so the tables of a study in progress are valid.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.numpy import load_file

from midstudy.analysis.data import data_table
from midstudy.analysis.items import items_table
from midstudy.analysis.shares import shares_table
from midstudy.analysis.training import training_table
from midstudy.analysis.transcripts import transcripts_table
from midstudy.files.atomic import write_bytes, write_json
from midstudy.files.errors import StoreError
from midstudy.plan.dose import dose
from midstudy.plan.left_out import left_out_in, tally_of
from midstudy.plan.packed import counts_in
from midstudy.recipe.curriculum import State
from midstudy.recipe.decode import decode
from midstudy.recipe.manifest import ArmEntry, Manifest
from midstudy.recipe.representation import CKA_FILE, RepresentationSimilarity
from midstudy.similarity.halves import SplitSample, similarity_matrix
from midstudy.similarity.proximity import Mix, proximity_rows
from midstudy.store.decisions import Decision, as_decided
from midstudy.store.looks import Look, looks_of
from midstudy.store.record import Record
from midstudy.store.store import Store
from midstudy.store.study_manifest import load

OPTIONAL = ("similarity", "proximity", "items", "representation", "data", "training", "shares", "transcripts")
"""Tables that a study may lack."""


@dataclass(frozen=True, eq=False)
class Tables:
    """A study's tables.

    `similarity` and `proximity` are None until the tokens of every data set are counted, `items` is None if no finished
    evaluation keeps results per item, `representation` if the study compares no states, `data` in tables that no store made,
    `training` if no training is finished, `shares` if no finished measure is a share of items, `transcripts` if none
    generates answers.
    `looks` are the reports that judged the study's claims, as far as they are recorded.
    """

    manifest: Manifest
    arms: pd.DataFrame
    curves: pd.DataFrame
    similarity: pd.DataFrame | None
    proximity: pd.DataFrame | None
    items: pd.DataFrame | None = None
    representation: pd.DataFrame | None = None
    data: pd.DataFrame | None = None
    training: pd.DataFrame | None = None
    shares: pd.DataFrame | None = None
    transcripts: pd.DataFrame | None = None
    looks: tuple[Look, ...] = ()


def arms_table(store: Store, manifest: Manifest) -> pd.DataFrame:
    """Return one row per arm, in the order of `manifest.arms`.

    Columns: study, the factors, the measured columns except curves, state, num_steps, num_tokens (drawn of corpora),
    flops, wall_s (seconds of all training up to the arm's state); then for each data set NAME tokens:NAME, items:NAME,
    epochs:NAME (passes over its train split) and dose:NAME (its share of Σ learning rate over all steps, fine-tuning among
    them; the doses of an arm add up to 1); for each task NAME seen:NAME, the share of the target tokens of
    its train split that training sees at the arm's sequence length (0 to 1), NaN until the task is tokenised and for arms
    that are not trained on it; for each choice NAME chosen:NAME, its outcome for the arm, NaN for arms that do not depend on
    it. Values of unfinished stages are NaN.
    """
    columns = [name for name, column in manifest.columns.items() if not column.is_curve]
    measured = {one for arm in manifest.arms for name in columns for one in arm.measures.get(name, ())}
    values = store.records(measured)
    history, seen = _History(store, manifest), _Seen(store, manifest)
    corpora, tasks, doses, choices = (
        _names(getattr(arm, one) for arm in manifest.arms) for one in ("tokens", "items", "dose", "choices")
    )
    outcomes = {decision.id: decision.chosen for decision in decisions_of(store, manifest)}
    rows = []
    for arm in manifest.arms:
        row: dict[str, Any] = {"study": manifest.name, **arm.factors}
        for name in columns:
            found = [values[one] for one in arm.measures.get(name, ()) if one in values]
            row[name] = float(found[0].metrics.get(manifest.columns[name].metric, math.nan)) if found else math.nan
        row |= {
            "state": arm.state,
            "num_steps": arm.num_steps,
            "num_tokens": sum(arm.tokens.values()),
            "flops": arm.flops,
            "wall_s": history.wall_s(arm.state),
        }
        row |= {f"tokens:{name}": arm.tokens.get(name, 0) for name in corpora}
        row |= {f"items:{name}": arm.items.get(name, 0) for name in tasks}
        row |= {f"epochs:{name}": history.epochs(arm, name) for name in dict.fromkeys((*corpora, *tasks))}
        known = _dose(store, arm)
        row |= {f"dose:{name}": known.get(name, 0.0) for name in doses}
        row |= {f"seen:{name}": seen.share(arm, name) for name in tasks}
        row |= {f"chosen:{name}": outcomes.get(arm.choices.get(name, ""), math.nan) for name in choices}
        rows.append(row)
    return pd.DataFrame(rows)


def _dose(store: Store, arm: ArmEntry) -> dict[str, float]:
    """Return the dose of each data set in an arm; NaN while a choice that decides some of its learning rates is open."""
    planned: Mapping[str, float | None] = arm.dose
    if None in planned.values():
        state: State = decode(store.requested(arm.state)["recipe"])
        planned = dose(as_decided(store, state).curriculum, counts_in(store))
    return {name: math.nan if value is None else value for name, value in planned.items()}


def decisions_of(store: Store, manifest: Manifest) -> list[Decision]:
    """Return the finished decisions of a study, in the order of its stages."""
    records = store.records(stage_id for stage_id, stage in manifest.stages.items() if stage.kind == "decision")
    return [Decision.of(record) for record in records.values()]


def curves_table(store: Store, manifest: Manifest) -> pd.DataFrame:
    """Return one row per arm, curve and step: arm (its row), the factors, column, step, value (NaN if not finished)."""
    curves = [name for name, column in manifest.columns.items() if column.is_curve]
    records = store.records({one for arm in manifest.arms for name in curves for one in arm.measures.get(name, ())})
    rows = [
        {
            "arm": row,
            **arm.factors,
            "column": name,
            "step": manifest.stages[one].step,
            "value": float(records[one].metrics.get(manifest.columns[name].metric, math.nan))
            if one in records
            else math.nan,
        }
        for row, arm in enumerate(manifest.arms)
        for name in curves
        for one in arm.measures.get(name, ())
    ]
    return pd.DataFrame(rows, columns=["arm", *manifest.factor_names, "column", "step", "value"])


def similarity_tables(store: Store, manifest: Manifest) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Return the similarity of every pair of corpora, tasks and mixtures, and the proximity advantages of mixes to tasks.

    The second table has the columns of `similarity.proximity.proximity_rows`. Both are None until all counts are finished,
    and if the study has none.
    """
    records = store.records([one.stage for one in manifest.counts])
    if not manifest.counts or len(records) < len({one.stage for one in manifest.counts}):
        return None, None
    corpora: dict[str, SplitSample] = {}
    tasks: dict[str, SplitSample] = {}
    for one in manifest.counts:
        counts = load_file(store.published_folder(one.stage) / "counts.safetensors")["counts"]
        (tasks if one.is_task else corpora)[one.data] = SplitSample.from_counts(counts)
    mixes = [Mix(one.name, one.shares, one.reference, one.factors) for one in manifest.mixes]
    mixtures = {one.name: one.of(corpora) for one in mixes if len(one.shares) > 1}
    kinds = {**dict.fromkeys(corpora, "corpus"), **dict.fromkeys(mixtures, "mixture"), **dict.fromkeys(tasks, "task")}
    matrix = similarity_matrix({**corpora, **mixtures, **tasks})
    long = pd.DataFrame(
        {"left": left, "left_kind": kinds[left], "right": right, "right_kind": kinds[right], **asdict(value)}
        for (left, right), value in matrix.items()
    )
    proximity = proximity_rows(corpora=corpora, tasks=tasks, mixes=mixes)
    return long, pd.DataFrame(proximity, columns=None if proximity else ["mix_name", "task", "reference"])


def representation_columns(manifest: Manifest) -> list[str]:
    """Return the columns, except curves, that compare the representations of two states."""
    names = {metric.name for metric in RepresentationSimilarity.METRICS}
    return [name for name, column in manifest.columns.items() if column.metric in names and not column.is_curve]


def representation_table(store: Store, manifest: Manifest) -> pd.DataFrame | None:
    """Return linear CKA between the layers of compared states: one row per arm, finished comparison and pair of layers.

    Columns: arm (its row), the factors, column (the first that the comparison fills), state and other (labels of the
    evaluated state and of the one that it is compared with), layer_a and layer_b (of the two, 0 is the embedding), cka.
    None if the study compares no states.
    """
    columns = representation_columns(manifest)
    if not columns:
        return None
    parts = []
    for row, arm in enumerate(manifest.arms):
        of_stage = {one: name for name in reversed(columns) for one in arm.measures.get(name, ())}
        for one in store.records(of_stage):
            state, other = (parent for parent in manifest.stages[one].parents if manifest.stages[parent].kind == "state")
            labels = {"state": manifest.stages[state].label, "other": manifest.stages[other].label}
            matrix = pd.read_parquet(store.published_folder(one) / CKA_FILE)
            parts.append(matrix.assign(arm=row, column=of_stage[one], **arm.factors, **labels))
    ordered = ["arm", *manifest.factor_names, "column", "state", "other", "layer_a", "layer_b", "cka"]
    return pd.concat(parts, ignore_index=True)[ordered] if parts else pd.DataFrame(columns=ordered)


def cost_summary(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Return the cost of the study's finished stages, beside the plan's number of steps.

    Seconds are sums over stages. All numbers come from records, so running a finished study again does not change them.
    `recomputed_steps` were repeated after faults and are not counted as useful.
    """
    records = store.records(manifest.stages)
    return {
        "num_stages": len(manifest.stages),
        "num_finished": len(records),
        "failed": [
            {"id": one, "label": stage.label, "cause": failure["cause"]}
            for one, stage in manifest.stages.items()
            if one not in records and (failure := store.failure(one))
        ],
        "cpu_s": sum(record.timing["cpu_s"] for record in records.values()),
        "stage_wall_s": sum(record.timing["wall_s"] for record in records.values()),
        "num_tokens": sum(record.metrics.get("num_tokens", 0) for record in records.values()),
        "useful_steps": sum(record.metrics.get("num_steps", 0) for record in records.values()),
        "recomputed_steps": sum(record.metrics.get("recomputed_steps", 0) for record in records.values()),
        "lower_bound_steps": manifest.steps.lower_bound,
        "unshared_steps": manifest.steps.without_sharing,
    }


def reproduction(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Return what reproduces the study: its command, the code and library versions in its records, and its decisions."""
    environments = [record.environment for record in store.records(manifest.stages).values()]

    def seen(field: str) -> list[str]:
        return sorted({str(one[field]) for one in environments if one.get(field) is not None})

    return {
        "command": manifest.command,
        "git_commit": ", ".join(seen("git_commit")) or None,
        "git_dirty": any(one.get("git_dirty") for one in environments),
        "versions": {field: ", ".join(seen(field)) for field in ("midstudy", "python", "torch", "platform", "cpu")},
        "sources": dict(manifest.sources),
        "decisions": [
            {
                "name": decision.name,
                "id": decision.id,
                "label": manifest.stages[decision.id].label,
                "chosen": decision.chosen,
                "metric": decision.metric,
                "rule": decision.rule,
                "tried": [
                    {"value": option.value, "measured": option.measured, "margin": decision.margin(option)}
                    if math.isfinite(option.measured)
                    else {"value": option.value, "measured": None, "margin": None}
                    for option in decision.tried
                ],
            }
            for decision in decisions_of(store, manifest)
        ],
    }


def write_tables(store: Store, manifest: Manifest, folder: Path) -> Tables:
    """Write the inputs of a report into the study's folder, and return its tables.

    Arms and curves are written as Parquet and CSV, the `OPTIONAL` tables as Parquet if they are known, the judged claims as
    CSV, cost, reproduction and omitted data as JSON, the answer as text.
    """
    from midstudy.analysis.answer import answer  # these read `Tables`
    from midstudy.analysis.claims import judge

    similarity, proximity = similarity_tables(store, manifest)
    arms, curves = arms_table(store, manifest), curves_table(store, manifest)
    items = items_table(store, manifest)
    more = {
        "items": items,
        "representation": representation_table(store, manifest),
        "data": data_table(store, manifest) if manifest.sources else None,
        "training": training_table(store, manifest),
        "shares": shares_table(store, manifest, items),
        "transcripts": transcripts_table(store, manifest),
    }
    tables = Tables(manifest, arms, curves, similarity, proximity, **more, looks=looks_of(store, manifest.name))
    for name, table in (("arms", tables.arms), ("curves", tables.curves)):
        table.to_parquet(folder / f"{name}.parquet", index=False)
        table.to_csv(folder / f"{name}.csv", index=False)
    for name in OPTIONAL:
        known = getattr(tables, name)
        if known is None:
            (folder / f"{name}.parquet").unlink(missing_ok=True)  # from an earlier plan of the study
        else:
            known.to_parquet(folder / f"{name}.parquet", index=False)
    judge(tables).to_csv(folder / "claims.csv", index=False)
    write_json(folder / "cost.json", cost_summary(store, manifest))
    write_json(folder / "reproduce.json", reproduction(store, manifest))
    write_json(folder / "left_out.json", left_out_in(store, manifest).as_json())
    write_bytes(folder / "answer.txt", (answer(tables) + "\n").encode())
    return tables


def read_tables(folder: Path) -> Tables:
    """Read the tables that `write_tables` wrote into a study's folder.

    Raises:
        StoreError: the study's manifest is missing, or it or the file of looks is damaged or of another version.
        OSError: the tables are missing.
    """
    folder = folder.resolve()
    store = Store.open(folder.parent.parent)
    manifest = load(store, folder.name)
    optional = {name: pd.read_parquet(path) if (path := folder / f"{name}.parquet").exists() else None for name in OPTIONAL}
    arms, curves = (pd.read_parquet(folder / f"{name}.parquet") for name in ("arms", "curves"))
    return Tables(manifest, arms, curves, **optional, looks=looks_of(store, manifest.name))


class _History:
    """Training time and data sizes of the stages that lead to the arms' states."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store, self._manifest = store, manifest
        self._records: dict[str, Record | None] = {}
        self._load([*manifest.stages])
        self._tokens: dict[str, list[str]] = {}
        for identity, stage in manifest.stages.items():
            if stage.kind == "tokens":
                self._tokens.setdefault(stage.data, []).append(identity)

    def wall_s(self, state: str) -> float:
        """Return the seconds of all training up to a state, NaN if a stage is unfinished."""
        records = [self._record(one) for one in self._states(state)]
        return math.fsum(math.nan if one is None else one.timing["wall_s"] for one in records)

    def epochs(self, arm: ArmEntry, data: str) -> float:
        """Return the number of passes over a train split, in tokens or in a task's items; NaN while unknown."""
        drawn = arm.items[data] if data in arm.items else arm.tokens.get(data, 0)
        if not drawn:
            return 0.0
        stages = self._tokens.get(data, [])
        if len(stages) > 1:  # tokenised in several ways: select the one that this arm reads
            read = {parent for one in self._states(arm.state) for parent in self._parents(one)}
            stages = [one for one in stages if one in read]
        record = self._record(stages[0]) if stages else None
        if record is None:
            return math.nan
        size = record.metrics["train_documents" if data in arm.items else "train_tokens"]
        return drawn / size if size else math.nan

    def _states(self, state: str) -> list[str]:
        """Return a state and its ancestors, each once, including the states that an average combines."""
        found = {state: None}
        pending = [state]
        for one in pending:
            for parent in self._parents(one):
                if parent not in found and self._is_state(parent):
                    found[parent] = None
                    pending.append(parent)
        return list(found)

    def _parents(self, identity: str) -> tuple[str, ...]:
        if identity in self._manifest.stages:
            return self._manifest.stages[identity].parents
        record = self._record(identity)  # a state of another study that this one starts from
        return () if record is None else record.parents

    def _is_state(self, identity: str) -> bool:
        if identity in self._manifest.stages:
            return self._manifest.stages[identity].kind == "state"
        record = self._record(identity)
        return record is not None and record.kind == "state"

    def _record(self, identity: str) -> Record | None:
        if identity not in self._records:
            self._load([identity])
        return self._records[identity]

    def _load(self, identities: list[str]) -> None:
        found = self._store.records(identities)
        self._records |= {one: found.get(one) for one in identities}


class _Seen:
    """The shares of target tokens that training sees, by use of a task."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store, self._manifest = store, manifest
        self._shares: dict[int, float] = {}

    def share(self, arm: ArmEntry, task: str) -> float:
        """Return the share that an arm's training sees of a task, NaN while unknown."""
        row = arm.reads.get(task)
        if row is None:
            return math.nan
        if row not in self._shares:
            use, share = self._manifest.uses[row], None
            if self._store.has(use.tokens):
                with contextlib.suppress(StoreError, ValueError, OSError):  # damaged tokens are reported by the training
                    share = tally_of(self._store, use).share_seen
            self._shares[row] = math.nan if share is None else share
        return self._shares[row]


def _names(counted: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for one in counted for name in one))
