"""Two studies side by side: the arms that both have, their effects, their claims, and what their recipes differ in.

Arms of two studies correspond if they agree in every factor that both studies have. Differences are the second study's
value minus the first's.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from midstudy.analysis.claims import judge
from midstudy.analysis.effects import cell_factors, effects
from midstudy.analysis.intervals import CONFIDENCE, mean_interval
from midstudy.analysis.tables import Tables, arms_table, curves_table, similarity_tables
from midstudy.recipe.explain import differences
from midstudy.recipe.factors import Value
from midstudy.recipe.manifest import Manifest
from midstudy.store.store import Store

AGREE, DIFFER, EQUAL, UNKNOWN = "agree", "differ", "equal", "unknown"
"""Whether effects agree: the 95 % interval of their difference holds 0, or not; all values are equal; no interval."""

Key = tuple[Value, ...]
Canonical = Callable[[str], Mapping[str, Any]]
"""Returns the canonical recipe of a stage id."""


@dataclass(frozen=True, eq=False)
class TwoStudies:
    """What two studies, `a` and `b`, have in common and what they do not.

    `factors`: the factors of both. `own_factors`, `own_columns`: the names that only one study has, or, of columns, that it
    measures differently. `own_arms`: how many arms of each have no counterpart, or several.

    `arms`: one row per arm and measured column of both: the factors, column, a, b, difference (NaN if one is not finished).
    `effects`: one row per comparison of this name in both, column and cell: comparison, column, the factors except seeds;
    a, b with a_low, a_high, b_low, b_high, num_seeds_a and num_seeds_b as in `effects.difference`; difference with low and
    high; basis, what the interval rests on; agreement.
    `claims`: one row per claim whose text both have: text, same_test, a, b (verdicts), agree, a_found, b_found. `own_claims`
    counts the others.
    `recipes`: one row per recipe field in which arms of both differ: part ("training", or the measured column), path, a, b,
    num_arms.
    """

    factors: tuple[str, ...]
    own_factors: tuple[tuple[str, ...], tuple[str, ...]]
    own_columns: tuple[tuple[str, ...], tuple[str, ...]]
    own_arms: tuple[int, int]
    own_claims: tuple[int, int]
    arms: pd.DataFrame
    effects: pd.DataFrame
    claims: pd.DataFrame
    recipes: pd.DataFrame


def measured_tables(store: Store, manifest: Manifest) -> Tables:
    """Return a study's tables as its store has them now, without results per item."""
    similarity, proximity = similarity_tables(store, manifest)
    return Tables(manifest, arms_table(store, manifest), curves_table(store, manifest), similarity, proximity)


def compare(a: Tables, b: Tables, *, canonical_a: Canonical, canonical_b: Canonical) -> TwoStudies:
    """Compare two studies.

    Raises:
        ValueError: the studies have no factor in common.
    """
    names = [one.manifest.factor_names for one in (a, b)]
    factors = tuple(name for name in names[0] if name in names[1])
    if not factors:
        listed = " and ".join(
            f"{', '.join(own) or 'none'} ({one.manifest.name})" for own, one in zip(names, (a, b), strict=True)
        )
        raise ValueError(f"expected studies with a factor in common, got {listed}")
    columns = _common_columns(a.manifest, b.manifest)
    pairs = _pairs(a.manifest, b.manifest, factors)
    own_columns = [tuple(name for name in _measured(one.manifest) if name not in columns) for one in (a, b)]
    texts = [{claim.text for claim in one.manifest.claims} for one in (a, b)]
    return TwoStudies(
        factors=factors,
        own_factors=(_without(names[0], factors), _without(names[1], factors)),
        own_columns=(own_columns[0], own_columns[1]),
        own_arms=(len(a.arms) - len(pairs), len(b.arms) - len(pairs)),
        own_claims=(len(texts[0] - texts[1]), len(texts[1] - texts[0])),
        arms=_arms(a, b, pairs, factors, columns),
        effects=_effects(a, b, factors, columns),
        claims=_claims(a, b),
        recipes=_recipes(a.manifest, b.manifest, pairs, columns, canonical_a, canonical_b),
    )


def _without(names: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in others)


def _measured(manifest: Manifest) -> list[str]:
    return [name for name, column in manifest.columns.items() if not column.is_curve]


def _common_columns(a: Manifest, b: Manifest) -> list[str]:
    """Return the columns, except curves, that both studies measure by the same metric in the same direction."""
    common = [name for name in _measured(a) if name in _measured(b)]
    return [
        name for name in common
        if (a.columns[name].metric, a.columns[name].better) == (b.columns[name].metric, b.columns[name].better)
    ]  # fmt: skip


def _pairs(a: Manifest, b: Manifest, factors: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return the rows of corresponding arms, in the order of `a`; values that several arms of a study share are left out."""
    rows_a, rows_b = (
        _unique({row: tuple(arm.factors[name] for name in factors) for row, arm in enumerate(one.arms)}) for one in (a, b)
    )
    return [(row, rows_b[key]) for key, row in rows_a.items() if key in rows_b]


def _unique(keys: Mapping[int, Key]) -> dict[Key, int]:
    times = Counter(keys.values())
    return {key: row for row, key in keys.items() if times[key] == 1}


def _arms(a: Tables, b: Tables, pairs: list[tuple[int, int]], factors: tuple[str, ...], columns: list[str]) -> pd.DataFrame:
    rows = []
    for row_a, row_b in pairs:
        labels = {name: a.manifest.arms[row_a].factors[name] for name in factors}
        for column in columns:
            values = float(a.arms[column].iloc[row_a]), float(b.arms[column].iloc[row_b])
            rows.append({**labels, "column": column, "a": values[0], "b": values[1], "difference": values[1] - values[0]})
    return pd.DataFrame(rows, columns=[*factors, "column", "a", "b", "difference"])


def _effects(a: Tables, b: Tables, factors: tuple[str, ...], columns: list[str]) -> pd.DataFrame:
    own_cells = cell_factors(a), cell_factors(b)
    cell = [name for name in factors if all(name in own for own in own_cells)]
    same_seed = a.manifest.seeds[:1] == b.manifest.seeds[:1]
    rows = []
    for comparison_a in a.manifest.comparisons:
        comparison_b = next((one for one in b.manifest.comparisons if one.name == comparison_a.name), None)
        if comparison_b is None:
            continue
        for column in columns:
            if column not in comparison_a.columns or column not in comparison_b.columns:
                continue
            found_a, found_b = effects(a, comparison_a, column), effects(b, comparison_b, column)
            cells_a, cells_b = (
                _unique({row: tuple(values) for row, values in enumerate(table[cell].itertuples(index=False, name=None))})
                for table in (found_a.table, found_b.table)
            )
            for key, row in cells_a.items():
                if key not in cells_b:
                    continue
                of_a, of_b = found_a.table.iloc[row], found_b.table.iloc[cells_b[key]]
                seeds_a, seeds_b = (
                    _by_seed(found.by_seed, table, own, one.manifest)
                    for found, table, own, one in (
                        (found_a, of_a, own_cells[0], a),
                        (found_b, of_b, own_cells[1], b),
                    )
                )
                rows.append(
                    {
                        "comparison": comparison_a.name,
                        "column": column,
                        **dict(zip(cell, key, strict=True)),
                        **{
                            f"{side}{part}": float(of[name])
                            for side, of in (("a", of_a), ("b", of_b))
                            for part, name in _PARTS
                        },
                        "num_seeds_a": int(of_a["num_seeds"]),
                        "num_seeds_b": int(of_b["num_seeds"]),
                        **difference_of_effects(seeds_a, seeds_b, same_seed=same_seed),
                    }
                )
    known = [f"{side}{part}" for side in "ab" for part, _ in _PARTS]
    last = ["num_seeds_a", "num_seeds_b", "difference", "low", "high", "basis", "agreement"]
    return pd.DataFrame(rows, columns=["comparison", "column", *cell, *known, *last])


_PARTS = (("", "difference"), ("_low", "ci_low"), ("_high", "ci_high"))


def _by_seed(table: pd.DataFrame, row: pd.Series, cell: list[str], manifest: Manifest) -> dict[Any, float]:
    """Return the difference of one cell by the value of the first seed; without seeds there is one, under None."""
    chosen = np.logical_and.reduce([(table[name] == row[name]).to_numpy() for name in cell]) if cell else slice(None)
    rows = table[chosen]
    seeds = rows[manifest.seeds[0]] if manifest.seeds else [None] * len(rows)
    return dict(zip(seeds, rows["difference"].astype(float), strict=True))


def difference_of_effects(a: Mapping[Any, float], b: Mapping[Any, float], *, same_seed: bool) -> dict[str, Any]:
    """Return how much larger an effect is in study `b` than in `a`, with a 95 % interval: difference, low, high, basis,
    agreement.

    Args:
        a, b: the effect by the value of the replicating seed.
        same_seed: whether both studies replicate by the same factor. If seeds are then common, the interval is the paired t
            interval over the common seeds; else that of two independent means with unequal variances.
    """
    common = [seed for seed in a if seed in b] if same_seed else []
    if common:
        by_seed = [b[seed] - a[seed] for seed in common]
        paired = mean_interval(by_seed)
        basis = f"{len(common)} common seed{'s' * (len(common) != 1)}"
        if not any(by_seed):
            return {"difference": 0.0, "low": math.nan, "high": math.nan, "basis": basis, "agreement": EQUAL}
        value, low, high = paired.mean, paired.low, paired.high
    else:
        basis = f"independent, {len(a)} and {len(b)} seeds"
        value = float(np.mean([*b.values()]) - np.mean([*a.values()]))
        low, high = _welch([*a.values()], [*b.values()])
    agreement = UNKNOWN if math.isnan(low) else AGREE if low <= 0 <= high else DIFFER
    return {"difference": value, "low": low, "high": high, "basis": basis, "agreement": agreement}


def _welch(a: list[float], b: list[float]) -> tuple[float, float]:
    """Return Welch's interval of mean(b) − mean(a) (Biometrika 34, 1947).

    NaN unless both have two values or more, and those of one of them vary, as in `mean_interval`.
    """
    if min(len(a), len(b)) < 2 or max(np.std(a), np.std(b)) <= 1e-12 * np.abs([*a, *b]).max():
        return math.nan, math.nan
    from scipy import stats

    variances = [float(np.var(values, ddof=1)) / len(values) for values in (a, b)]
    degrees = sum(variances) ** 2 / sum(one**2 / (len(values) - 1) for one, values in zip(variances, (a, b), strict=True))
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * math.sqrt(sum(variances))
    difference = float(np.mean(b) - np.mean(a))
    return difference - half_width, difference + half_width


def _claims(a: Tables, b: Tables) -> pd.DataFrame:
    judged_a, judged_b = ({row["text"]: row for _, row in judge(one).iterrows()} for one in (a, b))
    tests_a, tests_b = ({one.text: replace(one, source="", cited="") for one in side.manifest.claims} for side in (a, b))
    rows = [
        {
            "text": text,
            "same_test": tests_a[text] == tests_b[text],
            "a": one["verdict"],
            "b": judged_b[text]["verdict"],
            "agree": one["verdict"] == judged_b[text]["verdict"],
            "a_found": one["ours"],
            "b_found": judged_b[text]["ours"],
        }
        for text, one in judged_a.items()
        if text in judged_b
    ]
    return pd.DataFrame(rows, columns=["text", "same_test", "a", "b", "agree", "a_found", "b_found"])


def _recipes(
    a: Manifest,
    b: Manifest,
    pairs: list[tuple[int, int]],
    columns: list[str],
    canonical_a: Canonical,
    canonical_b: Canonical,
) -> pd.DataFrame:
    """Count, over the corresponding arms, the fields in which their training and their evaluations differ."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    known: dict[tuple[str, str], list[tuple[str, str, str]]] = {}

    def differing(left: str, right: str) -> list[tuple[str, str, str]]:
        if left == right:
            return []
        if (left, right) not in known:
            known[left, right] = [
                (field.path, json.dumps(field.left), json.dumps(field.right))
                for field in differences(canonical_a(left), canonical_b(right))
                if field.path != "state_id"  # of an evaluation: the states' own differences are listed under training
            ]
        return known[left, right]

    for row_a, row_b in pairs:
        arm_a, arm_b = a.arms[row_a], b.arms[row_b]
        counts.update(("training", *field) for field in differing(arm_a.state, arm_b.state))
        for column in columns:
            left, right = arm_a.measures.get(column, ()), arm_b.measures.get(column, ())
            for one, other in zip(left, right, strict=False):
                counts.update((column, *field) for field in differing(one, other))
    rows = [
        {"part": part, "path": path, "a": json.loads(left), "b": json.loads(right), "num_arms": num}
        for (part, path, left, right), num in counts.items()
    ]
    return pd.DataFrame(rows, columns=["part", "path", "a", "b", "num_arms"]).sort_values(
        "num_arms", ascending=False, kind="stable", ignore_index=True
    )
