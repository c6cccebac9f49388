"""What `midstudy compare` prints: a matrix for each view, and where the views disagree."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from midstudy.recipe.errors import RecipeError

if TYPE_CHECKING:
    from midstudy.run.compare import CorporaComparison
    from midstudy.run.model_views import ModelView
    from midstudy.similarity.corpora import Compared, Value
    from midstudy.similarity.mean_vectors import ComparedVectors

_MOST_LINES = 5
"""Disagreements printed; `--json` has all of them."""

_PLOTS = (".png", ".svg", ".pdf")
_QUIET_S = 2.0
_INTERVAL_S = 0.2


class Progress:
    """Show the latest line of long work on stderr: nothing in the first two seconds; in a file every half minute."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._next_s = time.monotonic() + _QUIET_S
        self._has_line = False

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + (_INTERVAL_S if self._is_terminal else 30.0)
        width = shutil.get_terminal_size().columns - 1
        self._stream.write("\r" + line[:width].ljust(width) if self._is_terminal else line + "\n")
        self._stream.flush()
        self._has_line = True

    def close(self) -> None:
        """Clear the line on a terminal."""
        if self._is_terminal and self._has_line:
            self._stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")


def as_text(comparison: CorporaComparison, measure: str) -> str:
    """Return one matrix of a measure for each view, then what the reader must know."""
    lines = []
    for text in comparison.texts:
        counted = comparison.counted[text.name]
        lines.append(f"{text.name}  {text.argument}: {counted.num_documents:,} documents, {counted.num_bytes:,} bytes")
    for view, compared in comparison.views.items():
        lines += ["", _title(view, compared, measure), *_matrix(comparison.names, _cells(compared, measure))]
    if comparison.compression:
        values = comparison.compression
        title = "compression, 1 − normalised compression distance (zlib, 1 MB of each corpus)"
        lines += ["", title, *_matrix(comparison.names, _symmetric(dict(values)))]
    for view, one in comparison.by_model.items():
        title = f"{_short(view, one)} ({one.label}), cosine of means, {one.documents_per_side} documents a side"
        lines += ["", title, *_matrix(comparison.names, _cosines(one.compared))]
    if comparison.views or comparison.by_model:
        lines += ["", "± 95 % over documents. In brackets: two halves of one corpus, the ceiling for its row."]
    if comparison.published:
        combined = {pair: one.combined for pair, one in comparison.published.items()}
        title = "combined score as the paper's authors computed it (1,000 documents, 512 tokens, their constants)"
        lines += ["", title, *_matrix(comparison.names, _symmetric(combined, diagonal="1"))]
    lines += _disagreements(comparison)
    lines += [f"note: {note}" for note in comparison.notes]
    return "\n".join(line.rstrip() for line in lines)


def require_plot(argument: str) -> Path:
    """Return the file to draw into.

    Raises:
        RecipeError: its ending is unknown, or its folder does not exist.
    """
    path = Path(argument)
    if path.suffix not in _PLOTS or not path.absolute().parent.is_dir():
        raise RecipeError("--plot", expected=f"a file in an existing folder that ends in {', '.join(_PLOTS)}", got=argument)
    return path


def write_plot(comparison: CorporaComparison, measure: str, path: Path) -> None:
    """Draw the printed matrices into a file."""
    from midstudy.report.figures.corpora import corpora_figure
    from midstudy.report.figures.style import PNG_DPI
    from midstudy.similarity.measures import DISTANCES

    names = comparison.names
    panels = {
        f"{view}, {measure}": {
            (row, column): compared.value(row, column, measure).value for row in names for column in names if row != column
        }
        | {(name, name): ceiling[measure] for name, ceiling in compared.ceilings.items()}
        for view, compared in comparison.views.items()
    }
    for view, one in comparison.by_model.items():
        cosines = {pair: value.value for pair, value in one.compared.pairs.items()}
        cosines |= {(right, left): value for (left, right), value in cosines.items()}
        panels[f"{_short(view, one)}, cosine"] = cosines | {
            (name, name): ceiling for name, ceiling in one.compared.ceilings.items()
        }
    for title, values in (
        ("compression", comparison.compression),
        ("combined, as published", {pair: one.combined for pair, one in comparison.published.items()}),
    ):
        if values:
            panels[title] = dict(values) | {(right, left): value for (left, right), value in values.items()}
    corpora_figure(names, panels, darker_is_larger=measure not in DISTANCES).savefig(path, dpi=PNG_DPI)


def _title(view: str, compared: Compared, measure: str) -> str:
    sizes = {min(units) for units in compared.units_per_side.values()}
    shown = f"{min(sizes):,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"
    direction = ", row from column" if "kl_nats" in measure else ""
    return f"{view}, {measure}{direction}, {shown} units a side"


def _short(view: str, one: ModelView) -> str:
    return f"{view.partition(':')[0]}:{one.stage[:8]}"


def _cells(compared: Compared, measure: str) -> Callable[[str, str], str]:
    def cell(row: str, column: str) -> str:
        if row == column:
            return f"[{compared.ceilings[row][measure]:.4f}]" if row in compared.ceilings else "–"
        return _with_interval(compared.value(row, column, measure))

    return cell


def _cosines(compared: ComparedVectors) -> Callable[[str, str], str]:
    def cell(row: str, column: str) -> str:
        return f"[{compared.ceilings[row]:.4f}]" if row == column else _with_interval(compared.value(row, column))

    return cell


def _with_interval(value: Value) -> str:
    if value.low is None or value.high is None:
        return f"{value.value:.4f}"
    return f"{value.value:.4f} ±{max(value.high - value.value, value.value - value.low):.4f}"


def _symmetric(values: dict[tuple[str, str], float], *, diagonal: str = "–") -> Callable[[str, str], str]:
    def cell(row: str, column: str) -> str:
        if row == column:
            return diagonal
        return f"{values[row, column] if (row, column) in values else values[column, row]:.4f}"

    return cell


def _matrix(names: Sequence[str], cell: Callable[[str, str], str]) -> list[str]:
    rows = [["", *names], *([row, *(cell(row, column) for column in names)] for row in names)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(names) + 1)]
    return ["  ".join(text.rjust(width) if place else text.ljust(width)
                      for place, (text, width) in enumerate(zip(row, widths, strict=True))) for row in rows]  # fmt: skip


def _disagreements(comparison: CorporaComparison) -> list[str]:
    lines = [
        f"{first} and {second}: Kendall's tau of the pairs {tau:.2f}"
        for (first, second), tau in comparison.rank_correlations.items()
        if tau is not None
    ]
    decided = [one for one in comparison.disagreements if one.is_decided]
    lines += [
        f"warning: {one.first_view} puts {one.corpus} closer to {one.closer} than to {one.other}, {one.second_view} the "
        "other way round, with intervals that do not overlap"
        for one in decided[:_MOST_LINES]
    ]
    if more := len(decided) - _MOST_LINES:
        lines += [f"  and {more} more; --json has all of them"] if more > 0 else []
    if open_ones := len(comparison.disagreements) - len(decided):
        lines.append(f"{open_ones} further differences in rank between views are within the intervals")
    return ["", *lines] if lines else []
