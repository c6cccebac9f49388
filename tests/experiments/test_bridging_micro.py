"""The flagship study: the paper's arms have pinned ids, and bad input names its field."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.places import REPOSITORY

from midstudy.data.data_args import DataChoice
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import Plan, make_plan
from midstudy.recipe import Arm, Comparison, Corpus, RecipeError, Source, Task, where
from midstudy.recipe.factors import Value
from midstudy.recipe.study import Study
from midstudy.studies.bridging import grid
from midstudy.studies.bridging.grid import Midtraining

EXPERIMENT = REPOSITORY / "experiments" / "bridging_micro.py"


class FixedData(DataChoice):
    """Corpora and tasks of one made-up revision, so that pinned ids do not move with the wheels' list."""

    def corpus(self, name: str, *, max_bytes: int | None) -> Corpus:
        return Corpus(name=name, source=Source(kind="hub", part=name, revision="fixed"), max_bytes=max_bytes)

    def task(self, name: str, *, folder: str, max_items: int | None) -> Task:
        return Task(name=name, source=Source(kind="hub", part=name, revision="fixed"), max_items=max_items)


@pytest.fixture(autouse=True)
def fixed_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midstudy.plan.experiment.DataChoice", FixedData)


def comparison(study: Study, name: str) -> Comparison:
    return next(one for one in study.comparisons if one.name == name)


def cell(arm: Arm) -> tuple[Value, ...]:
    return tuple(arm.factors[name] for name in ("mix", "weight", "start_step"))


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
    main = comparison(study, "main")
    assert {cell(arm) for arm in (*main.arms, *main.references)} == {
        ("control", 0.0, 0),
        ("code", 0.2, 6_000),
        ("math", 0.12, 20_000),
        ("instruction", 0.05, 40_000),
        ("qa", 0.2, 40_000),
        ("hqweb", 0.2, 40_000),
    }
    alone = {cell(arm) for arm in comparison(study, "continued").references}
    assert alone == {("code", 1.0, 40_000), ("math", 1.0, 56_000)}
    assert all(arm.curriculum.stretches[-1].start_step == 61_035 for arm in study.arms)


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
    names = {arm.curriculum.stretches[-1].phase.name.split(", ")[0]: arm.final_state.id for arm in study.arms}
    ids = {name.removeprefix("sft 70m "): one for name, one in names.items()}
    assert {name: ids[name] for name in PINNED} == PINNED


def test_the_micro_study_runs_the_main_contrasts_on_three_trunk_seeds():
    study = load_study(EXPERIMENT)
    for mix, task in (("code", "pycode"), ("math", "word_problems"), ("control", "pycode"), ("control", "word_problems")):
        main = comparison(study, "main")
        seeds = {arm.factors["trunk_seed"] for arm in where((*main.arms, *main.references), mix=mix, task=task)}
        assert len(seeds) >= 3
    plan = planned(study)
    assert plan.total_steps == plan.lower_bound_steps < plan.unshared_steps / 3


def test_a_sweep_varies_the_keywords_of_study():
    study = load_study(EXPERIMENT, settings=["sizes=('nano','micro')", "trunk_seeds=(7,)", "total_steps=100"])
    found = {(a.factors["size"], a.factors["trunk_seed"], a.curriculum.num_steps) for a in study.arms}
    assert found == {("nano", 7, 136), ("micro", 7, 136)}


def test_claims_are_those_whose_arms_the_study_has():
    study = load_study(EXPERIMENT)
    assert len(study.claims) == 16
    assert {claim.comparison for claim in study.claims} == {"main", "continued", "earliest_latest"}
    few = load_study(EXPERIMENT.parent / "timing_weight.py")
    assert {claim.text for claim in few.claims} < {claim.text for claim in study.claims}
    assert few.claims


def test_an_ablation_rests_on_the_seeds_on_which_all_of_it_runs():
    """The code mix at its own start also runs on other trunk seeds, for the main comparison."""
    timing = comparison(load_study(EXPERIMENT), "timing")
    assert sorted(float(arm.factors["start_step"]) for arm in timing.arms) == [24, 79, 157, 197]
    assert {arm.factors["trunk_seed"] for arm in timing.arms} == {0}


def test_timing_times_weight_shares_its_states_with_the_flagship():
    """With today's defaults: the trunks, and the code arms of both ablations."""
    ours, theirs = (
        {one.id: one for one in planned(load_study(EXPERIMENT.parent / name)).stages.values() if one.kind == "state"}
        for name in ("bridging_micro.py", "timing_weight.py")
    )
    shared = [ours[one] for one in ours.keys() & theirs.keys()]
    labels = {stage.label for stage in shared}
    assert {f"pretrain nano seed {seed} to step 240" for seed in (0, 1, 2)} <= labels
    assert {f"midtrain nano code20@{start} seed 0 to step 240" for start in (24, 79, 157, 197)} <= labels
    assert {f"midtrain nano code{weight}@157 seed 0 to step 240" for weight in (10, 20, 50, 80)} <= labels


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sizes=('7b',)", r"model\.size: expected one of nano, micro, 14m.*, got 7b"),
        ("total_step=100", r"--set total_step: .* Did you mean total_steps\?"),
        ("full=false", r"--set full: expected a Python bool.*, got false"),
        ("trunk_seeds=()", r"trunk_seeds: .* at least one seed"),
        ("total_steps=0", r"schedule\.total_steps"),
        ("peak_lr=2.0", r"schedule\.peak_lr: expected a learning rate in \[0, 1\), got 2\.0"),
        ("precision='fp8'", r"precision: expected one of fp32, bf16_mixed, bf16_true, got fp8"),
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
        ("comparisons_of(arms, total", "comparisons_fo(arms, total", r"edited\.py:\d+: NameError.*comparisons_fo"),
        (
            "arms=arms,",
            "arms=arms * 2,",
            r"study\.arms\[\d+\]: expected .* that no other arm has, got .*, as in arms\[0\]",
        ),
        ("arms=arms,", "arms=arms[1:],", r"study\.comparisons\.main\.\w+: expected arms of the study, got size nano"),
    ],
)
def test_a_wrong_experiment_file_gives_one_message_with_the_fields_path(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        load_study(edited(tmp_path, old, new))


@pytest.mark.parametrize(
    ("weight", "start_step", "message"),
    [
        (1.2, 20_000, r"mixes\.math\.mixture\.math: expected a share in \[0, 1\], got 1\.2"),
        (0.12, 70_000, r"mixes\.math\.start_step: expected .*\[0, 240\).*, got 275"),
    ],
)
def test_a_wrong_mix_is_named(monkeypatch: pytest.MonkeyPatch, weight: float, start_step: int, message: str):
    mixes = tuple(Midtraining("math", weight, start_step) if one.mix == "math" else one for one in grid.MIXES)
    monkeypatch.setattr(grid, "MIXES", mixes)
    with pytest.raises(RecipeError, match=message):
        load_study(EXPERIMENT)


def test_an_unknown_corpus_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("midstudy.plan.experiment.DataChoice", DataChoice)
    with pytest.raises(ValueError, match=r"generel.*expected one of general, code, math"):
        load_study(edited(tmp_path, '{"general": general_bytes}', '{"generel": None, "general": general_bytes}'))
    with pytest.raises(RecipeError, match=r"--data coed: expected (one of )?general, code.*, got"):
        load_study(EXPERIMENT, data=["coed=wheels"])
