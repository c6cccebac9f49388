"""Texts and tables that Prefect shows of a study, made from the store. Does not import Prefect."""

from __future__ import annotations

import shlex
from typing import Any

from midstudy.recipe.manifest import Manifest
from midstudy.report.numbers import duration
from midstudy.run.watch import FAILED, Progress, Watch
from midstudy.store.store import Store
from midstudy.track.facts import measured_values


def results_table(store: Store, manifest: Manifest) -> list[dict[str, Any]]:
    """Return a row per arm that has a measure of its last state: factors and measured columns."""
    wanted = {stage_id for arm in manifest.arms for ids in arm.measures.values() for stage_id in ids}
    values = measured_values(manifest, store.records(wanted))
    rows = []
    for arm in manifest.arms:
        measured = values[arm.state]
        if any(manifest.stages[arm.measures[column][0]].step == manifest.stages[arm.state].step for column in measured):
            rows.append({**arm.factors, **{column: round(value, 4) for column, value in measured.items()}})
    return sorted(rows, key=lambda row: [str(row[name]) for name in manifest.factor_names])


def artifact_key(study: str, what: str) -> str:
    """Return the key of an artifact: lower-case letters, digits and dashes, as Prefect requires."""
    return f"{study}-{what}".lower().replace("_", "-").replace(".", "-")


def progress_text(progress: Progress) -> str:
    """Return the number of ended stages and the estimated time left, as text."""
    parts = [f"{progress.ended} of {progress.num_stages} stages"]
    for name in ("reused", "failed", "skipped"):
        if count := getattr(progress, name):
            parts.append(f"{count} {name}")
    if progress.ended < progress.num_stages:
        parts.append(f"about {duration(progress.left_s)} left")
    return ", ".join(parts)


def study_text(store: Store, manifest: Manifest, watch: Watch, *, mlflow_page: str | None) -> str:
    """Return the study's page as Markdown: question, progress, failures with causes, and where to find the rest.

    Args:
        mlflow_page: address of the list of arms, if MLflow is a server that has the study.
    """
    name, progress, at = manifest.name, watch.progress(), shlex.quote(str(store.root))
    lines = [f"# {name}", "", manifest.question, ""]
    lines += [f"**{progress_text(progress)}** after {duration(progress.elapsed_s)}.", ""]
    for stage_id, end in watch.ends.items():
        if end.how == FAILED:
            retry = f"midstudy retry --store {at} {name} {stage_id}"
            lines += [f"**Failed: {manifest.stages[stage_id].label}**", "", one_line(end.cause), "", *_code(retry)]
    if mlflow_page is not None:
        lines += [f"[The arms in MLflow]({mlflow_page}), best first: select some and compare.", ""]
    else:
        lines += ["MLflow has a run for every stage; this command opens it:", ""]
        lines += _code(f"midstudy ui --store {at}")
    page = store.paths.study(name) / "report" / "report.html"
    lines += [f"The report is written at the end, to `{page}`. To write it from what is finished now:", ""]
    lines += [*_code(f"midstudy report --store {at} {name}")]
    return "\n".join(lines)


def _code(command: str) -> list[str]:
    return ["```", command, "```", ""]


def one_line(text: str) -> str:
    """Return the first line of a text."""
    return next(iter(text.strip().splitlines()), "")
