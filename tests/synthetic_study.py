"""A study with the shape of the real one (trunk, branches, fine-tuning, evaluations) whose stages compute nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze

STEPS, START_STEP, SFT_STEPS = 60, 30, 20
TASKS = ("pycode", "word_problems")
MIXES: Mapping[str, float] = {"control": 0.0, "code": 0.2, "math": 0.12}


@dataclass
class SyntheticStudy:
    """`manifest` as `run` freezes it; `stages` in an order in which parents come first."""

    manifest: dict[str, Any]

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        return self.manifest["stages"]

    def publish(self, store: Store, stage_id: str) -> None:
        """Publish the stage as a job would, with a curve if it is a state and a loss if it is an evaluation."""
        stage = self.stages[stage_id]
        attempt = store.attempt(stage_id)
        metrics: dict[str, Any] = {}
        if stage["kind"] == "state":
            last = stage["factors"]["step"]
            for step in range(last - stage["num_steps"] + 1, last + 1):
                loss = 5 + 2 * math.exp(-step / 20) - (0.5 if stage["factors"].get("mix") == "code" else 0)
                attempt.log_metrics({"step": step, "loss_nats": loss, "lr": 1e-3, "grad_norm": 1.0 + 1 / step})
            metrics = {"step": last, "epochs": {"general": 0.5}, "train_loss_nats": loss}
        elif stage["kind"] == "tokens":
            for split in ("train", "dev", "test"):
                (attempt.result / f"{split}-00000.tokens").write_text(f"{stage['label']} {split}")
                metrics |= {f"{split}_tokens": 4096, f"{split}_documents": 16}
        elif stage["kind"] == "evaluation":
            metrics = {"loss_nats": _loss_nats(stage["factors"]), "target_tokens": 4096}
        attempt.publish(
            kind=stage["kind"],
            label=stage["label"],
            recipe={"of": stage_id},
            canonical={"of": stage_id},
            parents=tuple(stage["parents"]),
            metrics=metrics,
        )

    def publish_all(self, store: Store) -> None:
        for stage_id in self.stages:
            self.publish(store, stage_id)


def _loss_nats(factors: Mapping[str, Any]) -> float:
    """A matching mix helps; a seed moves everything a little."""
    matches = (factors.get("mix"), factors["data"]) in (("code", "pycode"), ("math", "word_problems"))
    base = {"pycode": 4.8, "word_problems": 4.3, "general": 5.7}[factors["data"]]
    tuned = 0.0 if factors["when"] == "before" else 0.9
    return base - tuned - 0.5 * matches + 0.03 * factors["trunk_seed"] + 0.01 * factors.get("sft_seed", 0)


@dataclass
class _Builder:
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, kind: str, label: str, parents: list[str], *, num_steps: int = 0, **factors: Any) -> str:
        stage_id = f"{len(self.stages):04d}{abs(hash_of(label)):012x}"
        self.stages[stage_id] = {
            "kind": kind,
            "label": label,
            "parents": parents,
            "factors": factors,
            "start_from": None,
            "continues_trunk": False,
            "keeps_optimizer": False,
            "disk_bytes": 0,
            "num_steps": num_steps,
            "num_tokens": num_steps * 2048,
            "cost_s": 0.01 * num_steps + 0.1,
        }
        return stage_id


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return int.from_bytes(text.encode("utf-8")[-6:], "big")


def synthetic_study(name: str = "synthetic", *, trunk_seeds: int = 1, sft_seeds: int = 1) -> SyntheticStudy:
    """3 mixes × 2 tasks × seeds; the control is the trunk's second half."""
    builder = _Builder()
    tokenizer = builder.add("tokenizer", "tokenizer 2,048 on general", [], stage_kind="data", data="general")
    tokens = {
        data: builder.add("tokens", f"tokens {data}", [tokenizer], stage_kind="data", data=data)
        for data in ("general", *TASKS)
    }
    arms = [row for seed in range(trunk_seeds) for row in _trunk(builder, tokens, seed, sft_seeds)]
    return SyntheticStudy(
        {
            "name": name,
            "question": "Does code help code?",
            "notes": [],
            "command": f"midstudy run {name}.py",
            "arms": arms,
            "stages": builder.stages,
            "counts": [],
            "general": "general",
            "sources": {data: f"wheels:{data}" for data in tokens},
            "steps": {"planned": 0, "lower_bound": 0, "without_sharing": 0},
        }
    )


def _trunk(builder: _Builder, tokens: Mapping[str, str], seed: int, sft_seeds: int) -> Iterator[dict[str, Any]]:
    common = {"size": "micro", "trunk_seed": seed}
    trunk = builder.add(
        "state", f"pretrain micro seed {seed} to step {START_STEP}", [tokens["general"]], num_steps=START_STEP,
        stage_kind="pretrain", step=START_STEP, **common,
    )  # fmt: skip
    for mix, weight in MIXES.items():
        start_step = 0 if mix == "control" else START_STEP
        mixed = {} if mix == "control" else {"mix": mix, "weight": weight, "start_step": start_step}
        mix_label = mix if mix == "control" else f"{mix}{100 * weight:g}@{start_step}"
        label = f"pretrain micro seed {seed} to step {STEPS}" if mix == "control" else (
            f"midtrain micro {mix_label} seed {seed} to step {STEPS}"
        )  # fmt: skip
        kind = "pretrain" if mix == "control" else "midtrain"
        start = builder.add(
            "state", label, [trunk, tokens["general"]], num_steps=STEPS - START_STEP, stage_kind=kind, step=STEPS,
            **common, **mixed,
        )  # fmt: skip

        def evaluate(state: str, data: str, when: str) -> str:
            made = builder.stages[state]
            factors = {**made["factors"], "stage_kind": "evaluation", "data": data, "split": "test", "when": when}
            label = f"evaluate {made['label']} on {data} test"
            return builder.add("evaluation", label, [state, tokens[data]], **factors)

        general_before = evaluate(start, "general", "before")
        for task in TASKS:
            task_before = evaluate(start, task, "before")
            for sft_seed in range(sft_seeds):
                arm = {"mix": mix, "weight": weight, "start_step": start_step, "task": task, **common}
                arm["sft_seed"] = sft_seed
                final = builder.add(
                    "state", f"sft micro {mix_label} → {task}, trunk {seed}, SFT {sft_seed}", [start, tokens[task]],
                    num_steps=SFT_STEPS, stage_kind="sft", step=STEPS + SFT_STEPS, **arm,
                )  # fmt: skip
                yield {
                    **arm,
                    "specialists": {mix: weight} if weight else {},
                    "start_fraction": start_step / STEPS,
                    "pretrain_tokens": STEPS * 2048,
                    "specialist_tokens": int(weight * (STEPS - start_step) * 2048),
                    "groups": "main",
                    "start_state": start,
                    "final_state": final,
                    "task_evaluation": evaluate(final, task, "after"),
                    "general_evaluation": evaluate(final, "general", "after"),
                    "task_evaluation_before": task_before,
                    "general_evaluation_before": general_before,
                }


def frozen(store: Store, study: SyntheticStudy) -> SyntheticStudy:
    """The study with its manifest in the store."""
    freeze(store, study.manifest)
    return study
