"""The bridging study as it is planned, with losses that follow a law, so that every comparison has results untrained."""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from builders.places import REPOSITORY
from midstudy.analysis.rehearsal import made_up_tables
from midstudy.analysis.tables import Tables
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import make_plan
from midstudy.recipe.manifest import Manifest

GAIN = {("code", "pycode"): 6.0, ("math", "word_problems"): 9.0}
"""Nats that a dose of 1 of a corpus takes off a task's loss; 0.2 for other pairs."""


@functools.cache
def planned(*settings: str) -> Manifest:
    """Return the manifest of the flagship study with `--set` arguments; nothing is trained."""
    study = load_study(Path(REPOSITORY) / "experiments" / "bridging_micro.py", data=[], settings=list(settings))
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda _: set(), kept_states=())
    return manifest_of(plan, command="midstudy run experiments/bridging_micro.py")


def planned_tables(*settings: str, noise_nats: float = 0.003, early_nats: float = 0.0) -> Tables:
    """Return tables in which dose alone lowers the task loss, and general text alone the general loss.

    Args:
        noise_nats: standard deviation of the arms' losses, independent between arms.
        early_nats: nats that a code mix loses more if it starts before step 30, whatever its dose.
    """
    tables = made_up_tables(planned(*settings))
    arms = tables.arms.fillna(0.0)
    rng = np.random.default_rng(0)
    losses = []
    for _, row in arms.iterrows():
        trunk = np.random.default_rng(zlib.crc32(f"{row['size']} {row['trunk_seed']} {row['task']}".encode()))
        level = 5.0 + 0.05 * float(trunk.standard_normal()) - 0.3 * np.log(row["sft_steps"] / 72)
        specialists = {name.removeprefix("dose:") for name in arms.columns if name.startswith("dose:")} - {
            "general",
            row["task"],
        }
        gain = sum(GAIN.get((name, row["task"]), 0.2) * row[f"dose:{name}"] for name in specialists - {"placebo"})
        gain += early_nats * (row["mix"] == "code" and row["start_step"] < 30)
        after = 4.0 + 0.05 * float(trunk.standard_normal()) - row["dose:general"]
        noise = noise_nats * rng.standard_normal(4)
        losses.append(np.array([level - gain, after, level - gain + 1.2, after - 0.5]) + noise)
    columns = ["sft_loss", "general_loss", "sft_loss_before", "general_loss_before"]
    arms[columns] = np.array(losses)
    for name in [name for name in arms.columns if name.startswith("tokens:")]:
        arms[name.replace("tokens:", "epochs:")] = arms[name] / 1_000_000
    for task in dict.fromkeys(arms["task"]):
        arms[f"items:{task}"] = np.where(arms["task"] == task, 2 * arms["sft_steps"], 0)
        arms[f"epochs:{task}"] = arms[f"items:{task}"] / 480
    curves = [
        {"arm": row, **arm.factors, "column": name, "step": step, "value": 5.0 - step / 1_000}
        for row, arm in enumerate(tables.manifest.arms)
        for name, stages in arm.measures.items()
        if tables.manifest.columns[name].is_curve
        for step in range(240, 240 + len(stages))
    ]
    known = pd.DataFrame(curves, columns=list(tables.curves.columns))
    return Tables(tables.manifest, arms.assign(wall_s=1.0), known, None, None)
