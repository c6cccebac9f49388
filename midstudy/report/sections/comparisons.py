"""Comparisons: for each, a figure (effects along a factor, or a forest plot) and a table of paired effects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from midstudy.analysis.effects import Effects
from midstudy.recipe.manifest import ComparisonEntry
from midstudy.report.cells import cell_factors, differing, in_panel, label, names_of_arms, panels_of, readable
from midstudy.report.figures.along import along_figure
from midstudy.report.figures.forest import forest_figure
from midstudy.report.html import Heading, Html, Row, Text, bold, details, element, lines, paragraph, small, table
from midstudy.report.numbers import counted, decimal, difference, interval, p_value, percent, signed_percent, tokens, unit
from midstudy.report.report import Report

MAX_DRAWN = 3
"""Measures that one forest plot has room for beside each other."""

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
    shown = Html("")
    if entry.along is not None:
        drawn = along_figure(arms, entry, effects, names=names, titles=titles, seed=report.seed)
        shown += report.figure(drawn, entry.name.replace("_", "-"), caption=_drawn(report, entry))
    elif columns := _on_axes(effects):
        part = replace(entry, columns=columns)
        drawn = forest_figure(arms, part, effects, names=names, titles=titles)
        shown += report.figure(drawn, entry.name.replace("_", "-"), caption=_drawn(report, entry, columns))
    shows_before = False
    for column in entry.columns:
        shown += _table(report, entry, column, names, is_first=not shows_before)
        shows_before = shows_before or not effects[column].table.empty
    return shown + details("Dose of each data set, by arm and reference", _doses(report, entry, names))


def _on_axes(effects: Mapping[str, Effects]) -> tuple[str, ...]:
    """Return the first columns that a forest plot can show; of a reference at 0, as a share, no effect is a percentage."""
    percents = {column: effect.table["relative_improvement"] for column, effect in effects.items() if len(effect.table)}
    return tuple(column for column, found in percents.items() if found.notna().any())[:MAX_DRAWN]


def _drawn(report: Report, entry: ComparisonEntry, columns: Sequence[str] = ()) -> str:
    """Return the caption of a comparison's figure.

    Args:
        columns: the measures that it shows, if it has no room for all.
    """
    by = f" by {readable(entry.along)}" if entry.along else ""
    agree = ", ".join(readable(name) for name in (*entry.match, *report.manifest.seeds))
    left = len(entry.columns) - len(columns) if columns else 0
    return (
        f"How much better each arm is than its reference{by}, in percent of the reference."
        + (f" An arm and its reference have the same {agree}." if agree else "")
        + (
            " Large markers: means of paired differences; bars: 95 % t-intervals over n values of "
            f"{readable(report.seed)}; small rings: single values. Hollow markers: one value, no interval."
            if report.seed
            else " No arm is repeated with another seed, so there are no intervals."
        )
        + (f" Not drawn, for want of room or of a percentage: {counted(left, 'measure')} in the tables." if left else "")
    )


def _table(report: Report, entry: ComparisonEntry, column: str, names: Sequence[str], *, is_first: bool) -> Html:
    """Return the table of one column; the first one of a comparison explains the columns of all."""
    found, manifest = report.effects(entry, column), report.manifest
    effects = found.table
    if effects.empty:
        return Html("")
    measured, has_pooled = manifest.columns[column], _has_pooled(effects)
    family = int(effects["family_size"].iloc[0])
    columns = ["arm", "seeds", "tokens", "reference", "arm", "better by", "95 % interval"]
    columns += ["pooled 95 %"] if has_pooled else []
    columns += ["%", "95 % interval", "p", "p, Holm"]
    first = readable(report.seed)
    said = [
        f"{manifest.title_of(column)}: {unit(measured.metric)} on {readable(measured.data) or 'the data of its arm'}, "
        f"{measured.split} split, {measured.better} is better."
    ]
    if manifest.seeds and is_first:
        said.append(
            f"Paired t-tests over {first}; repeats under other seeds are averaged within it (seeds: 2 + 1). Bold: corrected "
            "p below 0.05. A dash: no test is possible."
        )
    if manifest.seeds:
        said.append(f"Holm's correction is over {counted(family, 'testable effect')}.")
    elif is_first:
        said.append("No arm is repeated with another seed, so no effect can be tested.")
    if has_pooled and is_first:
        said.append(POOLED)
    said.append("Tokens: drawn from all corpora." if is_first else "Columns as in the table above.")
    return table(columns, _rows(report, entry, found, names), caption=" ".join(said))


POOLED = (
    "Pooled: the interval with each variance moderated towards those of the table's other arms (Smyth, 2004), which assumes "
    "that the arms' true variances scatter around a common one; verdicts rest on the plain interval."
)
"""What the moderated intervals assume (`midstudy.analysis.variance`)."""


def _has_pooled(effects: pd.DataFrame) -> bool:
    """Return whether two arms or more have variances, so that pooling says anything."""
    return int(effects["moderated_ci_low"].notna().sum()) > 1


def _rows(report: Report, entry: ComparisonEntry, found: Effects, names: Sequence[str]) -> Iterator[Row]:
    cell = cell_factors(report.manifest)
    shown = [*names, *([entry.along] if entry.along else [])]
    for title, panel in panels_of(report.tables.arms, entry):
        rows = in_panel(found.table, panel)
        if title and len(rows):
            yield Heading(title)
        for _, row in rows.iterrows():
            by_seed = in_panel(found.by_seed, {factor: row[factor] for factor in cell})
            has_pooled = _has_pooled(found.table)
            yield _cells(row, label(row, shown), _seeds(by_seed["num_inner_seeds"]), has_pooled=has_pooled)


def _seeds(inner: pd.Series) -> str:
    """Return the number of replicating seeds; with repeats within them, the repeats of each, as in '2 + 1 + 1'."""
    return str(len(inner)) if (inner <= 1).all() else " + ".join(str(number) for number in inner)


def _cells(row: pd.Series, name: str, seeds: str, *, has_pooled: bool) -> list[Text]:
    is_clear = row["p_holm"] < 0.05
    by_percent = signed_percent(row["relative_improvement"])
    return [
        bold(name) if is_clear else name,
        seeds,
        tokens(row["num_tokens"]),
        decimal(row["reference"]),
        decimal(row["value"]),
        difference(row["difference"]),
        interval(row["ci_low"], row["ci_high"]),
        *([interval(row["moderated_ci_low"], row["moderated_ci_high"])] if has_pooled else []),
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
    told = differing(rows, cell) or cell
    doses = [name for name in arms.columns if name.startswith("dose:") and (rows[name] != 0).any()]
    datasets = [name.removeprefix("dose:") for name in doses]
    listed: list[Row] = []
    for _, row in (rows.drop_duplicates(cell) if cell else rows.head(1)).iterrows():
        amounts = [(row[f"dose:{name}"], row.get(f"tokens:{name}", 0)) for name in datasets]
        cells = [lines([percent(dose), small(tokens(drawn))]) if drawn else percent(dose) for dose, drawn in amounts]
        listed.append([label(row, told), *cells])
    return table(
        ["arm", *(readable(name) for name in datasets)],
        listed,
        caption="Dose of a data set: Σ learning rate × share over all steps of a run, fine-tuning among them, divided by Σ "
        "learning rate of the same steps, so that the doses of an arm add up to 100 %; for a corpus, below it, the tokens "
        "drawn. Before fine-tuning alone, the dose of a corpus is its dose here over 100 % less that of the task. Data sets "
        "without a dose are left out. Arms with different doses differ in more than the compared factor.",
    )
