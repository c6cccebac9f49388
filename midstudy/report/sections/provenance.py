"""Provenance of the numbers: their cost, their data, and how to reproduce them."""

from __future__ import annotations

import math

import pandas as pd

from midstudy.analysis.items import columns_without_items
from midstudy.report.cells import differing, label, readable
from midstudy.report.html import Html, Row, Text, bold, bullets, code, details, element, paragraph, table
from midstudy.report.numbers import ABSENT, decimal, duration, number, tokens
from midstudy.report.recomputation import NOTEBOOK
from midstudy.report.report import Report


def cost(report: Report) -> Html:
    """Show time, tokens and steps, with the lower bound and the steps without sharing."""
    took = report.study.cost
    bound = took["lower_bound_steps"]
    shared = took["unshared_steps"] / bound if bound else float("nan")
    rows: list[Row] = [
        ["stages finished", f"{number(took['num_finished'])} of {number(took['num_stages'])}"],
        ["CPU time of finished stages", f"{number(took['cpu_s'])} s ({duration(took['cpu_s'])})"],
        ["wall time of finished stages, summed", f"{number(took['stage_wall_s'])} s ({duration(took['stage_wall_s'])})"],
        ["tokens processed", tokens(took["num_tokens"])],
        ["useful training steps", number(took["useful_steps"])],
        ["lower bound of the plan, steps", number(bound)],
        ["steps of the same arms without sharing", number(took["unshared_steps"]) + (f" ({shared:.1f} ×)" if bound else "")],
        ["steps repeated after faults", number(took["recomputed_steps"])],
    ]
    return table(
        ["", ""],
        rows,
        caption="The cost of the study's stages, including those that an earlier run made. Useful steps count each distinct "
        "optimizer step once; a finished study needs exactly the lower bound. A stage occupies one device for its wall "
        "time, so on GPUs that row is device time.",
    )


_BUILT_IN = "wheels:"
"""Begins the source of built-in text."""


def data(report: Report) -> Html:
    """Show every data set: sizes, bytes a token, sample of its similarity, overlap with tests, source; and who split it."""
    sources = report.study.reproduction["sources"]
    facts = report.tables.data
    known = {} if facts is None else {str(row["data"]): row for _, row in facts.iterrows()}
    rows: list[Row] = [_data_cells(name, source, known.get(name)) for name, source in sources.items()]
    shown = table(
        ["data set", "source", "train", "dev", "test", "train tokens", "train MB", "bytes a token", "sampled", "overlap"],
        rows,
        caption="Data as the study reads it. Train, dev, test: documents of a corpus, items of a task. Bytes: UTF-8 text of "
        "the tokens. Sampled: train tokens counted for similarities. Overlap: documents removed from the whole source "
        "because they equal a test item or share 13 words in a row with one; a dash: the source was not searched.",
        num_text_columns=2,
    )
    splits = []
    if any(str(source).startswith(_BUILT_IN) for source in sources.values()):
        splits.append(
            "Built-in text has no splits of its own: this project carves dev and test from it by hash. All items of a task "
            "that come from one file, fact, element or package are in one split, and test word problems have templates of "
            "their own."
        )
    if report.manifest.notes:
        return shown + paragraph(*splits, " Notes on the data:") + bullets(report.manifest.notes)
    if not all(str(source).startswith(_BUILT_IN) for source in sources.values()):
        splits.append("All other splits are those of the sources." if splits else "All splits are those of the sources.")
    return shown + paragraph(" ".join(splits))


def _data_cells(name: str, source: str, facts: pd.Series | None) -> list[Text]:
    if facts is None:
        return [readable(name), code(source), *[ABSENT] * 8]
    per_token, train = float(facts["bytes_per_token"]), float(facts["train_tokens"])
    return [
        readable(name),
        code(source),
        *(number(facts[f"{split}_documents"]) for split in ("train", "dev", "test")),
        ABSENT if math.isnan(train) else tokens(train),
        ABSENT if math.isnan(train * per_token) else f"{train * per_token / 1e6:.2f}",
        ABSENT if math.isnan(per_token) else f"{per_token:.2f}",
        ABSENT if math.isnan(facts["sampled_tokens"]) else tokens(facts["sampled_tokens"]),
        number(facts["overlap"]),
    ]


def reproduce(report: Report) -> Html:
    """Show the commands, commit and versions, and the stage id of every arm."""
    study, made = report.study, report.study.reproduction
    name = report.manifest.name
    commands = [made["command"], f"midstudy report {name}"]
    commits = made["git_commit"].split(", ") if made["git_commit"] else []
    if commits:
        commands.insert(0, f"git checkout {commits[-1]}")
    shown = element("pre", "\n".join(commands))
    if not commits:
        shown += paragraph("The commit is unknown: the stages were made from a source tree that is not a git checkout.")
    if len(commits) > 1:
        shown += paragraph(f"The stages were made at {len(commits)} commits: {', '.join(commits)}.")
    if made["git_dirty"]:
        shown += paragraph("The source tree had uncommitted changes when stages were made.", css="warning")
    elif made["git_dirty"] is None and commits:
        shown += paragraph("It is unknown whether the source tree had uncommitted changes.")
    shown += table(
        ["", "version"],
        [[name, version] for name, version in made["versions"].items()],
        caption="Versions the study ran with.",
    )
    shown += paragraph(
        "Study ", code(name), ", made from tables with digest ", code(study.digest[:16]), ". Every number "
        "comes from the runs below; ", code("midstudy explain A B"), " shows the recipe fields in which two stages differ.",
    )  # fmt: skip
    shown += _decisions(report)
    shown += _files(report)
    if not report.manifest.arms:
        return shown
    return shown + details(f"All {len(report.manifest.arms)} arms with the ids of their last states", _arms_table(report))


def _decisions(report: Report) -> Html:
    """Show what each choice decided, with the metric of every candidate; empty for a study without choices."""
    decisions = report.study.reproduction["decisions"]
    if not decisions:
        return Html("")
    rows: list[Row] = [
        [
            made["label"],
            bold(f"{option['value']:g}") if option["value"] == made["chosen"] else f"{option['value']:g}",
            decimal(option["measured"]) if option["measured"] is not None else "not finite",
            decimal(option["margin"]) if option["margin"] is not None else "",
            code(made["id"]),
        ]
        for made in decisions
        for option in made["tried"]
    ]
    rules = " and ".join(dict.fromkeys(f"the {made['rule']} {readable(made['metric'])}" for made in decisions))
    return table(
        ["choice", "value", "candidate's metric", "worse by", "stage"],
        rows,
        caption=f"Values that the study chose, in bold: those whose candidates have {rules} on the split named. "
        "A choice never reads a test split. `chosen:NAME` in arms.csv is the value of each arm.",
    )


def _files(report: Report) -> Html:
    """Show the study's tables as files, and which measured columns have no results per item."""
    held = {
        "arms": "one row per arm: factors, measured values; per data set tokens, epochs, dose (fine-tuning included)",
        "curves": "one row per arm, measured curve and step",
        "items": "one row per arm, measured column and item: nats and target tokens, or what is right",
        "similarity": "one row per pair of corpora, mixtures and tasks",
        "proximity": "one row per mix and task",
        "data": "one row per data set",
        "representation": "one row per arm, compared states and pair of layers: linear CKA",
        "training": "one row per training stage and logged step, and per loss measured on a corpus",
        "shares": "one row per evaluated state and share of right answers, with its interval and change",
    }
    known = {name: found for name in held if (found := getattr(report.tables, name)) is not None and len(found)}
    rows: list[Row] = [[code(f"{name}.parquet"), held[name], number(len(found))] for name, found in known.items()]
    shown = table(["file", "content", "rows"], rows, caption="Tables in the study's folder, for pandas.", num_text_columns=2)
    shown += paragraph(code(NOTEBOOK), " beside this page recomputes the effects from these files without midstudy.")
    without = columns_without_items(report.tables.items, tuple(report.manifest.columns))
    if not without:
        return shown
    names = ", ".join(report.manifest.title_of(name) for name in without)
    return shown + paragraph(
        f"Not kept per item: {names}. Request it with ", code("Evaluation(items=True)"), "; that evaluation has an id of "
        "its own, and states are reused.", css="note",
    )  # fmt: skip


def _arms_table(report: Report) -> Html:
    manifest, arms = report.manifest, report.tables.arms
    columns = [name for name, column in manifest.columns.items() if not column.is_curve]
    names = differing(arms, manifest.factor_names)
    rows: list[Row] = [
        [
            label(row, names),
            *(decimal(row[name]) for name in columns),
            code(str(row["state"])),
        ]
        for _, row in arms.iterrows()
    ]
    titles = [manifest.title_of(name) for name in columns]
    return table(
        ["arm", *titles, "stage"],
        rows,
        caption="Measured values, as in arms.csv. Arms are named by the factors in which they differ.",
    )
