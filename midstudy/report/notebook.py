"""Render a report template into an executed notebook and an HTML page; skip rendering if the inputs have not changed."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import midstudy
from midstudy.environment import of_kernel
from midstudy.files.atomic import write_bytes
from midstudy.recipe.manifest import Manifest
from midstudy.report.inputs import ReportInputError, read_study
from midstudy.report.page import page
from midstudy.report.recomputation import NOTEBOOK, recomputation
from midstudy.report.report import REPORT_FOLDER

if TYPE_CHECKING:
    from nbformat import NotebookNode

_CODE_FOLDERS = ("report", "analysis", "studies")  # code that determines the content and appearance of a report
_CELL_TIMEOUT_S = 300
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class ReportError(ValueError):
    """A cell of the report failed; the message contains its source and traceback."""


def render(study_folder: Path, *, template: Path | None = None) -> Path:
    """Write the report and its notebooks and figures/ into `study_folder / "report"`. Return the path of report.html.

    Beside report.ipynb, which made the page, lies analysis.ipynb (`report.recomputation`).

    An existing report is kept if it was rendered from the same tables, template and code.

    Args:
        study_folder: `STORE/studies/NAME`, with the files that `read_study` requires.
        template: a Python file in percent format; by default the one that the study names.

    Raises:
        ReportInputError: a file of the study or the template is missing or damaged.
        ReportError: a cell failed.
    """
    study = read_study(study_folder)
    template = template_of(study.tables.manifest.report) if template is None else template
    if not template.is_file():
        raise ReportInputError(f"{template}: no such template; expected a Python file with '# %%' cells")
    text = template.read_text("utf-8")
    inputs_sha256 = _sha256(study.digest, text, *(path.read_text("utf-8") for path in _code_files()))
    folder = study_folder.absolute() / REPORT_FOLDER
    html, ipynb, marker = folder / "report.html", folder / "report.ipynb", folder / "rendered.json"
    analysis = folder / NOTEBOOK
    if all(path.is_file() for path in (html, ipynb, analysis)) and _rendered_from(marker) == inputs_sha256:
        return html

    marker.unlink(missing_ok=True)
    for old in folder.glob("figures/*"):
        old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    notebook = notebook_of(text)
    _execute(notebook, folder)
    import nbformat

    _write(ipynb, nbformat.writes(notebook))
    _write(analysis, nbformat.writes(recomputation(study.tables)))
    _write(html, page(notebook, title=_title(study.tables.manifest)))
    _write(marker, json.dumps({"inputs_sha256": inputs_sha256}))
    return html


def template_of(report: str) -> Path:
    """Return the path of a report template: `study` is the general one, other names are packages in `studies/`."""
    package = Path(midstudy.__file__).parent
    return package / "report" / "template.py" if report == "study" else package / "studies" / report / "report.py"


def notebook_of(text: str) -> NotebookNode:
    """Convert a script in percent format: '# %%' begins a code cell, '# %% [markdown]' a cell of commented text."""
    from nbformat import v4

    cells = []
    for number, part in enumerate(re.split(r"^# %%", text, flags=re.MULTILINE)[1:]):
        heading, _, body = part.partition("\n")
        cell_id = {"id": f"cell-{number:02d}"}  # by default a random one
        if heading.strip() == "[markdown]":
            body = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines())
            cells.append(v4.new_markdown_cell(body, **cell_id))
        else:
            cells.append(v4.new_code_cell(body.strip(), **cell_id))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _execute(notebook: NotebookNode, folder: Path) -> None:
    """Run the cells in `folder` with this interpreter and code, isolated from the user's IPython settings."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    with tempfile.TemporaryDirectory(prefix="midstudy-", dir=_short_temporary_folder()) as temporary:
        # Without kernel folders to search, jupyter starts the interpreter that it runs in.
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            transport="ipc",  # sockets in a private folder, to which other users of the machine cannot connect
            connection_file=str(Path(temporary) / "kernel.json"),
        )
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=_CELL_TIMEOUT_S,
            record_timing=False,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(folder)}},
        )
        try:
            client.execute(env=of_kernel(Path(temporary)), cleanup_kc=True)
        except CellExecutionError as error:
            raise ReportError(_ANSI.sub("", f"{error.ename}: {error.evalue}\n\nin the report's cell\n{error}")) from error


def _short_temporary_folder() -> str | None:
    """Return None for the default folder, or /tmp if that is too long for the path of a Unix socket (107 bytes)."""
    return "/tmp" if len(tempfile.gettempdir()) > 60 else None


def _title(manifest: Manifest) -> str:
    return f"{manifest.question} · {manifest.name}" if manifest.question else manifest.name


def _code_files() -> list[Path]:
    package = Path(midstudy.__file__).parent
    return sorted(path for name in _CODE_FOLDERS for path in (package / name).rglob("*.py"))


def _sha256(*texts: str) -> str:
    total = hashlib.sha256()
    for text in texts:
        total.update(hashlib.sha256(text.encode("utf-8")).digest())
    return total.hexdigest()


def _rendered_from(marker: Path) -> str | None:
    try:
        return str(json.loads(marker.read_text("utf-8"))["inputs_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not rendered, or not completely


def _write(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"), durable=False)
