"""Where the numbers come from: what they cost, which text, and how to make them again."""

from __future__ import annotations

from midstudy.report.cells import spoken, written
from midstudy.report.html import Html, Row, bullets, code, details, element, paragraph, table
from midstudy.report.numbers import duration, loss, number, tokens
from midstudy.report.report import Report


def cost(report: Report) -> Html:
    """Time, tokens, and steps beside the lower bound and the price without sharing."""
    took = report.study.cost
    bound = took["lower_bound_steps"]
    shared = took["unshared_steps"] / bound if bound else float("nan")
    rows: list[Row] = [
        ["stages finished", f"{number(took['num_finished'])} of {number(took['num_stages'])}"],
        ["CPU time of finished stages", f"{number(took['cpu_s'])} s ({duration(took['cpu_s'])})"],
        ["wall time of finished stages, summed", f"{number(took['stage_wall_s'])} s ({duration(took['stage_wall_s'])})"],
        ["tokens processed", tokens(took["num_tokens"])],
        ["useful training steps", number(took["useful_steps"])],
        ["lower bound of the plan", number(bound)],
        ["the same arms without sharing", number(took["unshared_steps"]) + (f" ({shared:.1f} ×)" if bound else "")],
        ["steps run again after faults", number(took["recomputed_steps"])],
    ]
    return table(
        ["", ""],
        rows,
        caption="What the study took, whenever its stages ran. Useful steps are each distinct optimizer step once; "
        "a finished study needs exactly the lower bound. A stage occupies one device for its wall time, so on GPUs "
        "that row is device time.",
    )


def data(report: Report) -> Html:
    """The source of every corpus and task, and what was done to it that a reader must know."""
    by_source: dict[str, list[str]] = {}
    for name, source in report.study.reproduction["sources"].items():
        by_source.setdefault(source, []).append(name)
    rows: list[Row] = [[", ".join(names), code(source)] for source, names in by_source.items()]
    shown = table(["corpora and tasks", "source"], rows, caption="Where each text comes from.", num_text_columns=2)
    if report.manifest.notes:
        return shown + paragraph("Notes on the data:") + bullets(report.manifest.notes)
    return shown + paragraph("All train, dev and test splits are the sources' own; none was carved from another.")


def reproduce(report: Report) -> Html:
    """Commands, commit, versions, and the stage id behind every run."""
    study, made = report.study, report.study.reproduction
    name = report.manifest.name
    commands = [made["command"], f"midstudy report {name}"]
    commits = made["git_commit"].split(", ") if made["git_commit"] else []
    if commits:
        commands.insert(0, f"git checkout {commits[-1]}")
    shown = element("pre", "\n".join(commands))
    if not commits:
        shown += paragraph("Its stages were made from a source tree that is no git checkout: no commit is known.")
    if len(commits) > 1:
        shown += paragraph(f"Its stages were made at {len(commits)} commits: {', '.join(commits)}.")
    if made["git_dirty"]:
        shown += paragraph("The source tree had uncommitted changes when stages were made.", css="warning")
    elif made["git_dirty"] is None and commits:
        shown += paragraph("Whether the source tree had uncommitted changes is not known.")
    shown += table(
        ["", "version"],
        [[name, version] for name, version in made["versions"].items()],
        caption="Versions the study ran with.",
    )
    shown += paragraph(
        "Study ", code(name), ", made from tables with digest ", code(study.digest[:16]), ". Every number "
        "rests on the runs below; ", code("midstudy explain A B"), " tells two stages apart by their fields.",
    )  # fmt: skip
    if not report.manifest.arms:
        return shown
    return shown + details(f"All {len(report.manifest.arms)} arms with the ids of their last states", _arms_table(report))


def _arms_table(report: Report) -> Html:
    manifest, arms = report.manifest, report.tables.arms
    columns = [name for name, column in manifest.columns.items() if not column.is_curve]
    rows: list[Row] = [
        [
            ", ".join(written(name, row[name]) for name in manifest.factor_names),
            *(loss(row[name]) for name in columns),
            code(str(row["state"])),
        ]
        for _, row in arms.iterrows()
    ]
    return table(
        ["arm", *(spoken(name) for name in columns), "stage"], rows, caption="Values as measured. The same as arms.csv."
    )
