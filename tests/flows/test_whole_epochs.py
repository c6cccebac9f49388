"""A deployed study whose lengths are whole epochs: one flow run makes the data, resolves the lengths and trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders.chat_study import write_chat
from builders.places import PYTHONPATH
from builders.small_study import write_text

from midstudy.store.store import Store
from midstudy.store.study_manifest import load

EXPERIMENT = """
import dataclasses
from pathlib import Path
from builders.task_mixture_study import task_mixture_study

def study(*, data, steps_of, text: str, name: str = "mixed"):
    return dataclasses.replace(task_mixture_study(Path(text), steps_of), name=name)
"""

RUN = """
import sys
from pathlib import Path
from midstudy.flows.deployed import Machine, flow_of

folder = Path(sys.argv[1])
run = flow_of(folder / "mixed.py", name="mixed")
machine = Machine(store=str(folder / "store"), jobs=1)
state = run(data=(str(folder),), text=str(folder), name="mixed", machine=machine, return_state=True)
print("STATE", state.name, state.message)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_flow_run_resolves_the_lengths_and_trains(tmp_path: Path) -> None:
    write_text(tmp_path)
    write_chat(tmp_path)
    (tmp_path / "mixed.py").write_text(EXPERIMENT)
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", "PREFECT_HOME": str(tmp_path / "prefect")}
    environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "300"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert "STATE Completed" in done.stdout, done.stdout + done.stderr
    store = Store.open(tmp_path / "store")
    manifest = load(store, "mixed")
    [packing] = [stage_id for stage_id, stage in manifest.stages.items() if stage.kind == "packing"]
    assert manifest.arms[0].num_steps == 4 + store.record(packing).metrics["packed_steps"]
    assert store.published(manifest.stages) == set(manifest.stages)
