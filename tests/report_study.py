"""A study's folder as the report reads it, with made-up but lifelike numbers, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from analysis_tables import run

from midstudy.data.tally import Tally
from midstudy.plan.left_out import LeftOut
from midstudy.similarity.halves import SplitSample, similarity_matrix
from midstudy.similarity.proximity import Mix, proximity_rows

STEPS = 240
MIXES = {"code": (0.20, 24), "math": (0.12, 79), "instruction": (0.05, 157), "qa": (0.20, 157), "hqweb": (0.20, 157)}
TASKS = ("pycode", "word_problems", "science_qa", "long_form")
TRUNK_SEEDS, SFT_SEEDS = (0, 1, 2), (1337, 895)
LEVEL = {"pycode": 4.58, "word_problems": 2.34, "science_qa": 4.12, "long_form": 5.03}
GAIN = {("code", "pycode"): 0.57, ("math", "word_problems"): 0.70, ("hqweb", "long_form"): 0.06}


def bridging_arms(*, size: str = "micro") -> pd.DataFrame:
    """Arms as the micro study has them: two main contrasts on three trunk seeds, everything else on the first."""
    noise = np.random.default_rng(7)
    trunk = {seed: 0.03 * noise.standard_normal() for seed in TRUNK_SEEDS}
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}

    def add(mix: str, weight: float, start: int, task: str, trunk_seed: int, sft_seed: int, group: str) -> None:
        key = (mix, weight, start, task, trunk_seed, sft_seed)
        if key in cells:
            cells[key]["groups"] += f",{group}"
            return
        share = weight * (STEPS - start) / STEPS
        gain = GAIN.get((mix, task), 0.005) * (share / 0.18) ** 0.4 if share else 0.0
        forgotten = 0.5 * (mix == "code" and weight < 1) - 0.9 * (weight == 1)
        row = run(
            mix,
            task,
            size=size,
            weight=weight,
            start_step=start,
            trunk_seed=trunk_seed,
            sft_seed=sft_seed,
            groups=group,
            sft_loss=LEVEL[task] + trunk[trunk_seed] - gain + 0.012 * noise.standard_normal(),
            general_loss=5.38 - forgotten + 2 * trunk[trunk_seed] + 0.03 * noise.standard_normal(),
        )
        row |= {
            "study": "bridging_micro",
            "start_fraction": start / STEPS,
            "specialist_tokens": round(weight * (STEPS - start) * 2_048),
            "pretrain_tokens": STEPS * 2_048,
            "general_loss_before": 4.1 + trunk[trunk_seed] + 0.6 * (weight == 1),
        }
        cells[key] = row

    for trunk_seed in TRUNK_SEEDS:
        for sft_seed in SFT_SEEDS:
            thin = (trunk_seed, sft_seed) != (TRUNK_SEEDS[0], SFT_SEEDS[0])
            seeds = (trunk_seed, sft_seed)
            for task in TASKS[:2] if thin else TASKS:
                add("control", 0.0, 0, task, *seeds, "main")
                for mix, (weight, start) in MIXES.items():
                    if not thin or mix in ("code", "math"):
                        add(mix, weight, start, task, *seeds, "main")
            if thin:
                continue
            add("code", 1.0, 157, "pycode", *seeds, "continued")
            add("math", 1.0, 220, "word_problems", *seeds, "continued")
            for start in (24, 79, 157, 197):
                add("code", 0.2, start, "pycode", *seeds, "timing")
            for weight in (0.1, 0.2, 0.5, 0.8):
                add("code", weight, 157, "pycode", *seeds, "weight")
    return pd.DataFrame(cells.values())


def similarity_tables(arms: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Similarity and proximity of Zipf-like samples in which each matched pair shares a part of its vocabulary."""
    random = np.random.default_rng(3)
    zipf = 1 / np.arange(1, 1_501)
    shapes = {name: zipf * random.lognormal(0, 1.2, zipf.size) for name in ("general", *MIXES)}
    tasks = {
        "pycode": shapes["code"] * 2 + shapes["general"],
        "word_problems": shapes["math"] * 2 + shapes["general"],
        "science_qa": shapes["general"] * 2 + shapes["qa"],
        "long_form": shapes["general"] * 3 + shapes["hqweb"],
    }

    def sample(shape: np.ndarray) -> SplitSample:
        return SplitSample.from_counts(random.multinomial(60_000, shape / shape.sum(), size=2))

    corpora = {name: sample(shape) for name, shape in shapes.items()}
    targets = {name: sample(shape * random.lognormal(0, 0.4, zipf.size)) for name, shape in tasks.items()}
    keys = arms.loc[arms["mix"] != "control", ["mix", "weight"]].drop_duplicates().itertuples(index=False)
    mixes = [Mix(mix, weight, {mix: weight}) for mix, weight in keys]
    mixtures = {f"{one.name} {100 * one.weight:g} %": one.of(corpora, general="general") for one in mixes if one.weight < 1}
    kinds = dict.fromkeys(corpora, "corpus") | dict.fromkeys(mixtures, "mixture") | dict.fromkeys(targets, "task")
    rows = [
        {
            "left": left,
            "left_kind": kinds[left],
            "right": right,
            "right_kind": kinds[right],
            "cosine": value.cosine,
            "jaccard": value.jaccard,
            "jsd_nats": value.jsd_nats,
            "combined": value.combined,
        }
        for (left, right), value in similarity_matrix({**corpora, **mixtures, **targets}).items()
    ]
    return pd.DataFrame(rows), pd.DataFrame(proximity_rows(general="general", corpora=corpora, tasks=targets, mixes=mixes))


def tallies() -> tuple[Tally, ...]:
    """A task of which a third is trained on, and a corpus with negligible losses."""
    left_out = {"no_block": 34}
    corpus = Tally(data="code", split="train", use="training", unit="tokens", used=23_400, left_out=left_out, limit=128)
    task = Tally(
        data="pycode",
        split="train",
        use="training",
        unit="items",
        used=1_940,
        left_out={"no_target": 60},
        limit=128,
        target_tokens=90_000,
        target_tokens_seen=30_000,
        num_cut=1_900,
    )
    return corpus, task


def write_study(folder: Path, *, arms: pd.DataFrame | None = None, counted: bool = True, **cost: Any) -> Path:
    """Write the folder; ``counted=False`` leaves the token counts unfinished, ``cost`` overrides fields of cost.json."""
    arms = bridging_arms() if arms is None else arms
    similarity, proximity = similarity_tables(arms)
    if not counted:
        similarity, proximity = similarity.iloc[:0][["left", "right"]], proximity.iloc[:0][["mix", "weight", "task"]]
    folder.mkdir(parents=True, exist_ok=True)
    arms.to_parquet(folder / "arms.parquet", index=False)
    arms.to_csv(folder / "arms.csv", index=False)
    similarity.to_parquet(folder / "similarity.parquet", index=False)
    proximity.to_parquet(folder / "proximity.parquet", index=False)
    unfinished = int(arms["sft_loss"].isna().sum())
    facts = {
        "manifest.json": {
            "name": "bridging_micro",
            "question": "Which midtraining mix, from which step and at which weight, helps which fine-tuning target?",
            "notes": ["long_form: dev carved from train by hash (10 % each)"],
            "arms": [{"mix": row["mix"]} for _, row in arms.iterrows()],
            "stages": {},
        },
        "cost.json": {
            "num_stages": 300,
            "num_finished": 300 - 4 * unfinished,
            "cpu_s": 512.3,
            "stage_wall_s": 530.9,
            "useful_steps": 4_971 - 36 * unfinished,
            "recomputed_steps": 0,
            "lower_bound_steps": 4_971,
            "unshared_steps": 17_112,
            "num_tokens": 10_180_608,
            "failed": [],
            **cost,
        },
        "reproduce.json": {
            "command": "midstudy run experiments/bridging_micro.py",
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "git_dirty": False,
            "versions": {"midstudy": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu"},
            "sources": dict.fromkeys(("general", *MIXES, *TASKS), "wheels: list 1f0c7e2ab9d4"),
        },
        "left_out.json": LeftOut(tallies=tallies()).as_json(),
    }
    for name, value in facts.items():
        (folder / name).write_text(json.dumps(value), "utf-8")
    return folder
