"""The notebook that recomputes a study's effects from its Parquet files: it runs where midstudy cannot be imported."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import bridging_tables
from builders.report_study import loader_study, study_without_arms, write_study
from builders.training_table import training_of

from midstudy.analysis.effects import cell_factors, effects
from midstudy.analysis.tables import Tables
from midstudy.report.notebook import render
from midstudy.report.recomputation import NOTEBOOK, recomputation

NUMBERS = [
    *("num_seeds", "reference", "value", "difference", "ci_low", "ci_high"),
    *("relative_improvement", "relative_ci_low", "relative_ci_high"),
]

RUN = """
import sys
for name in sys.argv[2].split(","):
    sys.modules[name] = None  # an import of it raises
import matplotlib, nbformat
matplotlib.use("Agg")
names = {"__name__": "__main__"}
for cell in nbformat.read(sys.argv[1], 4).cells:
    if cell.cell_type == "code":
        exec(compile(cell.source, cell.id, "exec"), names)
if "results" in names:
    names["results"].to_json(sys.argv[3], orient="records", double_precision=15)
if "sums" in names:
    names["sums"].reset_index().to_json(sys.argv[3] + ".items", orient="records", double_precision=15)
print(len(names["plt"].get_fignums()))
"""


def with_items(tables: Tables) -> Tables:
    """Add two items for each arm, of 10 and 30 target tokens, one nat above and one below the arm's loss."""
    losses = tables.arms["sft_loss"]
    rows = [
        {"arm": arm, "column": "sft_loss", "step": 105, "item": item, "nats": loss * tokens + shift, "target_tokens": tokens}
        for arm, loss in enumerate(losses)
        for item, (tokens, shift) in enumerate(((10, 1.0), (30, -1.0)))
    ]
    return dataclasses.replace(tables, items=pd.DataFrame(rows))


def run(tables: Tables, folder: Path, *, without: str = "midstudy") -> tuple[pd.DataFrame, int]:
    """Write the notebook where a report lies and run its cells; return its effects and the number of its figures."""
    report = write_study(folder, tables) / "report"
    report.mkdir()
    nbformat.write(recomputation(tables), report / NOTEBOOK)
    results = folder / "results.json"
    command = [sys.executable, "-c", RUN, NOTEBOOK, without, str(results)]
    done = subprocess.run(command, cwd=report, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_json(results, precise_float=True) if results.exists() else pd.DataFrame()
    return table, int(done.stdout.split()[-1])


def differences(results: pd.DataFrame, tables: Tables, numbers: list[str]) -> float:
    """Return the largest difference to the effects of the analysis, over all comparisons, columns and cells."""
    cell = cell_factors(tables)
    worst = 0.0
    compared = [(one, column) for one in tables.manifest.comparisons for column in one.columns]
    for comparison, column in compared:
        expected = effects(tables, comparison, column).table.set_index(cell)[numbers].astype(float)
        rows = (
            results[(results["comparison"] == comparison.name) & (results["column"] == column)] if len(results) else results
        )
        assert len(rows) == len(expected), (comparison.name, column)
        if len(expected):
            got = rows.set_index(cell)[numbers].astype(float).loc[expected.index]
            assert (got.isna() == expected.isna()).all(axis=None)
            worst = max(worst, float(np.nanmax((got - expected).abs().to_numpy())))
    return worst


@pytest.mark.parametrize(
    ("tables", "num_figures"),
    [
        (bridging_tables(), 2),
        (bridging_tables(unfinished=[{"mix": "control", "trunk_seed": 2}, {"mix": "math"}]), 2),
        (bridging_tables(trunk_seeds=(1,)), 2),
        (loader_study(), 3),
        (loader_study(seeds=()), 3),
    ],
    ids=["bridging", "unfinished", "one seed", "higher is better", "no seeds"],
)
def test_the_effects_are_those_of_the_analysis(tmp_path: Path, tables: Tables, num_figures: int) -> None:
    results, figures = run(dataclasses.replace(tables, similarity=None), tmp_path)
    assert differences(results, tables, NUMBERS) <= 1e-12
    assert figures == num_figures


def test_the_loss_of_an_arm_is_the_ratio_of_the_sums_of_its_items(tmp_path: Path) -> None:
    """Residuals of ± 1 nat: variance 2 over two items, so the ratio's standard error is √(2 · 2) / 40 tokens."""
    tables = with_items(bridging_tables())
    run(tables, tmp_path)
    sums = pd.read_json(tmp_path / "results.json.items", precise_float=True)
    np.testing.assert_allclose(sums["loss_nats"], tables.arms["sft_loss"], rtol=1e-12)
    np.testing.assert_allclose(sums["standard_error"], 0.05, rtol=1e-9)
    assert (sums["num_items"] == 2).all()


def test_training_has_a_figure_of_its_own(tmp_path: Path) -> None:
    tables = bridging_tables()
    _, without = run(tables, tmp_path / "without")
    _, figures = run(dataclasses.replace(tables, training=training_of(tables)), tmp_path / "training")
    assert figures == without + 1


def test_a_study_without_arms_shows_its_similarities(tmp_path: Path) -> None:
    results, figures = run(study_without_arms(), tmp_path)
    assert results.empty
    assert figures == 1


def test_intervals_are_unknown_without_scipy_and_effects_are_not(tmp_path: Path) -> None:
    tables = bridging_tables()
    results, _ = run(tables, tmp_path, without="midstudy,scipy")
    assert results["ci_low"].isna().all()
    known = [name for name in NUMBERS if "ci_" not in name]
    assert differences(results, tables, known) <= 1e-12


def test_the_report_writes_it_and_its_code_does_not_name_midstudy(tmp_path: Path) -> None:
    page = render(write_study(tmp_path, loader_study()))
    notebook = nbformat.read(page.parent / NOTEBOOK, 4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert not any("midstudy" in text for text in code)
    assert max(len(text.splitlines()) for text in code) < 40, "cells are short"
    assert NOTEBOOK in page.read_text("utf-8")
