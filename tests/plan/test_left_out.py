"""What the data leaves out is reported once the data stages finish, before any training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from builders.small_study import plan_in, small_study, write_split, write_text

from midstudy.data.tokens import read_split
from midstudy.evaluate.sequences import sequences_tally
from midstudy.execute.stage import execute_stage
from midstudy.execute.state import _tallies
from midstudy.plan.left_out import LeftOut, Notices, left_out_in, left_out_of
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import Plan
from midstudy.plan.summary import plan_facts, plan_text
from midstudy.recipe.data import TokenizedData, Tokenizer
from midstudy.store.record import Record
from midstudy.store.store import Store

SENTENCE = "code_task test, evaluation at 32 tokens: 28 of 30 items left out (no target token within 32 tokens); 2 used"


def make_data(store: Store, plan: Plan) -> None:
    for stage in plan.missing:
        store.request(stage)
    for kind in (Tokenizer, TokenizedData):
        for stage in plan.missing:
            if isinstance(stage.recipe, kind):
                execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    """Return a study with finished data stages in which most prompts are longer than the sequences."""
    folder = tmp_path_factory.mktemp("left_out")
    write_text(folder / "text")
    for split in ("train", "test"):
        path = folder / "text" / "sft" / "code" / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        long = (
            {**row, "question": " ".join([row["question"]] * (1 if number % 15 == 0 else 40))}
            for number, row in enumerate(rows)
        )
        write_split(path.parent, split, long)
    store = Store.open(folder / "store", create=True)
    plan = plan_in(store, small_study(folder / "text"))
    make_data(store, plan)
    return store, plan


def test_nothing_is_reported_before_the_data_stages_finish(made: tuple[Store, Plan], tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    assert left_out_of(store, made[1].stages) == LeftOut()


def test_plan_manifest_and_notices_report_the_same(made: tuple[Store, Plan]) -> None:
    store, plan = made
    left_out = left_out_of(store, plan.stages)
    assert left_out.not_counted == ()
    assert any(sentence.startswith(SENTENCE) for sentence in left_out.sentences)
    assert left_out_in(store, manifest_of(plan, command="midstudy run x.py")) == left_out
    known = replace(plan, left_out=left_out)
    assert f"  note     {SENTENCE}" in plan_text(known)
    seen = [line for line in plan_text(known).splitlines() if line.startswith("  seen")]
    (trained,) = [one for one in left_out.tallies if one.use == "training" and one.target_tokens is not None]
    assert seen == [f"  seen     of the tasks' target tokens: code_task {trained.percent_seen} within 32 tokens"]
    assert not [line for line in plan_text(plan).splitlines() if line.startswith("  seen")], "not known before tokens"
    (tally,) = [tally for tally in plan_facts(known)["left_out"]["tallies"] if tally["text"].startswith(SENTENCE)]
    assert tally["left_out"] == {"no_target": 28}
    assert tally["is_much"] is True
    lines: list[str] = []
    notices = Notices(store, plan.stages, lines.append)
    for stage in plan.stages.values():
        if store.has(stage.id):
            notices(stage.id, "published")
        else:
            notices(stage.id, "submitted")
    assert tuple(sorted(lines)) == tuple(sorted(left_out.sentences))


def test_every_use_of_every_split_is_counted(made: tuple[Store, Plan]) -> None:
    store, plan = made
    counted = {(tally.data, tally.split, tally.use) for tally in left_out_of(store, plan.stages).tallies}
    datasets = ("general", "code", "code_task", "word_task")  # the last is read only for token counts
    texts = {(data, split, "text") for data in datasets for split in ("train", "dev", "test")}
    trained = {(data, "train", "training") for data in ("general", "code", "code_task")}
    measured = {("general", "test", "evaluation"), ("code_task", "test", "evaluation")}
    assert counted == texts | trained | measured | {("general", "train", "tokenizer")}


def test_records_without_tallies_are_listed_as_not_counted(
    made: tuple[Store, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plan = made
    read = Store.record

    def old(self: Store, stage_id: str) -> Record:
        record = read(self, stage_id)
        return replace(record, metrics={name: value for name, value in record.metrics.items() if name != "left_out"})

    monkeypatch.setattr(Store, "record", old)
    left_out = left_out_of(store, plan.stages)
    assert "tokens code" in left_out.not_counted
    assert any(sentence.startswith(SENTENCE) for sentence in left_out.sentences)  # uses are counted from the tokens


def test_evaluation_and_training_reject_a_task_without_any_usable_item(tmp_path: Path) -> None:
    text = tmp_path / "text"
    write_text(text)
    for split in ("train", "test"):
        path = text / "sft" / "code" / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_split(path.parent, split, ({**row, "question": " ".join([row["question"]] * 40)} for row in rows))
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text))
    make_data(store, plan)
    (task,) = [stage for stage in plan.stages.values() if stage.label == "tokens code_task"]
    folder = store.published_folder(task.id)
    arm = plan.arms[0].arm
    with pytest.raises(ValueError, match=r"tasks\.code_task test, evaluation at 32 tokens: 30 of 30 items left out"):
        sequences_tally(arm.measures["sft_loss"].evaluation, read_split(folder, "test")).require_enough()
    with pytest.raises(
        ValueError, match=r"tasks\.code_task train, training at 32 tokens: 120 of 120 items .* Raise seq_len"
    ):
        _tallies(arm.final_state, lambda data: read_split(folder, "train"), pytest.fail)
