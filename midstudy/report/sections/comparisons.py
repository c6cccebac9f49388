"""Comparisons: for each, a figure (effects along a factor, or a forest plot) and a table of paired effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import in_panel, label, names_of_arms, panels_of, readable
from midstudy.report.figures.along import along_figure
from midstudy.report.figures.forest import forest_figure
from midstudy.report.html import Heading, Html, Row, Text, bold, details, element, paragraph, table
from midstudy.report.numbers import difference, interval, loss, p_value, percent, signed_percent, tokens, unit
from midstudy.report.report import Report

NO_RESULTS = paragraph("No results yet: no arm is finished together with its reference.", css="note")


def comparisons(report: Report, *names: str) -> Html:
    """Show the comparisons with these names; without names, all comparisons of the study, each under its title."""
    if not names and not report.manifest.comparisons:
        return paragraph("The study compares no arms.", css="note")
    chosen = [entry for entry in report.manifest.comparisons if not names or entry.name in names]
    if not chosen:
        return paragraph("The study has no such comparison.", css="note")
    shown = Html("")
    for entry in chosen:
        if not names or len(chosen) > 1:
            shown += element("h3", entry.title)
        shown += comparison(report, entry)
    return shown


def comparison(report: Report, entry: ComparisonEntry) -> Html:
    """Show one comparison: its figure, and a table for each measured column."""
    effects = {column: report.effects(entry, column) for column in entry.columns}
    if all(effect.table.empty for effect in effects.values()):
        return NO_RESULTS
    manifest, arms = report.manifest, report.tables.arms
    names = names_of_arms(arms, manifest, entry)
    if entry.along is None:
        drawn = forest_figure(arms, entry, effects, names=names)
    else:
        drawn = along_figure(arms, entry, effects, names=names, seed=report.seed)
    by = f" by {readable(entry.along)}" if entry.along else ""
    agree = ", ".join(readable(name) for name in (*entry.match, *manifest.seeds))
    shown = report.figure(
        drawn,
        entry.name.replace("_", "-"),
        caption=f"How much better each arm is than its reference{by}, in percent of the reference."
        + (f" An arm and its reference have the same {agree}." if agree else "")
        + (
            " Large markers: means of paired differences; bars: 95 % t-intervals over n values of "
            f"{readable(report.seed)}; small rings: single values. Hollow markers: one value, no interval."
            if report.seed
            else " No arm is repeated with another seed, so there are no intervals."
        ),
    )
    for column in entry.columns:
        shown += _table(report, entry, column, names)
    return shown + details("Dose of each data set by arm", _doses(report, entry, names))


def _table(report: Report, entry: ComparisonEntry, column: str, names: Sequence[str]) -> Html:
    effects, manifest = report.effects(entry, column).table, report.manifest
    if effects.empty:
        return Html("")
    family = int(effects["family_size"].iloc[0])
    measured = manifest.columns[column]
    columns = [
        "arm",
        "seeds",
        "tokens",
        "reference",
        "arm",
        "better by",
        "95 % interval",
        "%",
        "95 % interval",
        "p",
        "p, Holm",
    ]
    seeds = " × ".join(readable(name) for name in manifest.seeds)
    tested = (
        f"Seeds: {seeds}; differences are paired by all seeds and averaged within the first; intervals and p values are "
        f"from the paired t-test over the first. Tokens: drawn from all corpora. The Holm correction is over the {family} "
        "effects of this table that can be tested; bold: corrected p below 0.05. A dash: no test is possible."
        if seeds
        else "No arm is repeated with another seed, so no effect can be tested. Tokens: drawn from all corpora."
    )
    return table(
        columns,
        _rows(report, entry, effects, names),
        caption=f"{readable(column)}: {unit(measured.metric)} on {readable(measured.data) or 'the data of its arm'}, "
        f"{measured.split} split, {measured.better} is better. {tested}",
    )


def _rows(report: Report, entry: ComparisonEntry, effects: pd.DataFrame, names: Sequence[str]) -> Iterator[Row]:
    shown = [*names, *([entry.along] if entry.along else [])]
    for title, panel in panels_of(report.tables.arms, entry):
        rows = in_panel(effects, panel)
        if title and len(rows):
            yield Heading(title)
        for _, row in rows.iterrows():
            yield _cells(row, label(row, shown))


def _cells(row: pd.Series, name: str) -> list[Text]:
    is_clear = row["p_holm"] < 0.05
    by_percent = signed_percent(row["relative_improvement"])
    return [
        bold(name) if is_clear else name,
        f"{row['num_seeds']} × {row['num_inner_seeds']}",
        tokens(row["num_tokens"]),
        loss(row["reference"]),
        loss(row["value"]),
        difference(row["difference"]),
        interval(row["ci_low"], row["ci_high"]),
        bold(by_percent) if is_clear else by_percent,
        interval(row["relative_ci_low"], row["relative_ci_high"], signed_percent),
        p_value(row["p_value"]),
        p_value(row["p_holm"]),
    ]


def _doses(report: Report, entry: ComparisonEntry, names: Sequence[str]) -> Html:
    """Return a table of the tokens of each corpus and the dose of each data set, one row per arm without seeds."""
    arms = report.tables.arms
    cell = list(dict.fromkeys([*entry.match, *names, *([entry.along] if entry.along else [])]))
    rows = arms.iloc[list(entry.arms)]
    datasets = [name.removeprefix("dose:") for name in arms.columns if name.startswith("dose:")]
    listed: list[Row] = []
    for _, row in (rows.drop_duplicates(cell) if cell else rows.head(1)).iterrows():
        amounts = [(row[f"dose:{name}"], row.get(f"tokens:{name}", 0)) for name in datasets]
        cells = [f"{percent(dose)}, {tokens(drawn)}" if drawn else percent(dose) for dose, drawn in amounts]
        listed.append([label(row, cell), *cells])
    return table(
        ["arm", *(readable(name) for name in datasets)],
        listed,
        caption="Dose of a data set: Σ learning rate × share over the steps of a run, divided by Σ learning rate; for a "
        "corpus also the tokens drawn. Arms with different doses differ in more than the compared factor.",
    )
