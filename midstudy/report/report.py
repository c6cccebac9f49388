"""The object that the cells of a report notebook work with: a study's tables and facts, and the folder for its figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from midstudy.analysis.claims import judge
from midstudy.analysis.effects import Effects, effects
from midstudy.analysis.tables import Tables
from midstudy.recipe.manifest import ComparisonEntry, Manifest
from midstudy.report.figures import style
from midstudy.report.html import Html, Text, image
from midstudy.report.inputs import StudyFacts, read_study

REPORT_FOLDER = "report"  # inside the study's folder; figures/ inside it


@dataclass(frozen=True, eq=False)
class Report:
    """A report being made. The sections show `study`, which the reader of the notebook can use too."""

    study: StudyFacts
    figures_folder: Path

    @classmethod
    def of(cls, study_folder: Path) -> Report:
        """Read a study's folder.

        Raises:
            ReportInputError, StoreError: see `read_study`.
        """
        return cls(read_study(study_folder), study_folder / REPORT_FOLDER / "figures")

    @property
    def tables(self) -> Tables:
        return self.study.tables

    @property
    def manifest(self) -> Manifest:
        return self.study.tables.manifest

    @property
    def seed(self) -> str | None:
        """The seed that replicates; None if the study has no seeds."""
        return next(iter(self.manifest.seeds), None)

    @cached_property
    def unfinished(self) -> pd.DataFrame:
        """Arms that lack a measured value; the column `lacks` names the missing columns, comma-separated."""
        arms = self.tables.arms
        rows, lacks = [], []
        for row, arm in enumerate(self.manifest.arms):
            missing = [
                name for name in arm.measures if not self.manifest.columns[name].is_curve and pd.isna(arms[name].iloc[row])
            ]
            if missing:
                rows.append(row)
                lacks.append(", ".join(missing))
        return arms.iloc[rows].assign(lacks=lacks)

    def effects(self, comparison: ComparisonEntry, column: str) -> Effects:
        """Return the effects of a comparison on one of its columns; they are computed once."""
        if (comparison.name, column) not in self._effects:
            self._effects[comparison.name, column] = effects(self.tables, comparison, column)
        return self._effects[comparison.name, column]

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The verdicts on the study's claims; see `midstudy.analysis.claims.judge`."""
        return judge(self.tables)

    @cached_property
    def _effects(self) -> dict[tuple[str, str], Effects]:
        return {}

    def figure(self, drawn: Figure, name: str, *, caption: Text) -> Html:
        """Save a figure as PNG and SVG; return it with its caption."""
        return image(style.save(drawn, self.figures_folder, name), alternative=name.replace("-", " "), caption=caption)
