"""A study of accuracies and rewards in MLflow: what was measured, what was said, and what each step of RL earned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders.mlflow_database import forget_connections
from builders.staged_study import NAME, RL_STEPS, write_staged

from midstudy.execute.stage import execute_stage
from midstudy.plan.planner import Plan
from midstudy.run.study import Place, begin, plan_experiment
from midstudy.run.whole_epochs import with_whole_epochs
from midstudy.store.store import Store
from midstudy.track.client import connect, default_tracking_uri
from midstudy.track.facts import STAGE_ID_TAG
from midstudy.track.sync import sync
from midstudy.train.placement import Placement

HERE = Place(backend="local", placement=Placement(), max_jobs=1)


def _make(store: Store, plan: Plan) -> dict[str, str]:
    for stage in plan.missing:
        start, keeps = stage.start_from, stage.keeps_optimizer
        execute_stage(store, stage.id, start_from=start, keeps_optimizer=keeps, should_stop=lambda: False)
    return {}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    """The finished study in MLflow."""
    folder = tmp_path_factory.mktemp("staged")
    experiment, root = write_staged(folder), folder / "store"

    def plan_in(store: Store | None) -> Plan:
        return plan_experiment(str(experiment), store, data=(), settings=[], where=HERE)

    plan = with_whole_epochs(plan_in(None), root, HERE, command="run", make=_make, plan_again=plan_in)
    store = begin(root, plan, HERE, command="run", max_gpu_hours=None)
    _make(store, plan)
    forget_connections()
    sync(store, NAME, tracking_uri=default_tracking_uri(store))
    return store, plan


def _runs(store: Store) -> dict[str, Any]:
    """The runs of stages in MLflow by name."""
    client = connect(default_tracking_uri(store))
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    return {run.info.run_name: run for run in runs if STAGE_ID_TAG in run.data.tags}


def test_accuracies_are_metrics_of_the_evaluation_and_of_the_arm(made: tuple[Store, Plan]) -> None:
    store, plan = made
    runs, records = _runs(store), {stage.label: store.record(stage.id).metrics for stage in plan.stages.values()}
    answers, chosen = records["evaluate rl on sums test"], records["evaluate rl on letters test"]
    assert (
        runs["rl on sums test"].data.metrics.items()
        >= {name: answers[name] for name in ("exact_match", "well_formed", "pass_at_1", "pass_at_4")}.items()
    )
    by_subject = {f"accuracy_by_subject/{name}": value for name, value in chosen["accuracy_by_subject"].items()}
    assert set(by_subject) == {"accuracy_by_subject/school", "accuracy_by_subject/world"}
    assert runs["rl on letters test"].data.metrics.items() >= {"accuracy": chosen["accuracy"], **by_subject}.items()
    noise = records["evaluate base to step 4 on general test"]["noise_scale_sequences"]
    assert runs["base to step 4 on general test"].data.metrics["noise_scale_sequences"] == noise
    of_arm = {name: value for name, value in runs["rl"].data.metrics.items() if name.startswith("arm/")}
    assert of_arm == {
        "arm/exact_match": answers["exact_match"],
        "arm/pass_at_4": answers["pass_at_4"],
        "arm/exact_match_sft": records["evaluate sft to step 60 on sums test"]["exact_match"],
        "arm/accuracy": chosen["accuracy"],
        "arm/accuracy_mid": records["evaluate mid to step 30 on letters test"]["accuracy"],
        "arm/noise_scale": noise,
    }


def test_answers_are_a_table_with_their_questions_on_the_page_of_their_evaluation(
    made: tuple[Store, Plan], tmp_path: Path
) -> None:
    store, plan = made
    client, runs = connect(default_tracking_uri(store)), _runs(store)
    shown = {name: [file.path for file in client.list_artifacts(run.info.run_id)] for name, run in runs.items()}
    with_answers = ["rl on sums test", "sft to step 60 on sums test", "rl on letters test", "step 30 on letters test"]
    assert {name: files for name, files in shown.items() if files} == {name: ["answers.json"] for name in with_answers}
    files = {stage.label.removeprefix("evaluate "): store.published_folder(stage.id) for stage in plan.stages.values()}

    asked = _asked(store.root.parent / "text" / "sft" / "sums" / "test.jsonl")
    table, lines = _answers(store, "rl on sums test", tmp_path), _lines(files["rl on sums test"] / "transcripts.jsonl")
    assert list(table) == ["question", "reply", "reference", "right", "well_formed", "tool_calls", "item", "sample"]
    assert len(table) == len(lines) == 4 * 40
    for row, line in zip(table.to_dict("records"), lines, strict=True):
        assert (row["reply"], row["reference"], row["right"]) == (line["text"], line["reference"], line["right"])
        assert (row["question"], row["reference"]) in asked
    assert len(set(table["question"])) == 40

    table, lines = _answers(store, "rl on letters test", tmp_path), _lines(files["rl on letters test"] / "choices.jsonl")
    for row, line in zip(table.to_dict("records"), lines, strict=True):
        assert (row["reply"], row["reference"]) == tuple(line["choices"][line[name]] for name in ("chosen", "answer"))
        assert (row["right"], row["subject"]) == (line["right"], line["subject"])
    assert sync(store, NAME, tracking_uri=default_tracking_uri(store)).updated == 0


def _answers(store: Store, name: str, folder: Path) -> pd.DataFrame:
    """The table of a run as MLflow's page reads it."""
    run_id = _runs(store)[name].info.run_id
    path = connect(default_tracking_uri(store)).download_artifacts(run_id, "answers.json", str(folder))
    return pd.DataFrame(**json.loads(Path(path).read_text("utf-8")))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _asked(path: Path) -> set[tuple[str, str]]:
    """Question and reply of every conversation of a file."""
    pairs = [[message["content"] for message in row["messages"]] for row in _lines(path)]
    return {(question, reply[0]["text"]) for question, reply in pairs}


def test_what_each_step_of_rl_earned_is_a_curve_beside_the_loss(made: tuple[Store, Plan]) -> None:
    store, plan = made
    (stage_id,) = (stage.id for stage in plan.stages.values() if stage.label == "rl")
    lines = [json.loads(line) for line in (store.published_folder(stage_id) / "metrics.jsonl").read_text().splitlines()]
    client, run_id = connect(default_tracking_uri(store)), _runs(store)["rl"].info.run_id
    assert len(lines) == RL_STEPS
    for name in ("mean_reward", "mixed_prompts", "answer_tokens", "loss_nats"):
        points = client.get_metric_history(run_id, f"train/{name}")
        assert [(point.step, point.value) for point in points] == [(line["step"], line[name]) for line in lines], name
