"""A study with the shape of a real one (trunk, branches, fine-tuning, evaluations) whose stages compute nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from midstudy.recipe.factors import Value
from midstudy.recipe.manifest import SCHEMA, ArmEntry, ColumnEntry, ComparisonEntry, Manifest, StageEntry, StepsEntry
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze

STEPS, START_STEP, SFT_STEPS = 60, 30, 20
TASKS = ("pycode", "word_problems")
MIXES: Mapping[str, float] = {"control": 0.0, "code": 0.2, "math": 0.12}


@dataclass
class SyntheticStudy:
    """A study's manifest, as `run` freezes it, with its stages in an order in which parents come first."""

    manifest: Manifest

    @property
    def stages(self) -> dict[str, StageEntry]:
        return dict(self.manifest.stages)

    def arm(self, **wanted: Value) -> ArmEntry:
        """Return the first arm with these factors."""
        return next(arm for arm in self.manifest.arms if all(arm.factors[name] == wanted[name] for name in wanted))

    def start_of(self, arm: ArmEntry) -> str:
        """Return the state from which an arm's fine-tuning starts."""
        return self.stages[arm.state].parents[0]

    def publish(self, store: Store, stage_id: str) -> None:
        """Publish the stage as a job would, with a curve if it is a state and a loss if it is an evaluation."""
        stage = self.stages[stage_id]
        attempt = store.attempt(stage_id)
        metrics: dict[str, Any] = {}
        if stage.kind == "state":
            last = stage.step or 0
            for step in range(last - stage.num_steps + 1, last + 1):
                loss = 5 + 2 * math.exp(-step / 20) - (0.5 if stage.factors.get("mix") == "code" else 0)
                attempt.log_metrics({"step": step, "loss_nats": loss, "lr": 1e-3, "grad_norm": 1.0 + 1 / step})
            metrics = {"step": last, "epochs": {"general": 0.5}, "train_loss_nats": loss}
        elif stage.kind == "tokens":
            for split in ("train", "dev", "test"):
                (attempt.result / f"{split}-00000.tokens").write_text(f"{stage.label} {split}")
                metrics |= {f"{split}_tokens": 4096, f"{split}_documents": 16}
        elif stage.kind == "evaluation":
            metrics = {"loss_nats": _loss_nats(stage), "target_tokens": 4096}
        attempt.publish(
            kind=stage.kind,
            label=stage.label,
            recipe={"of": stage_id},
            canonical={"of": stage_id},
            parents=stage.parents,
            metrics=metrics,
        )

    def publish_all(self, store: Store) -> None:
        for stage_id in self.stages:
            self.publish(store, stage_id)


def _loss_nats(stage: StageEntry) -> float:
    """Return a loss: a matching mix lowers it, and a seed changes it a little."""
    factors = stage.factors
    matches = (factors.get("mix"), stage.data) in (("code", "pycode"), ("math", "word_problems"))
    base = {"pycode": 4.8, "word_problems": 4.3, "general": 5.7}[stage.data]
    tuned = 0.9 if "task" in factors else 0.0
    return base - tuned - 0.5 * matches + 0.03 * float(factors["trunk_seed"]) + 0.01 * float(factors.get("sft_seed", 0))


def stage_entry(kind: str, role: str, label: str, parents: tuple[str, ...] = (), **fields: Any) -> StageEntry:
    """Return a stage of a manifest; fields that are not given are empty."""
    usual: dict[str, Any] = {
        "start_from": None,
        "continues_trunk": False,
        "keeps_optimizer": False,
        "num_steps": 0,
        "num_tokens": 0,
        "cost_s": 0.1,
        "disk_bytes": 0,
        "factors": {},
        "model": "",
        "step": None,
        "data": "",
        "split": "",
    }
    return StageEntry(kind=kind, role=role, label=label, parents=parents, **(usual | fields))


def bare_manifest(name: str, stages: Mapping[str, StageEntry], **fields: Any) -> Manifest:
    """Return a manifest of stages; fields that are not given are empty."""
    usual: dict[str, Any] = {
        "question": "Does code help code?",
        "notes": (),
        "report": "study",
        "command": f"midstudy run {name}.py",
        "seeds": ("trunk_seed", "sft_seed"),
        "columns": {},
        "arms": (),
        "comparisons": (),
        "claims": (),
        "counts": (),
        "mixes": (),
        "uses": (),
        "sources": {},
        "steps": StepsEntry(planned=0, lower_bound=0, without_sharing=0),
    }
    return Manifest(schema=SCHEMA, name=name, stages=dict(stages), **(usual | fields))


@dataclass
class _Builder:
    stages: dict[str, StageEntry] = field(default_factory=dict)

    def add(self, kind: str, role: str, label: str, *parents: str, num_steps: int = 0, **fields: Any) -> str:
        stage_id = f"{len(self.stages):04d}{abs(hash_of(label)):012x}"
        amounts = {"num_steps": num_steps, "num_tokens": num_steps * 2048, "cost_s": 0.01 * num_steps + 0.1}
        self.stages[stage_id] = stage_entry(kind, role, label, parents, **amounts, **fields)
        return stage_id


def hash_of(text: str) -> int:
    """Return a hash that is the same in every process."""
    return int.from_bytes(text.encode("utf-8")[-6:], "big")


def synthetic_study(name: str = "synthetic", *, trunk_seeds: int = 1, sft_seeds: int = 1) -> SyntheticStudy:
    """Return a study with 3 mixes × 2 tasks × seeds; the control is the second half of the trunk."""
    builder = _Builder()
    tokenizer = builder.add("tokenizer", "data", "tokenizer 2,048 on general", data="general")
    tokens = {data: builder.add("tokens", "data", f"tokens {data}", tokenizer, data=data) for data in ("general", *TASKS)}
    arms = tuple(row for seed in range(trunk_seeds) for row in _trunk(builder, tokens, seed, sft_seeds))
    measured = {"metric": "loss_nats", "better": "lower", "is_curve": False, "split": "test"}
    columns = {
        f"{column}{when}": ColumnEntry(data="general" if column == "general_loss" else "", **measured)  # type: ignore[arg-type]
        for when in ("", "_before")
        for column in ("sft_loss", "general_loss")
    }
    control = tuple(row for row, arm in enumerate(arms) if arm.factors["mix"] == "control")
    main = ComparisonEntry(
        name="main",
        title="Which mix helps",
        arms=tuple(row for row in range(len(arms)) if row not in control),
        references=control,
        columns=("sft_loss", "general_loss"),
        match=("size", "task"),
        along=None,
    )
    sources = {data: f"wheels:{data}" for data in tokens}
    return SyntheticStudy(
        bare_manifest(name, builder.stages, arms=arms, columns=columns, comparisons=(main,), sources=sources)
    )


def _trunk(builder: _Builder, tokens: Mapping[str, str], seed: int, sft_seeds: int) -> Iterator[ArmEntry]:
    trunk_factors: dict[str, Value] = {"size": "micro", "trunk_seed": seed, "mix": "control", "weight": 0.0, "start_step": 0}
    trunk = builder.add(
        "state", "pretrain", f"pretrain micro seed {seed} to step {START_STEP}", tokens["general"], num_steps=START_STEP,
        step=START_STEP, model="micro", factors=trunk_factors,
    )  # fmt: skip
    for mix, weight in MIXES.items():
        start_step = 0 if mix == "control" else START_STEP
        factors: dict[str, Value] = {**trunk_factors, "mix": mix, "weight": weight, "start_step": start_step}
        mix_label = mix if mix == "control" else f"{mix}{100 * weight:g}@{start_step}"
        role = "pretrain" if mix == "control" else "midtrain"
        name = f"pretrain micro seed {seed}" if mix == "control" else f"midtrain micro {mix_label} seed {seed}"
        start = builder.add(
            "state", role, f"{name} to step {STEPS}", trunk, tokens["general"], num_steps=STEPS - START_STEP, step=STEPS,
            model="micro", factors=factors,
        )  # fmt: skip

        def evaluate(state: str, data: str) -> str:
            made = builder.stages[state]
            about: dict[str, Any] = {
                "data": data,
                "split": "test",
                "step": made.step,
                "model": made.model,
                "factors": made.factors,
            }
            return builder.add(
                "evaluation", "evaluation", f"evaluate {made.label} on {data} test", state, tokens[data], **about
            )

        general_before = evaluate(start, "general")
        for task in TASKS:
            task_before = evaluate(start, task)
            for sft_seed in range(sft_seeds):
                of_arm: dict[str, Value] = {**factors, "task": task, "sft_seed": sft_seed}
                final = builder.add(
                    "state", "sft", f"sft micro {mix_label} → {task}, trunk {seed}, SFT {sft_seed}", start, tokens[task],
                    num_steps=SFT_STEPS, step=STEPS + SFT_STEPS, model="micro", factors=of_arm,
                )  # fmt: skip
                yield ArmEntry(
                    factors=of_arm,
                    state=final,
                    measures={
                        "sft_loss": (evaluate(final, task),),
                        "general_loss": (evaluate(final, "general"),),
                        "sft_loss_before": (task_before,),
                        "general_loss_before": (general_before,),
                    },
                    num_steps=STEPS + SFT_STEPS,
                    tokens={"general": int((1 - weight) * STEPS * 2048), mix: int(weight * STEPS * 2048)},
                    items={task: SFT_STEPS},
                    dose={},
                    flops=1.0,
                )


def frozen(store: Store, study: SyntheticStudy) -> SyntheticStudy:
    """Write the study's manifest into the store; return the study."""
    freeze(store, study.manifest)
    return study
