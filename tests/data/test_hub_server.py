"""`hub:` sources over the hub's protocol, from a server on loopback that `HF_ENDPOINT` names.

The Hub's libraries read their environment when they are imported, so one process of its own reads all the cases.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from builders.hub_server import Content, Hub, serve
from builders.places import PYTHONPATH
from pyarrow import parquet

NEW, OLD = "1" * 40, "2" * 40

CARD = b"""---
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: other
  data_files:
  - split: train
    path: other/train-*
---
"""

CASES = {  # the --data value, the split and whether it is a task
    "default": (f"hub:owner/web@{NEW},text=content", "train", False),
    "dev": (f"hub:owner/web@{NEW},text=content", "dev", False),
    "test": (f"hub:owner/web@{NEW},text=content", "test", False),
    "config": (f"hub:owner/web:other@{NEW},text=content", "train", False),
    "revision": (f"hub:owner/web@{OLD},text=content", "train", False),
    "undeclared": (f"hub:owner/web@{NEW}", "train", False),
    "wrong field": (f"hub:owner/web@{NEW},text=body", "train", False),
    "jsonl": (f"hub:owner/pairs@{NEW},prompt=q,completion=a", "test", True),
    "no config": (f"hub:owner/web:nope@{NEW}", "train", False),
    "no revision": (f"hub:owner/web@{'3' * 40}", "train", False),
    "no data set": (f"hub:owner/none@{NEW}", "train", False),
    "gated": (f"hub:owner/gated@{NEW}", "train", False),
}

READ = """
import json, sys
from midstudy.data.first_row import first_row
from midstudy.data.source import load_rows, resolve_source

made = {}
for name, (argument, split, is_task) in json.loads(sys.argv[1]).items():
    source = resolve_source(argument, name="x", folder="x", is_task=is_task)
    try:
        made[name] = list(load_rows(source, split=split, is_task=is_task))
    except ValueError as error:
        made[name] = f"{type(error).__name__}: {error}"
    if name in ("default", "gated"):
        made[f"first row of {name}"] = first_row(source, is_task=is_task)
print(json.dumps(made))
"""


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=50)
    return file.getvalue()


def rows_of(name: str, number: int) -> list[dict[str, Any]]:
    rng = random.Random(name)
    return [{"content": f"{name} {one} {rng.randbytes(40).hex()}", "id": one} for one in range(number)]


TRAIN = [*rows_of("first", 200), *rows_of("second", 60)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Hub]:
    """Return what a process read of every case, and the server; a connection broke in the first file."""
    web: dict[str, Content] = {
        "README.md": CARD,
        "main/train-00000-of-00002.parquet": as_parquet(TRAIN[:200]),
        "main/train-00001-of-00002.parquet": as_parquet(TRAIN[200:]),
        "main/test-00000-of-00001.parquet": as_parquet(rows_of("test", 3)),
        "other/train-00000-of-00001.parquet": as_parquet(rows_of("other", 200)),
    }
    old: dict[str, Content] = {
        "README.md": CARD,
        **{path: as_parquet(rows_of("old", 200)) for path in web if path.endswith("parquet")},
    }
    pairs: dict[str, Content] = {
        "train.jsonl": b"".join(json.dumps({"q": f"{n}?", "a": "yes"}).encode() + b"\n" for n in range(40)),
        "test.jsonl": b'{"q": "t?", "a": "no"}\n',
    }
    hub = Hub(
        data_sets={"owner/web": {OLD: old, NEW: web}, "owner/pairs": {NEW: pairs}, "owner/gated": {NEW: {"README.md": b""}}},
        gated={"owner/gated"},
        breaks=1,
    )
    with serve(hub):
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "PYTHONPATH": PYTHONPATH, "HF_TOKEN": "hf_test"}
        environment |= {"HF_HOME": str(tmp_path_factory.mktemp("huggingface")), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", READ, json.dumps(CASES)]
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parent
        )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1]), hub


def test_parquet_shards_are_read_under_the_declared_field_although_a_connection_breaks(seen):
    made, hub = seen
    assert hub.broken == ["main/train-00000-of-00002.parquet"]
    carved = [*made["default"], *made["dev"]]  # dev is carved from train by hash
    assert sorted(row["text"] for row in carved) == sorted(row["content"] for row in TRAIN)
    in_order = [row["content"] for row in TRAIN if {"text": row["content"]} in made["default"]]
    assert [row["text"] for row in made["default"]] == in_order
    assert made["dev"]


def test_splits_configurations_revisions_and_jsonl_are_those_that_are_named(seen):
    made, _ = seen
    assert [row["text"] for row in made["test"]] == [row["content"] for row in rows_of("test", 3)]
    assert {row["text"].split()[0] for row in made["config"]} == {"other"}
    assert {row["text"].split()[0] for row in made["revision"]} == {"old"}
    assert made["jsonl"] == [{"prompt": "t?", "completion": "no"}]


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ("undeclared", ["hub:owner/web train:1: expected the fields of exactly one of", "got content, id", "text=FIELD"]),
        ("wrong field", ["hub:owner/web train:1: expected field 'body'", "got content, id"]),
        ("no config", ["hub:owner/web: cannot be read", "nope", "main", "other"]),
        ("no revision", ["hub:owner/web: cannot be read", "3" * 40]),
        ("no data set", ["hub:owner/none: cannot be read", "doesn't exist"]),
        ("gated", ["hub:owner/gated: its owner asks readers to accept terms", "/datasets/owner/gated, accept", "HF_TOKEN"]),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(seen, case, messages):
    made, hub = seen
    assert isinstance(made[case], str)
    for message in messages:
        assert message in made[case]
    if case == "gated":
        assert f"Open {hub.address}/datasets/owner/gated" in made[case]


def test_a_plan_shows_the_first_row_or_why_there_is_none(seen):
    made, _ = seen
    assert made["first row of default"].startswith('"first 0 ')
    assert made["first row of gated"].startswith("not shown: hub:owner/gated: its owner asks readers to accept terms")
