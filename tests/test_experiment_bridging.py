"""The flagship study: the paper's arms have pinned ids, and bad input names its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from midstudy.data.data_args import DataChoice
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import Plan, make_plan
from midstudy.recipe import Corpus, RecipeError, Source, Task
from midstudy.recipe.study import Study

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "bridging_micro.py"


class FixedData(DataChoice):
    """Corpora and tasks of one made-up revision, so that pinned ids do not move with the wheels' list."""

    def corpus(self, name: str, *, max_bytes: int | None) -> Corpus:
        return Corpus(name=name, source=Source(kind="hub", part=name, revision="fixed"), max_bytes=max_bytes)

    def task(self, name: str, *, folder: str, max_items: int | None) -> Task:
        return Task(name=name, source=Source(kind="hub", part=name, revision="fixed"), max_items=max_items)


@pytest.fixture(autouse=True)
def fixed_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midstudy.plan.experiment.DataChoice", FixedData)


def planned(study: Study) -> Plan:
    return make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())


PAPER_SCALE = [
    "sizes=('70m',)",
    "trunk_seeds=(42,)",
    "sft_seeds=(1337,)",
    "total_steps=61035",
    "num_sequences=1024",
    "seq_len=2048",
    "peak_lr=3e-4",
    "precision='bf16_true'",
    "vocab_size=50304",
    "tokenizer_bytes=1000000000",
    "general_bytes=None",
    "specialist_bytes=None",
    "task_items=10000",
    "sft_steps=625",
    "sft_num_sequences=64",
]


def test_the_papers_arms_start_where_the_paper_says():
    """Table 1 and the configurations behind it (nightingal3/midtraining)."""
    study = load_study(EXPERIMENT, settings=PAPER_SCALE)
    main = {(a.mix, a.weight, a.start_step) for a in study.arms if "main" in a.groups}
    assert main == {
        ("control", 0.0, 0),
        ("code", 0.2, 6_000),
        ("math", 0.12, 20_000),
        ("instruction", 0.05, 40_000),
        ("qa", 0.2, 40_000),
        ("hqweb", 0.2, 40_000),
    }
    assert {(a.mix, a.start_step) for a in study.arms if "continued" in a.groups} == {("code", 40_000), ("math", 56_000)}
    assert all(a.pretrain_steps == 61_035 for a in study.arms)


PINNED = {
    "control → pycode": "e9f26e8cc740e3c7",
    "code20@6k → pycode": "f9c5942f27882ad6",
    "math12@20k → word_problems": "f30da4851a8d8418",
    "instruction5@40k → long_form": "f72e4c8c2ccbb622",
    "qa20@40k → science_qa": "7f204ed7f239f588",
    "hqweb20@40k → pycode": "0f9ef9d0a79b4f48",
    "code100@40k → pycode": "84acb8fcce826f5b",
    "math100@56k → word_problems": "b9fd3824793a4ded",
}


def test_the_ids_of_the_papers_arms_are_pinned():
    """They change only with a numerical version: otherwise years of finished training would be forgotten."""
    study = load_study(EXPERIMENT, settings=PAPER_SCALE)
    ids = {f"{a.mix_label} → {a.task}": a.final_state.id for a in study.arms}
    assert {name: ids[name] for name in PINNED} == PINNED


def test_the_micro_study_runs_the_main_contrasts_on_three_trunk_seeds():
    study = load_study(EXPERIMENT)
    for mix, task in (("code", "pycode"), ("math", "word_problems"), ("control", "pycode"), ("control", "word_problems")):
        seeds = {a.trunk_seed for a in study.arms if (a.mix, a.task) == (mix, task) and "main" in a.groups}
        assert len(seeds) >= 3
    plan = planned(study)
    assert plan.total_steps == plan.lower_bound_steps < plan.unshared_steps / 3


def test_a_sweep_varies_the_keywords_of_study():
    study = load_study(EXPERIMENT, settings=["sizes=('nano','micro')", "trunk_seeds=(7,)", "total_steps=100"])
    assert {(a.size, a.trunk_seed, a.pretrain_steps) for a in study.arms} == {("nano", 7, 100), ("micro", 7, 100)}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sizes=('7b',)", r"model\.size: found '?7b'?; allowed: nano, micro, 14m"),
        ("total_step=100", r"--set total_step: .* Did you mean total_steps\?"),
        ("full=false", r"--set full: found '?false'?; allowed: a Python bool"),
        ("trunk_seeds=()", r"trunk_seeds: .* at least one seed"),
        ("total_steps=0", r"schedule\.total_steps"),
        ("peak_lr=2.0", r"schedule\.peak_lr: found 2\.0; allowed: a learning rate in \[0, 1\)"),
        ("precision='fp8'", r"precision: found '?fp8'?; allowed: fp32, bf16_mixed, bf16_true"),
        ("seq_len=0", "max_seq_len|seq_len"),
    ],
)
def test_a_wrong_setting_names_its_field(setting: str, message: str):
    with pytest.raises(RecipeError, match=message):
        load_study(EXPERIMENT, settings=[setting])


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = EXPERIMENT.read_text()
    assert old in text
    path = tmp_path / "edited.py"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('Midtraining("math", 0.12, 20_000)', 'Midtraining("math", 1.2, 20_000)', r"mixes\.math\.mixture\.math: found 1\.2"),
        ('Midtraining("math", 0.12, 20_000)', 'Midtraining("math", 0.12, 70_000)', r"mixes\.math\.start_step: found 275"),
        ("TIMING_STARTS = (6_000,", "TIMING_STARTS = (61_035,", r"mixes\.code\.start_step: found 240"),
        (
            "for mix in (None, *MIXES))\n        yield from ((mix, M",
            "for mix in (None, *MIXSE))\n        yield from ((mix, M",
            r"edited\.py:\d+: NameError.*MIXSE",
        ),
        ("task_evaluation=self.task", "evaluation=self.task", r"edited\.py:\d+: TypeError.*evaluation"),
        ("arms=tuple(cells.values())", "arms=tuple(cells.values()) * 2", r"study\.arms\[\d+\]: found .* already arms\[0\]"),
    ],
)
def test_a_wrong_experiment_file_gives_one_message_with_the_fields_path(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        load_study(edited(tmp_path, old, new))


def test_an_unknown_corpus_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("midstudy.plan.experiment.DataChoice", DataChoice)
    with pytest.raises(ValueError, match=r"maths.*allowed: general, code, math"):
        load_study(edited(tmp_path, 'Midtraining("math", 0.12, 20_000)', 'Midtraining("maths", 0.12, 20_000)'))
    with pytest.raises(RecipeError, match=r"--data coed: .*allowed: general, code"):
        load_study(EXPERIMENT, data=["coed=wheels"])
