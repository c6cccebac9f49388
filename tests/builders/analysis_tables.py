"""Synthetic tables of studies with known effects, without a store, for the tests of analysis and report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from midstudy.analysis.tables import Tables
from midstudy.recipe.factors import Value, selects
from midstudy.recipe.manifest import (
    SCHEMA,
    ArmEntry,
    ColumnEntry,
    ComparisonEntry,
    Manifest,
    MixEntry,
    StageEntry,
    StepsEntry,
)
from midstudy.recipe.study import Claim

STEPS = 100
TRUNK_OFFSET = (0.00, 0.03, -0.02)  # added to all arms of a trunk seed
SFT_OFFSET = {10: 0.000, 11: 0.004}

#: (mix, task) → nats below the control, by trunk seed.
KNOWN_EFFECTS = {
    ("code", "pycode"): (0.50, 0.54, 0.46),
    ("math", "pycode"): (0.01, -0.02, 0.00),
    ("instruction", "pycode"): (0.00, 0.02, -0.01),
    ("code", "word_problems"): (0.03, 0.02, 0.01),
    ("math", "word_problems"): (0.20, 0.24, 0.19),
    ("instruction", "word_problems"): (0.01, -0.01, 0.005),
}
CONTROL_LOSS = {"pycode": 4.8, "word_problems": 4.0}
#: (weight, start step) of additional code arms on pycode → nats below the control, by trunk seed.
KNOWN_VARIANTS = {
    (1.0, 50): (0.40, 0.46, 0.37),
    (0.2, 10): (0.70, 0.72, 0.66),
    (0.2, 80): (0.20, 0.25, 0.15),
    (0.1, 50): (0.30, 0.31, 0.27),
}
ADVANTAGES = {
    ("code", "pycode"): 0.16,
    ("math", "pycode"): 0.01,
    ("instruction", "pycode"): 0.002,
    ("code", "word_problems"): -0.01,
    ("math", "word_problems"): 0.05,
    ("instruction", "word_problems"): 0.004,
}

Row = Mapping[str, Any]


def tables_of(
    rows: Sequence[Row],
    comparisons: Sequence[Mapping[str, Any]],
    *,
    columns: Mapping[str, str],
    seeds: tuple[str, ...] = ("trunk_seed", "sft_seed"),
    claims: Sequence[Claim] = (),
    curves: Sequence[Row] = (),
    proximity: pd.DataFrame | None = None,
    mixes: Sequence[MixEntry] = (),
) -> Tables:
    """Return the tables of any study.

    Args:
        rows: one for each arm: its factors, the measured columns, and any other columns of the table of arms.
        comparisons: fields of `ComparisonEntry`; `arms` and `references` are selections of factors or lists of rows.
        columns: measured column → which direction is better.
    """
    own = {"state", "num_steps", "num_tokens", "flops", "wall_s"}
    factors = [name for name in rows[0] if name not in columns and name not in own and ":" not in name]
    stages: dict[str, StageEntry] = {}
    arms = []
    for number, row in enumerate(rows):
        labels = {name: row[name] for name in factors}
        name = " ".join(str(value) for value in labels.values())
        state = str(row.get("state", f"{number:016x}"))
        measures = {column: (f"{column.replace('_', '')}{number}",) for column in columns}
        stages[state] = _stage("state", "sft", f"sft {name}", labels, step=STEPS + 5)
        for column, (evaluation,) in measures.items():
            stages[evaluation] = _stage(
                "evaluation", "evaluation", f"{column} of {name}", labels, parents=(state,), step=STEPS + 5
            )
        tokens = {key.partition(":")[2]: int(value) for key, value in row.items() if key.startswith("tokens:")}
        doses = {key.partition(":")[2]: float(value) for key, value in row.items() if key.startswith("dose:")}
        arms.append(
            ArmEntry(
                factors=labels,
                state=state,
                measures=measures,
                num_steps=int(row.get("num_steps", STEPS + 5)),
                tokens=tokens,
                items={},
                dose=doses,
                flops=1e9,
            )
        )
    manifest = Manifest(
        schema=SCHEMA,
        name="synthetic",
        question="Does it help?",
        notes=(),
        report="study",
        command="midstudy run synthetic.py",
        seeds=seeds,
        columns={
            name: ColumnEntry(
                metric="accuracy" if better == "higher" else "loss_nats",
                better=better,
                is_curve=False,
                data="general" if name.startswith("general") else "task",
                split="test",
            )
            for name, better in columns.items()
        },
        arms=tuple(arms),
        comparisons=tuple(_comparison(arms, fields) for fields in comparisons),
        claims=tuple(claims),
        stages=stages,
        counts=(),
        mixes=tuple(mixes),
        uses=(),
        sources={},
        steps=StepsEntry(planned=1000, lower_bound=900, without_sharing=5000),
    )
    table = pd.DataFrame(
        {
            "study": manifest.name,
            **{name: row[name] for name in (*factors, *columns)},
            "state": arm.state,
            "num_steps": arm.num_steps,
            "num_tokens": int(row.get("num_tokens", sum(arm.tokens.values()))),
            "flops": arm.flops,
            "wall_s": 10.0,
            **{name: value for name, value in row.items() if ":" in name},
        }
        for row, arm in zip(rows, arms, strict=True)
    )
    known = [*(["arm"] if not curves else []), *factors, "column", "step", "value"]
    curve_table = pd.DataFrame(list(curves)) if curves else pd.DataFrame(columns=known)
    return Tables(manifest, table, curve_table, None if proximity is None else similarity_table(), proximity)


def bridging_tables(
    *,
    sizes: Sequence[str] = ("micro",),
    trunk_seeds: Sequence[int] = (0, 1, 2),
    unfinished: Sequence[Mapping[str, Value]] = (),
    claims: Sequence[Claim] = (),
    sft_loss: Mapping[tuple[str, str], float] | None = None,
) -> Tables:
    """Return the bridging study with `KNOWN_EFFECTS` and `KNOWN_VARIANTS`, up to three trunk seeds and two SFT seeds each.

    Args:
        unfinished: selections of factors of arms whose losses are missing.
        sft_loss: (mix, task) → nats added to the SFT loss of its main arm.
    """
    rows: list[dict[str, Any]] = []
    for size in sizes:
        for task, level in CONTROL_LOSS.items():
            rows += _cell(size, "control", task, level, (0.0, 0.0, 0.0), trunk_seeds, general=(5.4, 5.5, 5.45))
            for (mix, effect_task), gains in KNOWN_EFFECTS.items():
                if effect_task == task:
                    moved = level + (sft_loss or {}).get((mix, task), 0.0)
                    rows += _cell(size, mix, task, moved, gains, trunk_seeds, general=(5.0, 5.12, 5.03))
        for (weight, start), gains in KNOWN_VARIANTS.items():
            general = (5.9, 6.05, 5.95) if weight == 1.0 else (5.0, 5.0, 5.0)
            level = CONTROL_LOSS["pycode"]
            rows += _cell(size, "code", "pycode", level, gains, trunk_seeds, general=general, weight=weight, start=start)
    for row in rows:
        if any(selects(wanted, row) for wanted in unfinished):
            row |= dict.fromkeys(("sft_loss", "general_loss", "sft_loss_before", "general_loss_before"), math.nan)
    control, code = {"mix": "control"}, {"mix": "code", "task": "pycode"}
    losses = ("sft_loss", "general_loss")
    match = ("size", "task")
    main: dict[str, Value | tuple[Value, ...]] = {"mix": ("code", "math", "instruction"), "weight": 0.2, "start_step": 50}
    comparisons = [
        {"name": "main", "arms": main, "references": control, "columns": losses, "match": match},
        {
            "name": "timing",
            "arms": {**code, "weight": 0.2},
            "references": control,
            "columns": losses,
            "match": match,
            "along": "start_step",
        },
        {
            "name": "weight",
            "arms": {**code, "start_step": 50, "weight": (0.1, 0.2)},
            "references": control,
            "columns": losses,
            "match": match,
            "along": "weight",
        },
        {
            "name": "continued",
            "arms": {**main, **code},
            "references": {**code, "weight": 1.0},
            "columns": losses,
            "match": ("size", "mix", "task"),
        },
    ]
    mixes = [
        MixEntry(
            name=f"{mix} 20 %", shares={"general": 0.8, mix: 0.2}, reference="general", factors={"mix": mix, "weight": 0.2}
        )
        for mix in ("code", "math", "instruction")
    ]
    columns = dict.fromkeys((*losses, "sft_loss_before", "general_loss_before"), "lower")
    return tables_of(rows, comparisons, columns=columns, claims=claims, proximity=proximity_table(), mixes=mixes)


def proximity_table() -> pd.DataFrame:
    """Return proximity advantages whose order agrees with `KNOWN_EFFECTS` for the matched pairs."""
    return pd.DataFrame(
        {
            "mix_name": f"{mix} 20 %",
            "mix": mix,
            "weight": 0.2,
            "task": task,
            "reference": "general",
            "pa_combined": value,
            "pa_cosine": value / 2,
            "pa_jaccard": value / 3,
            "pa_js": value / 4,
            "mix_cosine": 0.5 + value,
            "mix_jaccard": 0.5 + value,
            "mix_jsd_nats": 0.3,
            "mix_combined": 0.5 + value,
            "control_cosine": 0.5,
            "control_jaccard": 0.5,
            "control_jsd_nats": 0.3,
            "control_combined": 0.5,
        }
        for (mix, task), value in ADVANTAGES.items()
    )


def similarity_table() -> pd.DataFrame:
    """Return the similarities between the corpora, mixtures and tasks of the bridging study."""
    kinds = {"general": "corpus", "code": "corpus", "math": "corpus", "pycode": "task", "word_problems": "task"}
    kinds |= {f"{mix} 20 %": "mixture" for mix in ("code", "math", "instruction")}
    return pd.DataFrame(
        {
            "left": left,
            "left_kind": kinds[left],
            "right": right,
            "right_kind": kinds[right],
            "cosine": 0.9 if left == right else 0.5,
            "jaccard": 0.9 if left == right else 0.4,
            "jsd_nats": 0.05 if left == right else 0.3,
            "combined": 0.9 if left == right else 0.5,
        }
        for left in kinds
        for right in kinds
    )


def _cell(
    size: str,
    mix: str,
    task: str,
    level: float,
    gains: Sequence[float],
    trunk_seeds: Sequence[int],
    *,
    general: Sequence[float],
    weight: float = 0.2,
    start: int = 50,
) -> list[dict[str, Any]]:
    """Return the rows of an arm on several trunk seeds; each SFT seed adds its own offset."""
    is_control = mix == "control"
    weight, start = (0.0, 0) if is_control else (weight, start)
    specialist = round(weight * (STEPS - start) * 2_048)
    amounts = {name: specialist if name == mix else 0 for name in ("code", "math", "instruction")}
    total = STEPS * 2_048
    return [
        {
            "size": size,
            "trunk_seed": seed,
            "mix": mix,
            "weight": weight,
            "start_step": start,
            "task": task,
            "sft_seed": sft_seed,
            "sft_loss": level + TRUNK_OFFSET[seed] - gains[seed] + SFT_OFFSET[sft_seed],
            "general_loss": general[seed],
            "sft_loss_before": level + TRUNK_OFFSET[seed] - gains[seed] + 1.0,
            "general_loss_before": general[seed] - 0.5,
            "tokens:general": total - specialist,
            **{f"tokens:{name}": value for name, value in amounts.items()},
            "dose:general": 1 - specialist / total,
            **{f"dose:{name}": value / total for name, value in amounts.items()},
        }
        for seed in trunk_seeds
        for sft_seed in SFT_OFFSET
    ]


def _comparison(arms: Sequence[ArmEntry], fields: Mapping[str, Any]) -> ComparisonEntry:
    def rows(wanted: Any) -> tuple[int, ...]:
        if isinstance(wanted, Mapping):
            return tuple(number for number, arm in enumerate(arms) if selects(wanted, arm.factors))
        return tuple(wanted)

    entry = {"title": fields["name"], "match": (), "along": None, **fields}
    return ComparisonEntry(**entry | {"arms": rows(fields["arms"]), "references": rows(fields["references"])})


def _stage(
    kind: str, role: str, label: str, factors: Mapping[str, Value], *, parents: tuple[str, ...] = (), step: int
) -> StageEntry:
    return StageEntry(
        kind=kind,
        role=role,
        label=label,
        parents=parents,
        start_from=None,
        continues_trunk=False,
        keeps_optimizer=False,
        num_steps=0,
        num_tokens=0,
        cost_s=1.0,
        disk_bytes=0,
        factors=factors,
        model="micro",
        step=step,
        data="",
        split="",
    )
