"""A report being made: a study's tables, their analysis, and where its figures go. What a notebook's cells work with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from midstudy.report.figures import style
from midstudy.report.html import Html, Text, image
from midstudy.report.inputs import StudyTables, read_study
from midstudy.report.results import Results, analyse

REPORT_FOLDER = "report"  # inside the study's folder; figures/ inside it


@dataclass(frozen=True, eq=False)
class Report:
    """``study`` and ``results`` are for the reader to go on with; the sections show them."""

    study: StudyTables
    results: Results
    figures_folder: Path

    @classmethod
    def of(cls, study_folder: Path) -> Report:
        """Read and analyse a study's folder; raises what ``read_study`` and ``analyse`` raise."""
        study = read_study(study_folder)
        return cls(study, analyse(study), study_folder / REPORT_FOLDER / "figures")

    @property
    def sizes(self) -> list[str]:
        """Model sizes in the study's order."""
        return list(dict.fromkeys(self.study.arms["size"]))

    def by_size(self) -> Iterator[tuple[str, str]]:
        """Each size with what to add to a caption for it: nothing where there is one size."""
        for size in self.sizes:
            yield size, f" Size {size}." if len(self.sizes) > 1 else ""

    def figure(self, drawn: Figure, name: str, *, size: str | None = None, caption: Text) -> Html:
        """Save a figure as PNG and SVG, and show it with its caption."""
        stem = f"{name}-{size}" if size is not None and len(self.sizes) > 1 else name
        return image(style.save(drawn, self.figures_folder, stem), alternative=name.replace("-", " "), caption=caption)
