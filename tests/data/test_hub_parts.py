"""Parts of a `hub:` source: planned from a list of files alone, and each reads its own files.

The Hub's libraries read their environment when they are imported, so one process of its own reads all the cases.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from builders.hub_server import Hub, Repeated, serve
from builders.places import PYTHONPATH, REPOSITORY

COMMIT = "1" * 40
NUM_FILES, FILE_BYTES = 1_024, 780_000_000
"""C4's English train split: 1,024 files, about 800 GB of text in all."""

CARD = b"""---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/c4-train.*
  - split: validation
    path: en/c4-validation.*
---
"""

READ = """
import json, sys, urllib.request, os
from pathlib import Path
from builders.divided import digests, divided, finished_tokenizer, in_one_process, joined_stage, make
from midstudy.cli.main import main
from midstudy.recipe.data import Corpus, Source, TokenizedData
from midstudy.recipe.stage import stage_id

folder, experiment, commit = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def mark(name):
    try:
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/mark/" + name)
    except OSError:
        pass

mark("plan")
main(["plan", experiment, "--data", f"general=hub:allenai/c4:en@{commit}", "--data", "wheels",
      "--set", "general_bytes=None", "--store", str(folder / "none"), "--json"])
mark("planned")
store, tokenizer = finished_tokenizer(folder / "store", folder / "text")
source = Source(kind="hub", part="owner/small", revision=commit)
data = TokenizedData(data=Corpus(name="small", source=source), tokenizer=tokenizer)
in_one_process(store, data, folder / "alone", shard_bytes=2_000)
plan = divided(data, num_parts=3, shard_bytes=2_000)
for number, stage in enumerate(plan.stages):
    mark(f"stage {number} {type(stage.recipe).__name__}".replace(" ", "-"))
    make(store, stage)
mark("join")
make(store, joined_stage(data, plan))
mark("end")
print(json.dumps([digests(folder / "alone"), digests(store.published_folder(stage_id(data)))]))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, str]], dict[str, list[str]]]:
    """Return the plan of C4, the digests of the small set in one process and in parts, and the files each step opened."""
    folder = tmp_path_factory.mktemp("parts")
    line = json.dumps({"text": "a document of the web " * 100}).encode() + b"\n"
    c4: dict[str, Any] = {"README.md": CARD}
    c4 |= {f"en/c4-train.{n:05d}-of-{NUM_FILES:05d}.jsonl": Repeated(line, FILE_BYTES) for n in range(NUM_FILES)}
    c4 |= {f"en/c4-validation.{n:05d}-of-00008.jsonl": Repeated(line, 100_000_000) for n in range(8)}
    small: dict[str, Any] = {
        f"{split}-{n:05d}-of-{count:05d}.jsonl": b"".join(
            json.dumps({"text": f"{split} {n} {one} " + "words of it " * (one % 7)}).encode() + b"\n" for one in range(40)
        )
        for split, count in (("train", 6), ("test", 1), ("validation", 1))
        for n in range(count)
    }
    (folder / "text").mkdir()
    letters = [{"text": f"{a}{b}{c} {c}{a}{b}"} for a in "abcdefgh" for b in "abcdefg" for c in "defg"]
    for split in ("train", "dev", "test"):
        (folder / "text" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in letters))
    hub = Hub(data_sets={"allenai/c4": {COMMIT: c4}, "owner/small": {COMMIT: small}})
    with serve(hub):
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "PYTHONPATH": PYTHONPATH}
        environment |= {"HF_HOME": str(folder / "huggingface"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", READ, str(folder), str(REPOSITORY / "experiments" / "similarity.py"), COMMIT]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert run.returncode == 0, run.stderr
    plan, rest = json.JSONDecoder().raw_decode(run.stdout)
    steps: dict[str, list[str]] = {}
    for request in hub.requests:
        method, _, path = request.partition(" ")
        if path.startswith("/mark/"):
            opened = steps.setdefault(path.removeprefix("/mark/"), [])
        elif method == "GET" and path.endswith(".jsonl"):
            opened.append(path.rsplit("/", 1)[1])
    return plan, json.loads(run.stdout[rest:].splitlines()[-1]), steps


def test_c4_is_planned_and_priced_in_parts_from_the_list_of_its_files(seen) -> None:
    plan, _, steps = seen
    (parts,) = plan["parts"]
    assert (parts["num_files"], parts["stored_bytes"]) == (NUM_FILES + 8, NUM_FILES * FILE_BYTES + 8 * 100_000_000)
    assert parts["is_remote"]
    assert parts["num_readings"] == 3  # to measure, to tokenise, and for the test split, which is carved
    # The study's general corpus is four fifths of train by hash; the other fifth is its placebo.
    assert parts["text_bytes"] == pytest.approx(0.8 * NUM_FILES * FILE_BYTES + 8e8)
    assert parts["num_parts"] == -(-parts["text_bytes"] // 2**30)
    read_bytes = 3 * parts["stored_bytes"] + parts["num_parts"] * FILE_BYTES  # a part begins and ends inside a file
    expected_s = parts["text_bytes"] / 4e6 + read_bytes / 3e7 + 2 * parts["token_bytes"] / 2e8
    assert parts["cpu_s"] == pytest.approx(expected_s, rel=0.02)
    assert plan["device_hours_missing"] == pytest.approx(parts["cpu_s"] / 3600, rel=0.01)
    assert set(steps["plan"]) == {f"c4-train.00000-of-{NUM_FILES:05d}.jsonl"}, "its first row, which the plan shows"


def test_parts_of_a_hub_data_set_have_the_bytes_of_one_process(seen) -> None:
    _, (alone, in_parts), _ = seen
    assert len(alone) > 15
    assert in_parts == alone


def test_each_part_opens_its_own_files_and_the_first_whose_schema_is_that_of_all(seen) -> None:
    _, _, steps = seen
    first = "train-00000-of-00006.jsonl"
    for kind in ("DocumentSizes", "TokensPart"):
        begun, *later = (set(opened) for name, opened in steps.items() if name.endswith(kind))
        assert len(later) == 2
        assert first in begun
        begun, (second, third) = begun - {first}, (opened - {first} for opened in later)
        assert not begun & third
        assert min(len(second), len(third)) >= 2
        assert max(map(len, (begun, second, third))) <= 4
        if kind == "DocumentSizes":
            assert not begun & second, "each file is measured once"
            assert not second & third
            assert len(begun | second | third | {first}) == 8
    assert [opened for name, opened in steps.items() if name.endswith("ShardLayout") or name == "join"] == [[], []]
