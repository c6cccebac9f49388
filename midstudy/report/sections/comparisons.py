"""Comparisons: for each, a figure (effects along a factor, or a forest plot) and a table of paired effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from midstudy.analysis.effects import Effects
from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import cell_factors, differing, in_panel, label, names_of_arms, panels_of, readable
from midstudy.report.figures.along import along_figure
from midstudy.report.figures.forest import forest_figure
from midstudy.report.html import Heading, Html, Row, Text, bold, details, element, paragraph, table
from midstudy.report.numbers import difference, interval, loss, p_value, percent, signed_percent, tokens, unit
from midstudy.report.report import Report

NO_RESULTS = paragraph("No results yet: no arm is finished together with its reference.", css="note")


def comparisons(report: Report, *names: str) -> Html:
    """Show the comparisons with these names; without names, all comparisons of the study, each under its title.

    Nothing if the study has none of them.
    """
    chosen = [entry for entry in report.manifest.comparisons if not names or entry.name in names]
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
    names, titles = names_of_arms(arms, manifest, entry), {column: manifest.title_of(column) for column in entry.columns}
    if entry.along is None:
        drawn = forest_figure(arms, entry, effects, names=names, titles=titles)
    else:
        drawn = along_figure(arms, entry, effects, names=names, titles=titles, seed=report.seed)
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
    return shown + details("Dose of each data set, by arm and reference", _doses(report, entry, names))


def _table(report: Report, entry: ComparisonEntry, column: str, names: Sequence[str]) -> Html:
    found, manifest = report.effects(entry, column), report.manifest
    effects = found.table
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
    first = readable(report.seed)
    tested = (
        f"Seeds: values of {first}, or with repeats under other seeds the repeats of each value; differences are paired by "
        f"all seeds and averaged within {first}; intervals and p values are from the paired t-test over {first}. Tokens: "
        f"drawn from all corpora. The Holm correction is over the {family} "
        "effects of this table that can be tested; bold: corrected p below 0.05. A dash: no test is possible."
        if manifest.seeds
        else "No arm is repeated with another seed, so no effect can be tested. Tokens: drawn from all corpora."
    )
    return table(
        columns,
        _rows(report, entry, found, names),
        caption=f"{manifest.title_of(column)}: {unit(measured.metric)} on "
        f"{readable(measured.data) or 'the data of its arm'}, {measured.split} split, {measured.better} is better. {tested}",
    )


def _rows(report: Report, entry: ComparisonEntry, found: Effects, names: Sequence[str]) -> Iterator[Row]:
    cell = cell_factors(report.manifest)
    shown = [*names, *([entry.along] if entry.along else [])]
    for title, panel in panels_of(report.tables.arms, entry):
        rows = in_panel(found.table, panel)
        if title and len(rows):
            yield Heading(title)
        for _, row in rows.iterrows():
            by_seed = in_panel(found.by_seed, {factor: row[factor] for factor in cell})
            yield _cells(row, label(row, shown), _seeds(by_seed["num_inner_seeds"]))


def _seeds(inner: pd.Series) -> str:
    """Return the number of replicating seeds; with repeats within them, the repeats of each, as in '2 + 1 + 1'."""
    return str(len(inner)) if (inner <= 1).all() else " + ".join(str(number) for number in inner)


def _cells(row: pd.Series, name: str, seeds: str) -> list[Text]:
    is_clear = row["p_holm"] < 0.05
    by_percent = signed_percent(row["relative_improvement"])
    return [
        bold(name) if is_clear else name,
        seeds,
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
    rows = arms.iloc[[*entry.arms, *entry.references]]
    cell += [name for name in differing(rows, cell_factors(report.manifest)) if name not in cell]
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
