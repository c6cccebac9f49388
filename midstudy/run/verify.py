"""Make a finished evaluation again, and compare its numbers and files with the published ones, byte for byte."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

from midstudy.execute.evaluation import evaluate_published
from midstudy.execute.work import RankWork
from midstudy.recipe.decode import decode
from midstudy.recipe.measure import StateEvaluation
from midstudy.store.processor import this_processor
from midstudy.store.store import Store
from midstudy.train.environment import configure_threads
from midstudy.train.placement import Placement
from midstudy.train.ranks import Ranks


def verify_evaluation(store: Store, stage_id: str) -> tuple[str, ...]:
    """Return how an evaluation, made again with its recorded placement, differs from the published one.

    The result is empty if every number and file is equal. Bits are the same on one kind of processor; if another one made
    the published evaluation, the differences say so.

    Raises:
        ValueError: the stage is not an evaluation.
        StoreError: the stage, or one that it reads, is unfinished or damaged.
    """
    record = store.record(stage_id)
    store.require_unchanged(stage_id)
    recipe = decode(record.recipe)
    if not isinstance(recipe, StateEvaluation):
        raise ValueError(f"{stage_id}: expected an evaluation, got {record.label}, a stage of kind {record.kind}.")
    placement = Placement(**(record.environment.get("placement") or {}))
    configure_threads(placement.num_threads)
    work = RankWork(store=store, should_stop=lambda: False, placement=placement, ranks=Ranks())
    published = store.published_folder(stage_id)
    with tempfile.TemporaryDirectory() as temporary:
        with contextlib.redirect_stdout(io.StringIO()):  # what a job logs
            metrics = evaluate_published(recipe, work, Path(temporary))
        differences = [
            f"{name}: published {record.metrics.get(name)!r}, now {value!r}"
            for name, value in metrics.items()
            if record.metrics.get(name) != value
        ]
        files = {path.name: path.read_bytes() for path in sorted(Path(temporary).iterdir())}
    for name in sorted(record.files.keys() | files.keys()):
        if name not in files or name not in record.files or (published / name).read_bytes() != files[name]:
            differences.append(f"{name}: differs from the published file")
    if differences and record.environment.get("cpu") != this_processor().name:
        differences.append(f"made on another processor: {record.environment.get('cpu')}, here {this_processor().name}")
    return tuple(differences)
