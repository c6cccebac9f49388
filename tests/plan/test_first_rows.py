"""A plan shows the first row of each source as it will be read."""

from __future__ import annotations

import json
from pathlib import Path

from builders.small_study import plan_in, small_study, write_split

from midstudy.data.first_row import first_row
from midstudy.data.source import resolve_source
from midstudy.plan.summary import plan_facts, plan_text
from midstudy.recipe.data import Source
from midstudy.store.store import Store


def test_the_first_row_of_every_source_is_in_the_plan_cut_to_a_line(text: Path, tmp_path: Path):
    plan = plan_in(Store.open(tmp_path / "store", create=True), small_study(text))
    shown = {line.split()[1]: line for line in plan_text(plan).splitlines() if line.startswith("  row")}
    assert set(shown) == {"general:", "code:", "code_task:", "word_task:"}
    first = json.loads((text / "general" / "train.jsonl").read_text().splitlines()[0])["text"]
    assert shown["general:"] == f'  row      general: "{first[:100]}…"'
    pair = json.loads((text / "sft" / "code" / "train.jsonl").read_text().splitlines()[0])
    prompt, target = (json.loads(part) for part in plan_facts(plan)["first_rows"]["code_task"][0].split(" → "))
    assert pair["question"].startswith(prompt.rstrip("…"))
    assert pair["answer"].startswith(target.rstrip("…"))


def test_the_row_is_shown_under_the_declared_fields_and_on_one_line(tmp_path: Path):
    for split in ("train", "test"):
        write_split(tmp_path / "x", split, [{"q": "a\nb", "a": 'c"é', "text": "not read"}] * 2)
    write_split(tmp_path / "x", "dev", [{"q": "d", "a": "e"}])
    source = resolve_source(f"{tmp_path},prompt=q,completion=a", name="x", folder="x", is_task=True)
    assert first_row(source, is_task=True) == '"a\\nb" → "c\\"é"'


def test_nothing_is_fetched_for_built_in_text_and_a_source_that_cannot_be_read_says_why(tmp_path: Path):
    assert first_row(Source(kind="wheels", part="code", revision="r"), is_task=False) == ""
    gone = Source(kind="files", part="", revision="r", location=str(tmp_path / "gone"))
    assert first_row(gone, is_task=False).startswith(f"not shown: {tmp_path}/gone: no such folder or file")
