"""What the data leave out is reported once the data stages finish, before any training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from builders.small_study import plan_in, small_study, write_split, write_text

from midstudy.data.tokens import read_split
from midstudy.evaluate.loss import loss_tally
from midstudy.execute.stage import execute_stage
from midstudy.execute.state import _tallies
from midstudy.plan.left_out import LeftOut, Notices, left_out_in, left_out_of
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import Plan
from midstudy.plan.summary import plan_facts, plan_text
from midstudy.recipe.data import TokenizedData, Tokenizer
from midstudy.store.record import Record
from midstudy.store.store import Store

TOLD = "code_task test, evaluation at 32 tokens: 28 of 30 items left out (no target token within 32 tokens); 2 used"


def make_data(store: Store, plan: Plan) -> None:
    for one in plan.missing:
        store.request(one)
    for kind in (Tokenizer, TokenizedData):
        for one in plan.missing:
            if isinstance(one.recipe, kind):
                execute_stage(store, one.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    """A study where most prompts are longer than its sequences, with finished data stages."""
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


def test_nothing_is_told_before_the_data_are_there(made: tuple[Store, Plan], tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    assert left_out_of(store, made[1].stages) == LeftOut()


def test_plan_manifest_and_notices_say_the_same(made: tuple[Store, Plan]) -> None:
    store, plan = made
    found = left_out_of(store, plan.stages)
    assert found.not_counted == ()
    assert any(sentence.startswith(TOLD) for sentence in found.sentences)
    assert left_out_in(store, manifest_of(plan, command="midstudy run x.py")) == found
    known = replace(plan, left_out=found)
    assert f"  note     {TOLD}" in plan_text(known)
    (told,) = [one for one in plan_facts(known)["left_out"]["tallies"] if one["text"].startswith(TOLD)]
    assert told["left_out"] == {"no_target": 28}
    assert told["is_much"] is True
    lines: list[str] = []
    notices = Notices(store, plan.stages, lines.append)
    for one in plan.stages.values():
        if store.has(one.id):
            notices(one.id, "published")
        else:
            notices(one.id, "submitted")
    assert tuple(sorted(lines)) == tuple(sorted(found.sentences))


def test_every_use_of_every_split_is_counted(made: tuple[Store, Plan]) -> None:
    store, plan = made
    found = {(one.data, one.split, one.use) for one in left_out_of(store, plan.stages).tallies}
    datasets = ("general", "code", "code_task", "word_task")  # the last is read only for token counts
    texts = {(data, split, "text") for data in datasets for split in ("train", "dev", "test")}
    trained = {(data, "train", "training") for data in ("general", "code", "code_task")}
    measured = {("general", "test", "evaluation"), ("code_task", "test", "evaluation")}
    assert found == texts | trained | measured | {("general", "train", "tokenizer")}


def test_records_made_before_there_were_counts_are_not_counted(
    made: tuple[Store, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plan = made
    read = Store.record

    def old(self: Store, identity: str) -> Record:
        record = read(self, identity)
        return replace(record, metrics={name: one for name, one in record.metrics.items() if name != "left_out"})

    monkeypatch.setattr(Store, "record", old)
    found = left_out_of(store, plan.stages)
    assert "tokens code" in found.not_counted
    assert any(sentence.startswith(TOLD) for sentence in found.sentences)  # tokens are reported even so


def test_a_task_of_which_nothing_is_left_is_refused_by_its_evaluation_and_training(tmp_path: Path) -> None:
    text = tmp_path / "text"
    write_text(text)
    for split in ("train", "test"):
        path = text / "sft" / "code" / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_split(path.parent, split, ({**row, "question": " ".join([row["question"]] * 40)} for row in rows))
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(text))
    make_data(store, plan)
    (task,) = [one for one in plan.stages.values() if one.label == "tokens code_task"]
    folder = store.published_folder(task.id)
    arm = plan.arms[0].arm
    with pytest.raises(ValueError, match=r"tasks\.code_task test, evaluation at 32 tokens: 30 of 30 items left out"):
        loss_tally(arm.measures["sft_loss"].evaluation, read_split(folder, "test")).require_enough()
    with pytest.raises(
        ValueError, match=r"tasks\.code_task train, training at 32 tokens: 120 of 120 items .* Raise seq_len"
    ):
        _tallies(arm.final_state, lambda data: read_split(folder, "train"))
