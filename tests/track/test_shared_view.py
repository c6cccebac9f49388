"""MLflow's view of a study's arms: a tag of the experiment, in the encoding that MLflow's page reads."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from builders.analysis_tables import tables_of
from builders.browser import chromium
from builders.report_study import study_without_arms
from builders.synthetic_study import SyntheticStudy, frozen, synthetic_study

from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze
from midstudy.track.client import connect, default_tracking_uri
from midstudy.track.facts import STAGE_ID_TAG
from midstudy.track.server import MlflowServer
from midstudy.track.shared_view import VIEW_TAG, arms_page, arms_view, view_tag
from midstudy.track.sync import sync

COLUMNS = [
    *(f"params.`{name}`" for name in ("size", "mix", "weight", "start_step", "task")),
    *(f"metrics.`arm/{name}`" for name in ("sft_loss", "general_loss", "sft_loss_before", "general_loss_before")),
    *(f"params.`{name}`" for name in ("trunk_seed", "sft_seed")),
]
"""The factors and measures of the synthetic study."""


def decoded(tag: str) -> dict[str, Any]:
    """Read a view as MLflow's page does: an envelope of JSON around compressed JSON."""
    envelope = json.loads(tag)
    kind, _, packed = envelope["state"].partition(";")
    assert kind == "deflate"
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return state


@pytest.fixture(scope="module")
def study() -> SyntheticStudy:
    return synthetic_study()


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory, study: SyntheticStudy) -> Store:
    store = Store.open(tmp_path_factory.mktemp("view") / "store", create=True)
    frozen(store, study).publish_all(store)
    sync(store, "synthetic", tracking_uri=default_tracking_uri(store))
    return store


def tags_of(store: Store) -> dict[str, str]:
    experiment = connect(default_tracking_uri(store)).get_experiment_by_name("synthetic")
    assert experiment is not None
    return dict(experiment.tags)


def test_the_tag_decodes_to_the_columns_of_the_study(synced: Store) -> None:
    tag = tags_of(synced)[VIEW_TAG]
    assert decoded(tag)["selectedColumns"] == COLUMNS
    assert json.loads(tag)["name"] == "Arms", "what the page's list of saved views shows"


def test_the_view_holds_the_arms_best_first_in_groups_that_differ_in_seeds_alone(study: SyntheticStudy) -> None:
    view = arms_view(study.manifest)
    assert view["searchFilter"] == "tags.`midstudy.arm` = 'yes'"
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`arm/sft_loss`", True)
    assert view["groupBy"]["aggregateFunction"] == "average"
    keys = view["groupBy"]["groupByKeys"]
    assert keys == [{"mode": "param", "groupByData": name} for name in ("mix", "weight", "start_step", "task")]


def test_a_column_where_higher_is_better_is_sorted_the_other_way_and_a_study_without_seeds_is_not_grouped() -> None:
    rows = [{"loader": loader, "accuracy": 0.5, "loss": 3.0} for loader in ("plain", "best fit")]
    compared = {"name": "loaders", "arms": [1], "references": [0], "columns": ("accuracy",)}
    view = arms_view(tables_of(rows, [compared], columns={"loss": "lower", "accuracy": "higher"}, seeds=()).manifest)
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`arm/accuracy`", False)
    assert view["selectedColumns"] == ["params.`loader`", "metrics.`arm/accuracy`", "metrics.`arm/loss`"]
    assert "groupBy" not in view


def test_curves_are_not_columns_and_a_study_without_arms_has_a_view_without_columns(study: SyntheticStudy) -> None:
    curve = dataclasses.replace(study.manifest.columns["sft_loss_before"], is_curve=True)
    manifest = dataclasses.replace(study.manifest, columns={**study.manifest.columns, "sft_loss_before": curve})
    assert "metrics.`arm/sft_loss_before`" not in arms_view(manifest)["selectedColumns"]
    assert arms_view(study_without_arms().manifest)["selectedColumns"] == []


def test_a_sync_follows_the_study_restores_the_view_and_keeps_other_views(synced: Store, study: SyntheticStudy) -> None:
    client = connect(default_tracking_uri(synced))
    experiment = client.get_experiment_by_name("synthetic")
    assert experiment is not None
    own = "mlflow.sharedViewState.own"
    before = tags_of(synced)
    client.set_experiment_tag(experiment.experiment_id, own, "a person's view")
    client.delete_experiment_tag(experiment.experiment_id, VIEW_TAG)
    uri = default_tracking_uri(synced)
    sync(synced, "synthetic", tracking_uri=uri)
    assert tags_of(synced) == {**before, own: "a person's view"}

    columns = {name: study.manifest.columns[name] for name in ("general_loss", "sft_loss")}
    arms = tuple(
        dataclasses.replace(arm, measures={name: arm.measures[name] for name in columns}) for arm in study.manifest.arms
    )
    freeze(synced, dataclasses.replace(study.manifest, columns=columns, arms=arms))
    sync(synced, "synthetic", tracking_uri=uri)
    assert decoded(tags_of(synced)[VIEW_TAG])["selectedColumns"] == [
        column for column in COLUMNS if not column.endswith("_before`")
    ]
    freeze(synced, study.manifest)
    sync(synced, "synthetic", tracking_uri=uri)


def test_the_question_above_the_runs_follows_the_study_and_leaves_a_persons_text(
    synced: Store, study: SyntheticStudy
) -> None:
    client, uri = connect(default_tracking_uri(synced)), default_tracking_uri(synced)
    assert tags_of(synced)["mlflow.note.content"] == study.manifest.question
    freeze(synced, dataclasses.replace(study.manifest, question="Another?"))
    sync(synced, "synthetic", tracking_uri=uri)
    assert tags_of(synced)["mlflow.note.content"] == "Another?"
    experiment = client.get_experiment_by_name("synthetic")
    assert experiment is not None
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "Ask Ada.")
    freeze(synced, study.manifest)
    sync(synced, "synthetic", tracking_uri=uri)
    assert tags_of(synced)["mlflow.note.content"] == "Ask Ada."


def test_the_filter_finds_the_last_states_of_arms_and_no_other_run(synced: Store, study: SyntheticStudy) -> None:
    client = connect(default_tracking_uri(synced))
    experiment = client.get_experiment_by_name("synthetic")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], arms_view(study.manifest)["searchFilter"], max_results=1000)
    assert {run.data.tags[STAGE_ID_TAG] for run in found} == {arm.state for arm in study.manifest.arms}


def test_a_view_of_many_columns_fits_into_a_tag(study: SyntheticStudy) -> None:
    """MLflow's limit on older servers is 5,000 characters."""
    columns = {f"loss_on_data_set_{number}": study.manifest.columns["sft_loss"] for number in range(200)}
    manifest = dataclasses.replace(study.manifest, columns={**study.manifest.columns, **columns})
    assert len(view_tag(manifest, created_ms=1_700_000_000_000)) < 5_000


@pytest.mark.slow
def test_the_link_opens_the_columns_groups_and_order_in_a_browser(synced: Store, tmp_path: Path) -> None:
    """The page itself, in Chromium: the version of MLflow that is installed reads the view that was written."""
    server = MlflowServer(default_tracking_uri(synced), tmp_path)
    try:
        server.start()
        server.wait_until_healthy()
        experiment = connect(default_tracking_uri(synced)).get_experiment_by_name("synthetic")
        assert experiment is not None
        address = arms_page(server.url, experiment.experiment_id)
        dom = ("--window-size=3200,1400", "--virtual-time-budget=60000", "--dump-dom")
        page = chromium(tmp_path / "profile", *dom, address)
    finally:
        server.stop()
    headers = re.findall(r'<[^>]*role="columnheader"[^>]*>', page)
    shown = {found[1] for header in headers if (found := re.search(r'col-id="([^"]+)"', header))}
    assert shown >= set(COLUMNS)
    groups = re.findall(r"Group: mix: (\w+), weight: [\d.]+, start_step: \d+, task: (\w+)", page)
    assert len(set(groups)) == 6, "three mixes and two tasks"
