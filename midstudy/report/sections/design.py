"""The design of a study, drawn from its manifest: the distinct runs, where they leave their trunk, and their seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from midstudy.recipe.manifest import ArmEntry, Manifest, PhaseEntry
from midstudy.report.cells import cell_factors, differing, distinguishing, label, readable
from midstudy.report.figures.design import RunLine, design_figure
from midstudy.report.html import Html
from midstudy.report.report import Report


def design(report: Report) -> Html:
    """Show the runs of the study over training; nothing if the manifest has no phases."""
    lines = run_lines(report)
    if not lines:
        return Html("")
    seed = readable(report.seed) if report.seed else "seed"
    return report.figure(
        design_figure(lines),
        "design",
        caption="The runs of the study, as planned, before fine-tuning on tasks. Thin: steps whose states the run shares "
        "with one above it, which are trained once; from the numbered step on, the bar is the run's own. Colours: shares of "
        "the data that it reads. Below: the learning rate, one curve for every distinct schedule. Right: values "
        f"of {seed} (n); where some fine-tunings of a run have fewer, the number of fine-tunings in parentheses.",
    )


def run_lines(report: Report) -> list[RunLine]:
    """Return a line for every distinct run, apart from seeds and fine-tuning, in the order of the arms."""
    manifest = report.manifest
    runs: dict[str, tuple[str, tuple[PhaseEntry, ...]]] = {}  # shares are mappings, so that phases cannot be keys
    rows: dict[str, list[int]] = {}
    for row, arm in enumerate(manifest.arms):
        if arm.phases:
            run = manifest.stages[arm.state].model, _drawn(arm)
            runs[repr(run)] = run
            rows.setdefault(repr(run), []).append(row)
    table = report.tables.arms
    constant = [
        name for name in cell_factors(manifest) if all(table.iloc[members][name].nunique() == 1 for members in rows.values())
    ]
    firsts = table.iloc[[members[0] for members in rows.values()]]
    names = distinguishing(firsts, differing(firsts, constant)) if len(firsts) else []
    lines: list[RunLine] = []
    above: list[tuple[str, tuple[PhaseEntry, ...]]] = []
    for key, members in rows.items():
        model, phases = runs[key]
        shared = max((_common_steps(phases, other) for known, other in above if known == model), default=0)
        name = label(table.iloc[members[0]], names)
        lines.append(RunLine(name=name, phases=phases, shared_steps=shared, seeds=_seeds(manifest, members)))
        above.append((model, phases))
    return lines


def _drawn(arm: ArmEntry) -> tuple[PhaseEntry, ...]:
    """Return the phases before fine-tuning on tasks, or all if there are no others."""
    before = tuple(phase for phase in arm.phases if not set(phase.shares) <= set(arm.items) - set(arm.tokens))
    return before or arm.phases


def _common_steps(one: Sequence[PhaseEntry], other: Sequence[PhaseEntry]) -> int:
    """Return the number of steps from the first on in which two runs read the same shares."""
    steps = 0
    for phase, beside in zip(one, other, strict=False):
        if phase.shares != beside.shares:
            break
        steps = min(phase.stop_step, beside.stop_step)
        if phase.stop_step != beside.stop_step:
            break
    return steps


def _seeds(manifest: Manifest, rows: Sequence[int]) -> str:
    """Return the number of seeds of a run: 'n = 3', or 'n = 3 (2), 1 (4)' if its fine-tunings have different numbers."""
    if not manifest.seeds:
        return ""
    first, names = manifest.seeds[0], [name for name in manifest.factor_names if name not in manifest.seeds]
    by_cell: dict[tuple[object, ...], set[object]] = {}
    for row in rows:
        factors = manifest.arms[row].factors
        by_cell.setdefault(tuple(factors[name] for name in names), set()).add(factors[first])
    counts = Counter(len(seeds) for seeds in by_cell.values())
    if len(counts) == 1:
        return f"n = {next(iter(counts))}"
    return "n = " + ", ".join(f"{number} ({times})" for number, times in sorted(counts.items(), reverse=True))
