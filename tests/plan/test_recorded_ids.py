"""The ids of the first experiments are those of commit bce8467, before studies could have any shape.

`tests/recorded/ids_at_bce8467` holds the kind and id of every stage of each experiment, planned at that commit without a
store, beside the arms of then in today's types. Component versions have changed since, so these tests plan with the
versions of then.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from builders.places import TESTS

RECORDED = TESTS / "recorded" / "ids_at_bce8467"
VERSIONS = {"MODEL": 2, "TRAINING": 2, "TOKENIZER": 1}
DEFAULTS = {
    "bridging_micro": ["sizes=('micro',)", "num_sequences=16", "sft_num_sequences=16", "precision=bf16_mixed"],
    "timing_weight": ["size=micro", "num_sequences=16", "precision=bf16_mixed"],
    "released_start": ["precision=bf16_mixed", "release=pythia", "release_step=71000"],
}
MORE = {"bridging_micro-full": ["full=True"]}

# Recipe classes read their versions when they are defined, so the older versions must be loaded before any of them.
PLAN = """
import importlib.util, json, sys
from pathlib import Path
import midstudy
versions, experiment, settings, tests = json.loads(sys.argv[1])
sys.path.insert(0, tests)  # for builders.first_design
root = Path(midstudy.__file__).parent
spec = importlib.util.spec_from_file_location("midstudy.recipe.versions", root / "recipe" / "versions.py")
older = importlib.util.module_from_spec(spec)
spec.loader.exec_module(older)
vars(older).update(versions)
sys.modules[spec.name] = older
from midstudy.recipe import versions as used
from midstudy.data import release
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import make_plan
from midstudy.recipe import Release, ReleasedTokenizer, Source, Start, pythia

assert used is older

def released_start(_, *, step=None):
    source = Source(kind="files", location="/released/pythia", part="", revision="0123456789abcdef" * 4)
    tokenizer = ReleasedTokenizer(name="pythia", digest="fedcba9876543210" * 4, source=source, vocab_size=50_277)
    weights = Release(name="pythia-70m", source=source, step=step)
    return Start(model=pythia("70m", vocab_size=50_304, max_seq_len=2_048), tokenizer=tokenizer, seed=None, weights=weights)

release.released_start = released_start
study = load_study(Path(experiment), settings=settings)
plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
print(json.dumps(sorted(f"{stage.kind} {stage_id}" for stage_id, stage in plan.stages.items())))
"""


@pytest.mark.parametrize("recorded", ["bridging_micro", "bridging_micro-full", "timing_weight", "released_start"])
def test_ids_of_the_first_experiments_have_not_changed(recorded: str):
    experiment = recorded.partition("-")[0]
    file = RECORDED / f"{experiment}.py"
    given = json.dumps([VERSIONS, str(file), DEFAULTS[experiment] + MORE.get(recorded, []), str(TESTS)])
    done = subprocess.run([sys.executable, "-c", PLAN, given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == (RECORDED / f"{recorded}.txt").read_text("utf-8").split("\n")[:-1]


def test_other_versions_change_the_ids():
    """Show that the test above can fail: plan the same study with the current versions."""
    file = RECORDED / "timing_weight.py"
    given = json.dumps([{}, str(file), DEFAULTS["timing_weight"], str(TESTS)])
    done = subprocess.run([sys.executable, "-c", PLAN, given], capture_output=True, text=True, check=True)
    recorded = (RECORDED / "timing_weight.txt").read_text("utf-8").split("\n")[:-1]
    assert not {*json.loads(done.stdout)} & {*recorded}
