"""Rendering: from a study's folder to an executed notebook and a self-contained page."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders.analysis_tables import bridging_tables
from builders.report_study import NO_STAGES, loader_study, study_without_arms, write_study

from midstudy.analysis.effects import effects
from midstudy.analysis.tables import Tables
from midstudy.report.inputs import ReportInputError
from midstudy.report.notebook import ReportError, notebook_of, render, template_of


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = bridging_tables()
    manifest = dataclasses.replace(tables.manifest, report="bridging")
    return render(write_study(tmp_path_factory.mktemp("store"), dataclasses.replace(tables, manifest=manifest)))


def test_the_report_is_written_into_the_study_folder(html: Path) -> None:
    assert (html.parent.name, html.name) == ("report", "report.html")
    figures = {path.name for path in (html.parent / "figures").iterdir()}
    names = {"main", "continued", "proximity", "timing", "weight", "dose", "forgetting", "pareto-front"}
    assert figures == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}


def test_the_page_is_self_contained_and_hides_code(html: Path) -> None:
    text = html.read_text("utf-8")
    assert "<script" not in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "read_study" not in text
    assert "overview.summary" not in text
    assert text.count("<figure>") == text.count('src="data:image/png;base64,') == 8
    assert "<title>Does it help? · synthetic</title>" in text


def test_the_page_shows_the_numbers_of_the_analysis(html: Path) -> None:
    text = html.read_text("utf-8")
    tables = bridging_tables()
    best = effects(tables, tables.manifest.comparison("main"), "sft_loss").table.iloc[0]
    assert f"{best['difference']:+.3f}" in text
    assert f"by {100 * best['relative_improvement']:.1f} % ({best['difference']:.3f} nats" in text


def test_the_notebook_keeps_code_and_outputs_and_no_dates(html: Path) -> None:
    notebook = json.loads((html.parent / "report.ipynb").read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code)
    assert "Report.of" in "".join(code[0]["source"])
    assert all(not cell["metadata"].get("execution") for cell in code)


def test_a_report_of_unchanged_inputs_is_kept(html: Path) -> None:
    before = html.stat().st_mtime_ns
    assert render(html.parent.parent) == html
    assert html.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("tables", "cost", "figures", "sentences"),
    [
        (loader_study(), {}, {"loaders", "curve-path"}, ["Which loader is better", "best fit", "path on web, test split"]),
        (loader_study(seeds=()), {}, {"loaders", "curve-path"}, ["none repeated with another seed"]),
        (
            bridging_tables(unfinished=[{"mix": "code", "task": "pycode"}]),
            {"num_finished": 200},
            {"main"},  # the other comparisons have no finished arm
            ["This study is not finished.", "120 of 320 stages are not finished", "Arms that lack a value"],
        ),
        (study_without_arms(), NO_STAGES, {"similarity"}, ["code 20 %", "similarity"]),
    ],
    ids=["other factors", "no seeds", "unfinished", "no arms"],
)
def test_the_general_template_renders_a_study_of_any_shape(
    tmp_path: Path, tables: Tables, cost: dict[str, Any], figures: set[str], sentences: list[str]
) -> None:
    page = render(write_study(tmp_path, tables, **cost))
    text = page.read_text("utf-8")
    drawn = {path.stem for path in (page.parent / "figures").glob("*.png")}
    assert drawn == figures
    assert [sentence for sentence in sentences if sentence not in text] == []
    assert not re.search(r"</h2>\s*(</div>\s*)*<h2>", text), "a section without content has no heading"
    assert "<title>Does it help? · synthetic</title>" in text


SMALL = (
    '# %% [markdown]\n# # Small\n#\n# Two *lines*.\n\n# %%\nfrom pathlib import Path\n\nsorted(Path("..").glob("*.json"))\n'
)


def test_a_changed_template_or_a_missing_page_is_rendered_again(tmp_path: Path) -> None:
    template = tmp_path / "small.py"
    template.write_text(SMALL)
    study = write_study(tmp_path / "store", bridging_tables())
    page = render(study, template=template)
    first = page.read_text("utf-8")
    assert "<em>lines</em>" in first
    assert "../cost.json" in first
    page.unlink()
    assert render(study, template=template).read_text("utf-8") == first
    template.write_text(SMALL.replace("Two", "Three"))
    assert "Three" in render(study, template=template).read_text("utf-8")


def test_the_error_of_a_failing_cell_has_its_source_and_traceback(tmp_path: Path) -> None:
    template = tmp_path / "broken.py"
    template.write_text("# %%\nloss = {}\nloss['general']\n")
    study = write_study(tmp_path / "store", bridging_tables())
    with pytest.raises(ReportError) as caught:
        render(study, template=template)
    message = str(caught.value)
    assert message.startswith("KeyError: 'general'")
    assert "loss['general']" in message
    assert "Traceback" in message
    assert "\x1b" not in message
    assert not (study / "report" / "report.html").exists()


def test_user_settings_and_folders_do_not_affect_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking = tmp_path / "breaking"
    for path in ("ipython/profile_default/startup/a.py", "startup.py", "random.py"):
        (breaking / path).parent.mkdir(parents=True, exist_ok=True)
        (breaking / path).write_text("import os; os._exit(7)")
    (breaking / "matplotlibrc").write_text("text.usetex: True")
    for name, value in {
        "HOME": "",
        "IPYTHONDIR": str(breaking / "ipython"),
        "JUPYTER_CONFIG_DIR": "/nowhere",
        "JUPYTER_RUNTIME_DIR": "/proc/nowhere",
        "MATPLOTLIBRC": str(breaking / "matplotlibrc"),
        "MPLBACKEND": "nonsense",
        "PYTHONIOENCODING": "latin-1",
        "PYTHONOPTIMIZE": "2",
        "PYTHONSTARTUP": str(breaking / "startup.py"),
        "PYTHONWARNINGS": "error",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(breaking)
    template = tmp_path / "short.py"
    cell = "import matplotlib.pyplot\nassert matplotlib.rcParams['text.usetex'] is False\n'→'\n"
    template.write_text(f"# %%\n{cell}")
    assert render(write_study(tmp_path / "store", bridging_tables()), template=template).is_file()


def test_a_missing_file_is_reported_before_any_cell_runs(tmp_path: Path) -> None:
    study = write_study(tmp_path / "store", bridging_tables())
    (study / "cost.json").unlink()
    with pytest.raises(ReportInputError, match=r"missing or damaged \(.*cost\.json"):
        render(study)


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportInputError, match=r"nowhere\.py: no such template"):
        render(write_study(tmp_path / "store", bridging_tables()), template=tmp_path / "nowhere.py")


def test_a_template_is_split_into_cells() -> None:
    cells = notebook_of(SMALL).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code"]
    assert cells[0].source == "# Small\n\nTwo *lines*."
    assert [cell.id for cell in cells] == ["cell-00", "cell-01"]
    assert len(notebook_of(template_of("bridging").read_text("utf-8")).cells) > 10


def test_report_and_analysis_import_neither_torch_nor_prefect_nor_mlflow() -> None:
    program = (
        "import sys, midstudy.report.notebook, midstudy.report.sections.provenance, midstudy.analysis.claims\n"
        "print([name for name in ('torch', 'prefect', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
