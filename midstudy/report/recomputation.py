"""The notebook `analysis.ipynb` beside a report: a study's effects and figures from its Parquet files, without midstudy.

It needs pandas, NumPy and Matplotlib, and SciPy for intervals, so that a reader can check the report's numbers, or go on
from the tables where midstudy is not installed. What the tables do not say (seeds, comparisons, which direction is better)
is written into its second cell. It is not executed.
"""

from __future__ import annotations

from pprint import pformat
from typing import TYPE_CHECKING, Any

from midstudy.analysis.tables import Tables
from midstudy.recipe.manifest import Manifest

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOK = "analysis.ipynb"

_READ = """
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# The study's folder: that above this notebook's, or wherever the Parquet files are.
folder = next(one for one in (Path(".."), Path(".")) if (one / "arms.parquet").exists())
tables = {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
arms = tables["arms"]
pd.Series({name: len(table) for name, table in tables.items()}, name="rows")
"""

_PAIRED = '''
def paired(comparison, column):
    """Return the differences of arms to their references by cell and replicating seed; positive is better.

    An arm's reference has the same match factors and the same seeds. Seeds after the first are averaged within it.
    """
    compared = COMPARISONS[comparison]
    keys = [*compared["match"], *SEEDS]
    arm = arms.iloc[compared["arms"]][[*FACTORS, column]].rename(columns={column: "value"})
    reference = arms.iloc[compared["references"]][[*keys, column]].rename(columns={column: "reference"})
    pairs = arm.merge(reference, on=keys) if keys else arm.merge(reference, how="cross")
    pairs = pairs.dropna(subset=["value", "reference"])
    means = pairs.groupby([*CELL, *SEEDS[:1]], sort=False)[["reference", "value"]].mean().reset_index()
    sign = 1 if BETTER[column] == "higher" else -1
    means["difference"] = sign * (means["value"] - means["reference"])
    means["relative_improvement"] = means["difference"] / means["reference"].abs().replace(0, np.nan)
    return means
'''

_EFFECTS = '''
try:
    from scipy import stats
except ImportError:
    stats = None
    print("Intervals need SciPy, which is not installed: they are NaN.")


def interval(values):
    """Return the 95 % t-interval of a mean; NaN for one value, and for values that do not vary."""
    num = len(values)
    deviation = values.std(ddof=1)
    if stats is None or num < 2 or not deviation > 1e-12 * values.abs().max():
        return np.nan, np.nan
    half_width = stats.t.ppf(0.975, num - 1) * deviation / np.sqrt(num)
    return values.mean() - half_width, values.mean() + half_width


def effects(comparison, column):
    """Return one row per cell: mean values, and the mean difference over seeds with its interval."""
    by_seed = paired(comparison, column)
    rows = []
    for cell, seeds in by_seed.groupby(CELL, sort=False) if CELL else [((), by_seed)]:
        row = {"comparison": comparison, "column": column, **dict(zip(CELL, cell)), "num_seeds": len(seeds)}
        row |= seeds[["reference", "value", "difference", "relative_improvement"]].mean().to_dict()
        row["ci_low"], row["ci_high"] = interval(seeds["difference"])
        row["relative_ci_low"], row["relative_ci_high"] = interval(seeds["relative_improvement"])
        rows.append(row)
    return pd.DataFrame(rows)


results = pd.concat([effects(name, column) for name, one in COMPARISONS.items() for column in one["columns"]])
results
'''

_FOREST = """
name, compared = next(iter(COMPARISONS.items()))
shown = results[results["comparison"] == name]
varying = [factor for factor in CELL if shown[factor].nunique() > 1]
figure, panels = plt.subplots(
    1, len(compared["columns"]), squeeze=False, sharey=True, figsize=(10, 1.5 + 0.25 * len(shown) / len(compared["columns"]))
)
for axes, column in zip(panels[0], compared["columns"]):
    rows = shown[shown["column"] == column]
    labels = [", ".join(str(row[factor]) for factor in varying) or name for _, row in rows.iterrows()]
    ends = rows[["relative_ci_low", "relative_ci_high"]].sub(rows["relative_improvement"], axis=0).abs()
    axes.errorbar(100 * rows["relative_improvement"], labels, xerr=100 * ends.to_numpy().T, fmt="o", capsize=2)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set(title=column, xlabel="better than the reference, %")
panels[0][0].invert_yaxis()
figure.suptitle(compared["title"])
figure.tight_layout()
"""

_VALUES = """
column = next(iter(BETTER))
varying = [factor for factor in CELL if arms[factor].nunique() > 1]
labels = arms[varying].astype(str).agg(", ".join, axis=1) if varying else pd.Series("", index=arms.index)
figure, axes = plt.subplots(figsize=(8, 1.5 + 0.25 * labels.nunique()))
axes.plot(arms[column], labels, "o", fillstyle="none")
axes.invert_yaxis()
axes.set(xlabel=column, title="Measured values, a marker for each arm")
figure.tight_layout()
"""

_CURVES = """
curves = tables["curves"]
varying = [factor for factor in CELL if curves[factor].nunique() > 1]
names = list(curves["column"].unique())
figure, panels = plt.subplots(1, len(names), squeeze=False, figsize=(5 * len(names), 4))
for axes, name in zip(panels[0], names):
    chosen = curves[curves["column"] == name]
    for cell, rows in chosen.groupby(varying, sort=False) if varying else [((), chosen)]:
        mean = rows.groupby("step")["value"].mean()
        axes.plot(mean.index, mean, marker="o", markersize=3, label=", ".join(str(part) for part in cell) or "all arms")
    axes.set(xlabel="step", title=f"{name}, mean over seeds")
panels[0][-1].legend(fontsize=7)
figure.tight_layout()
"""

_TRAINING = """
training = tables["training"]
runs = training[training["role"].isin(["pretrain", "midtrain"]) & (training["split"] == "batches")]
varying = [factor for factor in CELL if runs[factor].nunique() > 1]
figure, axes = plt.subplots(figsize=(8, 4))
for number, (cell, rows) in enumerate(runs.groupby(varying, sort=False, dropna=False) if varying else [((), runs)]):
    label = ", ".join(str(part) for part in cell) or "all runs"
    for _, run in rows.groupby(SEEDS[:1]) if SEEDS else [((), rows)]:
        mean = run.groupby("step")["loss_nats"].mean()
        axes.plot(mean.index, mean, color=f"C{number}", linewidth=0.7, label=label)
        label = None  # one entry for all seeds
axes.set(xlabel="training step", ylabel="nats per token", title="Loss of training batches, a line for each run and seed")
axes.legend(fontsize=7)
figure.tight_layout()
"""

_ITEMS = """
# Nats per target token of each arm from the sums of its items, with the standard error of this ratio over items.
items = tables["items"].dropna(subset=["target_tokens"])
groups = items.groupby(["arm", "column", "step"])
loss = groups["nats"].transform("sum") / groups["target_tokens"].transform("sum")
residuals = items.assign(square=(items["nats"] - loss * items["target_tokens"]) ** 2).groupby(["arm", "column", "step"])
sums = residuals[["nats", "target_tokens", "square"]].sum().assign(num_items=groups.size())
sums["loss_nats"] = sums["nats"] / sums["target_tokens"]
variance = sums["square"] * sums["num_items"] / (sums["num_items"] - 1).replace(0, np.nan)
sums["standard_error"] = np.sqrt(variance) / sums["target_tokens"]
sums[["num_items", "loss_nats", "standard_error"]]
"""

_SIMILARITY = """
matrix = tables["similarity"].pivot(index="left", columns="right", values="combined")
figure, axes = plt.subplots(figsize=(1.5 + 0.45 * len(matrix), 1 + 0.4 * len(matrix)))
image = axes.imshow(matrix, cmap="Blues", aspect="auto")
axes.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=45, ha="right")
axes.set_yticks(range(len(matrix.index)), matrix.index)
axes.set_title("Combined similarity")
figure.colorbar(image)
figure.tight_layout()
"""


def recomputation(tables: Tables) -> NotebookNode:
    """Return the notebook for a study's tables; what a study does not have (comparisons, curves, items) has no cell."""
    from nbformat import v4

    manifest = tables.manifest
    cells: list[tuple[str, str]] = [("markdown", _introduction(manifest)), ("code", _READ)]
    if manifest.arms:
        cells.append(("code", _study(manifest)))
    if manifest.comparisons:
        cells += [
            ("markdown", "## Effects\n\nDifferences are paired: an arm and its reference share their seeds."),
            ("code", _PAIRED),
            ("code", _EFFECTS),
            ("code", _FOREST),
        ]
    if any(not column.is_curve for column in manifest.columns.values()):
        cells += [("markdown", "## Measured values"), ("code", _VALUES)]
    if len(tables.curves):
        cells += [("markdown", "## Curves over training"), ("code", _CURVES)]
    if tables.training is not None and len(manifest.arms):
        cells += [("markdown", "## Training"), ("code", _TRAINING)]
    if tables.items is not None and {"nats", "target_tokens"} <= {*tables.items}:
        cells += [("markdown", "## Results per item"), ("code", _ITEMS)]
    if tables.similarity is not None:
        cells += [("markdown", "## Similarity of the data"), ("code", _SIMILARITY)]
    new = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = [new[kind](text.strip(), id=f"cell-{number:02d}") for number, (kind, text) in enumerate(cells)]
    return v4.new_notebook(cells=made, metadata={"kernelspec": kernel})


def _introduction(manifest: Manifest) -> str:
    return (
        f"# {manifest.name}\n\n{manifest.question}\n\nThis notebook reads the tables beside the report and recomputes its "
        "effects with pandas, NumPy and Matplotlib, and SciPy for intervals. It does not import midstudy. It is written "
        "again with each report; save changes under another name."
    )


def _study(manifest: Manifest) -> str:
    """Write what the tables do not say as assignments."""
    measured = {name: column.better for name, column in manifest.columns.items() if not column.is_curve}
    comparisons = {
        one.name: {
            "title": one.title,
            "arms": [*one.arms],
            "references": [*one.references],
            "match": [*one.match],
            "columns": [*one.columns],
        }
        for one in manifest.comparisons
    }
    values: dict[str, tuple[Any, str]] = {
        "FACTORS": ([*manifest.factor_names], "columns of the tables that are labels"),
        "SEEDS": ([*manifest.seeds], "the first replicates"),
        "BETTER": (measured, "measured columns, and which direction is better"),
        "COMPARISONS": (comparisons, "arms and references are rows of the table of arms"),
    }
    lines = [
        f"# {meaning}\n{name} = {pformat(value, width=110, compact=True, sort_dicts=False)}"
        for name, (value, meaning) in values.items()
    ]
    return "\n".join(
        [*lines, "CELL = [name for name in FACTORS if name not in SEEDS]  # arms of a cell differ in seeds alone"]
    )
