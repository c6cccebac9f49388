"""The flagship study: the paper's arms have pinned ids, and bad input names its field."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from builders.places import REPOSITORY

from midstudy.analysis.rehearsal import rehearse
from midstudy.data.data_args import DataChoice
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.dose import dose, tokens_drawn
from midstudy.plan.experiment import load_study
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import Plan, make_plan
from midstudy.recipe import Arm, Comparison, Corpus, Curriculum, Mixture, RecipeError, Source, Task, where
from midstudy.recipe.factors import Value
from midstudy.recipe.study import Study
from midstudy.studies.bridging import grid
from midstudy.studies.bridging.comparisons import complete
from midstudy.studies.bridging.grid import PaperMix

EXPERIMENT = REPOSITORY / "experiments" / "bridging_micro.py"


class FixedData(DataChoice):
    """Corpora and tasks of one made-up revision, so that pinned ids do not move with the wheels' list."""

    def corpus(self, name: str, *, max_bytes: int | None, otherwise: Source | None = None) -> Corpus:
        return Corpus(name=name, source=Source(kind="hub", part=name, revision="fixed"), max_bytes=max_bytes)

    def task(self, name: str, *, folder: str, max_items: int | None, otherwise: Source | None = None) -> Task:
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
    "full=True",
    "total_steps=61035",
    "num_sequences=1024",
    "seq_len=2048",
    "peak_lr=3e-4",
    "sft_peak_lr=1e-3",
    "sft_peak_lrs=()",
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
    assert all(arm.curriculum.stretches[-1].start_step == 61_035 for arm in (*main.arms, *main.references))


PINNED = {
    "control → pycode": "46e6046ff5dc2791",
    "code20@6k → pycode": "65876a9216961a12",
    "math12@20k → word_problems": "f30d92fb9d8b834a",
    "instruction5@40k → long_form": "eb16f788eacdb657",
    "qa20@40k → science_qa": "7a8614ce69f54852",
    "hqweb20@40k → pycode": "861020cbfc5b4d1b",
    "code100@40k → pycode": "6bd569df8aaed2f4",
    "math100@56k → word_problems": "1a610972f0d569fe",
}


def test_the_ids_of_the_papers_arms_are_pinned():
    """They change only with a numerical version or the design: otherwise years of finished training would be forgotten."""
    study = load_study(EXPERIMENT, settings=PAPER_SCALE)
    names = {arm.curriculum.stretches[-1].phase.name.split(", ")[0]: arm.final_state.id for arm in study.arms}
    ids = {name.removeprefix("sft 70m "): one for name, one in names.items()}
    assert {name: ids[name] for name in PINNED} == PINNED


def test_the_main_arms_run_on_three_trunk_seeds_and_every_mix_on_one() -> None:
    study = load_study(EXPERIMENT)
    main = comparison(study, "main")
    for mix, task in (("code", "pycode"), ("math", "word_problems"), ("control", "pycode"), ("control", "word_problems")):
        seeds = {arm.factors["trunk_seed"] for arm in where((*main.arms, *main.references), mix=mix, task=task)}
        assert seeds == {0, 1, 2}
    for name in ("placebo", "against_placebo", "equal_dose"):
        assert {arm.factors["trunk_seed"] for arm in comparison(study, name).arms} == {0, 1, 2}
    on_one = where(main.arms, trunk_seed=0)
    assert len({(arm.factors["mix"], arm.factors["task"]) for arm in on_one}) == len(on_one) == 20
    plan = planned(study)
    assert plan.total_steps == plan.lower_bound_steps < plan.unshared_steps / 2


def test_every_trunk_has_an_sft_seed_of_its_own() -> None:
    """Otherwise intervals over trunks lack the variance of fine-tuning."""
    seeds = {(arm.factors["trunk_seed"], arm.factors["sft_seed"]) for arm in load_study(EXPERIMENT).arms}
    assert len(seeds) == len({trunk for trunk, _ in seeds}) == len({sft for _, sft in seeds}) == 3


def test_each_mix_and_task_chooses_its_rate_with_the_first_seeds() -> None:
    plain = load_study(EXPERIMENT)
    study = load_study(EXPERIMENT, settings=["sft_peak_lrs=(1e-3, 3e-3, 1e-2)"])
    assert [arm.factors for arm in study.arms] == [arm.factors for arm in plain.arms]
    rules: dict[tuple[Value, ...], set[str]] = {}
    for arm in study.arms:
        (choice,) = arm.choices.values()
        assert choice.values == (1e-3, 3e-3, 1e-2)
        assert (choice.evaluation.data.name, choice.evaluation.split) == (arm.factors["task"], "dev")
        assert choice.evaluation.max_sequences == arm.measures["sft_loss"].evaluation.max_sequences
        for state in choice.candidates:
            factors = dict(state.factors)
            assert (factors["trunk_seed"], factors["sft_seed"]) == (0, 1337)
            assert all(factors[name] == arm.factors[name] for name in ("mix", "weight", "start_step", "task"))
        rules.setdefault((*cell(arm), arm.factors["task"]), set()).add(choice.id)
    assert all(len(ids) == 1 for ids in rules.values())
    assert len(study.choices) == len(rules)
    first = {arm.final_state.id for arm in where(plain.arms, trunk_seed=0, sft_seed=1337)}
    tried = {choice.options[1].state_id for choice in study.choices}  # 3e-3 is the plain study's rate
    assert first == tried
    assert planned(plain).stages.keys().isdisjoint(arm.final_state.id for arm in study.arms)


def test_a_sweep_varies_the_keywords_of_study() -> None:
    study = load_study(EXPERIMENT, settings=["sizes=('nano','micro')", "trunk_seeds=(7,)", "total_steps=100"])
    found = {(a.factors["size"], a.factors["trunk_seed"], a.curriculum.num_steps) for a in study.arms}
    assert found == {("nano", 7, 172), ("micro", 7, 172)}
    assert load_study(EXPERIMENT, settings=["looks=(3, 5, 8)"]).looks == (3, 5, 8)


def test_claims_are_those_whose_arms_the_study_has() -> None:
    study, full = load_study(EXPERIMENT), load_study(EXPERIMENT, settings=["full=True"])
    assert {claim.comparison for claim in study.claims} == {"main", "placebo", "against_placebo", "equal_dose"}
    texts = {claim.text for claim in study.claims}
    assert {text.removesuffix(" (size nano)") for text in (claim.text for claim in full.claims)} > texts
    assert {claim.comparison for claim in full.claims} > {"continued", "alone_equal_dose", "equal_tokens", "after", "cut"}
    few = load_study(EXPERIMENT.parent / "timing_weight.py")
    assert {claim.text for claim in few.claims} < {claim.text.removesuffix(" (size nano)") for claim in full.claims}


def test_timing_against_share_and_size_are_claims_of_a_study_that_can_judge_them() -> None:
    full = load_study(EXPERIMENT, settings=["full=True"])
    timing = [claim for claim in full.claims if claim.estimator.endswith(":timing_over_share")]
    assert [claim.arms["size"] for claim in timing] == ["nano"], "the second size has no crossed arms"
    sizes = [claim for claim in full.claims if claim.family == "size"]
    assert {(claim.options["level"], claim.options["other"]) for claim in sizes} == {("nano", "micro")}
    assert [claim.arms["mix"] for claim in sizes] == ["code", "math"]
    reordered = load_study(EXPERIMENT, settings=["sizes=('micro', 'nano')"])
    assert {claim.options["level"] for claim in reordered.claims if claim.family == "size"} == {"nano"}
    few = load_study(EXPERIMENT)
    assert not [claim for claim in few.claims if claim.family == "size" or "timing" in claim.estimator]
    assert len([claim for claim in few.claims if claim.estimator.endswith(":distance_and_gain")]) == 1


def test_every_claim_of_the_full_study_selects_arms_that_its_estimator_accepts() -> None:
    full = load_study(EXPERIMENT, settings=["full=True"])
    estimates = rehearse(manifest_of(planned(full), command="midstudy run"))
    assert len(estimates) == len(full.claims)


def dose_of(arm: Arm, corpus: str) -> float:
    """The dose before fine-tuning, which every arm has alike."""
    before = arm.curriculum.until(arm.curriculum.stretches[-1].start_step)
    found = dose(before)[corpus]
    assert found is not None
    return found


def test_arms_compared_at_equal_dose_have_equal_dose() -> None:
    study = load_study(EXPERIMENT, settings=["full=True"])
    for name in ("equal_dose", "alone_equal_dose"):
        held = comparison(study, name)
        assert held.arms
        for arm in held.arms:
            mix = str(arm.factors["mix"])
            (other,) = where(held.references, mix=mix, trunk_seed=arm.factors["trunk_seed"], size=arm.factors["size"])
            assert cell(arm) != cell(other)
            # A share has four significant digits, and a start is a whole step.
            tolerance = 1e-3 if arm.factors["mix"] == "code" else 0.06
            assert dose_of(arm, mix) == pytest.approx(dose_of(other, mix), rel=tolerance)


def test_arms_compared_at_equal_tokens_have_equal_tokens() -> None:
    held = comparison(load_study(EXPERIMENT, settings=["full=True"]), "equal_tokens")
    first, second = (tokens_drawn(arms[0].curriculum)["code"] for arms in (held.arms, held.references))
    assert first == pytest.approx(second, abs=2 * 384)


def test_the_control_after_pretraining_reads_the_specialist_tokens_of_its_mix() -> None:
    held = comparison(load_study(EXPERIMENT, settings=["full=True"]), "after")
    for arm in held.arms:
        mix = str(arm.factors["mix"])
        (after,) = where(held.references, mix=f"{mix} after", trunk_seed=arm.factors["trunk_seed"])
        drawn, later = (tokens_drawn(one.curriculum) for one in (arm, after))
        assert drawn[mix] <= later[mix] < drawn[mix] + 2 * 384
        assert later["general"] == 240 * 2 * 384


def mixture_at(curriculum: Curriculum, number: int) -> dict[str, float]:
    """The shares of a curriculum's phase."""
    data = curriculum.stretches[number].phase.data
    assert isinstance(data, Mixture)
    return {part.corpus.name: float(part.share) for part in data.parts}


def test_the_ramp_and_its_reference_have_equal_mean_shares() -> None:
    held = comparison(load_study(EXPERIMENT, settings=["full=True"]), "ramp")
    ramp, constant = held.arms[0].curriculum, held.references[0].curriculum
    assert [mixture_at(ramp, number)["code"] for number in (1, 2, 3)] == [0.1, 0.2, 0.3]
    assert tokens_drawn(ramp)["code"] == pytest.approx(tokens_drawn(constant)["code"], rel=0.02)


def test_the_placebo_reads_no_document_of_the_general_corpus_and_is_measured_on_the_same_text() -> None:
    study = load_study(EXPERIMENT)
    placebo, control = comparison(study, "placebo").arms[0], comparison(study, "placebo").references[0]
    assert mixture_at(control.curriculum, 0).keys() == {"general"}
    assert mixture_at(placebo.curriculum, 1) == {"general": 0.8, "placebo": 0.2}
    parts = {data.name: data for data in study.datasets() if isinstance(data, Corpus)}
    general, mixed_in = parts["general"], parts["placebo"]
    assert mixed_in.source == general.source
    assert general.train_part is not None
    assert mixed_in.train_part is not None
    assert general.train_part.stop == mixed_in.train_part.start
    assert placebo.measures["general_loss"].evaluation == control.measures["general_loss"].evaluation


def test_longer_fine_tuning_has_curves_and_its_own_controls() -> None:
    study = load_study(EXPERIMENT, settings=["full=True"])
    held = comparison(study, "sft_length")
    assert {arm.factors["sft_steps"] for arm in held.arms} == {72, 240, 960}
    longest = where(held.arms, sft_steps=960)[0].measures["sft_loss_curve"]
    assert [state.step - 240 for state in longest.states] == [120, 240, 360, 480, 600, 720, 840, 960]


def test_a_curve_keeps_the_tasks_and_seeds_that_have_all_of_its_points() -> None:
    held = comparison(load_study(EXPERIMENT, settings=["full=True"]), "sft_length").arms
    lost = where(held, task="pycode", trunk_seed=1, sft_steps=960)
    assert len(lost) == 1
    left = complete([arm for arm in held if arm not in lost], "sft_steps")
    assert {(arm.factors["task"], arm.factors["trunk_seed"]) for arm in held} - {
        (arm.factors["task"], arm.factors["trunk_seed"]) for arm in left
    } == {("pycode", 1)}
    assert complete(where(held, sft_steps=960), "sft_steps") == []


def test_an_ablation_rests_on_the_seeds_on_which_all_of_it_runs() -> None:
    """The code mix at its own start also runs on other trunk seeds, for the main comparison."""
    timing = comparison(load_study(EXPERIMENT, settings=["full=True"]), "timing")
    assert sorted({float(arm.factors["start_step"]) for arm in timing.arms}) == [24, 79, 157, 197]
    assert {arm.factors["trunk_seed"] for arm in timing.arms} == {0, 1, 2}


def test_timing_times_weight_shares_its_states_with_the_flagship() -> None:
    """With today's defaults: the trunks, and the code arms of the ablations."""
    ours, theirs = (
        {one.id: one for one in planned(load_study(EXPERIMENT.parent / name, settings=more)).stages.values()}
        for name, more in (("bridging_micro.py", ["full=True"]), ("timing_weight.py", []))
    )
    shared = {ours[one].label for one in ours.keys() & theirs.keys()}
    assert {f"pretrain nano seed {seed} to step 240" for seed in (0, 1, 2)} <= shared
    assert {f"midtrain nano code20@{start} seed 0 to step 240" for start in (24, 79, 157, 197)} <= shared
    assert {f"midtrain nano code{weight}@157 seed 0 to step 240" for weight in (10, 20, 50, 80)} <= shared
    assert any(label.startswith("sft nano code20@24") for label in shared)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sizes=('7b',)", r"model\.size: expected one of pico, nano, micro, 14m.*, got 7b"),
        ("total_step=100", r"--set total_step: .* Did you mean total_steps\?"),
        ("full=false", r"--set full: expected a Python bool.*, got false"),
        ("trunk_seeds=()", r"trunk_seeds: .* at least one seed"),
        ("total_steps=0", r"schedule\.total_steps"),
        ("peak_lr=2.0", r"schedule\.peak_lr: expected a learning rate of at most 1, got 2\.0"),
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
        ("comparisons_of(arms, grids", "comparisons_fo(arms, grids", r"edited\.py:\d+: NameError.*comparisons_fo"),
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
        (0.12, 70_000, r"mixes\.math\..*start_step: expected .*\[0, 240\).*, got 275"),
    ],
)
def test_a_wrong_mix_is_named(monkeypatch: pytest.MonkeyPatch, weight: float, start_step: int, message: str):
    mixes = tuple(PaperMix("math", weight, start_step) if one.mix == "math" else one for one in grid.MIXES)
    monkeypatch.setattr(grid, "MIXES", mixes)
    with pytest.raises(RecipeError, match=message):
        load_study(EXPERIMENT)


def test_an_unknown_corpus_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("midstudy.plan.experiment.DataChoice", DataChoice)
    with pytest.raises(ValueError, match=r"generel.*expected one of general, code, math"):
        load_study(edited(tmp_path, "    arms = []\n", '    data.corpus("generel", max_bytes=None)\n    arms = []\n'))
    with pytest.raises(RecipeError, match=r"--data coed: expected (one of )?general, code.*, got"):
        load_study(EXPERIMENT, data=["coed=wheels"])


def test_the_claims_are_those_that_were_registered_before_the_study_on_record() -> None:
    """Texts, estimators, directions, margins and families: changed after the runs, verdicts on record would be of others."""
    record = json.loads((REPOSITORY / "reports" / "bridging_full" / "registration.json").read_text("utf-8"))
    (registered,) = record["entries"]
    assert registered["num_results"] == 0
    claims = [asdict(claim) for claim in load_study(EXPERIMENT, settings=["full=True"]).claims]
    assert json.loads(json.dumps(claims)) == registered["definitions"]["claims"]
