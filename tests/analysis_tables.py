"""Synthetic tables of arms with known effects, for the tests of the analysis."""

from __future__ import annotations

import math

import pandas as pd

from midstudy.analysis.arms import ARM_COLUMNS

STEPS = 100
TRUNK_OFFSET = {1: 0.00, 2: 0.03, 3: -0.02}  # what a trunk seed shares between all of its arms
SFT_OFFSET = {10: 0.000, 11: 0.004}


def run(
    mix: str,
    task: str,
    *,
    sft_loss: float,
    general_loss: float = 5.0,
    trunk_seed: int = 1,
    sft_seed: int = 10,
    size: str = "micro",
    weight: float | None = None,
    start_step: int | None = None,
    groups: str = "main",
) -> dict[str, object]:
    """One row; a mix defaults to 20 % from step 50, the control to weight 0."""
    is_control = mix == "control"
    weight = (0.0 if is_control else 0.2) if weight is None else weight
    start = (0 if is_control else 50) if start_step is None else start_step
    row = {
        "study": "bridging",
        "size": size,
        "mix": mix,
        "weight": weight,
        "start_step": start,
        "start_fraction": start / STEPS,
        "task": task,
        "trunk_seed": trunk_seed,
        "sft_seed": sft_seed,
        "groups": groups,
        "specialist_tokens": round(weight * (STEPS - start) * 2_048),
        "pretrain_tokens": STEPS * 2_048,
        "sft_loss": sft_loss,
        "general_loss": general_loss,
        "sft_loss_before": sft_loss + 1.0,
        "general_loss_before": general_loss - 0.5,
        "sft_state": f"sft-{size}-{mix}-{weight}-{start}-{task}-{trunk_seed}-{sft_seed}",
        "start_state": f"state-{size}-{mix}-{weight}-{start}-{trunk_seed}",
    }
    assert list(row) == list(ARM_COLUMNS)
    return row


def cell(
    mix: str,
    task: str,
    *,
    by_trunk_seed: dict[int, float],
    general: dict[int, float] | None = None,
    sft_seeds: tuple[int, ...] = (10, 11),
    **fields: object,
) -> list[dict[str, object]]:
    """An arm on several trunk seeds; SFT seeds add an offset of their own."""
    return [
        run(
            mix,
            task,
            sft_loss=loss + SFT_OFFSET[sft_seed],
            general_loss=(general or {}).get(trunk_seed, 5.0),
            trunk_seed=trunk_seed,
            sft_seed=sft_seed,
            **fields,  # type: ignore[arg-type]
        )
        for trunk_seed, loss in by_trunk_seed.items()
        for sft_seed in sft_seeds
    ]


#: (mix, task) → how far below the control, in nats, by trunk seed 1, 2, 3.
KNOWN_EFFECTS = {
    ("code", "pycode"): (0.50, 0.54, 0.46),
    ("math", "pycode"): (0.01, -0.02, 0.00),
    ("instruction", "pycode"): (0.00, 0.02, -0.01),
    ("code", "word_problems"): (0.03, 0.02, 0.01),
    ("math", "word_problems"): (0.20, 0.24, 0.19),
    ("instruction", "word_problems"): (0.01, -0.01, 0.005),
}
CONTROL_LOSS = {"pycode": 4.8, "word_problems": 4.0}


def study_table() -> pd.DataFrame:
    """Main arms on three trunk seeds with ``KNOWN_EFFECTS``, a continued arm for code, timing and weight arms."""
    rows = []
    for task, level in CONTROL_LOSS.items():
        base = {seed: level + offset for seed, offset in TRUNK_OFFSET.items()}
        rows += cell("control", task, by_trunk_seed=base, general={1: 5.4, 2: 5.5, 3: 5.45})
        for (mix, effect_task), gains in KNOWN_EFFECTS.items():
            if effect_task == task:
                losses = {seed: base[seed] - gain for seed, gain in zip(base, gains, strict=True)}
                groups = "main,timing,weight" if (mix, task) == ("code", "pycode") else "main"
                rows += cell(mix, task, by_trunk_seed=losses, general={1: 5.0, 2: 5.12, 3: 5.03}, groups=groups)
    base = {seed: CONTROL_LOSS["pycode"] + offset for seed, offset in TRUNK_OFFSET.items()}

    def below(gains: tuple[float, float, float]) -> dict[int, float]:
        return {seed: base[seed] - gain for seed, gain in zip(base, gains, strict=True)}

    general = {1: 5.9, 2: 6.05, 3: 5.95}
    rows += cell("code", "pycode", by_trunk_seed=below((0.40, 0.46, 0.37)), general=general, weight=1.0, groups="continued")
    rows += cell("code", "pycode", by_trunk_seed=below((0.7, 0.72, 0.66)), start_step=10, groups="timing")
    rows += cell("code", "pycode", by_trunk_seed=below((0.2, 0.25, 0.15)), start_step=80, groups="timing")
    rows += cell("code", "pycode", by_trunk_seed=below((0.3, 0.31, 0.27)), weight=0.1, groups="weight")
    return pd.DataFrame(rows)


def proximity_table() -> pd.DataFrame:
    """Proximity advantages that agree with ``KNOWN_EFFECTS`` in order for the matched pairs."""
    advantages = {
        ("code", "pycode"): 0.16,
        ("math", "pycode"): 0.01,
        ("instruction", "pycode"): 0.002,
        ("code", "word_problems"): -0.01,
        ("math", "word_problems"): 0.05,
        ("instruction", "word_problems"): 0.004,
    }
    return pd.DataFrame(
        {
            "mix": mix,
            "weight": 0.2,
            "task": task,
            "pa_combined": value,
            "pa_cosine": value / 2,
            "pa_jaccard": value / 3,
            "pa_js": value / 4,
            "mix_combined": 0.5 + value,
            "control_combined": 0.5,
        }
        for (mix, task), value in advantages.items()
    )


def unfinished(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The table with the losses of the matching rows not there yet."""
    table = table.copy()
    mask = pd.Series(True, index=table.index)
    for column, value in where.items():
        mask &= table[column] == value
    assert mask.any()
    losses = ["sft_loss", "general_loss", "sft_loss_before", "general_loss_before"]
    table.loc[mask, losses] = math.nan
    return table
