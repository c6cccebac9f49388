"""Where the numbers come from: beside the paper's, what they cost, which text, and how to make them again."""

from __future__ import annotations

from midstudy.analysis.claims import INCONCLUSIVE, NO, YES
from midstudy.analysis.paper import PAPER_MIX, PAPER_TASK
from midstudy.report.figures.style import spoken
from midstudy.report.html import Heading, Html, Row, bullets, code, details, element, lines, paragraph, table
from midstudy.report.numbers import loss, number, percent, tokens
from midstudy.report.report import Report
from midstudy.report.sections.overview import duration

_VERDICTS = {YES: "yes", NO: "NO", INCONCLUSIVE: "not decided"}


def beside_paper(report: Report) -> Html:
    """Every claim of the paper with its numbers, ours, and whether they point the same way."""
    claims = report.results.claims
    rows: list[Row] = []
    for size, of_size in claims.groupby("size", sort=False):
        if len(report.sizes) > 1:
            rows.append(Heading(f"size {size}"))
        rows += [
            [row.claim, lines(str(row.paper).split("; ")), row.ours, element("span", _VERDICTS[row.same_direction],
             css=f"verdict-{row.same_direction}")]
            for row in of_size.itertuples()
        ]  # fmt: skip
    counts = {verdict: int((claims["same_direction"] == verdict).sum()) for verdict in _VERDICTS}
    names = [f"{ours} is the paper's {theirs}" for ours, theirs in {**PAPER_MIX, **PAPER_TASK}.items()]
    caption = (
        f"{len(claims)} claims: {counts[YES]} point the same way, {counts[NO]} the opposite, {counts[INCONCLUSIVE]} "
        "are not decided, that is their 95 % interval over trunk seeds holds zero or there is none; similarities, "
        "measured once, go by their sign. Directions are compared, not levels: models, data and tokenizer are not "
        "the paper's. Numbers marked second-hand come from a public reading note of the paper's second version. "
        f"Names: {', '.join(spoken(name) for name in names)}."
    )
    columns = ["claim", "paper (arXiv 2510.14865)", "this study", "same direction"]
    return table(columns, rows, caption=caption, num_text_columns=4)


def cost(report: Report) -> Html:
    """Time, tokens, and steps beside the lower bound and the price without sharing."""
    took = report.study.cost
    shared = took.unshared_steps / took.lower_bound_steps if took.lower_bound_steps else float("nan")
    rows: list[Row] = [
        ["stages finished", f"{number(took.num_finished)} of {number(took.num_stages)}"],
        ["CPU time of finished stages", f"{number(took.cpu_s)} s ({duration(took.cpu_s)})"],
        ["wall time of finished stages, summed", f"{number(took.stage_wall_s)} s ({duration(took.stage_wall_s)})"],
        ["tokens processed", tokens(took.num_tokens)],
        ["useful training steps", number(took.useful_steps)],
        ["lower bound of the plan", number(took.lower_bound_steps)],
        ["the same grid without sharing", f"{number(took.unshared_steps)} ({shared:.1f} ×)"],
        ["steps run again after faults", number(took.recomputed_steps)],
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
    for name, source in report.study.reproduction.sources.items():
        by_source.setdefault(source, []).append(name)
    rows: list[Row] = [[", ".join(names), code(source)] for source, names in by_source.items()]
    shown = table(["corpora and tasks", "source"], rows, caption="Where each text comes from.", num_text_columns=2)
    if report.study.notes:
        return shown + paragraph("Notes on the data:") + bullets(report.study.notes)
    return shown + paragraph("All train, dev and test splits are the sources' own; none was carved from another.")


def reproduce(report: Report) -> Html:
    """Commands, commit, versions, and the stage id behind every run."""
    study, made = report.study, report.study.reproduction
    commands = [made.command, f"midstudy report {study.name}"]
    commits = made.git_commit.split(", ") if made.git_commit else []
    if commits:
        commands.insert(0, f"git checkout {commits[-1]}")
    shown = element("pre", "\n".join(commands))
    if not commits:
        shown += paragraph("Its stages were made from a source tree that is no git checkout: no commit is known.")
    if len(commits) > 1:
        shown += paragraph(f"Its stages were made at {len(commits)} commits: {', '.join(commits)}.")
    if made.git_dirty:
        shown += paragraph("The source tree had uncommitted changes when stages were made.", css="warning")
    elif made.git_dirty is None and commits:
        shown += paragraph("Whether the source tree had uncommitted changes is not known.")
    shown += table(
        ["", "version"],
        [[name, version] for name, version in made.versions.items()],
        caption="Versions the study ran with.",
    )
    shown += paragraph(
        "Study ", code(study.name), ", made from tables with digest ", code(study.digest[:16]), ". Every number "
        "rests on the runs below; ", code("midstudy explain A B"), " tells two stages apart by their fields.",
    )  # fmt: skip
    return shown + details(f"All {len(study.arms)} runs with their stage ids", _runs_table(report))


def _runs_table(report: Report) -> Html:
    rows: list[Row] = [
        [
            row.size,
            spoken(row.mix),
            percent(row.weight),
            str(row.start_step),
            spoken(row.task),
            f"{row.trunk_seed} / {row.sft_seed}",
            loss(row.sft_loss_before),
            loss(row.sft_loss),
            loss(row.general_loss_before),
            loss(row.general_loss),
            code(str(row.sft_state)),
        ]
        for row in report.study.arms.itertuples()
    ]
    columns = ["size", "mix", "weight", "start", "task", "seeds", "task before", "task after", "general before",
               "general after", "SFT stage"]  # fmt: skip
    return table(columns, rows, caption="Test losses in nats per token; seeds: trunk / SFT. The same as arms.csv.")
