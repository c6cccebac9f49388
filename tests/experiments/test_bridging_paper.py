"""The published grid: its cells and prices as the paper states them, what a budget leaves, and one cell from a hub."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.hub_server import Content, Hub, serve
from builders.places import PYTHONPATH, REPOSITORY
from builders.releases import write_tokenizer

from midstudy.cli.main import main
from midstudy.data import builtin
from midstudy.plan.cost import Throughput
from midstudy.plan.device import A100, H100
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import Plan, make_plan
from midstudy.recipe import RecipeError, where
from midstudy.recipe.study import Study
from midstudy.studies.bridging.paper_grid import PaperGrid, paper_scale
from midstudy.studies.bridging.paper_text import CORPORA

EXPERIMENT = REPOSITORY / "experiments" / "bridging_paper.py"
COMMIT = "5" * 40


def planned(study: Study) -> Plan:
    return make_plan(study, throughput=Throughput(H100, {}), published=lambda ids: set(), kept_states=())


@pytest.fixture(scope="module")
def small() -> Study:
    """The grid of the smallest size alone, whole."""
    return load_study(EXPERIMENT, settings=["sizes=('70m',)"])


def test_a_trunk_has_the_papers_length_batch_and_learning_rate(small: Study) -> None:
    run = where(small.arms, mix="control", at_step=61_035)[0].curriculum
    trunk = run.stretches[0].phase
    assert (trunk.num_steps, trunk.num_sequences, trunk.seq_len, trunk.precision) == (61_035, 1_024, 2_048, "bf16_true")
    assert run.start.model.vocab_size == 50_304
    # Learning rates at the horizon that the authors intended (16 accumulation steps), from their scheduler.
    for step, lr in {6_000: 2.949e-4, 20_000: 2.552e-4, 40_000: 9.675e-5, 50_000: 2.980e-5, 56_000: 7.156e-6}.items():
        assert run.curve.lr(step) == pytest.approx(lr, rel=2e-3)


def test_mixes_start_and_weigh_as_published(small: Study) -> None:
    mains = {
        (str(arm.factors["mix"]), arm.factors["weight"], arm.factors["start_step"])
        for arm in where(small.arms, at_step=61_035, task="long_form")
    }
    assert mains == {
        ("control", 0.0, 0),
        ("code", 0.20, 6_000),
        ("math", 0.12, 20_000),
        ("instruction", 0.05, 40_000),
        ("qa", 0.20, 40_000),
        ("hqweb", 0.20, 40_000),
    }
    ablations = {
        (arm.factors["mix"], arm.factors["weight"], arm.factors["start_step"])
        for arm in where(small.arms, at_step=61_035)
        if arm.factors["task"] in ("pycode", "word_problems")
    } - mains
    assert ablations == {
        *(("code", 0.20, start) for start in (20_000, 30_000, 40_000, 50_000)),
        *(("code", weight, 40_000) for weight in (0.10, 0.30, 0.50, 0.80, 1.0)),
        ("math", 1.0, 56_000),
    }


def test_checkpoints_of_ten_thousand_steps_are_fine_tuned_from_the_start_of_a_mix(small: Study) -> None:
    found = {
        mix: sorted({arm.factors["at_step"] for arm in where(small.arms, mix=mix, weight=weight, task="science_qa")})
        for mix, weight in (("control", 0.0), ("code", 0.20), ("math", 0.12), ("qa", 0.20))
    }
    every = [10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 61_035]
    assert found == {"control": every, "code": every, "math": every[2:], "qa": every[4:]}
    late = where(small.arms, mix="math", at_step=30_000)[0].curriculum
    assert [placed.stop_step for placed in late.stretches] == [20_000, 30_000, 30_000 + late.stretches[-1].phase.num_steps]


def test_fine_tuning_is_four_epochs_of_each_task_in_batches_of_64_with_five_seeds(small: Study) -> None:
    final = where(small.arms, mix="control", at_step=61_035)
    steps = {str(arm.factors["task"]): arm.factors["sft_steps"] for arm in final}
    assert steps == {"pycode": 625, "word_problems": 468, "science_qa": 730, "long_form": 63}
    assert Counter(arm.factors["sft_seed"] for arm in final) == dict.fromkeys((1_337, 895, 3_641, 3_181, 9_762), 4)
    assert small.seeds[0] == "sft_seed"
    masked = {str(arm.factors["task"]) for arm in final if arm.curriculum.stretches[-1].phase.loss == "target_tokens"}
    assert masked == {"word_problems"}


def test_the_whole_grid_is_planned_without_network_and_costs_what_its_tokens_cost(small: Study) -> None:
    plan = planned(small)
    assert plan.total_steps == plan.lower_bound_steps
    # Trunk and branches: 61,035 steps, and what each of 14 branches has left of them. Fine-tuning: steps of the arms.
    starts = [6_000, 20_000, 40_000, 40_000, 40_000, 20_000, 30_000, 40_000, 50_000, 40_000, 40_000, 40_000, 40_000, 40_000]
    before = 61_035 + sum(61_035 - start for start in starts) + (61_035 - 56_000)
    assert plan.total_steps == before + sum(int(arm.factors["sft_steps"]) for arm in small.arms)
    flops_per_token = small.arms[0].curriculum.start.model.flops_per_token(seq_len=2_048)
    training_s = before * 1_024 * 2_048 * flops_per_token / (0.30 * 989e12)
    assert plan.missing_s == pytest.approx(training_s, rel=0.05)  # the rest is fine-tuning and evaluation
    states = [stage for stage in plan.stages.values() if stage.role in ("pretrain", "midtrain")]
    assert {stage.disk_bytes for stage in states} == {70_426_624 * 2 * 3}, "pure bfloat16: weights and two moments"


def test_an_a100_costs_the_ratio_of_its_peak() -> None:
    study = load_study(EXPERIMENT, settings=["sizes=('70m',)", "cuts=8"])
    times = [
        make_plan(study, throughput=Throughput(device, {}), published=lambda ids: set(), kept_states=()).missing_s
        for device in (A100, H100)
    ]
    assert times[0] / times[1] == pytest.approx(989 / 312, rel=0.01)


def test_cuts_are_nested_and_take_sizes_then_ablations_then_arms_and_last_seeds() -> None:
    names = [what for what, _ in PaperGrid().nested()]
    assert names == [
        "",
        "size 1b",
        "size 410m",
        "size 160m",
        "fine-tuning of intermediate checkpoints",
        "the ablation of weights",
        "the ablation of start steps",
        "continued pretraining",
        "tasks science_qa, long_form",
        "mixes instruction, qa, hqweb",
        "SFT seed 9762",
        "SFT seed 3181",
    ]
    few = ["sizes=('70m', '160m')", "tasks=('pycode', 'science_qa')", "sft_seeds=(1337, 895, 3641, 3181)"]
    studies = [load_study(EXPERIMENT, settings=[*few, f"cuts={cuts}"]) for cuts in range(9)]
    for larger, smaller in itertools.pairwise(studies):
        assert all(larger.index(arm) is not None for arm in smaller.arms)
        assert len(smaller.arms) < len(larger.arms)
    assert {arm.factors["sft_seed"] for arm in studies[-1].arms} == {1_337, 895, 3_641}
    with pytest.raises(RecipeError, match="cuts: expected a whole number from 0 to 11, got 12"):
        load_study(EXPERIMENT, settings=["cuts=12"])


def test_a_budget_takes_the_first_grid_that_it_allows_and_says_what_each_claim_can_detect(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = ["--store", str(tmp_path / "none")]
    given = ["plan", str(EXPERIMENT), "--set", "sizes=('70m', '160m')", *store, "--json", "--budget-gpu-hours"]
    assert main([*given, "200"]) == 0
    facts = json.loads(capsys.readouterr().out)
    tried = facts["budget"]["tried"]
    hours = [one["device_hours"] for one in tried]
    assert hours == sorted(hours, reverse=True)
    assert hours[-1] <= 200 < hours[-2]
    assert facts["device"] == "H100"
    assert facts["device_hours_missing"] == pytest.approx(hours[-1])
    assert facts["budget"]["settings"] == ["sizes=('70m', '160m')", f"cuts={len(tried) - 1}"]
    assert [note for note in facts["notes"] if note.startswith("cut ")] == [
        f"cut {one['cuts']}: {one['cut']}" for one in tried[1:]
    ]
    assert {one["num_seeds"] for one in facts["power"] if one["can_be_decided"]} == {5}
    assert main([*given, "1"]) == 2
    assert "expected at least" in capsys.readouterr().err


def test_a_budget_needs_nested_grids(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = str(REPOSITORY / "experiments" / "bridging_micro.py")
    assert main(["plan", other, "--store", str(tmp_path / "none"), "--budget-gpu-hours", "1"]) == 2
    assert "expected an experiment whose study(...) has a keyword cuts" in capsys.readouterr().err


def test_a_run_without_text_is_refused_with_the_options_that_give_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    given = ["run", str(EXPERIMENT), "--set", "sizes=('70m',)", "--set", "cuts=8", "--price-on", "h100"]
    assert main([*given, "--store", str(store)]) == 2
    error = capsys.readouterr().err
    assert "--data general=hub:allenai/c4:en@COMMIT" in error
    assert "--data math=hub:TIGER-Lab/MathInstruct@COMMIT,prompt=instruction,completion=output,share=1/3" in error
    assert "--set tokenizer=hub:EleutherAI/pythia-1b@COMMIT" in error
    assert "instruction=FOLDER" not in error, "FLAN is cut"
    assert not store.exists()


def test_shards_of_knowledge_qa_have_the_papers_weights() -> None:
    (qa,) = (one for one in CORPORA if one.name == "qa")
    shares = [float(option.partition("share=")[2]) for option in qa.options]
    assert [round(0.20 * share, 6) for share in shares] == [0.15, 0.03, 0.015, 0.005]


def test_a_share_of_the_tokens_is_that_share_of_every_phase() -> None:
    for tokens in (1e-3, 2e-4):
        scale = paper_scale("nano", tokens=tokens)
        read = scale.total_steps * scale.num_sequences * scale.seq_len
        assert read == pytest.approx(tokens * 61_035 * 1_024 * 2_048, rel=0.02)
    with pytest.raises(RecipeError, match=r"tokens: expected a share in \(0, 1\], got 0"):
        load_study(EXPERIMENT, settings=["tokens=0.0"])


CELL_TOKENS = 1e-3
"""1/1,000: 128M tokens, a quarter of an hour of two quiet cores with the smallest shape."""


@pytest.fixture
def hub_of_a_cell() -> Iterator[Hub]:
    """Sets of the cell by the paper's names, with built-in text."""

    def lines(rows: list[dict[str, str]]) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    def part(name: str, split: str, most: int) -> list[dict[str, str]]:
        return list(itertools.islice(builtin.read_part(name, split), most))

    def set_of(field: str, config: str, rows: list[dict[str, str]]) -> dict[str, Content]:
        card = (
            f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: train\n    path: {config}/train.jsonl\n---\n"
        )
        return {"README.md": card.encode(), f"{config}/train.jsonl": lines([{field: row["text"]} for row in rows])}

    items = {split: part("pycode", split, 200) for split in ("train", "test")}
    pairs: dict[str, Content] = {
        f"{split}.jsonl": lines([{"prompt": "", "completion": row["output"]} for row in rows])
        for split, rows in items.items()
    }
    hub = Hub(
        data_sets={
            "allenai/c4": {COMMIT: set_of("text", "en", part("general", "train", 300))},
            "bigcode/starcoderdata": {COMMIT: set_of("content", "default", part("code", "train", 100))},
            "Nan-Do/code-search-net-python": {COMMIT: pairs},
        }
    )
    with serve(hub):
        yield hub


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_one_cell_is_trained_from_the_hub_at_a_share_of_the_tokens(hub_of_a_cell: Hub, tmp_path: Path) -> None:
    """Pretraining, midtraining from the published start step, fine-tuning and evaluation of code → pycode."""
    metrics = trained_cell(hub_of_a_cell, tmp_path, tokens=CELL_TOKENS)
    knows_nothing = math.log(384)
    losses = [metrics[f"{column}{when}"] for column in ("sft_loss", "general_loss") for when in ("_before", "")]
    assert all(0 < loss < 0.9 * knows_nothing for loss in losses)
    assert losses[0] != losses[1], "fine-tuning changed the model"


def trained_cell(hub: Hub, folder: Path, *, tokens: float) -> dict[str, float]:
    """Run the cell code → pycode of the smallest model, and return its row of the table."""
    import pandas as pd

    (folder / "tokenizer").mkdir()
    write_tokenizer(folder / "tokenizer")
    settings = ["sizes=('pico',)", "mixes=('code',)", "tasks=('pycode',)", "sft_seeds=(1337,)", "cuts=1", "precision=fp32"]
    settings += [f"tokens={tokens}", f"tokenizer={folder / 'tokenizer'}"]
    data = [f"general=hub:allenai/c4:en@{COMMIT}", f"code=hub:bigcode/starcoderdata@{COMMIT},text=content"]
    data += [f"pycode=hub:Nan-Do/code-search-net-python@{COMMIT}"]
    options = [*(part for one in settings for part in ("--set", one)), *(part for one in data for part in ("--data", one))]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "PYTHONPATH": PYTHONPATH}
    environment |= {"HF_HOME": str(folder / "huggingface"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "midstudy.cli.main", "run", str(EXPERIMENT), *options, "--threads", "2"]
    command += ["--store", str(folder / "store")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    (row,) = pd.read_parquet(folder / "store" / "studies" / "bridging_paper" / "arms.parquet").to_dict("records")
    steps = paper_scale("pico", tokens=tokens).total_steps
    assert (row["mix"], row["start_step"], row["at_step"]) == ("code", round(6_000 * steps / 61_035), steps)
    return row
