"""Studies other than the bridging study, from their phases to their report, with tiny models that are really trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders.comparing_study import comparing_study
from builders.small_study import make_study, plan_in, write_text

from midstudy.analysis.effects import effects
from midstudy.analysis.power import upper_sd
from midstudy.analysis.tables import Tables, read_tables
from midstudy.data.source import resolve_source
from midstudy.recipe import (
    AdamW,
    Arm,
    Average,
    Claim,
    Comparison,
    Constant,
    Corpus,
    Curriculum,
    Evaluation,
    Measure,
    Mixture,
    Phase,
    Start,
    Study,
    Task,
    TokenCounts,
    Tokenizer,
    factors,
    pythia,
    where,
)
from midstudy.recipe.representation import CKA_FILE
from midstudy.run.described import power_of
from midstudy.run.study import write_report
from midstudy.store.store import Store
from midstudy.store.study_manifest import load


class Text:
    """The corpora and the task that `write_text` wrote."""

    def __init__(self, folder: Path) -> None:
        write_text(folder)
        self.general, self.code = (
            Corpus(name=name, source=resolve_source(str(folder), name=name, folder=name, is_task=False))
            for name in ("general", "code")
        )
        self.task = Task(
            name="code_task", source=resolve_source(str(folder), name="code_task", folder="sft/code", is_task=True)
        )
        self.tokenizer = Tokenizer(corpus=self.general, vocab_size=300, max_bytes=50_000)

    def start(self, seed: int) -> Start:
        return Start(model=pythia("nano", vocab_size=512, max_seq_len=32), tokenizer=self.tokenizer, seed=seed)

    def mixture(self, share: float) -> Mixture:
        return Mixture.blend(self.general, {self.code: share})


def phase(name: str, data: Mixture | Task, num_steps: int, seed: int, **changes: Any) -> Phase:
    fields: dict[str, Any] = {
        "name": name,
        "data": data,
        "loss": "all_tokens",
        "num_steps": num_steps,
        "num_sequences": 4,
        "seq_len": 32,
        "optimizer": AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        "schedule": Constant(lr=3e-3),
        "precision": "fp32",
        "seed": seed,
        "optimizer_state": "reset",
        "data_positions": "reset",
    }
    return Phase(**(fields | changes))


def evaluation(data: Corpus | Task, **changes: Any) -> Evaluation:
    return Evaluation(data=data, split="test", loss="all_tokens", seq_len=32, max_sequences=8, **changes)


def run_to_report(root: Path, study: Study) -> tuple[Store, Tables, str]:
    """Make every stage of the study; return its store, its tables and the HTML of its report."""
    store = Store.open(root, create=True)
    make_study(store, study)
    page = write_report(store, load(store, study.name))
    return store, read_tables(store.paths.study(study.name)), page.read_text("utf-8")


def test_a_study_that_compares_successive_training_stages(tmp_path: Path) -> None:
    """The arms base, mid and sft per seed, distinguished by the factor `until`; loss and bits per byte."""
    text = Text(tmp_path / "text")
    arms = []
    for seed in (1, 2):
        base = Curriculum.of(
            text.start(seed), phase("base", text.mixture(0), 6, seed, factors=factors(seed=seed, until="base"))
        )
        mid = base.then(phase("mid", text.mixture(0.5), 6, seed, factors=factors(until="mid")))
        sft = mid.then(phase("sft", text.task, 3, seed, factors=factors(until="sft")))
        for run in (base, mid, sft):
            measured = evaluation(text.code, metrics=("bits_per_byte",))
            bytes_ = Measure(state=run.state(), evaluation=measured, metric="bits_per_byte")
            loss = Measure(state=run.state(), evaluation=measured)
            arms.append(Arm(curriculum=run, measures={"code_bits": bytes_, "code_loss": loss}))
    steps = [
        Comparison(
            name=name,
            arms=where(arms, until=after),
            references=where(arms, until=before),
            columns=("code_loss", "code_bits"),
        )
        for name, before, after in (("mid", "base", "mid"), ("sft", "mid", "sft"))
    ]
    study = Study(name="stages", question="What does each stage add?", arms=arms, comparisons=steps, seeds=("seed",))
    store, tables, page = run_to_report(tmp_path / "store", study)
    assert tables.arms["code_loss"].notna().all()
    record = store.record(tables.manifest.arms[0].measures["code_bits"][0])
    assert tables.arms["code_bits"].iloc[0] == record.metrics["bits_per_byte"]
    by_hand = tables.arms.set_index(["until", "seed"])["code_loss"]
    effect = effects(tables, tables.manifest.comparison("mid"), "code_loss").table.iloc[0]
    differences = [by_hand["base", seed] - by_hand["mid", seed] for seed in (1, 2)]
    assert effect["difference"] == pytest.approx(sum(differences) / 2)
    assert effect["num_seeds"] == 2
    assert "What does each stage add?" in page
    assert "bits per byte" in page


def test_a_study_that_compares_states_before_and_after_fine_tuning(tmp_path: Path) -> None:
    """The layer × layer matrices of its evaluations are one table, which the report shows."""
    write_text(tmp_path / "text")
    store, tables, page = run_to_report(tmp_path / "store", comparing_study(tmp_path / "text"))
    matrices = tables.representation
    assert matrices is not None
    assert len(matrices) == len(tables.manifest.arms) * 3 * 3
    for row, arm in enumerate(tables.manifest.arms):
        own = matrices[matrices["arm"] == row].reset_index(drop=True)
        (stage,) = arm.measures["mean_diagonal_cka"]
        published = pd.read_parquet(store.published_folder(stage) / CKA_FILE)
        pd.testing.assert_frame_equal(own[["layer_a", "layer_b", "cka"]], published)
        state, other = tables.manifest.stages[arm.state], tables.manifest.stages[arm.measures["sft_loss_before"][0]]
        assert (set(own["state"]), set(own["mix"])) == ({state.label}, {arm.factors["mix"]})
        assert f"evaluate {own['other'].iloc[0]} on" in other.label
        assert own.loc[own["layer_a"].eq(2) & own["layer_b"].eq(2), "cka"].item() == tables.arms["last_layer_cka"][row]
    assert "linear CKA of the last layer" in page
    assert (store.paths.study("comparing") / "report" / "figures" / "layers-mean-diagonal-cka.png").exists()


def test_27_phases_with_a_curve_measured_after_every_phase(tmp_path: Path) -> None:
    text = Text(tmp_path / "text")
    arms = []
    for order, shares in (("rising", range(27)), ("falling", range(26, -1, -1))):
        run = Curriculum.of(text.start(0))
        for number, share in enumerate(shares):
            take_over = (
                {} if number == 0 else {"optimizer_state": "continue", "data_positions": "continue", "schedule": None}
            )
            labels = factors(order=order, seed=0) if number == 0 else ()
            run = run.then(phase(f"{order} {number}", text.mixture((1 + share) / 30), 1, 0, factors=labels, **take_over))
        boundaries = tuple(run.state(step) for step in range(1, 28))
        curve = Measure(states=boundaries, evaluation=evaluation(text.code))
        arms.append(
            Arm(
                curriculum=run,
                measures={"code_path": curve, "code_loss": Measure(state=run.state(), evaluation=evaluation(text.code))},
            )
        )
    study = Study(
        name="phases",
        question="Does order matter?",
        arms=arms,
        comparisons=[
            Comparison(name="order", arms=arms[:1], references=arms[1:], columns=("code_loss",)),
        ],
        seeds=("seed",),
    )
    _, tables, page = run_to_report(tmp_path / "store", study)
    assert len(tables.curves) == 2 * 27
    assert tables.curves["value"].notna().all()
    for row, rows in tables.curves.groupby("arm"):
        assert list(rows["step"]) == list(range(1, 28))
        assert rows["value"].iloc[-1] == tables.arms["code_loss"].iloc[int(row)]
    steps = tables.manifest.steps
    assert steps.planned == steps.lower_bound == 2 * 27, "curves cost no training"
    assert "code path on code, test split" in page


def test_averaging_is_a_factor_and_verdicts_follow_from_the_numbers(tmp_path: Path) -> None:
    """A run, its control and the average of its last states, on three seeds; the average does not compete with the mix."""
    text = Text(tmp_path / "text")
    arms = []
    for seed in (0, 1, 2):
        labels = factors(seed=seed, mix="general", averaged=1)
        control = Curriculum.of(text.start(seed), phase("go on", text.mixture(0), 8, seed, factors=labels))
        mixed = control.branch(start_step=0, data=text.mixture(0.8), name="mixed", factors=factors(mix="code"))
        last = Average.last(mixed, num_states=2, every_steps=2)
        mean = Curriculum.of(Start.averaged(last, factors=factors(averaged=2)))
        for run in (control, mixed, mean):
            tuned = run.then(phase(f"sft {dict(run.factors)['averaged']}", text.task, 3, seed))
            arms.append(
                Arm(curriculum=tuned, measures={"loss": Measure(state=tuned.state(), evaluation=evaluation(text.code))})
            )
    plain = where(arms, averaged=1)
    comparisons = [
        Comparison(name="main", arms=where(plain, mix="code"), references=where(plain, mix="general"), columns=("loss",)),
        Comparison(name="averaging", arms=where(arms, averaged=2), references=where(plain, mix="code"), columns=("loss",)),
    ]
    best = Claim(
        text="code is the best of all mixes",
        source="here",
        estimator="best_of",
        comparison="main",
        column="loss",
        arms={"mix": "code"},
    )
    study = Study(
        name="averages",
        question="Does code help, and does averaging?",
        arms=arms,
        comparisons=comparisons,
        claims=[best],
        seeds=("seed",),
        counts=[
            TokenCounts(data=corpus, tokenizer=text.tokenizer, num_documents=20, tokens_per_document=32, seed=0)
            for corpus in (text.general, text.code)
        ],
    )
    store, tables, page = run_to_report(tmp_path / "store", study)
    loss = tables.arms.set_index(["mix", "averaged", "seed"])["loss"]
    gains = [loss["general", 1, seed] - loss["code", 1, seed] for seed in (0, 1, 2)]
    assert min(gains) > 0.1, "eight steps on the same kind of code as the test split"
    table = effects(tables, tables.manifest.comparison("main"), "loss").table
    assert table["difference"].tolist() == [pytest.approx(sum(gains) / 3)]
    row = page[page.index("code is the best of all mixes") :]
    assert 'class="verdict-yes"' in row[: row.index("</tr>")]
    (power,) = power_of(plan_in(store, study), store)
    sd = float(np.std(gains, ddof=1))
    assert power.value == pytest.approx(sum(gains) / 3)
    assert power.sd_upper == pytest.approx(upper_sd(sd, df=2)), "of the seeds that the store has"
    assert power.seeds_needed is not None
    averaged = effects(tables, tables.manifest.comparison("averaging"), "loss").by_seed
    expected = pd.Series([loss["code", 1, seed] - loss["code", 2, seed] for seed in (0, 1, 2)])
    assert averaged["difference"].tolist() == pytest.approx(expected.tolist())
