"""The tables of a real small study: values as recorded, mixes of any number of corpora, nothing of what is unknown."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from builders.small_study import plan_in, small_study

from midstudy.analysis.data import data_table
from midstudy.analysis.items import columns_without_items, items_table
from midstudy.analysis.tables import (
    arms_table,
    cost_summary,
    curves_table,
    read_tables,
    reproduction,
    similarity_tables,
    write_tables,
)
from midstudy.analysis.training import BATCHES, training_table
from midstudy.data.tokenizer import load_tokenizer
from midstudy.data.tokens import read_split
from midstudy.execute.stage import execute_stage
from midstudy.plan.manifest import manifest_of
from midstudy.recipe.manifest import CountsEntry, Manifest, MixEntry
from midstudy.recipe.study import LABEL_COLUMNS, OWN_COLUMNS
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze


@pytest.fixture(scope="module")
def made(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest]:
    """Everything of the small study but its code arm's evaluations, and its arm on the word task.

    Losses on tasks are kept per item, those on general text are not.
    """
    store = Store.open(tmp_path_factory.mktemp("table") / "store", create=True)
    plan = plan_in(store, small_study(text, tasks=("code_task", "word_task"), items=True))
    manifest = manifest_of(plan, command="midstudy run small.py")
    freeze(store, manifest)
    left_out = {one for column in ("sft_loss", "general_loss") for one in manifest.arms[1].measures[column]}
    left_out |= {manifest.arms[3].state, *(one for ids in manifest.arms[3].measures.values() for one in ids)}
    for stage in plan.stages.values():
        store.request(stage)
        if stage.id not in left_out:
            execute_stage(
                store,
                stage.id,
                start_from=stage.start_from,
                keeps_optimizer=stage.keeps_optimizer,
                should_stop=lambda: False,
            )
    return store, manifest


def test_a_row_is_an_arm_with_its_factors(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    arms = arms_table(store, manifest)
    assert len(arms) == len(manifest.arms)
    for row, arm in enumerate(manifest.arms):
        assert arms.loc[row, list(arm.factors)].to_dict() == dict(arm.factors)
        assert arms["state"][row] == arm.state
    assert list(arms.columns[: 1 + len(manifest.factor_names)]) == ["study", *manifest.factor_names]


def test_values_are_those_of_the_records_and_unknown_ones_are_nan(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    arms = arms_table(store, manifest)
    (evaluation,) = manifest.arms[0].measures["sft_loss"]
    assert arms["sft_loss"][0] == store.record(evaluation).metrics["loss_nats"] > 0
    assert arms["sft_loss"].isna().tolist()[:2] == [False, True]
    assert pd.isna(arms["general_loss"][1])
    assert arms["sft_loss_before"][1] > 0


def test_amounts_are_those_of_the_curriculum(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    arms = arms_table(store, manifest)
    control, code = arms.loc[0], arms.loc[1]
    assert (control["tokens:general"], control["tokens:code"]) == (12 * 4 * 32, 0)
    assert code["tokens:general"] + code["tokens:code"] == code["num_tokens"] == 12 * 4 * 32
    assert (code["items:code_task"], code["items:word_task"]) == (16, 0)
    assert code[[name for name in arms.columns if name.startswith("dose:")]].sum() == pytest.approx(1)


def test_epochs_are_passes_over_the_train_split(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    arms = arms_table(store, manifest)
    sizes = {stage.data: store.record(one).metrics for one, stage in manifest.stages.items() if stage.kind == "tokens"}
    assert arms["epochs:code"][1] == pytest.approx(arms["tokens:code"][1] / sizes["code"]["train_tokens"])
    assert arms["epochs:code_task"][1] == pytest.approx(16 / 120)
    assert arms["epochs:code"][0] == 0


def test_the_share_seen_is_that_of_targets_within_the_sequence_length(made: tuple[Store, Manifest]) -> None:
    """Counted item by item from the tokens that are published."""
    store, manifest = made
    arms = arms_table(store, manifest)
    (tokens,) = [one for one, stage in manifest.stages.items() if (stage.kind, stage.data) == ("tokens", "code_task")]
    split = read_split(store.published_folder(tokens), "train")
    assert split.prompt_lengths is not None
    seen = targets = 0
    for number, prompt in enumerate(split.prompt_lengths):
        length = len(split.document(number))
        targets += length - prompt
        seen += sum(prompt <= position <= 32 for position in range(length))  # 32 inputs predict tokens 1 to 32
    assert 0 < seen < targets
    assert arms["seen:code_task"][0] == pytest.approx(seen / targets, abs=1e-15)
    assert arms["seen:code_task"].isna().tolist() == [False, False, True, True]


def test_the_share_seen_is_unknown_until_the_task_is_tokenised(text: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    manifest = manifest_of(plan_in(store, small_study(text)), command="midstudy run small.py")
    assert arms_table(store, manifest)["seen:code_task"].isna().all()


def test_each_arm_has_the_share_seen_at_its_own_sequence_length(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    row = manifest.arms[0].reads["code_task"]
    longer = (*manifest.uses, replace(manifest.uses[row], seq_len=10_000))
    arms = (replace(manifest.arms[0], reads={"code_task": len(longer) - 1}), *manifest.arms[1:])
    seen = arms_table(store, replace(manifest, arms=arms, uses=longer))["seen:code_task"]
    assert seen[0] == 1 > seen[1]


def test_wall_time_is_that_of_every_stage_on_the_way_and_unknown_until_the_last(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    arms = arms_table(store, manifest)
    expected, state = 0.0, manifest.arms[1].state
    seen = []
    while state is not None:
        expected += store.record(state).timing["wall_s"]
        seen.append(state)
        state = manifest.stages[state].start_from  # type: ignore[assignment]
    assert len(seen) == 3  # the trunk to the branch point, midtraining, SFT
    assert arms["wall_s"][1] == pytest.approx(expected)
    assert math.isnan(arms["wall_s"][3])


def test_the_wall_time_of_an_average_is_that_of_all_its_runs_each_stage_once(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    first, second = manifest.arms[0].state, manifest.arms[1].state  # both begin with the same steps of the trunk
    end = manifest.arms[2].state
    stages = {**manifest.stages, end: replace(manifest.stages[end], parents=(first, second), start_from=None)}
    wall_s = arms_table(store, replace(manifest, stages=stages))["wall_s"][2]
    behind = {end, first, second}
    for one in (first, second):
        while (parent := manifest.stages[one].start_from) is not None:
            behind.add(parent)
            one = parent
    assert wall_s == pytest.approx(sum(store.record(one).timing["wall_s"] for one in behind))


def test_a_curve_has_a_row_for_each_of_its_steps(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    assert curves_table(store, manifest).empty
    before, after = (manifest.arms[0].measures[column][0] for column in ("general_loss_before", "general_loss"))
    arm = replace(manifest.arms[0], measures={"general_curve": (before, after)})
    columns = {"general_curve": replace(manifest.columns["general_loss"], is_curve=True)}
    changed = replace(manifest, arms=(arm,), columns=columns)
    curves = curves_table(store, changed)
    assert curves["step"].tolist() == [12, 16]
    assert curves["value"].tolist() == [store.record(one).metrics["loss_nats"] for one in (before, after)]
    assert curves["arm"].tolist() == [0, 0]
    assert "general_curve" not in arms_table(store, changed)


def test_an_item_has_a_row_for_each_finished_measure_that_keeps_items(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    items = items_table(store, manifest)
    assert items is not None
    arms = arms_table(store, manifest)
    assert set(items["column"]) == {"sft_loss", "sft_loss_before"}
    totals = items.groupby(["arm", "column"])[["nats", "target_tokens"]].sum()
    losses = totals["nats"] / totals["target_tokens"]
    finished = [(row, column) for row in arms.index for column in set(items["column"]) if not math.isnan(arms[column][row])]
    assert set(losses.index) == set(finished)
    for row, column in finished:
        assert losses[row, column] == pytest.approx(arms[column][row], rel=1e-12)
    first = items[(items["arm"] == 2) & (items["column"] == "sft_loss")]
    assert first["item"].tolist() == list(range(16))
    assert (set(first["task"]), set(first["step"])) == ({"word_task"}, {16})


def test_columns_without_results_per_item_are_named(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    without = columns_without_items(items_table(store, manifest), tuple(manifest.columns))
    assert without == ["general_loss", "general_loss_before"]
    general = {name: ids for name, ids in manifest.arms[0].measures.items() if name.startswith("general")}
    assert items_table(store, replace(manifest, arms=(replace(manifest.arms[0], measures=general),))) is None
    assert columns_without_items(None, ("accuracy",)) == ["accuracy"]


def test_every_mix_is_beside_every_task_with_its_factors(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    shares = {"a quarter": 0.25, "a half": 0.5, "code alone": 1.0}
    mixes = tuple(
        MixEntry(
            name=name,
            shares={"code": share} | ({"general": 1 - share} if share < 1 else {}),
            reference="general",
            factors={"weight": share},
        )
        for name, share in shares.items()
    )
    similarity, proximity = similarity_tables(store, replace(manifest, mixes=mixes))
    assert similarity is not None
    assert proximity is not None
    assert proximity[["mix_name", "weight", "task"]].to_numpy().tolist() == [
        [name, share, task] for name, share in shares.items() for task in ("code_task", "word_task")
    ]
    assert proximity["pa_js"][0] > 0 > proximity["pa_js"][1]
    assert proximity["pa_js"][0] < proximity["pa_js"][2]
    assert set(similarity.loc[similarity["left_kind"] == "mixture", "left"]) == {"a quarter", "a half"}


def test_similarities_wait_for_every_count(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    waiting = replace(manifest, counts=(*manifest.counts, CountsEntry(data="more", is_task=False, stage="0" * 16)))
    assert similarity_tables(store, waiting) == (None, None)
    assert similarity_tables(store, replace(manifest, counts=(), mixes=())) == (None, None)


def test_the_cost_counts_what_is_finished(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    cost = cost_summary(store, manifest)
    assert cost["num_stages"] - cost["num_finished"] == 2 + 5
    assert (cost["failed"], cost["lower_bound_steps"]) == ([], manifest.steps.lower_bound)
    assert reproduction(store, manifest)["command"] == "midstudy run small.py"


def test_data_sets_are_described_by_the_records_of_their_stages(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    table = data_table(store, manifest).set_index("data")
    assert list(table.index) == list(manifest.sources)
    stage = next(one for one, entry in manifest.stages.items() if (entry.kind, entry.data) == ("tokens", "code"))
    sizes = store.record(stage).metrics
    for split in ("train", "dev", "test"):
        assert table.loc["code", f"{split}_tokens"] == sizes[f"{split}_tokens"]
        assert table.loc["code", f"{split}_documents"] == sizes[f"{split}_documents"]
    assert table.loc["code_task", "is_task"]
    assert not table.loc["code", "is_task"]
    assert math.isnan(float(table.loc["code", "overlap"])), "files are not searched for test items"
    tokens = read_split(store.published_folder(stage), "train").tokens
    tokenizer = load_tokenizer(store.published_folder(manifest.stages[stage].parents[0]))
    train_text = tokenizer.decode(tokens[: len(tokens)].tolist(), skip_special_tokens=True)
    assert table.loc["code", "bytes_per_token"] == pytest.approx(len(train_text.encode()) / len(tokens))


def test_tables_are_read_back_as_they_were_written(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    folder = store.paths.study(manifest.name)
    written = write_tables(store, manifest, folder)
    found = read_tables(folder)
    assert found.manifest == manifest
    for name in ("arms", "curves", "items", "similarity", "proximity", "data"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(written, name), check_dtype=name != "curves")
    assert (folder / "answer.txt").read_text("utf-8").startswith("For task code task, sft loss has no result yet")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"arms.csv", "claims.csv", "curves.csv", "cost.json", "reproduce.json", "left_out.json"}


def test_no_factor_can_have_the_name_of_a_column_of_a_table(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    tables = curves_table(store, manifest), training_table(store, manifest), items_table(store, manifest)
    named = {str(name) for table in tables if table is not None for name in table} - {*manifest.factor_names}
    assert named <= {*OWN_COLUMNS, *LABEL_COLUMNS}


def test_training_has_every_logged_step_of_every_finished_stage(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    table = training_table(store, manifest)
    assert table is not None
    batches = table[table["split"] == BATCHES]
    finished = {one for one, stage in manifest.stages.items() if stage.kind == "state" and store.has(one)}
    assert set(batches["stage"]) == finished
    for stage, rows in batches.groupby("stage"):
        record = store.record(str(stage))
        logged = [
            json.loads(line) for line in (store.published_folder(str(stage)) / "metrics.jsonl").read_text().splitlines()
        ]
        assert rows["loss_nats"].tolist() == [line["loss_nats"] for line in logged]
        assert rows["loss_nats"].iloc[-1] == record.metrics["train_loss_nats"]
        assert rows["step"].iloc[-1] == manifest.stages[str(stage)].step
        assert (rows["role"] == manifest.stages[str(stage)].role).all()


def test_losses_on_corpora_stand_beside_the_training_of_their_state(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    table = training_table(store, manifest)
    assert table is not None
    measured = table[table["split"] != BATCHES]
    assert set(measured["data"]) == {"general"}, "a task's loss is not one of training"
    (evaluation,) = manifest.arms[0].measures["general_loss"]
    row = measured[measured["stage"] == manifest.arms[0].state].iloc[0]
    assert row["loss_nats"] == store.record(evaluation).metrics["loss_nats"]
    assert row["step"] == manifest.stages[evaluation].step


def test_a_study_without_finished_training_has_no_table_of_it(made: tuple[Store, Manifest], tmp_path: Path) -> None:
    assert training_table(Store.open(tmp_path / "store", create=True), made[1]) is None
